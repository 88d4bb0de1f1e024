"""Events fed again are detected, counted and warned about once; streams that only look alike are not; nothing breaks."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from learning import learn, records, settings

from streamer.consumers.files import FileSource
from streamer.consumers.memory import Abort, Entry, MemorySource
from streamer.core.events import RATINGS, Click, Event, Rating, Record, UserRemoval
from streamer.models import LEARNERS
from streamer.monitoring.repeated_input import WINDOW_EVENTS, RepeatedInput
from streamer.serving.opening import learners
from streamer.storage.state import RocksStore
from streamer.stream.engine import Engine, NullObserver
from streamer.stream.memory import Memory

START_MS = 1_600_000_000_000
SAID = "the same events are being fed again"


def watched(users: int = 30, each: int = 100) -> list[Event]:
    """Every user rates items that are new to them, a minute apart, at times two at once."""
    random = np.random.default_rng(3)
    items = [random.permutation(500)[:each].tolist() for _ in range(users)]
    return [
        Rating(f"u{u}", f"i{items[u][n]}", 1.0 + (u + n) % 5, START_MS + 60_000 * (n - n % 2))
        for n in range(each)
        for u in range(users)
    ]


def refed(folder: Path, entries: Sequence[Entry], caplog: pytest.LogCaptureFixture, **flags: object) -> tuple[int, int]:
    """How many events were repeated, by the state's count, and how often the log warned."""
    caplog.clear()
    learn(folder, entries, rating_learner="bias", click_learner="popularity", **flags)
    store = RocksStore(folder, read_only=True)
    try:
        chosen = settings(rating_learner="bias", click_learner="popularity", **flags)
        events = Memory(learners(chosen), chosen, store).monitor.repeated_input.events
    finally:
        store.close()
    said = [r for r in caplog.records if r.name == "streamer.monitoring.repeated_input" and SAID in r.getMessage()]
    assert all(record.levelno == logging.WARNING for record in said)
    return events, len(said)


def test_a_stream_fed_twice_is_warned_about_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stream = watched()
    assert refed(tmp_path / "once", records(stream), caplog) == (0, 0)
    twice = refed(tmp_path / "twice", records(stream * 2), caplog)
    assert twice[0] > 0.97 * len(stream)
    assert twice[1] == 1
    assert refed(tmp_path / "often", records(stream * 6), caplog)[1] == 1


def test_the_count_does_not_depend_on_batches_evictions_or_crashes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entries = records(watched(each=40) * 2)
    whole = refed(tmp_path / "whole", entries, caplog)[0]
    crashing = [*entries[:700], Abort(), *entries[700:1500], Abort(), *entries[1500:]]
    assert whole > 0.9 * 40 * 30
    cuts: tuple[dict[str, object], ...] = ({"max_records": 1}, {"max_records": 7}, {"user_cache_bytes": 60_000})
    for number, flags in enumerate(cuts):
        assert refed(tmp_path / str(number), crashing, caplog, **flags)[0] == whole, flags


def test_users_with_few_events_at_the_same_time_are_detected_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stream: list[Event] = [Rating(f"u{n // 3}", f"i{n % 3}", 4.0, START_MS + n // 3) for n in range(3000)]
    assert refed(tmp_path, records(stream * 2), caplog) == (3000, 1)


def test_late_events_and_watching_again_are_not_repeats(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    random = np.random.default_rng(5)
    stream = watched()
    late = [stream[k] for k in np.argsort(np.arange(len(stream)) + 900 * (random.random(len(stream)) < 0.3))]
    assert refed(tmp_path / "late", records(late), caplog) == (0, 0)
    again: list[Event] = [Click(f"u{n % 30}", f"i{n // 30 % 4}", "view", START_MS + 1000 * n) for n in range(6000)]
    assert refed(tmp_path / "again", records(again), caplog) == (0, 0)
    both: list[Event] = [  # one in four events of watching again arrives late
        Click(f"u{n % 30}", f"i{n // 30 % 4}", "view", START_MS + 1000 * (n - 900 * (n // 30 % 4 == 0)))
        for n in range(6000)
    ]
    some, said = refed(tmp_path / "both", records(both), caplog)
    assert 0 < some < 2000
    assert said == 0


def test_a_forgotten_user_who_comes_back_is_new(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stream: list[Event] = [Rating("u", f"i{n}", 4.0, START_MS + n) for n in range(50)]
    assert refed(tmp_path, records([*stream, UserRemoval("u"), *stream]), caplog)[0] == 0


def test_a_second_run_of_repeats_is_warned_about_again(caplog: pytest.LogCaptureFixture) -> None:
    repeated_input = RepeatedInput()
    fine, again = np.zeros(WINDOW_EVENTS, dtype=np.bool_), np.ones(WINDOW_EVENTS, dtype=np.bool_)
    for marks in (again[:-1], fine, again, again, fine, again):
        repeated_input.observe(marks)
    assert len(caplog.records) == 2
    assert repeated_input.events == 4 * WINDOW_EVENTS - 1


@pytest.mark.parametrize("rating_learner", [n for n in LEARNERS if n in ("bias", "biased-mf", "bayesian-hybrid")])
def test_twenty_repeats_stay_finite_and_cost_little(movielens: Path, rating_learner: str) -> None:
    """RMSE of new events after a real stream fed once, and fed twenty times: about 3% worse."""
    source, read = FileSource(movielens, 1), list[Record]()
    while more := source.poll(1000, 0.0):
        read += more
    source.close()
    catalogue, ratings = ([r for r in read if (r.topic == RATINGS) is rated] for rated in (False, True))
    errors = {}
    for times in (1, 20):
        errors[times] = fresh_rmse(rating_learner, [*catalogue, *ratings[:5000] * times], ratings[5000:15000])
    assert errors[20] <= 1.04 * errors[1]


def fresh_rmse(rating_learner: str, before: list[Record], after: list[Record]) -> float:
    """RMSE over the ratings of `after`, learned after `before`; all tables must stay finite."""
    chosen = settings(rating_learner=rating_learner)
    entries = [Record(r.topic, -1, n, r.timestamp_ms, r.key, r.value) for n, r in enumerate([*before, *after])]
    errors = list[tuple[float, int]]()
    with tempfile.TemporaryDirectory() as state:
        store = RocksStore(Path(state))
        memory = Memory(learners(chosen), chosen, store)
        for stop in (len(before), len(entries)):
            source = MemorySource(entries[:stop])
            source.seek(memory.ledger.offsets)
            engine = Engine(source, memory, NullObserver(), max_records=1000, commit_interval_s=3600.0)
            while engine.step(0.0):
                pass
            found = memory.monitor.errors[rating_learner]
            errors.append((found.squared, found.ratings))
        assert found.unpredicted == 0
        for made in memory.learners.by_name.values():
            assert all(np.isfinite(table.values).all() for table in made.tables().values())
        store.close()
    (squared, count), (all_squared, all_count) = errors
    return float(((all_squared - squared) / (all_count - count)) ** 0.5)
