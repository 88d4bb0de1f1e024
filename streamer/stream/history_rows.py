"""How users' histories are stored: rows of the tables `users/head`, `users/history`, `users/seen` and `users/rated`.

A user's first 8 events, and the items in them, are stored in the user's head: most users of most streams have no more, and
one row costs a third of four. After that, events are stored in blocks of 32, items in pages of 128, and a page's ratings beside it.
"""

from typing import NamedTuple

import numpy as np

from streamer.core.arrays import F32, I32, U8, Array, Bool
from streamer.core.protocols import StateStore

SEEN_WINDOW = 4096
PAGE_ITEMS = 128
PAGES = 48  # (4,096 + the largest micro-batch, 2,000) / 128, rounded up
RING = PAGES * PAGE_ITEMS
KEPT_EVENTS = 512
BLOCK_EVENTS = 32
BLOCKS = KEPT_EVENTS // BLOCK_EVENTS + 1  # one more, because the newest is not full
YOUNG_EVENTS = 8  # a user's events that are stored in the head
CLICKED, LIKED = 1, 2  # marks of a seen item: it had a click; its rating counts as one
# The higher bits of the marks: the number of the rating's scale, which begins anew after so many.
ERA_BITS, ERAS = 2, 64
RETRACTION = -2  # the kind of a retraction in EVENT: ratings have 0, clicks the code of their kind (core.kinds)
EVENT = np.dtype(
    [("item", "<i4"), ("kind", "<i4"), ("value", "<f4"), ("sequence", "<i4"), ("time_ms", "<i8"), ("offset", "<i8")]
)
EVENT_WORDS = EVENT.itemsize // 8
# Counts of events, seen items and clicks, time of the last event in ms, latest time in ms, hash of the last session's id (0: none),
# hour of the stream's clock at the last event (0: users are not forgotten for their age).
HEAD = np.dtype("<i8")
HEAD_COLUMNS = 7
PERIOD = 6  # the column of the hour


def block_key(user_id: str, block: int) -> bytes:
    """The key of a user's block or page. Ids have no control characters, so a NUL ends the id."""
    return user_id.encode() + bytes((0, block))


class YoungHistory(NamedTuple):
    """What follows a young user's head."""

    events: bytes  # as a block
    items: bytes  # as a page of `users/seen`
    rated: bytes  # as a page of `users/rated`


def young_history(head: bytes) -> YoungHistory | None:
    """The history that is stored with a head; None if it is in rows of its own, as that of users with more events.

    Earlier versions stored none with a head.
    """
    if len(head) <= HEAD_COLUMNS * 8:
        return None
    events, seen = np.frombuffer(head, dtype=HEAD, count=2).tolist()
    items = HEAD_COLUMNS * 8 + events * EVENT.itemsize
    return YoungHistory(head[HEAD_COLUMNS * 8 : items], head[items : items + 4 * seen], head[items + 4 * seen :])


def stored_events(store: StateStore, user_id: str) -> Array:
    """A user's events that are in the store, (n,) of EVENT in the order in which they were learned; (0,) for an unknown user."""
    (head,) = store.read("users/head", [user_id.encode()])
    young = young_history(head or b"")
    if head is None or young is not None:
        return np.frombuffer(young.events if young else b"", dtype=EVENT)
    last = -(-int.from_bytes(head[:8], "little") // BLOCK_EVENTS)
    blocks = store.read("users/history", [block_key(user_id, n % BLOCKS) for n in range(max(0, last - BLOCKS), last)])
    return np.frombuffer(b"".join(value or b"" for value in blocks), dtype=EVENT)


def page_items(value: bytes) -> I32:
    """A stored page as item rows (PAGE_ITEMS,), -1 in unused places."""
    page = np.full(PAGE_ITEMS, -1, dtype=np.int32)
    items = np.frombuffer(value, dtype=np.int32)
    page[: len(items)] = items
    return page


def page_ratings(value: bytes | None) -> tuple[F32, U8]:
    """A stored page's ratings and marks, (PAGE_ITEMS,) each. Earlier versions stored none: its items count as clicked."""
    ratings, marks = np.full(PAGE_ITEMS, np.nan, dtype=np.float32), np.full(PAGE_ITEMS, CLICKED, dtype=np.uint8)
    if value is not None:
        filled = len(value) // 5
        ratings[:filled] = np.frombuffer(value, dtype=np.float32, count=filled)
        marks[:filled] = np.frombuffer(value, dtype=np.uint8, offset=4 * filled)
    return ratings, marks


def counts_as_seen(ratings: F32, marks: U8) -> Bool:
    """Whether items with these ratings and marks count as seen: all but those of which the only rating was withdrawn."""
    seen: Bool = ~np.isnan(ratings) | (marks & CLICKED > 0)
    return seen


def page_count(seen: int) -> int:
    """The number of pages of a user who has seen `seen` distinct items."""
    return min(PAGES, -(-seen // PAGE_ITEMS))
