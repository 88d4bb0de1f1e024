"""Histories, compared with a plain list of everything a user did."""

from pathlib import Path

import numpy as np
import pytest
from crowd import Crowd, unfold_heads

from streamer.core.batch import CLICK
from streamer.stream.history_rows import (
    BLOCK_EVENTS,
    EVENT,
    HEAD_COLUMNS,
    KEPT_EVENTS,
    PAGE_ITEMS,
    PAGES,
    RING,
    SEEN_WINDOW,
    YOUNG_EVENTS,
    page_count,
    stored_events,
)


class Diary:
    """The expected history, kept in the simplest way."""

    def __init__(self) -> None:
        self.events: list[tuple[int, int]] = []  # item, position
        self.distinct: list[int] = []

    def put(self, item: int) -> int:
        seen = len(self.distinct)
        if item not in self.distinct[-SEEN_WINDOW:]:
            self.distinct.append(item)
        self.events.append((item, len(self.events)))
        return seen


def kept(crowd: Crowd, user: str) -> list[int]:
    """The items of the user's stored events, oldest first."""
    return [int(event["item"]) for event in stored_events(crowd.store, user)]


@pytest.mark.parametrize(("cache_bytes", "restart_every"), [(1 << 30, 0), (0, 0), (0, 5), (1 << 30, 3)])
def test_long_histories_survive_rings_evictions_and_restarts(
    tmp_path: Path, cache_bytes: int, restart_every: int
) -> None:
    """Three users with up to 9,000 events and 7,500 distinct items: the ring of 6,144 wraps, and so do the blocks."""
    crowd, diaries = Crowd(tmp_path, cache_bytes), {user: Diary() for user in "abc"}
    random = np.random.default_rng(4)
    clock = 0
    for n in range(30):
        user = "aab"[n % 3] if n < 27 else "c"
        count = [1000, 31, 1, 999, 2000, 33][n % 6]
        # Two thirds new items, one third of any time before: within the window, and beyond it.
        items = [int(random.integers(clock + 1)) if random.random() < 0.33 else clock + k for k in range(count)]
        clock += count
        rows = crowd.users.rows([user], crowd.commit)
        events = np.zeros(count, dtype=EVENT)
        events["item"], events["time_ms"] = items, len(diaries[user].events) + np.arange(count)
        found = crowd.users.remember(
            np.repeat(rows, count), np.array(items, dtype=np.int32), np.full(count, CLICK, np.uint8),
            np.zeros(count, np.float32), np.zeros(count, np.float32), events["time_ms"].astype(np.int64),
            np.ones(count, np.bool_), np.zeros(count, np.uint8), events, 0,
        )  # fmt: skip
        assert found.seen_counts.tolist() == [diaries[user].put(item) for item in items]
        assert crowd.users.view(user).seen.tolist() == diaries[user].distinct[-SEEN_WINDOW:]
        if restart_every and n % restart_every == 0:
            crowd.commit()
            crowd.close()
            crowd = Crowd(tmp_path, cache_bytes)
    assert len(diaries["a"].distinct) > RING
    crowd.commit()
    for user, diary in diaries.items():
        assert crowd.users.view(user).seen.tolist() == diary.distinct[-SEEN_WINDOW:]
        wanted = [item for item, _ in diary.events]
        assert kept(crowd, user)[-KEPT_EVENTS:] == wanted[-KEPT_EVENTS:]
        assert len(kept(crowd, user)) <= KEPT_EVENTS + BLOCK_EVENTS
    crowd.close()


@pytest.mark.parametrize("events", [1, 8, 9, 31, 32, 33, 480, 511, 512, 513, 544, 545, 1023, 1024, 1025])
@pytest.mark.parametrize("cut", [1, 32, 2000])
def test_the_last_512_events_are_kept_for_any_count(tmp_path: Path, events: int, cut: int) -> None:
    """It once kept 481 of them after the 513th: the newest block took the oldest one's place."""
    crowd = Crowd(tmp_path)
    rows = crowd.users.rows(["a"], crowd.commit)
    for start in range(0, events, cut):
        numbers = np.arange(start, min(events, start + cut))
        record = np.zeros(len(numbers), dtype=EVENT)
        record["item"] = record["time_ms"] = numbers
        zeros, kinds = np.zeros(len(numbers), dtype=np.float32), np.full(len(numbers), CLICK, np.uint8)
        items, times_ms = numbers.astype(np.int32), numbers.astype(np.int64)
        crowd.users.remember(
            np.repeat(rows, len(numbers)), items, kinds, zeros, zeros.copy(), times_ms, kinds > 0, 0 * kinds, record, 0
        )
        if start % 5 == 0:
            crowd.commit()
    crowd.commit()
    assert kept(crowd, "a")[-512:] == list(range(max(0, events - 512), events))
    crowd.close()


def test_the_window_of_seen_items_is_exact(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path)
    crowd.happen(["a"] * 2000, list(range(2000)))
    crowd.happen(["a"] * 2000, list(range(2000, 4000)))
    crowd.happen(["a"] * 97, list(range(4000, 4097)))  # 0 falls out
    assert crowd.users.view("a").seen.tolist() == list(range(1, 4097))
    assert crowd.happen(["a"] * 4, [1, 0, 1, 2]).tolist() == [4097, 4097, 4098, 4099]
    assert crowd.users.view("a").seen.tolist() == [*range(4, 4097), 0, 1, 2]
    crowd.close()


def test_one_event_rewrites_one_block_and_one_page(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path)
    crowd.happen(["a"] * 700, list(range(700)))
    crowd.commit()
    crowd.happen(["a"], [700])
    assert sorted(row.table for row in crowd.users.changed()) == [
        "learned/counter/user", "users/head", "users/history", "users/rated", "users/seen",
    ]  # fmt: skip
    crowd.commit()
    crowd.happen(["a"], [700])  # seen already: no page
    assert sorted(row.table for row in crowd.users.changed()) == ["learned/counter/user", "users/head", "users/history"]
    crowd.close()


def test_the_ring_holds_the_window_before_the_first_event_of_the_largest_batch() -> None:
    assert RING == PAGES * PAGE_ITEMS >= SEEN_WINDOW + 2000
    assert [page_count(seen) for seen in (0, 1, 128, 129, RING, 10 * RING)] == [0, 1, 1, 2, PAGES, PAGES]


def test_evicted_users_give_their_pages_back(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path, cache_bytes=0)
    for n in range(20):
        crowd.happen([f"u{n}"] * 500, list(range(500)))
        assert crowd.users.history.pages_used == 4
    for n in range(20):
        crowd.happen([f"u{n}"], [501])
        assert crowd.users.history.pages_used == 4
    crowd.users.forget("u19")
    assert crowd.users.history.pages_used == 0
    crowd.close()


def test_a_head_of_an_earlier_version_can_be_loaded(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path)
    crowd.happen(["a"] * 3, [1, 2, 3])
    crowd.commit()
    assert unfold_heads(crowd.store, 4) == 1
    crowd.close()
    crowd = Crowd(tmp_path)
    assert crowd.users.view("a").seen.tolist() == [1, 2, 3]
    assert crowd.happen(["a"], [1]).tolist() == [3]
    crowd.commit()
    (head,) = crowd.store.read("users/head", [b"a"])
    assert head is not None
    wanted = [4, 3, 0, 0, 2]  # the latest time was the third event's, 2
    assert np.frombuffer(head, dtype=np.int64, count=5).tolist() == wanted
    assert kept(crowd, "a") == [1, 2, 3, 1]
    crowd.close()


def test_a_users_first_events_are_one_row_and_later_ones_have_their_own(tmp_path: Path) -> None:
    """Whether the user was evicted in between makes no difference; the ninth event is of an item that was seen before."""
    digests = set()
    for cache_bytes in (1 << 30, 0):
        crowd = Crowd(tmp_path / str(cache_bytes), cache_bytes)
        for n in range(YOUNG_EVENTS):
            crowd.happen(["a"], [n])
            crowd.happen(["b"], [n])
        crowd.commit()
        assert not list(crowd.store.scan("users/history")) + list(crowd.store.scan("users/seen"))
        assert kept(crowd, "a") == list(range(YOUNG_EVENTS))
        assert crowd.users.stored.view("a", lambda: ({}, ()), None, forgotten=False).seen.tolist() == kept(crowd, "a")
        crowd.happen(["a"], [3])
        crowd.happen(["b"], [3])
        digests.add(crowd.digest())
        assert {len(head) for _, head in crowd.store.scan("users/head")} == {8 * HEAD_COLUMNS}
        assert kept(crowd, "a") == [*range(YOUNG_EVENTS), 3]
        assert crowd.users.stored.view("a", lambda: ({}, ()), None, forgotten=False).seen.tolist() == [
            *range(YOUNG_EVENTS)
        ]
        crowd.close()
    assert len(digests) == 1
