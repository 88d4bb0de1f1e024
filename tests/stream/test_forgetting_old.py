"""With `user_ttl_days`, users without an event for so long are forgotten: by the times of events alone, exactly, and for good."""

from pathlib import Path

import numpy as np
import pytest
from learning import digest, learn, records

from streamer.consumers.memory import Abort
from streamer.core.events import Click, Event, Rating, Record, UserRemoval, UserUpdate
from streamer.monitoring.clock import BLOCK, PERIOD_MS, StreamClock
from streamer.storage.state import RocksStore
from streamer.stream.stored_users import HOUR_BYTES, LAST_HEARD

CHEAP = {"rating_learner": "bias", "click_learner": "transitions"}
DAY_HOURS = 24


def at(hour: float, user: str, item: str = "i1") -> Click:
    return Click(user, item, "click", round(PERIOD_MS * (400_000 + hour)))


def others(first_hour: int, last_hour: int) -> list[Event]:
    """A block of events each hour, so that the clock goes on."""
    return [at(hour, f"other{k % 8}", f"i{k}") for hour in range(first_hour, last_hour) for k in range(BLOCK)]


def stored(folder: Path) -> set[str]:
    """The users in the store; what is listed agrees with them."""
    store = RocksStore(folder, read_only=True)
    heads = {key.decode(): head for key, head in store.scan("users/head")}
    listed = [key[HOUR_BYTES:].decode() for key, _ in store.scan(LAST_HEARD)]
    assert len(listed) == len(set(listed))
    assert set(listed) <= set(heads)
    (count,) = store.read("users", [b"count"])
    assert int.from_bytes(count or b"", "little") == len(heads)
    store.close()
    return set(heads)


def keys_of(folder: Path, user: str) -> list[str]:
    """The tables with a key of this user."""
    store = RocksStore(folder, read_only=True)
    found = [key for key, _ in store._rocks.scan(b"", b"\xff")]
    store.close()
    return sorted({key.partition(b"\0")[0].decode() for key in found if user.encode() in key.partition(b"\0")[2]})


def many(user: str, hour: int) -> list[Event]:
    return [at(hour, user, f"i{k}") for k in range(40)]  # a full block, a page


def test_who_has_no_event_for_so_long_is_forgotten_and_begins_anew(tmp_path: Path) -> None:
    events = [*others(0, 1), UserUpdate("old", preferences={"Drama": 5.0}), *many("old", 1), *others(1, 24)]
    learn(tmp_path, records(events), user_ttl_days=1, **CHEAP)
    assert "old" in stored(tmp_path)
    assert LAST_HEARD in keys_of(tmp_path, "old")
    events += others(24, 28)
    learn(tmp_path, records(events), user_ttl_days=1, **CHEAP)
    assert "old" not in stored(tmp_path)
    assert keys_of(tmp_path, "old") == ["users/profile"]
    learn(tmp_path, records([*events, at(29, "old", "i3")]), user_ttl_days=1, **CHEAP)
    store = RocksStore(tmp_path, read_only=True)
    (head,) = store.read("users/head", [b"old"])
    store.close()
    assert np.frombuffer(head or b"", dtype=np.int64, count=2).tolist() == [1, 1]


def test_nobody_is_forgotten_without_the_setting(tmp_path: Path) -> None:
    learn(tmp_path, records([*many("old", 0), *others(0, 60)]), **CHEAP)
    assert "old" in stored(tmp_path)
    assert LAST_HEARD not in keys_of(tmp_path, "other1")


def test_one_wrong_time_forgets_nobody(tmp_path: Path) -> None:
    """The records say the same, so that the time is not clamped to that of a record."""
    entries = records([*others(0, 2), *many("old", 1), *others(2, 4)])
    wrong = [at(24 * 365 * k, f"wrong{k}") for k in range(1, 5)]
    for number, event in enumerate(wrong):
        entries += [Record("clicks", -1, len(entries), event.timestamp_ms or 0, b"", records([event])[0].value)]
        entries += records(others(4 + number, 5 + number), len(entries))
    learn(tmp_path, entries, user_ttl_days=1, **CHEAP)
    assert stored(tmp_path) >= {"old", "wrong1", "wrong4"}


def stream() -> list[Event]:
    """Anonymous sessions, and users who come back after hours or days; profiles, removals, ratings taken back."""
    random, events = np.random.default_rng(5), list[Event]()
    for n in range(1000):
        hour, item = n / 5, f"i{random.integers(60)}"
        user = f"once{n // 3}" if random.random() < 0.6 else f"back{int(40 * random.random() ** 3)}"
        rated = Rating(user, item, float(random.integers(1, 6)), round(PERIOD_MS * (400_000 + hour)))
        events.append(rated if random.random() < 0.3 else at(hour - (random.random() < 0.1) * 50, user, item))
        if n % 300 == 150:
            events += [UserUpdate(user, preferences={"Drama": 1.0}), UserRemoval(f"back{n % 40}")]
    return events


@pytest.mark.parametrize(("cut", "cache_bytes"), [(3, 150_000), (1000, 40_000)])
def test_who_is_forgotten_depends_on_the_events_alone(tmp_path: Path, cut: int, cache_bytes: int) -> None:
    """Not on cuts, evictions, commits or crashes."""
    entries = records(stream())
    learn(tmp_path / "whole", entries, user_ttl_days=2, **CHEAP)
    left = stored(tmp_path / "whole")
    assert 40 < len(left) < 150  # of some 350
    broken = [entry for n, one in enumerate(entries) for entry in ([Abort(), one] if n % 431 == 430 else [one])]
    flags = {"max_records": cut, "user_cache_bytes": cache_bytes, "commit_every": 3} | CHEAP
    assert learn(tmp_path / "cut", broken, user_ttl_days=2, **flags) == 2  # type: ignore[arg-type]  # flags of two kinds
    assert stored(tmp_path / "cut") == left
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")


def test_the_list_of_users_grows_no_more_than_the_time_to_live(tmp_path: Path) -> None:
    """One-off users for three days: after each there are those of the last day, and of an hour more."""
    events, most = list[Event](), 0
    for day in range(1, 4):
        events += [at(hour, f"once{hour}-{k}") for hour in range(day * 24, day * 24 + 24) for k in range(BLOCK)]
        learn(tmp_path, records(events), user_ttl_days=1, **CHEAP)
        most = max(most, len(stored(tmp_path)))
    assert 24 * BLOCK <= most <= 27 * BLOCK


def test_the_clock_is_the_latest_median(tmp_path: Path) -> None:
    clock, hours = StreamClock(), np.repeat(np.array([5, 6, 4, 7], dtype=np.int64), BLOCK)
    assert clock.crossings(hours * PERIOD_MS) == [BLOCK, 2 * BLOCK, 4 * BLOCK]
    assert clock.period == 0
    clock.advance(hours[:100] * PERIOD_MS)
    assert clock.period == 5
    assert clock.crossings(hours[100:] * PERIOD_MS) == [2 * BLOCK - 100, 4 * BLOCK - 100]
    clock.advance(hours[100:200] * PERIOD_MS)
    assert clock.period == 6  # never backwards
    assert clock.crossings(hours[:0]) == []
