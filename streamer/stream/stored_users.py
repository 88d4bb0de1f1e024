"""Users in the store, by id: a row of each learner's table, a head, pages of seen items, and blocks of events.

Where users are forgotten for their age, each is also listed under the hour of the stream's clock at the last event.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import compress
from typing import NamedTuple, TypeAlias

import numpy as np

from streamer.core.arrays import I32, I64, U8
from streamer.core.batch import UserView
from streamer.core.errors import BadState
from streamer.core.protocols import Row, Rows, StateStore
from streamer.core.seed import id_key
from streamer.core.superseded import RECENT
from streamer.core.tables import Table
from streamer.stream.history import History
from streamer.stream.history_rows import (
    BLOCK_EVENTS,
    BLOCKS,
    HEAD,
    HEAD_COLUMNS,
    PAGES,
    PERIOD,
    RING,
    SEEN_WINDOW,
    block_key,
    counts_as_seen,
    page_count,
    page_items,
    page_ratings,
    young_history,
)

LAST_HEARD = "users/last-heard"  # hour and user id, so that those last heard of long ago come first
HOUR_BYTES = 4
ProfileValues: TypeAlias = tuple[dict[int, float], tuple[int, ...]]  # the result of Profiles.read


class Removed(NamedTuple):
    """What there is to delete of a user."""

    profile: bool
    period: int  # the hour under which the user is in LAST_HEARD, 0 for none
    blocks: int  # of `users/history`
    pages: int


def everything(head: bytes | None) -> Removed:
    """All that there may be of a user with this head."""
    return Removed(True, period_of(head), BLOCKS, PAGES)


def old(head: bytes) -> Removed:
    """What there is of a user with this head, but for the profile."""
    events, seen = np.frombuffer(head, dtype=HEAD, count=2).tolist()
    return Removed(False, period_of(head), min(BLOCKS, -(-events // BLOCK_EVENTS)), page_count(seen))


def period_of(head: bytes | None) -> int:
    """The hour of the stream's clock at the last event, 0 if it is not known."""
    end = 8 * HEAD_COLUMNS
    return int.from_bytes(head[8 * PERIOD : end], "little") if head is not None and len(head) >= end else 0


def hour_key(period: int) -> bytes:
    """The beginning of a key of LAST_HEARD."""
    return period.to_bytes(HOUR_BYTES, "big")


def listing(keys: Sequence[bytes], before: I64, now: I64) -> Iterator[Row | Rows]:
    """The rows that list users under the hour `now` (n,) instead of `before` (n,); 0 is none."""
    moved = [(keys[n], int(before[n]), int(now[n])) for n in np.flatnonzero(before != now).tolist()]
    yield from (Row(LAST_HEARD, hour_key(hour) + key, None) for key, hour, _ in moved if hour)
    listed = [hour_key(hour) + key for key, _, hour in moved if hour]
    yield Rows(LAST_HEARD, listed, [b""] * len(listed))


class StoredUsers:
    """Reads users from the store, and names their rows; writes nothing."""

    def __init__(self, tables: Mapping[str, tuple[str, Table]], store: StateStore, seed: int) -> None:
        """`tables`: learner name -> (the name of its user table in the store, the table)."""
        self._tables, self.store, self._seed = tables, store, seed

    def heads(self, user_ids: Sequence[str]) -> Sequence[bytes | None]:
        """Each user's head, with the counts of events, seen items and clicks; None for a user who is not stored."""
        return self.store.read("users/head", [user_id.encode() for user_id in user_ids])

    def load(self, row: int, user_id: str, head: bytes, history: History) -> None:
        """Load a user with this head into `row` of the tables and of `history`; raises BadState."""
        events, seen = np.frombuffer(head, dtype=np.int64, count=2).tolist()
        key = id_key(self._seed, "user", user_id)
        for name, table in self._tables.values():
            (value,) = self.store.read(name, [user_id.encode()])
            if value is None:
                table.begin(np.array([row], dtype=np.int32), [key])
            else:
                try:
                    table.load(row, value)
                except ValueError as error:
                    raise BadState(f"row {user_id!r} of {name} cannot be read ({error}): restore a backup") from None
        young = young_history(head)
        if young:
            history.load(row, head, [young.items], [young.rated], [young.events])
            return
        pages, rated = self._pages(user_id, seen)
        numbers = range(max(0, events - RECENT) // BLOCK_EVENTS, -(-events // BLOCK_EVENTS))
        blocks = self.store.read("users/history", [block_key(user_id, n % BLOCKS) for n in numbers])
        found = [block for block in blocks if block is not None]
        if len(pages) < page_count(seen) or len(found) < len(blocks):
            raise BadState(f"the history of user {user_id!r} is incomplete in the state: restore a backup")
        history.load(row, head, pages, rated, found)

    def _pages(self, user_id: str, seen: int) -> tuple[list[bytes], Sequence[bytes | None]]:
        """The user's stored pages and their ratings; pages are missing if the user is forgotten while they are read."""
        keys = [block_key(user_id, n) for n in range(page_count(seen))]
        pages = [value for value in self.store.read("users/seen", keys) if value is not None]
        return pages, self.store.read("users/rated", keys)

    def view(
        self, user_id: str, read_profile: Callable[[], ProfileValues], now_ms: int | None, *, forgotten: bool
    ) -> UserView:
        """One user for a query, with initial values if the user is unknown; `read_profile` reads the user's profile."""
        rows, key, profile = {}, id_key(self._seed, "user", user_id), read_profile()
        (value,) = [None] if forgotten else self.heads([user_id])
        for name, (stored, table) in self._tables.items():
            (found,) = [None] if value is None else self.store.read(stored, [user_id.encode()])
            rows[name] = table.initial(key) if found is None else table.parse(found)
        if value is None:
            return UserView(user_id, False, rows, np.empty(0, dtype=np.int32), False, now_ms, *profile)
        count, clicks = np.frombuffer(value, dtype=np.int64, count=3)[1:].tolist()
        young = young_history(value)
        pages, rated = ([young.items], [young.rated]) if young else self._pages(user_id, count)
        if len(pages) < page_count(count):
            return self.view(user_id, read_profile, now_ms, forgotten=True)
        items = np.concatenate([page_items(page) for page in pages])
        positions = np.arange(max(0, count - SEEN_WINDOW), count) % RING
        ratings, marks = map(np.concatenate, zip(*map(page_ratings, rated), strict=True))
        seen: I32 = items[positions]
        # fewer than in the head if the user was forgotten and came back meanwhile
        seen = seen[(seen >= 0) & counts_as_seen(ratings[positions], marks[positions])]
        return UserView(user_id, True, rows, seen, bool(clicks), now_ms, *profile)

    def deletions(self, user_id: str, what: "Removed") -> list[Row]:
        """The rows that delete what is stored under the user's id."""
        key = user_id.encode()
        deletions = [Row("users/profile", key, None)] if what.profile else []
        if what.period:
            deletions.append(Row(LAST_HEARD, hour_key(what.period) + key, None))
        deletions.append(Row("users/head", key, None))
        deletions.extend(Row(name, key, None) for name, _ in self._tables.values())
        deletions.extend(Row("users/history", block_key(user_id, n), None) for n in range(what.blocks))
        for table in ("users/seen", "users/rated"):
            deletions.extend(Row(table, block_key(user_id, n), None) for n in range(what.pages))
        return deletions

    def last_heard(self, first: int, before: int) -> Iterator[tuple[str, "Removed"]]:
        """Users, and what is stored of each, who were last heard of from hour `first` on and before hour `before`."""
        found = [key for key, _ in self.store.scan(LAST_HEARD, hour_key(first), hour_key(before))]
        for key, head in zip(found, self.store.read("users/head", [key[HOUR_BYTES:] for key in found]), strict=True):
            # another hour is in the head of a user who was heard of while nobody was forgotten
            if head is not None and period_of(head) == int.from_bytes(key[:HOUR_BYTES], "big"):
                yield key[HOUR_BYTES:].decode(), old(head)

    def events(self) -> int:
        """The number of events learned from all users who are not forgotten, as committed. Cost: a scan of all users."""
        return sum(int.from_bytes(head[:8], "little") for _, head in self.store.scan("users/head"))


def in_order(touched: Sequence[U8], ids: Sequence[str]) -> tuple[I32, list[bytes]]:
    """The rows that are touched in any of these arrays, and their keys, in the order of the store: it takes them at half the cost.

    Cost: .5 us a row.
    """
    changed = np.zeros(len(ids), dtype=np.uint8)
    for one in touched:
        changed[: len(one)] |= one[: len(ids)]
    rows = sorted(np.flatnonzero(changed).tolist(), key=ids.__getitem__)
    return np.array(rows, dtype=np.int32), [ids[row].encode() for row in rows]


def table_rows(name: str, table: Table, rows: I32, keys: Sequence[bytes]) -> list[Row | Rows]:
    """Those of `rows` that are touched in a table as rows of the store; `keys` are their ids. Cost: .1 us, and Table.serialise."""
    touched = table.touched[rows] > 0
    return [Rows(name, list(compress(keys, touched.tolist())), table.serialise(rows[touched]))] if touched.any() else []
