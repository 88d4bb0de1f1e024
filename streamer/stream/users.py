"""The user cache: recently active users in memory, all others in the store; loading a user restores it exactly.

A row is reused when its user is evicted, so a row number is valid for one batch only. The least recently used users are
evicted, many at a time, after a commit; users of the present batch are never evicted. A user whose rows were never touched is
not stored: the initial values are a function of (seed, side, id).

A user never seen before is a *newcomer*, and newcomers share an eighth of the memory: those who never come back, such as the
sessions of a shop without log-in, do not push out the others. One who comes back after that is read from the store, and
stays. Where a user's rows are changes no answer.

Johnson, Shasha (1994), 2Q: a low overhead high performance buffer management replacement algorithm, VLDB (the store is their
A1out; newcomers are evicted by least recent use, not in order of arrival).
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from streamer.core.arrays import F32, I32, I64, U8, U64, Array, Bool
from streamer.core.batch import REPEATED, UserView
from streamer.core.events import UserUpdate
from streamer.core.protocols import Row, Rows, StateStore
from streamer.core.seed import id_key
from streamer.core.tables import Table, evenly_spaced
from streamer.monitoring.scale import user_key
from streamer.stream.history import History, Remembered
from streamer.stream.history_rows import PERIOD
from streamer.stream.profiles import Profiles
from streamer.stream.stored_users import Removed, StoredUsers, everything, in_order, listing, old, table_rows

EVICTED_FRACTION = 8  # 1/8 of the cache is evicted at a time, as all users are scanned for the least recently used
NEWCOMERS_FRACTION = 8  # newcomers get 1/8 of the cache, but always room for NEWCOMERS
NEWCOMERS = 2_000  # the users of the largest micro-batch
ROW_OVERHEAD_BYTES = 300  # Python objects for each user: the id, and entries of dicts and lists
_LOG = logging.getLogger("streamer.users")
_ENCODER = msgspec.json.Encoder(order="deterministic")
_PROFILE = msgspec.json.Decoder(UserUpdate)


class Users:
    """Users by row, within `cache_bytes` of memory; protocols.Persistent.

    Only the engine's thread changes them; queries call `view` from other threads.
    """

    def __init__(
        self,
        tables: Mapping[str, tuple[str, Table]],
        store: StateStore,
        seed: int,
        cache_bytes: int,
        profiles: Profiles,
    ) -> None:
        """`tables`: learner name -> (the name of its user table in the store, the table)."""
        self._tables, self._seed, self.profiles = tables, seed, profiles
        self.stored = StoredUsers(tables, store, seed)
        self.history = History()
        self._cache_bytes = cache_bytes
        self._row_bytes = History.row_bytes + ROW_OVERHEAD_BYTES + sum(t.row_bytes + 1 for _, t in tables.values())
        self.ids: list[str] = []
        self.keys: U64 = np.zeros(0, dtype=np.uint64)  # (rows,) those of `ids`, see streamer.monitoring.scale
        self.row_of: dict[str, int] = {}
        self._free: list[int] = []
        self._used: I64 = np.zeros(0, dtype=np.int64)  # the number of the last batch that used the row; -1: free
        self._new: Bool = np.zeros(0, dtype=np.bool_)  # whether the row's user is a newcomer
        self._newcomers = 0
        self._batch = 0
        self._removed: dict[str, Removed] = {}
        self.forgets_old = False  # whether users not heard of for long are forgotten, see `forget_old`
        self._listed: I64 = np.zeros(
            0, dtype=np.int64
        )  # (rows,) the hour under which the user is in LAST_HEARD, 0: in none
        self._forgotten_before = 0  # the hour of the last `forget_old`
        self.forgotten_for_age = 0  # how many, since this was opened
        self._changed_profiles: dict[str, bytes | None] = {}
        self._any_profile = False  # whether any user ever had a profile; if not, none is looked up
        self._rows_lock = threading.Lock()  # held while rows are given to users or taken from them
        self.count = 0  # users ever seen, without forgotten ones
        self._committed_count = 0
        self.evictions = 0

    @property
    def capacity(self) -> int:
        """How many users fit in memory, and so the most that one batch may have; at least 1."""
        return max(1, int((self._cache_bytes - self._pooled_bytes) // self._row_bytes))

    @property
    def _pooled_bytes(self) -> int:
        """The size of seen items and profiles, of which some users have more than others."""
        return self.history.pages_used * History.page_bytes + self.profiles.used_bytes

    @property
    def cached(self) -> int:
        """Users in memory."""
        return len(self.row_of)

    def sample(self, most: int) -> I32:
        """At most `most` rows of cached users, evenly spaced. May be called from any thread. Cost: O(most)."""
        used = self._used  # never longer than the tables, as rows are begun before they are used
        rows = evenly_spaced(min(len(self.ids), len(used)), most)
        return rows[used[rows] >= 0]

    def rows(self, user_ids: Sequence[str], commit: Callable[[], None]) -> I32:
        """Rows (n,) of users, not evicted until the next call; `commit` is called before anything uncommitted is evicted.

        At most `capacity` distinct users. Cost: a dict look-up for each event; about 10 us for a user who is not cached.
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
        if excess > 0 and len(row_of) > len(np.unique(rows)):  # pages of seen items grow even without new users
            commit()
            self._evict(excess)
        return rows

    def _admit(self, user_ids: Sequence[str], commit: Callable[[], None]) -> None:
        excess = len(self.row_of) + len(user_ids) - self.capacity
        if excess > 0 and self.row_of:
            commit()
            self._evict(excess)
        heads = self.stored.heads(user_ids)
        new = [head is None or user_id in self._removed for head, user_id in zip(heads, user_ids, strict=True)]
        excess = self._newcomers + sum(new) - max(NEWCOMERS, self.capacity // NEWCOMERS_FRACTION)
        if excess > 0 and any(new) and self._newcomers:
            commit()
            self._evict(max(excess, 3 * self._newcomers // 4), self._new)
        self._grow(len(user_ids) - len(self._free))
        rows = np.array([self._free.pop() for _ in user_ids], dtype=np.int32)
        mask = np.array(new, dtype=np.bool_)
        for n in np.flatnonzero(~mask).tolist():
            self.stored.load(int(rows[n]), user_ids[n], heads[n] or b"", self.history)
            self._listed[rows[n]] = self.history.head[rows[n], PERIOD]
        self._listed[rows[mask]] = 0
        self._begin(rows[mask], [user_ids[n] for n in np.flatnonzero(mask).tolist()])
        with self._rows_lock:  # after this, queries may read the rows
            for row, user_id in zip(rows.tolist(), user_ids, strict=True):
                self.ids[row] = user_id
                self.row_of[user_id] = row
                if self._any_profile:
                    self.profiles.put(row, self.profile(user_id))
        self.keys[rows] = [user_key(user_id) for user_id in user_ids]
        self._used[rows], self._new[rows] = self._batch, mask
        self._newcomers += int(np.count_nonzero(mask))

    def _grow(self, rows: int) -> None:
        """Make `rows` more free rows, to be used in ascending order; nothing for `rows` below 1."""
        if rows <= 0:
            return
        first, count = len(self.ids), len(self.ids) + rows
        self.ids.extend([""] * rows)
        if count > len(self._used):
            used = np.full(max(64, count, 2 * len(self._used)), -1, dtype=np.int64)
            used[: len(self._used)] = self._used
            self._used = used
            self.keys, self._listed = np.resize(self.keys, len(used)), np.resize(self._listed, len(used))
            self._new = np.concatenate([self._new, np.zeros(len(used) - len(self._new), dtype=np.bool_)])
        self.history.reserve(count)
        for _, table in self._tables.values():
            table.reserve(count)
        self._free[:0] = range(count - 1, first - 1, -1)  # rows are taken from the end, the new ones last

    def _begin(self, rows: I32, user_ids: Sequence[str]) -> None:
        tables = [table for _, table in self._tables.values()]
        drawn = any(table.random for table in tables)
        keys = [id_key(self._seed, "user", user_id) for user_id in user_ids] if drawn else ()
        self.history.begin(rows)
        for table in tables:
            table.begin(rows, keys)

    def _evict(self, at_least: int, among: Bool | None = None) -> None:
        """Evict the least recently used users, at least so many if there are: of all, or only of those `among` rows."""
        evictable = (self._used >= 0) & (self._used < self._batch)
        found = np.flatnonzero(evictable if among is None else evictable & among)
        n = min(len(found), at_least if among is not None else max(at_least, len(self.row_of) // EVICTED_FRACTION))
        if n == 0:
            return
        oldest = found[np.argpartition(self._used[found], n - 1)[:n]].astype(np.int32)
        with self._rows_lock:
            self._release(oldest)
        self.evictions += n

    def _release(self, rows: I32) -> None:
        self.history.release(rows)
        self.profiles.clear(rows.tolist())
        for _, table in self._tables.values():
            table.clean(rows)
        self._used[rows] = -1
        self._newcomers -= int(np.count_nonzero(self._new[rows]))
        self._new[rows] = False
        for row in rows.tolist():
            del self.row_of[self.ids[row]]
        self._free.extend(rows.tolist())

    def remember(
        self, rows: I32, items: I32, kinds: U8, values: F32, clicks: F32, times_ms: I64, timed: Bool, eras: U8, events: Array,
        window_ms: int, period: int = 0,
    ) -> Remembered:  # fmt: skip
        """Append events to the users' histories; see History.remember. `period` is the hour of the stream's clock, 0 for none."""
        new = np.unique(rows[self.history.head[rows, 0] == 0])
        found = self.history.remember(
            rows, items, kinds, values, clicks, times_ms, timed, eras, events, window_ms, self.ids
        )
        self.history.head[rows[kinds != REPEATED], PERIOD] = period
        self.count += int(np.count_nonzero(self.history.head[new, 0]))
        return found

    def put(self, user: UserUpdate) -> None:
        """Replace the user's profile; later events are predicted and learned with it."""
        self._changed_profiles[user.user_id] = _ENCODER.encode(user)
        self._any_profile = True
        self.profiles.add_groups(user)
        if user.user_id in self.row_of:
            with self._rows_lock:
                self.profiles.put(self.row_of[user.user_id], user)

    def resolve_waiting(self) -> None:
        """See Profiles.resolve_waiting."""
        with self._rows_lock:
            self.profiles.resolve_waiting()

    def profile(self, user_id: str) -> UserUpdate | None:
        """The user's profile, None if there is none."""
        value = self._changed_profiles.get(user_id)
        if value is None and self._any_profile and user_id not in self._changed_profiles:
            (value,) = self.stored.store.read("users/profile", [user_id.encode()])
        return None if value is None else _PROFILE.decode(value)

    def forget(self, user_id: str) -> None:
        """Delete everything stored under the user's id; nothing happens for one never seen.

        What items have learned from the user stays until the next renormalisation.
        """
        if self.view(user_id).known:
            self.count -= 1
        (head,) = self.stored.heads([user_id])
        if user_id in self.row_of:
            with self._rows_lock:
                self._release(np.array([self.row_of[user_id]], dtype=np.int32))
        self.history.drop_sealed(user_id)
        self._changed_profiles[user_id] = None
        self._removed[user_id] = everything(head)

    def forget_old(self, before: int) -> None:
        """Delete what was learned of users last heard of before this hour of the stream's clock; profiles stay.

        What is forgotten depends on the events alone: not on who is cached, nor on what is committed.
        Cost: some 10 us a forgotten user, and a look at all cached ones.
        """
        if before <= self._forgotten_before:
            return
        first, self._forgotten_before = self._forgotten_before, before
        head = self.history.head[: len(self.ids)]
        heard = (self._used[: len(head)] >= 0) & (head[:, 0] > 0) & (head[:, PERIOD] > 0)
        rows = np.flatnonzero(heard & (head[:, PERIOD] < before)).astype(np.int32)
        gone = {
            self.ids[row]: old(head[row].tobytes())._replace(period=int(self._listed[row])) for row in rows.tolist()
        }
        for user_id, what in self.stored.last_heard(first, before):
            if user_id not in self.row_of and user_id not in self._removed:
                gone[user_id] = what
        for row in rows.tolist():
            self.history.drop_sealed(self.ids[row])
        with self._rows_lock:
            self._release(rows)
            self._removed = {**gone, **self._removed}  # all of a user who was forgotten before
        if gone:
            _LOG.info("%s users without an event for long are forgotten (user_ttl_days)", f"{len(gone):,}")
        self.count -= len(gone)
        self.forgotten_for_age += len(gone)

    def unseen_row(self, learner: str) -> Array:
        """The learner's row (width,) of a visitor without an id: its start values, without the random part that depends on an id."""
        return self._tables[learner][1].start.copy()

    def known(self, user_ids: Sequence[str]) -> Bool:
        """Whether each user has learned events and is not forgotten, (n,). Reads the store; changes nothing."""
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

    def learned_rows(self, learner: str, user_ids: Sequence[str]) -> Array:
        """The learner's rows (n, width) of these users, from memory or the store; initial values where there is no row."""
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

    def replace_rows(self, learner: str, user_ids: Sequence[str], values: Array) -> Rows:
        """Replace the learner's rows of known users by `values` (n, width); returns the rows that differ, to be committed.

        Call it in the engine's thread with nothing uncommitted. Cached rows are replaced at once.
        """
        stored, table = self._tables[learner]
        replacement = Table("user", table.start.tolist(), dtype=table.dtype)
        replacement.values = np.ascontiguousarray(values, dtype=table.dtype)
        before = np.ascontiguousarray(self.learned_rows(learner, user_ids)).view(np.uint8)
        differ = np.flatnonzero((before != replacement.values.view(np.uint8)).any(axis=1)).astype(np.int32)
        with self._rows_lock:
            for n in differ.tolist():
                row = self.row_of.get(user_ids[n])
                if row is not None:
                    table.values[row] = replacement.values[n]
        return Rows(stored, [user_ids[n].encode() for n in differ.tolist()], replacement.serialise(differ))

    def view(self, user_id: str, now_ms: int | None = None) -> UserView:
        """One user for a query, from memory or the store; initial values for an unknown user. Changes nothing.

        `now_ms` is the time for which to answer, see UserView. Cost: some 10 us, 100 us from the store.
        """
        with self._rows_lock:  # the row cannot be given to another user while it is copied
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
                    *self.profiles.at_row(row),
                )
            forgotten = user_id in self._removed
        return self.stored.view(user_id, lambda: self.profiles.read(self.profile(user_id)), now_ms, forgotten=forgotten)

    def restore(self, store: StateStore) -> None:
        """See protocols.Persistent."""
        (value,) = store.read("users", [b"count"])
        self.count = self._committed_count = int.from_bytes(value, "little") if value else 0
        self._any_profile = next(iter(store.scan("users/profile")), None) is not None
        self.profiles.restore(store)

    def changed(self) -> Sequence[Row | Rows]:
        """See protocols.Persistent. Deletions come first, because a forgotten user may already be back."""
        rows: list[Row | Rows] = [
            row for user_id, what in self._removed.items() for row in self.stored.deletions(user_id, what)
        ]
        rows.extend(Row("users/profile", user.encode(), value) for user, value in self._changed_profiles.items())
        rows.extend(self.profiles.changed())
        dirty, keys = in_order([self.history.touched, *(table.touched for _, table in self._tables.values())], self.ids)
        rows.extend(self.history.changed(dirty, keys))
        if self.forgets_old:
            rows.extend(listing(keys, self._listed[dirty], self.history.head[dirty, PERIOD]))
        for name, table in self._tables.values():
            rows.extend(table_rows(name, table, dirty, keys))
        if self.count != self._committed_count:
            rows.append(Row("users", b"count", self.count.to_bytes(8, "little")))
        return rows

    def committed(self) -> None:
        """See protocols.Persistent."""
        if self.forgets_old:
            changed = np.flatnonzero(self.history.touched[: len(self.ids)])
            self._listed[changed] = self.history.head[changed, PERIOD]
        self._removed.clear()
        self._changed_profiles.clear()
        self.profiles.committed()
        self.history.committed()
        for _, table in self._tables.values():
            table.clean(table.dirty())
        self._committed_count = self.count
