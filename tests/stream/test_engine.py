"""The engine: continues by itself when source or store is available again, stops at once, and loses nothing."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from learning import digest, events, learn, records, settings

from streamer.consumers.memory import MemorySource
from streamer.core.errors import NotAuthorised, SourceLost, SourceUnavailable, StoreUnavailable
from streamer.core.events import LOG, Offsets, Record
from streamer.serving.opening import learners
from streamer.serving.recommend import POPULARITY, Recommender
from streamer.storage.state import RocksStore
from streamer.stream.engine import Engine
from streamer.stream.memory import Memory

STREAM = records(events(400))
DEADLINE_S = 60.0


class Recorder:
    """An observer that remembers its calls."""

    def __init__(self) -> None:
        self.applied_offsets: list[Offsets] = []
        self.committed_offsets: list[Offsets] = []

    def applied(self, records: Sequence[Record], offsets: Offsets) -> None:
        assert records
        self.applied_offsets.append(offsets)

    def committed(self, offsets: Offsets, seconds: float) -> None:
        assert seconds >= 0
        self.committed_offsets.append(offsets)


class Flaky:
    """A source that raises the given errors, poll by poll."""

    def __init__(self, entries: Sequence[Record], troubles: Mapping[int, Exception]) -> None:
        self._source, self._troubles, self._polls = MemorySource(entries), dict(troubles), 0
        self.drained = threading.Event()

    def seek(self, offsets: Offsets) -> None:
        self._source.seek(offsets)

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        assert 0 <= timeout_s <= 0.1
        self._polls += 1
        if self._polls in self._troubles:
            raise self._troubles[self._polls]
        found = self._source.poll(max_records, timeout_s)
        if not found:
            self.drained.set()
            threading.Event().wait(timeout_s)
        return found

    def lag(self) -> Mapping[str, Mapping[int, int]]:
        return self._source.lag()

    def close(self) -> None: ...


class Running:
    """An engine in a thread of its own, as the process runs it."""

    def __init__(self, folder: Path, source: Flaky, *, commit_interval_s: float = 0.01, **flags: object) -> None:
        chosen = settings(**flags)
        self.store = RocksStore(folder)
        self.memory = Memory(learners(chosen), chosen, self.store)
        source.seek(self.memory.ledger.offsets)
        self.recorder = Recorder()
        self.engine = Engine(source, self.memory, self.recorder, max_records=20, commit_interval_s=commit_interval_s)
        self.failure: Exception | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.engine.run()
        except Exception as error:
            self.failure = error

    def stop(self) -> None:
        self.engine.stop.set()
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()
        self.store.close()

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, (self.failure, self.engine.source_trouble, self.engine.store_trouble)
            self.thread.join(0.005)


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("wanted")
    learn(folder, STREAM)
    return digest(folder).digest


def test_learning_continues_when_a_source_is_back(tmp_path: Path, wanted: str) -> None:
    away = {n: SourceUnavailable(f"away {n}") for n in (1, 4, 5, 9)} | {12: NotAuthorised("no more")}
    running = Running(tmp_path, source := Flaky(STREAM, away))
    running.until(lambda: running.engine.source_trouble == "away 5")
    running.until(source.drained.is_set)
    running.until(lambda: not running.engine.source_trouble)
    running.stop()
    assert running.failure is None
    assert digest(tmp_path).digest == wanted
    assert running.recorder.committed_offsets[-1] == {LOG: len(STREAM)}


class Stuck(Flaky):
    """A source with records that it cannot give: every second poll raises, and the others give nothing."""

    def __init__(self) -> None:
        super().__init__(STREAM, {})
        self.engine: Engine | None = None
        self.troubles: list[str] = []  # what the engine said before each poll

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        self._polls += 1
        self.troubles.append(self.engine.source_trouble if self.engine else "")
        if self._polls % 2:
            raise SourceUnavailable("a batch cannot be read")
        return []


def test_a_poll_that_gives_nothing_clears_no_trouble_while_something_is_left(tmp_path: Path) -> None:
    running = Running(tmp_path, source := Stuck())
    source.engine = running.engine
    running.until(lambda: len(source.troubles) >= 8)
    running.stop()
    assert set(source.troubles[3:]) == {"a batch cannot be read"}


def test_observers_get_each_record_once_before_its_commit(tmp_path: Path) -> None:
    running = Running(tmp_path, source := Flaky(STREAM, {}))
    running.until(source.drained.is_set)
    running.stop()
    applied = [offsets[LOG] for offsets in running.recorder.applied_offsets]
    committed = [offsets[LOG] for offsets in running.recorder.committed_offsets]
    assert applied == sorted(set(applied))
    assert committed == sorted(set(committed))
    assert set(committed) <= set(applied)
    assert applied[-1] == committed[-1] == len(STREAM)


def test_stopping_commits_what_is_learned(tmp_path: Path, wanted: str) -> None:
    running = Running(tmp_path, source := Flaky(STREAM, {}), commit_interval_s=3600.0)
    running.until(source.drained.is_set)
    assert running.recorder.committed_offsets == []
    running.stop()
    assert running.recorder.committed_offsets == [{LOG: len(STREAM)}]
    assert digest(tmp_path).digest == wanted


def test_stopping_does_not_wait_for_an_unavailable_source(tmp_path: Path) -> None:
    running = Running(tmp_path, Flaky(STREAM, {n: SourceUnavailable("away") for n in range(4, 10_000)}))
    running.until(lambda: running.engine.source_trouble == "away")
    running.stop()
    assert running.failure is None
    assert digest(tmp_path).offsets == {"log/0": 60}


def test_a_lost_source_ends_the_engine_after_a_commit(tmp_path: Path) -> None:
    """Retention may delete those events meanwhile, so they could not be read again."""
    running = Running(tmp_path, Flaky(STREAM, {4: SourceLost("gone")}), commit_interval_s=3600.0)
    running.thread.join(DEADLINE_S)
    assert isinstance(running.failure, SourceLost)
    running.stop()
    assert digest(tmp_path).offsets == {"log/0": 60}


def test_an_idle_engine_commits_nothing(tmp_path: Path) -> None:
    running = Running(tmp_path, source := Flaky([], {}), commit_interval_s=0.001)
    running.until(lambda: source._polls > 5)
    running.stop()
    assert running.recorder.committed_offsets == []


class Full:
    """A store whose disk is full while `full` is set; otherwise it is a real store."""

    def __init__(self, store: RocksStore) -> None:
        self.store, self.full, self.refused = store, threading.Event(), 0

    def commit(self, rows: object, offsets: Offsets) -> None:
        rows = list(rows)  # type: ignore[call-overload]  # the parts are asked for their rows, and asked again
        if self.full.is_set():
            self.refused += 1
            raise StoreUnavailable("no space left")
        self.store.commit(rows, offsets)


def test_a_commit_that_fails_pauses_learning_and_loses_nothing(tmp_path: Path, wanted: str) -> None:
    """Evictions, which need a commit, wait too."""
    running = Running(tmp_path, source := Flaky(STREAM, {2: SourceUnavailable("not yet")}), user_cache_bytes=20_000)
    full = Full(running.store)
    running.memory.store = full  # type: ignore[assignment]  # commits only
    for _ in range(3):
        full.full.set()
        running.until(lambda: running.engine.store_trouble == "no space left" or source.drained.is_set())
        full.full.clear()
        running.until(lambda: not running.engine.store_trouble)
    running.until(source.drained.is_set)
    running.stop()
    assert full.refused > 0
    assert running.memory.users.evictions > 0
    assert digest(tmp_path).digest == wanted


def test_stopping_while_the_disk_is_full_ends_at_once_with_the_last_good_state(tmp_path: Path, wanted: str) -> None:
    running = Running(tmp_path, Flaky(STREAM, {}))
    running.until(lambda: running.recorder.committed_offsets)
    full = Full(running.store)
    full.full.set()
    running.memory.store = full  # type: ignore[assignment]  # commits only
    running.until(lambda: full.refused or running.recorder.committed_offsets[-1] == {LOG: len(STREAM)})
    running.stop()
    assert running.failure is None
    assert digest(tmp_path).offsets == {"log/0": running.recorder.committed_offsets[-1][LOG]}
    learn(tmp_path, STREAM)  # goes on from there
    assert digest(tmp_path).digest == wanted


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of this size, if the tests are allowed to mount one."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("needs the right to mount a small disk (root); a store that says it is full is tested anywhere")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_pauses_learning_while_answers_continue(tmp_path: Path, wanted: str) -> None:
    """RocksDB recovers some seconds after enough space is free for its write buffers."""
    with small_disk(tmp_path / "disk", "300m") as disk:
        growing = STREAM[:200]
        running = Running(disk, Flaky(growing, {}))
        running.until(
            lambda: running.recorder.committed_offsets and running.recorder.committed_offsets[-1] == {LOG: 200}
        )
        recommender = Recommender(running.memory, running.memory.learners.by_name[POPULARITY])
        before = recommender.recommend("u7", 5)
        with (disk / "filler").open("wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(1 << 16))
            except OSError:
                pass
            try:
                while True:
                    filler.write(bytes(512))
            except OSError:
                pass
        growing += STREAM[200:]
        running.until(lambda: "No space left on device" in running.engine.store_trouble)
        assert recommender.recommend("u7", 5)
        assert before
        assert running.recorder.committed_offsets[-1][LOG] < len(STREAM)
        (disk / "filler").unlink()
        running.until(lambda: running.recorder.committed_offsets[-1] == {LOG: len(STREAM)})
        assert running.engine.store_trouble == ""
        running.stop()
        assert digest(disk).digest == wanted


def test_engine_step_is_short() -> None:
    """The front page of the project stays under 15 lines."""
    source = (Path(__file__).parents[2] / "streamer/stream/engine.py").read_text(encoding="utf-8")
    step = source.partition("    def step(")[2].partition("    def ")[0]
    assert len(step.rstrip().splitlines()) < 15


def test_tasks_run_in_order_between_steps_with_everything_committed(tmp_path: Path) -> None:
    running = Running(tmp_path, source := Flaky(STREAM, {}), commit_interval_s=3600.0)
    seen: list[tuple[int, int, bool]] = []

    def look(number: int) -> int:
        here = threading.current_thread() is running.thread
        seen.append((number, running.store.offsets().get(LOG, 0) - running.memory.ledger.offsets.get(LOG, 0), here))
        return number

    asked = [running.engine.run_between_steps(partial(look, number)) for number in range(20)]
    assert [answer.result(DEADLINE_S) for answer in asked] == list(range(20))
    running.until(source.drained.is_set)
    running.stop()
    assert seen == [(number, 0, True) for number in range(20)]
    assert digest(tmp_path).offsets == {"log/0": len(STREAM)}


def test_an_error_in_a_task_goes_to_its_caller_and_the_stream_goes_on(tmp_path: Path, wanted: str) -> None:
    running = Running(tmp_path, source := Flaky(STREAM, {}))
    for error in (ValueError("mine"), KeyboardInterrupt()):

        def fail(error: BaseException = error) -> None:
            raise error

        with pytest.raises(type(error)):
            running.engine.run_between_steps(fail).result(DEADLINE_S)
    running.until(source.drained.is_set)
    running.stop()
    assert running.failure is None
    assert digest(tmp_path).digest == wanted


def test_tasks_are_cancelled_when_the_engine_ends(tmp_path: Path) -> None:
    """No caller waits for ever for an engine that was stopped or has failed."""
    running = Running(tmp_path / "stopped", source := Flaky(STREAM, {}))
    running.until(source.drained.is_set)
    begun, going = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        going.wait(DEADLINE_S)

    first, second = running.engine.run_between_steps(hold), running.engine.run_between_steps(lambda: None)
    assert begun.wait(DEADLINE_S)
    running.engine.stop.set()
    going.set()
    running.stop()
    assert first.done()
    assert not first.cancelled()
    assert second.cancelled()
    assert running.engine.run_between_steps(lambda: None).cancelled()
    failed = Running(tmp_path / "failed", Flaky(STREAM, {3: SourceLost("gone")}))
    failed.thread.join(DEADLINE_S)
    assert isinstance(failed.failure, SourceLost)
    assert failed.engine.run_between_steps(lambda: None).cancelled()
    failed.stop()
