"""Users' histories: the last 512 events of each user, and the last 4,096 distinct items that the user has seen, with their ratings.

Events are stored in blocks, and the first ones in the user's head (`history_rows`). Only a user's newest block is in
memory; a full block waits for the next commit and is then only
in the store. All seen items of a cached user are in memory, split into pages, so that one event changes one page. The ring
of seen items is longer than the window by the largest micro-batch, see `streamer.core.batch.Seen`.

With each seen item goes the user's rating of it, so that a rating of the same item replaces it, and a retraction takes it
back. A rating again of the same value, a retraction where there is no rating, and a click again within `click_window_s` of
one of the user's last 8 events say nothing new (REPEATED) and are not kept. An item whose rating was withdrawn, and which was
never clicked, keeps its place in the ring but no longer counts as seen for recommendations.
"""

from collections.abc import Iterator, Sequence
from itertools import compress
from typing import NamedTuple

import numpy as np

from streamer.core.arrays import F32, I32, I64, U8, Array, Bool
from streamer.core.batch import CLICK, RATING, REPEATED, REPLACED, RETRACTED, Seen, TakenBack
from streamer.core.kernel import kernel
from streamer.core.protocols import Row, Rows
from streamer.core.superseded import RECENT, clicked_just_now
from streamer.stream.history_rows import (
    BLOCK_EVENTS,
    BLOCKS,
    CLICKED,
    ERA_BITS,
    EVENT,
    EVENT_WORDS,
    HEAD,
    HEAD_COLUMNS,
    LIKED,
    PAGE_ITEMS,
    PAGES,
    RING,
    SEEN_WINDOW,
    YOUNG_EVENTS,
    block_key,
    counts_as_seen,
    page_items,
    page_ratings,
)  # fmt: skip


@kernel
def _place(pages: I32, page_of: I32, u: int, count: int, window: int, item: int) -> int:
    """The number of a user's seen item in the ring, -1 if it is not among the last `window` of `count`."""
    page_items, ring = pages.shape[1], pages.shape[1] * page_of.shape[1]
    c = max(0, count - window)
    while c < count:  # page by page
        position = c % ring
        page, start = page_of[u, position // page_items], position % page_items
        stop = min(page_items, start + count - c)
        hits = 0
        for j in range(start, stop):  # no early exit, so that the loop is vectorised
            hits += pages[page, j] == item
        if hits > 0:
            while pages[page, start] != item:
                start += 1
                c += 1
            return c
        c += stop - start
    return -1


@kernel
def _judge(kind: int, value: float, earlier: float, comparable: bool) -> int:
    """What a rating or a retraction is, given the rating before it: NaN if there was none, not comparable if on another scale."""
    if kind == RETRACTED:
        return RETRACTED if earlier == earlier else REPEATED
    if earlier != earlier or not comparable:
        return RATING
    return REPEATED if earlier == value else REPLACED


@kernel
def _remember(
    users: I32, items: I32, kinds: U8, values: F32, clicks: F32, times_ms: I64, timed: Bool, eras: U8, packed: I64, window_ms: int,
    head: I64, counts: I64, tail: I64, recent: I64, pages: I32, ratings: F32, marks: U8, page_of: I32, free: I32, free_count: int,
    touched: U8, touched_pages: U8, seen_counts: I64, pauses_ms: I64, repeated: Bool, earlier: F32, ages: I32, withdrawn: F32,
    sealed: I64, sealed_user: I32, sealed_block: I32, window: int, young: int,
) -> tuple[int, int]:  # fmt: skip
    page_items, ring = pages.shape[1], pages.shape[1] * page_of.shape[1]
    sealed_count = 0
    for k in range(users.shape[0]):
        u, item = users[k], items[k]
        count = counts[u]
        seen_counts[k] = count
        pauses_ms[k] = max(times_ms[k] - head[u, 4], 0) if head[u, 0] > 0 else -1
        earlier[k], ages[k], withdrawn[k] = np.nan, 0, 0.0
        c = _place(pages, page_of, u, count, window, item)
        found = c >= 0
        slot = head[u, 0] % tail.shape[1]
        repeated[k] = found and times_ms[k] < head[u, 4]
        if found and times_ms[k] == head[u, 4]:
            for j in range(slot):
                # the other half of the word is the code of the event's sequence
                same_value = (tail[u, j, 1] ^ packed[k, 1]) & 0xFFFFFFFF == 0
                repeated[k] |= same_value and tail[u, j, 0] == packed[k, 0] and tail[u, j, 2] == packed[k, 2]
        page, place = -1, 0
        if found:
            page, place = page_of[u, c % ring // page_items], c % page_items
        if kinds[k] == CLICK:
            if window_ms > 0 and timed[k] and clicked_just_now(recent[u], packed[k, 0], times_ms[k], window_ms):
                kinds[k] = REPEATED
        else:
            before = ratings[page, place] if found else np.float32(np.nan)
            comparable = found and marks[page, place] >> ERA_BITS == eras[k]
            kinds[k] = _judge(kinds[k], float(values[k]), float(before), comparable)
            if before == before and kinds[k] != REPEATED:
                earlier[k], ages[k] = before if comparable else np.nan, count - 1 - c
                if marks[page, place] & LIKED:
                    if comparable and clicks[k] > 0:  # the like stays
                        clicks[k] = 0.0
                    else:
                        withdrawn[k] = 1.0
        if kinds[k] == REPEATED:
            clicks[k] = 0.0
            continue
        if not found:
            n = count % ring // page_items
            if page_of[u, n] < 0:
                free_count -= 1
                page_of[u, n] = free[free_count]
                pages[free[free_count], :] = -1
            page, place, c = page_of[u, n], count % page_items, count
            ratings[page, place], marks[page, place] = np.nan, 0
            pages[page, place] = item
            counts[u] = count + 1
        if kinds[k] != CLICK or not marks[page, place] & CLICKED:
            touched_pages[u, c % ring // page_items] = 1
        if kinds[k] == CLICK:
            marks[page, place] |= CLICKED
        else:
            ratings[page, place] = np.nan if kinds[k] == RETRACTED else values[k]
            stays = kinds[k] != RETRACTED and marks[page, place] & LIKED and withdrawn[k] == 0.0
            liked = clicks[k] > 0 or stays
            era = np.int64(0) if kinds[k] == RETRACTED else np.int64(eras[k]) << ERA_BITS
            marks[page, place] = marks[page, place] & CLICKED | (LIKED if liked else 0) | era
        tail[u, slot, :] = packed[k]
        at = head[u, 0] % recent.shape[1]
        recent[u, at, 0], recent[u, at, 1] = packed[k, 0], packed[k, 2]
        if slot == tail.shape[1] - 1:
            sealed[sealed_count] = tail[u]
            sealed_user[sealed_count] = u
            sealed_block[sealed_count] = head[u, 0] // tail.shape[1]
            sealed_count += 1
            tail[u] = 0  # so that unused bytes do not depend on when the block was last loaded
        head[u, 4] = max(head[u, 4], times_ms[k]) if head[u, 0] > 0 else times_ms[k]
        head[u, 0] += 1
        if head[u, 0] == young + 1:  # from now on the first page is stored by itself
            touched_pages[u, 0] = 1
        head[u, 1] = counts[u]
        head[u, 2] += (clicks[k] > 0) - (withdrawn[k] > 0)
        head[u, 3] = times_ms[k]
        touched[u] = 1
    return free_count, sealed_count


class Remembered(NamedTuple):
    """What a user's history says of n events."""

    seen_counts: I64  # (n,) distinct items that the user had seen before it
    pauses_ms: I64  # (n,) since the user's latest event, 0 for a step backwards in time, -1 at the first one
    repeated: Bool  # (n,) whether it seems to be repeated input, see streamer.monitoring.repeated_input
    taken_back: TakenBack


class History:
    """The histories of cached users, by user row."""

    def __init__(self) -> None:
        self.head: I64 = np.zeros((0, HEAD_COLUMNS), dtype=np.int64)
        self._counts: I64 = np.zeros(0, dtype=np.int64)
        self._tail: I64 = np.zeros((0, BLOCK_EVENTS, EVENT_WORDS), dtype=np.int64)
        self._page_of: I32 = np.full((0, PAGES), -1, dtype=np.int32)
        self.touched: U8 = np.zeros(0, dtype=np.uint8)
        self._touched_pages: U8 = np.zeros((0, PAGES), dtype=np.uint8)
        self._recent: I64 = np.zeros((0, RECENT, 2), dtype=np.int64)  # item and kind in one word, time in ms
        self._pages: I32 = np.full((0, PAGE_ITEMS), -1, dtype=np.int32)
        self._ratings: F32 = np.full((0, PAGE_ITEMS), np.nan, dtype=np.float32)  # NaN: none
        self._marks: U8 = np.zeros((0, PAGE_ITEMS), dtype=np.uint8)
        self._free: I32 = np.zeros(0, dtype=np.int32)
        self._free_count = 0
        self._sealed: dict[tuple[str, int], bytes] = {}

    row_bytes = HEAD_COLUMNS * 8 + 8 + BLOCK_EVENTS * EVENT.itemsize + RECENT * 16 + PAGES * 5 + 1
    page_bytes = PAGE_ITEMS * 9

    def reserve(self, rows: int) -> None:
        """Make room for `rows` users, by doubling."""
        old = len(self.head)
        if rows <= old:
            return
        new = max(rows, 2 * old, 64)
        self.head = _enlarged(self.head, new, 0)
        self._counts = _enlarged(self._counts, new, 0)
        self._tail = _enlarged(self._tail, new, 0)
        self._recent = _enlarged(self._recent, new, 0)
        self._page_of = _enlarged(self._page_of, new, -1)
        self.touched = _enlarged(self.touched, new, 0)
        self._touched_pages = _enlarged(self._touched_pages, new, 0)

    @property
    def pages_used(self) -> int:
        """Pages of seen items in memory."""
        return len(self._pages) - self._free_count

    def _reserve_pages(self, count: int) -> None:
        if self._free_count >= count:
            return
        old = len(self._pages)
        new = max(old + count - self._free_count, 2 * old, 64)
        self._pages = _enlarged(self._pages, new, 0)  # a page is filled with -1 when it is taken
        self._ratings, self._marks = _enlarged(self._ratings, new, 0), _enlarged(self._marks, new, 0)
        free = np.zeros(new, dtype=np.int32)
        free[: self._free_count] = self._free[: self._free_count]
        free[self._free_count : self._free_count + new - old] = np.arange(old, new)
        self._free, self._free_count = free, self._free_count + new - old

    def remember(
        self, users: I32, items: I32, kinds: U8, values: F32, clicks: F32, times_ms: I64, timed: Bool,
        eras: U8, events: Array, window_ms: int, ids: list[str],
    ) -> Remembered:  # fmt: skip
        """Append n events, each RATING, CLICK or RETRACTED; `events` is (n,) of EVENT, `ids` are the user ids by row, and
        `timed` (n,) says which have a time of their own: a click without one is never taken for one made again. `eras` (n,) number the scale of ratings, below ERAS: a rating
        on an earlier scale cannot be compared.

        Writes to `kinds` which of them are REPLACED, RETRACTED or REPEATED, and to `clicks` the weights that remain to be learned.
        Cost: O(n), and a scan of the user's seen items for each event.
        """
        n = len(users)
        self._reserve_pages(n)
        seen_counts = np.empty(n, dtype=np.int64)
        pauses_ms, repeated = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.bool_)
        back = TakenBack(np.empty(n, np.float32), np.empty(n, np.int32), np.empty(n, np.float32))
        sealed = np.empty((n, BLOCK_EVENTS, EVENT_WORDS), dtype=np.int64)
        sealed_user, sealed_block = np.empty(n, dtype=np.int32), np.empty(n, dtype=np.int32)
        packed = np.ascontiguousarray(events).view(np.int64).reshape(n, EVENT_WORDS)
        self._free_count, sealed_count = _remember(
            users, items, kinds, values, clicks, times_ms, timed, eras, packed, window_ms,
            self.head, self._counts, self._tail, self._recent, self._pages, self._ratings, self._marks, self._page_of, self._free,
            self._free_count, self.touched, self._touched_pages, seen_counts, pauses_ms, repeated, *back,
            sealed, sealed_user, sealed_block, SEEN_WINDOW, YOUNG_EVENTS,
        )  # fmt: skip
        for j in range(sealed_count):
            self._sealed[ids[sealed_user[j]], int(sealed_block[j]) % BLOCKS] = sealed[j].tobytes()
        return Remembered(seen_counts, pauses_ms, repeated, back)

    def seen(self) -> Seen:
        """The seen items as the kernels read them."""
        return Seen(self._pages, self._page_of, self._counts, SEEN_WINDOW)

    def seen_items(self, row: int) -> I32:
        """The item rows that count as seen, a copy. Safe from any thread, because the count, which grows last, is read first."""
        count = int(self._counts[row])
        positions = np.arange(max(0, count - SEEN_WINDOW), count) % RING
        at = self._page_of[row, positions // PAGE_ITEMS], positions % PAGE_ITEMS
        items: I32 = self._pages[at]
        return items[counts_as_seen(self._ratings[at], self._marks[at])]

    def begin(self, rows: I32) -> None:
        """Clear rows for users never seen."""
        self.head[rows] = 0
        self._counts[rows] = 0
        self._tail[rows] = 0
        self._recent[rows] = 0
        self.touched[rows] = 0
        self._touched_pages[rows] = 0

    def load(
        self, row: int, head: bytes, pages: list[bytes], rated: Sequence[bytes | None], blocks: Sequence[bytes]
    ) -> None:
        """Load a user: the head, pages and their ratings in order, and the last blocks with at least the last RECENT events.

        The last of them is the newest if that has events.
        """
        self.begin(np.array([row], dtype=np.int32))
        stored = np.frombuffer(head[: HEAD_COLUMNS * 8], dtype=HEAD)
        self.head[row, : len(stored)] = stored
        if len(stored) < 5:  # an earlier version had no latest time: take that of the last event
            self.head[row, 4] = stored[3]
        self._counts[row] = self.head[row, 1]
        self._reserve_pages(len(pages))
        for n, (value, ratings) in enumerate(zip(pages, rated, strict=True)):
            self._free_count -= 1
            page = int(self._free[self._free_count])
            self._page_of[row, n] = page
            self._pages[page] = page_items(value)
            self._ratings[page], self._marks[page] = page_ratings(ratings)
        events = int(self.head[row, 0])
        used = events % BLOCK_EVENTS
        words = np.frombuffer(b"".join(blocks), dtype=np.int64).reshape(-1, EVENT_WORDS)
        self._tail[row, :used] = words[len(words) - used :]
        last = words[-RECENT:]
        self._recent[row, np.arange(events - len(last), events) % RECENT] = last[:, [0, 2]]

    def release(self, rows: I32) -> None:
        """Free the pages of `rows`; changes that were not committed are lost."""
        pages = self._page_of[rows]
        pages = pages[pages >= 0]
        self._free[self._free_count : self._free_count + len(pages)] = pages
        self._free_count += len(pages)
        self._page_of[rows] = -1
        self.touched[rows] = 0
        self._touched_pages[rows] = 0

    def drop_sealed(self, user_id: str) -> None:
        """Drop the user's full blocks that wait to be committed."""
        for key in [key for key in self._sealed if key[0] == user_id]:
            del self._sealed[key]

    def changed(self, rows: I32, keys: Sequence[bytes]) -> Iterator[Row | Rows]:
        """The rows to commit: full blocks, and head, newest block and changed pages of changed users. Cost: 1 us a user.

        `rows` are those of all users with changes, in the order of `keys`, their ids.
        """
        for (user, block), value in self._sealed.items():
            yield Row("users/history", block_key(user, block), value)
        changed = self.touched[rows] > 0
        if not changed.any():
            return
        dirty, keys = rows[changed], list(compress(keys, changed.tolist()))
        heads = self.head[dirty]
        yield Rows("users/head", keys, self._heads(dirty, heads))
        blocks, used = np.divmod(heads[:, 0], BLOCK_EVENTS)
        old = heads[:, 0] > YOUNG_EVENTS
        begun = np.flatnonzero(old & (used > 0))
        if len(begun):
            numbers = zip(begun.tolist(), (blocks[begun] % BLOCKS).tolist(), strict=True)
            tails = _cut(self._tail[_each(dirty[begun], used[begun])], used[begun])
            yield Rows("users/history", [keys[n] + bytes((0, block)) for n, block in numbers], tails)
        which, pages = np.nonzero(self._touched_pages[dirty] * old[:, None])
        if len(which):
            seen = heads[which, 1]
            filled = np.where(seen >= RING, PAGE_ITEMS, np.clip(seen - pages * PAGE_ITEMS, 0, PAGE_ITEMS))
            names = [keys[n] + bytes((0, page)) for n, page in zip(which.tolist(), pages.tolist(), strict=True)]
            items, rated = self._filled(self._page_of[dirty[which], pages], filled)
            yield Rows("users/seen", names, items)
            yield Rows("users/rated", names, rated)

    def _heads(self, rows: I32, heads: I64) -> list[bytes]:
        """The head of each of the `rows` as it is stored; a young user's is followed by events, items and their ratings."""
        stored = _cut(heads, np.ones(len(rows), np.int64))
        young = np.flatnonzero(heads[:, 0] <= YOUNG_EVENTS)
        events, seen = heads[young, 0], heads[young, 1]
        parts = _cut(self._tail[_each(rows[young], events)], events), *self._filled(self._page_of[rows[young], 0], seen)
        for n, tail, items, rated in zip(young.tolist(), *parts, strict=True):
            stored[n] += tail + items + rated
        return stored

    def _filled(self, pages: I32, counts: I64) -> tuple[list[bytes], list[bytes]]:
        """The first `counts` items of each of the `pages`, and their ratings and marks, as they are stored."""
        at = _each(pages, counts)
        ratings, marks = _cut(self._ratings[at], counts), _cut(self._marks[at], counts)
        return _cut(self._pages[at], counts), [one + other for one, other in zip(ratings, marks, strict=True)]

    def committed(self) -> None:
        """The rows of `changed` are on disk."""
        self._sealed.clear()
        self.touched[:] = 0
        self._touched_pages[:] = 0


def _each(rows: I32, counts: I64) -> tuple[Array, Array]:
    """Positions 0 to counts - 1 of each of the `rows`, one row after the other, as two indices."""
    total = int(counts.sum())
    return np.repeat(rows, counts), np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)


def _cut(values: Array, counts: Array) -> list[bytes]:
    """`values` as bytes, in parts of so many rows each."""
    whole, size = values.tobytes(), values.itemsize * (values.size // max(len(values), 1))
    ends = (np.cumsum(counts) * size).tolist()
    return [whole[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=bool(ends))]


def _enlarged(array: Array, rows: int, fill: int) -> Array:
    shape = (rows, *array.shape[1:])
    # Zeros use no memory until they are written, so doubling in advance stays within the memory limit.
    grown = np.full(shape, fill, dtype=array.dtype) if fill else np.zeros(shape, dtype=array.dtype)
    grown[: len(array)] = array
    return grown
