"""The promises of the design, and deliberate faults that must break them."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from learning import digest, events, learn, records, settings

from streamer.consumers.memory import Abort, Entry, MemorySource
from streamer.core.events import LOG, Offsets
from streamer.core.protocols import Probed, Row
from streamer.serving.opening import learners
from streamer.serving.recommend import POPULARITY, Recommender
from streamer.storage.state import RocksStore
from streamer.stream.engine import Engine, NullObserver
from streamer.stream.memory import Memory

pytestmark = pytest.mark.slow

EVENTS = 700
STREAM = records(events(EVENTS))
CUT = {"max_records": 50}
Flags: TypeAlias = dict[str, object]


@pytest.fixture(scope="session", params=["biased-mf", "bayesian-hybrid", "stack"])
def cut(request: pytest.FixtureRequest) -> Flags:
    """Settings of a run: each of the possible champions for ratings, one of them with a network as shadow."""
    shadow = ("deep-fm",) if request.param == "biased-mf" else ()
    return {"rating_learner": request.param, "shadow": shadow, **CUT}


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, cut: Flags) -> str:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert learn(folder, STREAM, **cut) == 0
    return digest(folder).digest


def with_crashes(seed: int, crashes: int = 12) -> list[Entry]:
    """The stream with Aborts at random positions, the first one after some commits."""
    chosen = np.random.default_rng(seed).choice(np.arange(300, len(STREAM)), crashes, replace=False)
    entries: list[Entry] = []
    for n, record in enumerate(STREAM):
        if n in chosen:
            entries.append(Abort())
        entries.append(record)
    return entries


@pytest.mark.parametrize("seed", range(3))
def test_crashes_lose_and_repeat_nothing(tmp_path: Path, uninterrupted: str, cut: Flags, seed: int) -> None:
    assert learn(tmp_path, with_crashes(seed), commit_every=3, **cut) == 12
    assert digest(tmp_path).digest == uninterrupted


@pytest.mark.parametrize("max_records", [1, 7, 1000])
def test_the_state_does_not_depend_on_how_the_log_is_cut(
    tmp_path: Path, uninterrupted: str, cut: Flags, max_records: int
) -> None:
    learn(tmp_path, STREAM, commit_every=100, **{**cut, "max_records": max_records})
    assert digest(tmp_path).digest == uninterrupted


def test_evicted_users_come_back_exactly(tmp_path: Path, uninterrupted: str, cut: Flags) -> None:
    engines: list[Engine] = []
    learn(tmp_path, STREAM, alter=engines.append, user_cache_bytes=16_000, **cut)
    assert engines[0].memory.users.evictions > 300
    assert engines[0].memory.users.cached < 10
    assert digest(tmp_path).digest == uninterrupted


def test_another_seed_gives_other_bytes_for_the_same_log(tmp_path: Path, uninterrupted: str, cut: Flags) -> None:
    learn(tmp_path, STREAM, seed=2, **cut)
    assert digest(tmp_path).digest != uninterrupted


def test_reading_never_writes(tmp_path: Path, cut: Flags) -> None:
    learn(tmp_path, STREAM, **cut)
    before = digest(tmp_path).digest
    store = RocksStore(tmp_path)
    chosen = settings(**cut)
    memory = Memory(learners(chosen), chosen, store)
    recommender = Recommender(memory, memory.learners.by_name[POPULARITY])
    for n in range(1000):
        assert recommender.recommend(f"nobody {n}", 5)
        recommender.predict(f"nobody {n}", f"nothing {n}")
        recommender.similar_items(f"nothing {n}", 3)
    recommender.recommend("u7", 5)
    assert [part.changed() for part in (memory.users, memory.items, memory.learners)] == [[], [], []]
    assert memory.users.cached == 0
    memory.commit()
    store.close()
    assert digest(tmp_path).digest == before


def test_answers_are_the_same_from_memory_and_from_the_store(tmp_path: Path, cut: Flags) -> None:
    answers: list[list[object]] = []
    for name, cache in (("all", 1 << 30), ("few", 16_000)):
        engines: list[Engine] = []
        folder = tmp_path / name
        store, chosen = RocksStore(folder), settings(user_cache_bytes=cache, **cut)
        memory = Memory(learners(chosen), chosen, store)
        engine = Engine(MemorySource(STREAM), memory, NullObserver(), max_records=50, commit_interval_s=3600.0)
        engines.append(engine)
        engine.source.seek({})
        while engine.step(0.0):
            engine.commit()
        recommender = Recommender(memory, memory.learners.by_name[POPULARITY])
        users = [f"u{n}" for n in range(40)]
        answers.append([(recommender.recommend(u, 10), recommender.predict(u, "i3")) for u in users])
        store.close()
    assert answers[0] == answers[1]


# The mutants: each breaks one part of crash safety, and the same harness must see it.


def stale_offsets(engine: Engine) -> None:
    """Rows are committed with the offsets of the previous commit."""
    commit, before = engine.memory.store.commit, [engine.memory.store.offsets()]

    def late(rows: list[Row], offsets: Offsets) -> None:
        commit(rows, before[0])
        before[0] = dict(offsets)

    engine.memory.store.commit = late  # type: ignore[method-assign, assignment]  # that is what a mutant is


def offsets_before_state(engine: Engine) -> None:
    """Offsets are written when records are read, rows later, at the next commit."""
    step, store = engine.step, engine.memory.store

    def early(timeout_s: float) -> int:
        count = step(timeout_s)
        store.commit([], engine.memory.ledger.offsets)
        return count

    engine.step = early  # type: ignore[method-assign]  # that is what a mutant is


def negatives_forgotten(engine: Engine) -> None:
    """Only rows of a batch's own users and items are committed, not those of negatives."""
    skip_gram = engine.memory.learners.by_name["skip-gram"]
    assert isinstance(skip_gram, Probed)
    table, learn_ = skip_gram.tables()["item"], skip_gram.learn_probed

    def forgetful(batch, probes):  # type: ignore[no-untyped-def]
        before = table.touched.copy()
        said = learn_(batch, probes)
        own = np.zeros_like(table.touched)
        own[batch.items] = 1
        own[: len(before)] |= before
        table.touched &= own
        return said

    skip_gram.learn_probed = forgetful  # type: ignore[method-assign]  # that is what a mutant is


def process_wide_randomness(engine: Engine) -> None:
    """Negatives are drawn from a random generator of the process."""
    encoder, generator = engine.memory.encoder, np.random.default_rng(1)
    origins = encoder._keys_and_origins

    def drawn(chosen):  # type: ignore[no-untyped-def]
        keys, codes, offsets = origins(chosen)
        return generator.integers(0, 2**63, len(keys), dtype=np.uint64), codes, offsets

    encoder._keys_and_origins = drawn  # type: ignore[method-assign]  # that is what a mutant is


MUTANTS = [stale_offsets, offsets_before_state, negatives_forgotten, process_wide_randomness]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_harness_catches(tmp_path: Path, mutant: Callable[[Engine], None]) -> None:
    learn(tmp_path / "whole", STREAM, alter=mutant, **CUT)
    learn(tmp_path / "crashed", with_crashes(0), commit_every=3, alter=mutant, **CUT)
    assert digest(tmp_path / "crashed").digest != digest(tmp_path / "whole").digest


def test_offsets_say_how_far_the_rows_are(tmp_path: Path) -> None:
    learn(tmp_path, STREAM, **CUT)
    assert digest(tmp_path).offsets == {f"{LOG.topic}/{LOG.partition}": len(STREAM)}
