"""Sessions begin at another session_id, or after a pause longer than a gap that is learned from the stream."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from learning import digest, records
from learning import learn as learn_stream

from streamer.core.arrays import F32, I64, U8
from streamer.core.batch import CLICK, REPEATED, Batch
from streamer.core.errors import BadState
from streamer.core.events import Click, Event, Rating, Record
from streamer.core.protocols import Row
from streamer.monitoring.sessions import BINS, DEFAULT_GAP_S, LAST_SESSION, REMEMBERED, Sessions, session_key
from streamer.stream.engine import Engine

MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86400.0


def follow(sessions: Sessions, pauses_s: list[float], names: list[str], kinds: U8 | None = None) -> list[int]:
    """Which events of one user begin a session."""
    n, heads = len(pauses_s), np.zeros((1, LAST_SESSION + 1), dtype=np.int64)
    pauses_ms: I64 = np.array([-1 if p < 0 else round(1000 * p) for p in pauses_s], dtype=np.int64)
    keys: I64 = np.array([session_key(name) for name in names], dtype=np.int64)
    kinds = np.full(n, CLICK, np.uint8) if kinds is None else kinds
    return sessions.follow(np.zeros(n, np.int32), kinds, pauses_ms, keys, heads).tolist()


def learn(sessions: Sessions, pauses_s: np.ndarray) -> None:
    follow(sessions, pauses_s.tolist(), [""] * len(pauses_s))


def pauses(within_s: float, between_s: float, count: int, seed: int = 1) -> np.ndarray:
    """Log-normal pauses, four of five within sessions."""
    random = np.random.default_rng(seed)
    centres = np.where(random.random(count) < 0.8, within_s, between_s)
    return np.clip(centres * np.exp(random.normal(0.0, 1.0, count)), 1.0, None)


@pytest.mark.parametrize(
    ("pauses_s", "names", "begins"),
    [
        ([-1, 10, 1800, 1800.001, 0], [""] * 5, [1, 0, 0, 1, 0]),
        ([-1, 9 * HOUR_S, 1, 1], ["a", "a", "b", "b"], [1, 0, 1, 0]),  # by their ids alone
        ([-1, 1, 1, 9 * HOUR_S], ["", "a", "a", ""], [1, 0, 0, 1]),  # the first id names the session under way
        ([-1, 1, 1], ["a", "", "a"], [1, 0, 0]),  # a rating has no id
        ([-1, 9 * HOUR_S, 1, 9 * HOUR_S], ["a", "", "a", "a"], [1, 1, 0, 0]),
    ],
)
def test_sessions_begin_at_another_id_or_after_a_pause(
    pauses_s: list[float], names: list[str], begins: list[int]
) -> None:
    assert follow(Sessions(), pauses_s, names) == begins


def test_a_gap_that_is_given_is_used_and_what_says_nothing_new_begins_nothing() -> None:
    sessions = Sessions(60.0)
    learn(sessions, pauses(20.0, DAY_S, 5000))
    assert sessions.gap_s == 60.0
    kinds = np.array([CLICK, CLICK, REPEATED, CLICK], np.uint8)
    assert follow(sessions, [-1, 61, 61, 59], [""] * 4, kinds) == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("within_s", "between_s", "at_least_s", "at_most_s"),
    [
        (8.0, 7 * DAY_S, 5 * MINUTE_S, 12 * HOUR_S),  # films: lists of ratings, a week apart
        (40.0, 8 * HOUR_S, 3 * MINUTE_S, 2 * HOUR_S),  # a shop
        (4 * MINUTE_S, 2 * DAY_S, 20 * MINUTE_S, 8 * HOUR_S),  # music: a song each four minutes
        (10.0, HOUR_S, MINUTE_S, 10 * MINUTE_S),  # news, looked at every hour
    ],
)
def test_the_gap_is_the_valley_between_two_kinds_of_pauses(
    within_s: float, between_s: float, at_least_s: float, at_most_s: float
) -> None:
    sessions = Sessions()
    learn(sessions, pauses(within_s, between_s, 800))
    assert (sessions.gap_s, sessions.learned) == (DEFAULT_GAP_S, False)  # too few
    learn(sessions, pauses(within_s, between_s, 5000))
    assert sessions.learned
    assert at_least_s < sessions.gap_s < at_most_s
    assert "valley" in sessions.in_words()


RANDOM = np.random.default_rng(2)


@pytest.mark.parametrize(
    "rugged",
    [
        *(centre_s * np.exp(RANDOM.normal(0.0, 2.0, 5000)) for centre_s in (5.0, 30 * MINUTE_S, 3 * DAY_S)),
        np.exp(RANDOM.uniform(0.0, np.log(30 * DAY_S), 5000)),  # all alike: a plateau with dents
    ],
    ids=["seconds", "minutes", "days", "all"],
)
def test_without_a_clear_valley_the_gap_is_half_an_hour(rugged: np.ndarray) -> None:
    """Pauses of one kind only; 5,000 of them are rugged enough to have dents."""
    sessions = Sessions()
    learn(sessions, np.clip(rugged, 1.0, None))
    assert (sessions.gap_s, sessions.learned) == (DEFAULT_GAP_S, False)
    assert "no clear valley" in sessions.in_words()
    learn(sessions, np.zeros(5000))  # a list imported at one time
    assert not sessions.learned


def test_the_gap_follows_a_stream_that_changes() -> None:
    sessions = Sessions()
    learn(sessions, pauses(10.0, HOUR_S, 200_000))
    before_s = sessions.gap_s
    learn(sessions, pauses(8 * MINUTE_S, 4 * DAY_S, 100_000))
    assert sessions._state[:BINS].sum() < REMEMBERED
    assert before_s < 10 * MINUTE_S < sessions.gap_s


def stream() -> list[Event]:
    """Twenty users with sessions of some minutes, one of three with ids of sessions, and ratings in between."""
    random, events, clock_ms = np.random.default_rng(3), list[Event](), 0
    starts = np.sort(random.integers(0, 10_000, 500)) * 60_000
    for number, start in enumerate(starts.tolist()):
        user = f"u{random.integers(20)}"
        for _ in range(int(random.integers(1, 6))):
            clock_ms = start + int(random.integers(0, 300_000))
            item = f"i{random.integers(50)}"
            named = f"s{number}" if number % 3 == 0 else None
            click = Click(user, item, "click", clock_ms, session_id=named)
            events.append(click if random.random() < 0.8 else Rating(user, item, 4.0, clock_ms))
    return events


def begun(folder: Path, entries: list[Record], cut: int, cache_bytes: int = 1 << 30) -> list[int]:
    """Learn from `entries`, and return which of those learned now begin a session."""
    found = list[int]()

    def look(engine: Engine) -> None:
        learners = engine.memory.learners
        learned = learners.learn

        def seen(batch: Batch) -> Mapping[str, F32]:
            found.extend(batch.begins.tolist())
            return learned(batch)

        learners.learn = seen  # type: ignore[method-assign]  # looked at, not replaced

    named = {"rating_learner": "bias", "click_learner": "popularity", "user_cache_bytes": cache_bytes}
    learn_stream(folder, entries, alter=look, max_records=cut, **named)
    return found


@pytest.mark.parametrize("cut", [1, 7, 2000])
def test_sessions_do_not_depend_on_cuts_evictions_or_restarts(tmp_path: Path, cut: int) -> None:
    entries = records(stream())
    whole = begun(tmp_path / "whole", entries, 100)
    assert 100 < sum(whole) < len(whole) - 100
    parts = [begun(tmp_path / "cut", entries[:end], cut, 0) for end in (len(entries) // 2, len(entries))]
    assert [*parts[0], *parts[1]] == whole
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")


def test_the_stream_says_where_sessions_begin(tmp_path: Path) -> None:
    """By hand: late events count as without a pause, ratings have no session_id, and a click made again begins nothing."""
    hour_ms = 3_600_000
    said = [
        (Click("u", "a", "click", 9 * hour_ms), 1),
        (Click("u", "b", "click", 5 * hour_ms), 0),  # late
        (Rating("u", "a", 3.0, 9 * hour_ms + 1000), 0),
        (Click("v", "a", "click", 9 * hour_ms + 1000), 1),
        (Click("u", "c", "click", 12 * hour_ms, session_id="s1"), 1),
        (Click("u", "c", "click", 12 * hour_ms + 100, session_id="s2"), 0),  # says nothing new
        (Click("u", "d", "click", 13 * hour_ms, session_id="s1"), 0),
        (Click("u", "e", "click", 13 * hour_ms + 1, session_id="s2"), 1),
        (Rating("u", "c", 3.0, 14 * hour_ms), 1),
    ]
    assert begun(tmp_path, records([event for event, _ in said]), 4) == [begins for _, begins in said]


def test_a_row_that_does_not_fit_is_refused() -> None:
    class Store:
        def read(self, table: str, keys: object) -> list[bytes]:
            return [b"short"]

    with pytest.raises(BadState, match="the row of sessions has 5 bytes"):
        Sessions().restore(Store())  # type: ignore[arg-type]  # reads only


def test_what_is_restored_goes_on_alike() -> None:
    sessions, other = Sessions(), Sessions()
    learn(sessions, pauses(10.0, HOUR_S, 3000))
    (row,) = sessions.changed()
    assert row == Row("stream", b"sessions", row.value)

    class Store:
        def read(self, table: str, keys: object) -> list[bytes | None]:
            return [row.value]

    other.restore(Store())  # type: ignore[arg-type]  # reads only
    sessions.committed()
    assert sessions.changed() == other.changed() == []
    learn(sessions, pauses(10.0, HOUR_S, 700, seed=2))
    learn(other, pauses(10.0, HOUR_S, 700, seed=2))
    assert sessions.changed() == other.changed() != []
