"""The user cache: the users of the moment in memory, all others in the store, exactly as they were.

A user's row is lent: it is recycled when the user is evicted, so no row number outlives a batch. Users are evicted by
least recent use, in bulk, after a commit; a batch pins its own. A user whose rows were never touched is not stored:
its first values are a function of (seed, side, id) and come back from that.
"""

import threading
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from streamer.core.arrays import I32, I64, Array, Bool
from streamer.core.batch import UserView
from streamer.core.events import UserUpdate
from streamer.core.protocols import Row, Rows, StateStore
from streamer.core.seed import id_key
from streamer.core.tables import Table, evenly_spaced
from streamer.stream.history import (
    History,
)
from streamer.stream.profiles import Profiles
from streamer.stream.stored_users import StoredUsers

EVICTED_SHARE = 8  # of the cache at a time: finding the least recently used costs a look at all
ROW_OVERHEAD_BYTES = 300  # ids, look-ups and the bookkeeping of a row in Python
_ENCODER = msgspec.json.Encoder(order="deterministic")
_PROFILE = msgspec.json.Decoder(UserUpdate)


class Users:
    """Users by row, within `cache_bytes`; protocols.Persistent.

    The engine's thread calls `rows`, `forget`, `changed`; queries call `view` from others.
    """

    def __init__(
        self,
        tables: Mapping[str, tuple[str, Table]],
        store: StateStore,
        seed: int,
        cache_bytes: int,
        profiles: Profiles,
    ) -> None:
        """`tables`: learner name -> (store table, its user table)."""
        self._tables, self._seed, self.profiles = tables, seed, profiles
        self.stored = StoredUsers(tables, store, seed)
        self.history = History()
        self._cache_bytes = cache_bytes
        self._row_bytes = History.row_bytes + ROW_OVERHEAD_BYTES + sum(t.row_bytes + 1 for _, t in tables.values())
        self.ids: list[str] = []
        self.row_of: dict[str, int] = {}
        self._free: list[int] = []
        self._used: I64 = np.zeros(0, dtype=np.int64)  # the batch that used the row last; -1: free
        self._batch = 0
        self._removed: dict[str, list[Row]] = {}
        self._profiles: dict[str, bytes | None] = {}
        self._profiled = False  # whether anybody ever had a profile: else there is nothing to look for
        self._moving = threading.Lock()  # held while rows change hands
        self.count = 0  # users ever seen, without the forgotten
        self._counted = 0
        self.evictions = 0

    @property
    def capacity(self) -> int:
        """Users that fit, and so the most that one batch may have; at least 1."""
        return max(1, int((self._cache_bytes - self._pooled_bytes) // self._row_bytes))

    @property
    def _pooled_bytes(self) -> int:
        """Of what some users have more of than others."""
        return self.history.pages_used * History.page_bytes + self.profiles.used_bytes

    @property
    def cached(self) -> int:
        """Users in memory."""
        return len(self.row_of)

    def sample(self, most: int) -> I32:
        """Rows of users in memory, at most `most`, evenly spaced; from any thread. Cost: O(most)."""
        used = self._used  # as long as the tables at most: rows are begun before they are used
        rows = evenly_spaced(min(len(self.ids), len(used)), most)
        return rows[used[rows] >= 0]

    def rows(self, user_ids: Sequence[str], commit: Callable[[], None]) -> I32:
        """Rows (n,) of users, pinned until the next call; `commit` is called before anything uncommitted is evicted.

        At most `capacity` distinct users. Cost: a look-up an event; about 10 us a user that is not in memory.
        """
        self._batch += 1
        row_of = self.row_of
        try:
            rows = np.array([row_of[user] for user in user_ids], dtype=np.int32)
        except KeyError:
            known = [row_of[user] for user in user_ids if user in row_of]
            self._used[known] = self._batch
            self._admit([user for user in dict.fromkeys(user_ids) if user not in row_of], commit)
            rows = np.array([row_of[user] for user in user_ids], dtype=np.int32)
        self._used[rows] = self._batch
        excess = len(row_of) - self.capacity
        if excess > 0 and len(row_of) > len(np.unique(rows)):  # pages of seen items grow without anybody new
            commit()
            self._evict(excess)
        return rows

    def _admit(self, user_ids: Sequence[str], commit: Callable[[], None]) -> None:
        excess = len(self.row_of) + len(user_ids) - self.capacity
        if excess > 0 and self.row_of:
            commit()
            self._evict(excess)
        heads = self.stored.heads(user_ids)
        self._grow(len(user_ids) - len(self._free))
        rows = [self._free.pop() for _ in user_ids]
        new = []
        for row, user_id, head in zip(rows, user_ids, heads, strict=True):
            if head is None or user_id in self._removed:
                new.append((row, user_id))
            else:
                self.stored.load(row, user_id, head, self.history)
        self._begin(np.array([row for row, _ in new], dtype=np.int32), [user_id for _, user_id in new])
        with self._moving:  # from here on a query may read the rows
            for row, user_id in zip(rows, user_ids, strict=True):
                self.ids[row] = user_id
                self.row_of[user_id] = row
                if self._profiled:
                    self.profiles.put(row, self.profile(user_id))
        self._used[rows] = self._batch

    def _grow(self, rows: int) -> None:
        """So many more free rows, none for less than one; those begun first are given first."""
        if rows <= 0:
            return
        first, count = len(self.ids), len(self.ids) + rows
        self.ids.extend([""] * rows)
        if count > len(self._used):
            used = np.full(max(64, count, 2 * len(self._used)), -1, dtype=np.int64)
            used[: len(self._used)] = self._used
            self._used = used
        self.history.reserve(count)
        for _, table in self._tables.values():
            table.reserve(count)
        self._free[:0] = range(count - 1, first - 1, -1)  # behind those that were free: they are taken from the end

    def _begin(self, rows: I32, user_ids: Sequence[str]) -> None:
        keys = [id_key(self._seed, "user", user_id) for user_id in user_ids]
        self.history.begin(rows)
        for _, table in self._tables.values():
            table.begin(rows, keys)

    def _evict(self, at_least: int) -> None:
        free_to_go = np.flatnonzero((self._used >= 0) & (self._used < self._batch))
        n = min(len(free_to_go), max(at_least, len(self.row_of) // EVICTED_SHARE))
        if n == 0:
            return
        oldest = free_to_go[np.argpartition(self._used[free_to_go], n - 1)[:n]].astype(np.int32)
        with self._moving:
            self._release(oldest)
        self.evictions += n

    def _release(self, rows: I32) -> None:
        self.history.forget(rows)
        self.profiles.clear(rows.tolist())
        for _, table in self._tables.values():
            table.clean(rows)
        self._used[rows] = -1
        for row in rows.tolist():
            del self.row_of[self.ids[row]]
            self._free.append(row)

    def remember(self, rows: I32, items: I32, clicks: Array, times_ms: I64, events: Array) -> tuple[I64, Bool]:
        """Append to the users' histories; see History.remember."""
        self.count += len(np.unique(rows[self.history.head[rows, 0] == 0]))
        return self.history.remember(rows, items, clicks, times_ms, events, self.ids)

    def put(self, user: UserUpdate) -> None:
        """A profile, replacing what was; later events are predicted and learned with it."""
        self._profiles[user.user_id] = _ENCODER.encode(user)
        self._profiled = True
        self.profiles.enrol(user)
        if user.user_id in self.row_of:
            with self._moving:
                self.profiles.put(self.row_of[user.user_id], user)

    def catch_up(self) -> None:
        """See Profiles."""
        with self._moving:
            self.profiles.catch_up()

    def profile(self, user_id: str) -> UserUpdate | None:
        """What is known of the user beside events."""
        value = self._profiles.get(user_id)
        if value is None and self._profiled and user_id not in self._profiles:
            (value,) = self.stored.store.read("users/profile", [user_id.encode()])
        return None if value is None else _PROFILE.decode(value)

    def forget(self, user_id: str) -> None:
        """Delete everything under the user's name; raises nothing for one never seen. What items learned stays until the next renormalisation."""
        if self.view(user_id).known:
            self.count -= 1
        if user_id in self.row_of:
            with self._moving:
                self._release(np.array([self.row_of[user_id]], dtype=np.int32))
        self.history.drop_sealed(user_id)
        self._profiles[user_id] = None
        self._removed[user_id] = self.stored.gone(user_id)

    def unknown(self, learner: str) -> Array:
        """The learner's row of somebody never seen, (width,), with nothing of anybody's id in it."""
        return self._tables[learner][1].start.copy()

    def known(self, user_ids: Sequence[str]) -> Bool:
        """Which of them have learned events and are not forgotten, (n,). Reads the store; changes nothing."""
        heads = self.stored.heads(user_ids)
        return np.array(
            [
                bool(self.history.head[self.row_of[user_id], 0])
                if user_id in self.row_of
                else head is not None and user_id not in self._removed
                for user_id, head in zip(user_ids, heads, strict=True)
            ],
            dtype=np.bool_,
        )

    def learned(self, learner: str, user_ids: Sequence[str]) -> Array:
        """The learner's rows of these users, (n, width), from memory or the store, as a new one's where there is none."""
        stored, table = self._tables[learner]
        found = self.stored.store.read(stored, [user_id.encode() for user_id in user_ids])
        rows = np.empty((len(user_ids), table.width), dtype=table.dtype)
        for n, (user_id, value) in enumerate(zip(user_ids, found, strict=True)):
            row = self.row_of.get(user_id)
            if row is not None:
                rows[n] = table.values[row]
            elif value is None or user_id in self._removed:
                rows[n] = table.initial(id_key(self._seed, "user", user_id))
            else:
                rows[n] = table.parse(value)
        return rows

    def replaced(self, learner: str, user_ids: Sequence[str], values: Array) -> Rows:
        """Put `values` (n, width) in the place of the learner's rows of these users, who are known; those to commit, which differ.

        In the engine's thread, with nothing uncommitted: rows in memory are exchanged at once.
        """
        stored, table = self._tables[learner]
        beside = Table("user", table.start.tolist(), dtype=table.dtype)
        beside.values = np.ascontiguousarray(values, dtype=table.dtype)
        before = np.ascontiguousarray(self.learned(learner, user_ids)).view(np.uint8)
        differ = np.flatnonzero((before != beside.values.view(np.uint8)).any(axis=1)).astype(np.int32)
        with self._moving:
            for n in differ.tolist():
                row = self.row_of.get(user_ids[n])
                if row is not None:
                    table.values[row] = beside.values[n]
        return Rows(stored, [user_ids[n].encode() for n in differ.tolist()], beside.serialise(differ))

    def view(self, user_id: str, now_ms: int | None = None) -> UserView:
        """One user for a query: from memory, from the store, or as an unknown one would begin. Changes nothing. Cost: some 10 us, 100 us from the store.

        `now_ms` is when the answer is wanted, see UserView.
        """
        with self._moving:  # the row stays this user's while it is copied
            row = self.row_of.get(user_id)
            if row is not None:
                rows = {name: table.values[row].copy() for name, (_, table) in self._tables.items()}
                head = self.history.head[row].copy()
                return UserView(
                    user_id,
                    bool(head[0]),
                    rows,
                    self.history.seen_items(row),
                    bool(head[2]),
                    now_ms,
                    *self.profiles.of(row),
                )
            forgotten = user_id in self._removed
        return self.stored.view(user_id, lambda: self.profiles.read(self.profile(user_id)), now_ms, forgotten=forgotten)

    def restore(self, store: StateStore) -> None:
        """See protocols.Persistent."""
        (value,) = store.read("users", [b"count"])
        self.count = self._counted = int.from_bytes(value, "little") if value else 0
        self._profiled = next(iter(store.scan("users/profile")), None) is not None
        self.profiles.restore(store)

    def changed(self) -> Sequence[Row | Rows]:
        """See protocols.Persistent. Deletions come first: a forgotten user may be back already."""
        rows: list[Row | Rows] = [row for gone in self._removed.values() for row in gone]
        rows.extend(Row("users/profile", user.encode(), value) for user, value in self._profiles.items())
        rows.extend(self.profiles.changed())
        rows.extend(self.history.changed(self.ids))
        for name, table in self._tables.values():
            rows.extend(table_rows(name, table, self.ids))
        if self.count != self._counted:
            rows.append(Row("users", b"count", self.count.to_bytes(8, "little")))
        return rows

    def committed(self) -> None:
        """See protocols.Persistent."""
        self._removed.clear()
        self._profiles.clear()
        self.profiles.committed()
        self.history.committed()
        for _, table in self._tables.values():
            table.clean(table.dirty())
        self._counted = self.count


def table_rows(name: str, table: Table, ids: Sequence[str]) -> list[Row | Rows]:
    """The touched rows of a table as rows of the store. Cost: about 0.3 us a row, and see Table.serialise."""
    dirty = table.dirty()
    return [Rows(name, [ids[row].encode() for row in dirty.tolist()], table.serialise(dirty))] if len(dirty) else []
