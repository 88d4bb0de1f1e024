"""The user cache: evicted users come back exactly, forgotten users do not, and users are never confused."""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from crowd import Crowd

from streamer.core.batch import UserView
from streamer.core.errors import BadState
from streamer.core.events import UserUpdate
from streamer.core.protocols import Row, StateStore
from streamer.core.seed import id_key
from streamer.stream.catalogue.categories import Categories
from streamer.stream.history import History
from streamer.stream.profiles import SLOT_BYTES, Profiles
from streamer.stream.users import NEWCOMERS, NEWCOMERS_FRACTION, Users


@pytest.fixture
def crowd(tmp_path: Path) -> Iterator[Crowd]:
    made = Crowd(tmp_path / "crowd")
    yield made
    made.close()


def same(one: UserView, other: UserView) -> bool:
    return (
        (one.user_id, one.known, one.clicked) == (other.user_id, other.known, other.clicked)
        and one.seen.tolist() == other.seen.tolist()
        and {name: row.tobytes() for name, row in one.rows.items()}
        == {name: row.tobytes() for name, row in other.rows.items()}
    )


def batches(count: int, users: int, seed: int = 1) -> list[tuple[list[str], list[int], list[float]]]:
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        n = int(random.integers(1, 30))
        chosen = (users * random.random(n) ** 2).astype(int).tolist()
        made.append(
            ([f"u{u}" for u in chosen], random.integers(0, 300, n).tolist(), random.integers(-1, 2, n).tolist())
        )
    return made


def test_evicted_users_come_back_unchanged(tmp_path: Path) -> None:
    wide, narrow = Crowd(tmp_path / "wide"), Crowd(tmp_path / "narrow", cache_bytes=0)
    for user_ids, items, clicks in batches(300, 80):
        assert wide.happen(user_ids, items, clicks).tolist() == narrow.happen(user_ids, items, clicks).tolist()
    assert wide.users.evictions == 0
    assert narrow.users.evictions > 1000
    assert wide.users.count == narrow.users.count == len({u for users, _, _ in batches(300, 80) for u in users})
    for n in range(81):
        assert same(wide.users.view(f"u{n}"), narrow.users.view(f"u{n}"))
    assert wide.digest() == narrow.digest()
    wide.close()
    narrow.close()


def test_users_are_the_same_after_a_restart(tmp_path: Path) -> None:
    straight, restarted = Crowd(tmp_path / "straight"), Crowd(tmp_path / "restarted")
    for n, batch in enumerate(batches(120, 40)):
        straight.happen(*batch)
        restarted.happen(*batch)
        if n % 10 == 9:
            restarted.commit()
            restarted.close()
            restarted = Crowd(tmp_path / "restarted")
    assert straight.users.count == restarted.users.count
    assert straight.digest() == restarted.digest()
    straight.close()
    restarted.close()


def test_a_view_of_a_user_is_the_same_from_memory_and_store(crowd: Crowd) -> None:
    crowd.happen(["a"] * 200, list(range(200)), [0.0] * 199 + [1.0])
    fresh = crowd.users.view("a")
    assert (fresh.known, fresh.clicked, fresh.seen.tolist()) == (True, True, list(range(200)))
    crowd.commit()
    stored = Users(
        {"counter": ("learned/counter/user", crowd.table)}, crowd.store, 1, 1 << 30, Profiles(Categories({}), {})
    ).view("a")
    assert same(fresh, stored)
    crowd.happen(["a"], [500])
    assert crowd.users.view("a").seen.tolist() == [*range(200), 500]
    assert fresh.seen.tolist() == list(range(200))  # a copy


def test_a_user_never_seen_has_initial_values_and_a_view_changes_nothing(crowd: Crowd) -> None:
    views = [crowd.users.view(f"nobody {n}") for n in range(100)]
    assert {(view.known, view.clicked, len(view.seen)) for view in views} == {(False, False, 0)}
    for view in views:
        assert view.rows["counter"].tobytes() == crowd.table.initial(id_key(1, "user", view.user_id)).tobytes()
    assert crowd.users.changed() == []
    assert (crowd.users.cached, crowd.users.count) == (0, 0)


def test_a_user_without_learned_events_is_not_stored(crowd: Crowd) -> None:
    """Duplicates bring their user into the cache, but nothing is learned from them."""
    crowd.users.rows(["a", "b"], crowd.commit)
    assert not crowd.users.view("a").known
    assert crowd.users.changed() == []
    assert crowd.users.count == 0


# Bounded.


def used_bytes(crowd: Crowd) -> int:
    return crowd.users.cached * crowd.users._row_bytes + crowd.users.history.pages_used * History.page_bytes


def test_the_cache_keeps_its_limit_with_many_users(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path, cache_bytes=100_000)
    for batch in batches(300, 500):
        crowd.happen(*batch)
        assert used_bytes(crowd) <= 100_000 + 30 * History.page_bytes  # what a batch adds once it is in
    assert crowd.users.evictions > 100
    crowd.close()


def test_the_cache_keeps_its_limit_when_the_same_users_see_more_items(tmp_path: Path) -> None:
    """Once it grew to 24 KiB of seen items for each user, because only new users made it check its size."""
    crowd = Crowd(tmp_path, cache_bytes=200_000)
    crowd.happen([f"u{n}" for n in range(50)], [0] * 50)
    assert crowd.users.evictions == 0
    for n in range(50):
        if f"u{n}" in crowd.users.row_of:  # nobody new
            crowd.happen([f"u{n}"] * 1280, list(range(1, 1281)))
            assert used_bytes(crowd) <= 200_000 + 10 * History.page_bytes
    assert crowd.users.evictions > 10
    crowd.close()


def test_a_batch_keeps_its_own_users_and_commits_before_it_evicts_others(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path, cache_bytes=0)
    assert crowd.users.capacity == 1
    first = crowd.users.rows(["a"], crowd.commit)
    assert crowd.commits == 0
    crowd.happen(["a"], [1])
    crowd.happen(["b"], [2])
    assert crowd.commits == 1
    assert list(crowd.users.row_of) == ["b"]
    assert crowd.users.rows(["a"], crowd.commit).tolist() == first.tolist()  # the row is lent on
    assert crowd.users.rows(["a", "b"], crowd.commit).tolist()[0] == first[0]
    assert set(crowd.users.row_of) == {"a", "b"}
    crowd.close()


def test_the_least_recently_used_users_are_evicted_first(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path, cache_bytes=40_000)
    room = crowd.users.capacity
    ids = [f"u{n}" for n in range(room)]
    for user in ids:
        crowd.happen([user], [1])
    crowd.happen([ids[0]], [1])
    crowd.happen(["new"], [1])
    assert ids[0] in crowd.users.row_of
    assert ids[1] not in crowd.users.row_of
    assert "new" in crowd.users.row_of
    crowd.close()


def test_users_who_never_come_back_take_an_eighth_of_the_cache_and_push_out_nobody_who_does(tmp_path: Path) -> None:
    """Anonymous sessions: 20,000 users with one event each beside 500 regular ones, who are read once after their first visit."""
    crowd = Crowd(tmp_path, cache_bytes=40_000_000)
    room = crowd.users.capacity // NEWCOMERS_FRACTION
    assert room > NEWCOMERS
    regulars, most = [f"r{n}" for n in range(500)], 0
    for n in range(20):
        crowd.happen(regulars, [n] * 500)
        crowd.happen([f"once{n}-{k}" for k in range(1000)], [0] * 1000)
        most = max(most, crowd.users.cached)
    assert most <= room + 500
    assert set(regulars) <= set(crowd.users.row_of)
    assert int(np.count_nonzero(crowd.users._new)) == crowd.users._newcomers
    assert crowd.users.count == 20_500
    crowd.close()


# Forgotten.


def forget_now(crowd: Crowd) -> None:
    """Forget a user who is in memory and not committed."""


def forget_committed(crowd: Crowd) -> None:
    crowd.commit()


def forget_evicted(crowd: Crowd) -> None:
    crowd.commit()
    crowd.users._batch += 1
    crowd.users._evict(1)
    assert crowd.users.cached == 0


@pytest.mark.parametrize("before", [forget_now, forget_committed, forget_evicted])
@pytest.mark.parametrize("commit_between", [True, False])
def test_a_forgotten_user_begins_with_initial_values(
    crowd: Crowd, before: Callable[[Crowd], None], commit_between: bool
) -> None:
    crowd.happen(["a"] * 700, list(range(700)), [1.0] * 700)
    crowd.users.put(UserUpdate("a", preferences={"Drama": 5.0}))
    before(crowd)
    crowd.users.forget("a")
    assert crowd.users.count == 0
    assert same(crowd.users.view("a"), UserView("a", False, crowd.users.view("a").rows, np.empty(0, np.int32), False))
    assert crowd.users.profile("a") is None
    if commit_between:
        crowd.commit()
        left = [row for table in ("users/head", "users/history", "users/seen", "users/rated", "users/profile", "learned/counter/user")
                for row in crowd.store.scan(table)]  # fmt: skip
        assert left == []
    assert crowd.happen(["a", "a"], [5, 6]).tolist() == [0, 1]
    crowd.users.put(UserUpdate("a", attributes={"new": True}))
    crowd.commit()
    forget_evicted(crowd)
    view = crowd.users.view("a")
    assert (view.known, view.clicked, view.seen.tolist()) == (True, False, [5, 6])
    assert view.rows["counter"][0] == crowd.table.initial(id_key(1, "user", "a"))[0] + 2.0
    assert crowd.users.profile("a") == UserUpdate("a", attributes={"new": True})
    assert crowd.users.count == 1
    fresh = Crowd(crowd.store.folder.parent / "fresh")
    fresh.happen(["a", "a"], [5, 6])
    fresh.users.put(UserUpdate("a", attributes={"new": True}))
    assert crowd.digest() == fresh.digest()
    fresh.close()


def test_forgetting_a_user_twice_or_never_seen_does_not_change_the_count(crowd: Crowd) -> None:
    crowd.happen(["a", "b"], [1, 1])
    crowd.users.forget("nobody")
    crowd.users.forget("a")
    crowd.users.forget("a")
    assert crowd.users.count == 1
    crowd.commit()
    crowd.users.forget("a")
    assert crowd.users.count == 1
    assert same(crowd.users.view("b"), crowd.users.view("b"))
    assert crowd.users.view("b").known


def test_a_failed_commit_neither_loses_nor_repeats_a_removal(crowd: Crowd) -> None:
    crowd.happen(["a", "b"] * 40, list(range(80)))
    crowd.commit()
    crowd.users.forget("a")
    crowd.happen(["a", "b"], [1, 99])
    first = [tuple(row) for row in crowd.users.changed()]  # a commit that fails
    assert [tuple(row) for row in crowd.users.changed()] == first
    crowd.happen(["b"], [98])
    crowd.commit()
    assert crowd.users.changed() == []
    restarted = Users(
        {"counter": ("learned/counter/user", crowd.table)}, crowd.store, 1, 1 << 30, Profiles(Categories({}), {})
    )
    assert same(restarted.view("a"), crowd.users.view("a"))
    assert same(restarted.view("b"), crowd.users.view("b"))


def test_profiles_are_stored_separately_from_events(crowd: Crowd) -> None:
    assert crowd.users.profile("a") is None
    crowd.users.put(UserUpdate("a", {"age": 7.0}, {"Drama": 5.0}, "b"))
    for _ in range(2):
        assert crowd.users.profile("a") == UserUpdate("a", {"age": 7.0}, {"Drama": 5.0}, "b")
        assert crowd.users.profile("c") is None
        crowd.commit()
    crowd.users.put(UserUpdate("a"))
    assert crowd.users.profile("a") == UserUpdate("a")
    assert not crowd.users.view("a").known


def test_profiles_count_in_the_cache_size(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path, cache_bytes=100_000)
    for n in range(200):
        crowd.users.put(UserUpdate(f"u{n}", {"job": "writer"}))
    for n in range(200):
        crowd.happen([f"u{n}"], [n])
        assert crowd.users.profiles.used_bytes == crowd.users.cached * SLOT_BYTES
        assert used_bytes(crowd) + crowd.users.profiles.used_bytes <= 100_000 + 10 * History.page_bytes
    assert crowd.users.evictions > 20
    assert crowd.users.view("u0").groups == crowd.users.view("u199").groups == (0,)
    crowd.close()


# From several threads.


class Meddler:
    """A store that calls a function just after a table was read."""

    def __init__(self, store: StateStore, table: str, then: Callable[[], None]) -> None:
        self.store, self.table, self.then = store, table, then

    def read(self, table: str, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        values = self.store.read(table, keys)
        if table == self.table:
            self.table = ""
            self.then()
        return values

    def scan(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        return self.store.scan(table)

    def commit(self, rows: Sequence[Row], offsets: object) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("table", ["users/head", "learned/counter/user", "users/seen"])
def test_a_query_during_forgetting_is_answered(crowd: Crowd, table: str) -> None:
    crowd.happen(["a"] * 300, list(range(300)))
    forget_evicted(crowd)

    def forgotten() -> None:
        crowd.reading(crowd.store)
        crowd.users.forget("a")
        crowd.commit()

    crowd.reading(Meddler(crowd.store, table, forgotten))  # type: ignore[arg-type]  # reads only
    view = crowd.users.view("a")
    assert len(view.seen) in (0, 300)
    assert crowd.users.view("a").known is False


def test_an_incomplete_history_is_never_loaded(crowd: Crowd) -> None:
    crowd.happen(["a"] * 300, list(range(300)))
    forget_evicted(crowd)
    for table in ("users/seen", "users/history"):
        (key, value), *_ = sorted(crowd.store.scan(table), reverse=table == "users/history")
        crowd.store.commit([Row(table, key, None)], {})
        with pytest.raises(BadState, match="the history of user 'a' is incomplete in the state"):
            crowd.users.rows(["a"], crowd.commit)
        crowd.store.commit([Row(table, key, value)], {})
    assert crowd.happen(["a"], [5]).tolist() == [300]


@pytest.mark.slow
def test_queries_during_evictions_never_see_another_users_rows(tmp_path: Path) -> None:
    """Every row and every seen item contains its owner's number, while rows are reused and tables grow all the time."""
    crowd = Crowd(tmp_path, cache_bytes=60_000)
    crowd.table.start[:] = 0.0
    crowd.table.random = 0
    users, problems, looked = 60, list[object](), [0, 0, 0]
    stop = threading.Event()

    def query(which: int) -> None:
        random = np.random.default_rng(which)
        while not stop.is_set():
            user = int(random.integers(users + 5))
            try:
                view = crowd.users.view(f"u{user}")
            except Exception as error:
                problems.append(error)
                return
            owners = set((view.seen // 1000).tolist())
            row = view.rows["counter"]
            if owners - {user} or (row[0] and row[1] != user) or view.known != bool(len(view.seen)):
                problems.append((user, owners, row.tolist(), view.known, len(view.seen)))
            looked[which] += 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=query, args=(which,)) for which in range(3)]
    for thread in threads:
        thread.start()
    try:
        random = np.random.default_rng(9)
        done = 0
        while done < 1500 or min(looked) < 300:
            chosen = (min(users, 5 + done // 10) * random.random(8)).astype(int).tolist()
            rows = crowd.users.rows([f"u{u}" for u in chosen], crowd.commit)
            crowd.table.values[rows, 1] = chosen
            crowd.happen([f"u{u}" for u in chosen], [1000 * u + int(random.integers(900)) for u in chosen])
            if done % 5 == 4:
                crowd.users.forget(f"u{chosen[0]}")
            done += 1
            if problems or done > 20_000:
                break
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert problems == []
    assert crowd.users.evictions > 1000
    assert min(looked) >= 300
    crowd.close()
