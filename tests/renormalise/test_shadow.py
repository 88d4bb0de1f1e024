"""The shadow: a second generation learns the same records as the live one, each once, and does not disturb it."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from learning import digest, events, records, settings

from streamer.app import open_generation
from streamer.consumers.memory import MemorySource
from streamer.core.events import LOG, Offsets, Record
from streamer.core.protocols import Source
from streamer.renormalise.shadow import OpenGeneration, Shadow
from streamer.storage import generations
from streamer.storage.state import RocksStore
from streamer.stream.engine import Engine
from streamer.stream.ledger import TABLES_REPLACED, WENT_LIVE, Run, journal, note

STREAM = records(events(600))
CUT = 200
DEADLINE_S = 60.0


class Growing:
    """A source whose records arrive when the test releases them."""

    def __init__(self, entries: Sequence[Record]) -> None:
        self.entries = list(entries)
        self._inner = MemorySource(self.entries)

    def seek(self, offsets: Offsets) -> None:
        self._inner.seek(offsets)

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        found = self._inner.poll(max_records, timeout_s)
        if not found:
            threading.Event().wait(min(timeout_s, 0.002))
        return found

    def lag(self) -> Mapping[str, Mapping[int, int]]:
        return self._inner.lag()

    def close(self) -> None: ...


class Running:
    """A shadow.Host without an endpoint: an engine in a thread, over records in a list."""

    def __init__(self, folder: Path, commit_interval_s: float, shadow: tuple[str, ...], reranker: str) -> None:
        self.settings = settings(
            data=str(folder), rating_learner="biased-mf", click_learner="popularity", shadow=shadow, reranker=reranker
        )
        self.stop, self._live = threading.Event(), open_generation(self.settings)
        learned = self._live.memory.ledger.offsets
        self.source = Growing(STREAM[: max(CUT, learned.get(LOG, 0))])
        self.source.seek(learned)
        self.engine = Engine(self.source, self._live.memory, self, max_records=20, commit_interval_s=commit_interval_s)
        self.committed_offset = 0
        self.shadow = Shadow(self.settings, self, self.stop)
        self.asked_for_live: Callable[[], None] = lambda: None
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.engine.run()
        except BaseException as error:
            self.failure = error

    def applied(self, records: Sequence[Record], offsets: Offsets) -> None: ...

    def committed(self, offsets: Offsets, seconds: float) -> None:
        self.committed_offset = offsets[LOG]

    def live(self) -> OpenGeneration:
        self.asked_for_live()
        return self._live

    def open(self, generation: str) -> OpenGeneration:
        return open_generation(self.settings, generation)

    def second_source(self) -> Source:
        return MemorySource(list(self.source.entries))

    def wait_for_archive(self, offsets: Offsets, stop: threading.Event) -> None: ...

    def make_live(self, live: OpenGeneration) -> None:
        self._live = live

    # What tests do with it.

    def come(self, until: int) -> None:
        """Append more of the stream, and wait until it is learned."""
        self.source.entries.extend(STREAM[len(self.source.entries) : until])
        self.wait(lambda: self.engine.memory.ledger.offsets.get(LOG, 0) == until)

    def wait(self, until: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not until():
            assert self.failure is None, self.failure
            assert time.monotonic() < deadline
            threading.Event().wait(0.002)

    def cut(self, generation: str = "g1") -> None:
        """A generation as of the cut, without retraining, so that it must come to the same bytes."""
        where = generations.state_folder(Path(self.settings.state.data), generation)
        self.shadow.in_engine(lambda: self._live.memory.store.checkpoint(where))
        made = self.open(generation)
        made.memory.ledger.add_note(note(TABLES_REPLACED, generation))
        made.memory.become(generation)
        made.close()

    def close(self) -> None:
        self.stop.set()
        self.engine.stop.set()
        self._thread.join()
        self._live.close()
        if self.shadow.in_shadow is not None:
            self.shadow.in_shadow.close()


@contextmanager
def process(
    folder: Path, commit_interval_s: float = 3600.0, shadow: tuple[str, ...] = (), reranker: str = ""
) -> Iterator[Running]:
    running = Running(folder, commit_interval_s, shadow, reranker)
    try:
        running.wait(lambda: running.engine.memory.ledger.offsets.get(LOG, 0) >= CUT)
        yield running
    finally:
        running.close()


def learned_alike(folder: Path, one: str = "g0", other: str = "g1") -> None:
    """Both states are equal except for their generation ids."""
    found = []
    for generation in (one, other):
        store = RocksStore(folder, read_only=True, generation=generation)
        tables = {name for name, _ in store.sizes()} - {"meta", "journal", "dead-letters"}
        found.append({table: dict(store.scan(table)) for table in sorted(tables)})
        store.close()
    assert found[0] == found[1]


def test_records_committed_while_the_shadow_joins_are_learned_once(tmp_path: Path) -> None:
    """Records arrive and are committed between the mark and the reading of the journal, so both contain them."""
    with process(tmp_path / "d") as running:
        running.cut()
        running.come(300)
        joining = []

        def come() -> None:
            if (
                running.engine.backlog is not None
                and threading.current_thread() is threading.main_thread()
                and not joining
            ):
                joining.append(True)
                running.come(420)
                running.shadow.in_engine(lambda: None)  # everything is committed before an errand runs

        running.asked_for_live = come
        running.shadow.catch_up("g1")
        assert joining
        running.come(500)
    learned_alike(tmp_path / "d")


def test_the_shadow_learns_on_and_is_swapped_in_and_back(tmp_path: Path) -> None:
    with process(tmp_path / "d", commit_interval_s=0.01) as running:
        running.cut()
        running.come(250)
        running.shadow.catch_up("g1")
        running.come(300)
        running.shadow.swap()
        assert running.live().memory.store.generation == "g1" == generations.live(tmp_path / "d")
        running.come(400)
        running.shadow.swap()
        assert running.live().memory.store.generation == "g0" == generations.live(tmp_path / "d")
        running.come(600)
    learned_alike(tmp_path / "d")


def test_the_journal_says_where_a_generation_went_live(tmp_path: Path) -> None:
    with process(tmp_path / "d") as running:
        running.cut()
        running.come(250)
        running.shadow.catch_up("g1")
        running.come(300)
        running.shadow.swap()
        running.come(400)
    store = RocksStore(tmp_path / "d", read_only=True, generation="g1")
    runs = journal(store)
    store.close()
    assert runs[-3:] == [Run("log", 0, CUT, 300), note(WENT_LIVE, "g1"), Run("log", 0, 300, 400)]


@pytest.mark.parametrize("seen", [CUT, 440])  # users must be read; all users are in memory, and only commits fail
def test_a_shadow_whose_store_fails_is_dropped_and_the_stream_goes_on(tmp_path: Path, seen: int) -> None:
    with process(tmp_path / "d", commit_interval_s=0.01) as running:
        running.cut()
        running.shadow.catch_up("g1")
        running.come(seen)
        running.shadow.memory.store.close()
        running.come(600)
        running.wait(lambda: running.committed_offset == 600)
        assert running.failure is None
        assert running.engine.store_trouble == ""
    assert digest(tmp_path / "d").offsets == {"log/0": 600}


def test_a_learner_promoted_during_the_shadow_stays_champion_after_the_swap(tmp_path: Path) -> None:
    with process(tmp_path / "d", shadow=("bias",)) as running:
        running.cut()
        running.live().memory.promote("bias")
        running.shadow.catch_up("g1")
        assert running.shadow.find_fault() == ""
        assert running.shadow.memory.learners.champion("ratings").name == "biased-mf"
        running.shadow.swap()
        assert running.live().memory.learners.champion("ratings").name == "bias"
        running.live().memory.promote("biased-mf")
        running.shadow.swap()
        assert running.live().memory.learners.champion("ratings").name == "biased-mf"


def test_rows_of_another_length_are_a_fault_of_champions_and_not_of_challengers(tmp_path: Path) -> None:
    """The re-ranker answers queries, too."""
    with process(
        tmp_path / "d", shadow=("stochastic-mf", "embedding-dot-bias"), reranker="embedding-dot-bias"
    ) as running:
        running.come(CUT)
        running.cut()
        running.shadow.catch_up("g1")
        for name, wanted in (("stochastic-mf", False), ("biased-mf", True), ("embedding-dot-bias", True)):
            learner = running.shadow.memory.learners.by_name[name]
            (table,) = (table for table in learner.tables().values() if table.side == "item")
            before = table.values.copy()
            table.values[:, :-2] *= 100.0
            assert (f"item rows of {name} have a middle" in running.shadow.find_fault()) is wanted
            table.values[:] = before
            table.values[0, 0] = np.inf
            assert running.shadow.find_fault() == f"some item rows of {name} are not finite"
            table.values[:] = before
            assert running.shadow.find_fault() == ""


def test_a_champion_with_other_ratings_in_both_generations_is_a_fault(tmp_path: Path) -> None:
    """After a restart between cut and gate with another champion, ratings have different numbers in the two generations."""
    with process(tmp_path / "d") as running:
        running.cut()
        running.come(300)
    with process(tmp_path / "d", shadow=("bias",)) as running:
        running.come(400)
        running.shadow.catch_up("g1")
        assert running.shadow.find_fault() == ""
        running.live().memory.promote("bias")
        assert "bias was asked" in running.shadow.find_fault()
        running.come(500)
