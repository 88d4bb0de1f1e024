"""Item neighbours, incremental: counts of items clicked by the same user, kept up with each click. It follows the papers, in NumPy and Numba.

    s(j) = sum over the user's last items i, the newest first, of  decay^steps  c(i, j) / ((n_i + shrink)^(1 - a) (n_j + shrink)^a)

With a = .5 this is the cosine. It has no package on PyPI. c(i, j) counts pairs that are at most `window` clicks of the user apart, n the clicks.
Cost of a click: `window` hash look-ups; of a query: all pairs of the last items.

Papagelis, Rousidis, Plexousakis, Theoharopoulos (2005), Incremental collaborative filtering for highly-scalable recommendation
algorithms, ISMIS. Miranda, Jorge (2009), Item-based and user-based incremental collaborative filtering for web recommendations, EPIA.
"""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec
import numpy as np

from benchmarks.peers.session_neighbours import behind
from benchmarks.protocols import PeerContext
from streamer.core.arrays import F32, I32, I64
from streamer.core.kernel import kernel
from streamer.core.protocols import Kind

FIRST_PAIRS = 1 << 16


class ItemKNNSettings(msgspec.Struct, frozen=True):
    window: int = 50
    last_items: int = 20
    decay: float = 1.0
    popularity: float = 0.5  # the exponent a
    shrink: float = 0.0


@kernel
def place(keys: I64, key: np.int64) -> int:
    """Where the pair is among `keys`, whose length is a power of 2, or the free place, with -1, where it belongs."""
    mask = len(keys) - 1
    at = ((key * 0x9E3779B1) ^ (key >> 17)) & mask
    while keys[at] != -1 and keys[at] != key:
        at = (at + 1) & mask
    return int(at)


@kernel
def rehash(keys: I64, entries: I32, larger_keys: I64, larger_entries: I32) -> None:
    """Write a table of pairs into a larger one, which is empty."""
    for k in range(len(keys)):
        if keys[k] != -1:
            at = place(larger_keys, keys[k])
            larger_keys[at], larger_entries[at] = keys[k], entries[k]


@kernel
def count_pairs(
    item: int, others: I32, keys: I64, entries: I32, first: I32, other_of: I32, next_of: I32, counts: F32, used: int
) -> int:
    """Count `item` with each of `others` (n,), both ways; returns how many pairs there are now."""
    for other in others:
        for a, b in ((np.int64(item), np.int64(other)), (np.int64(other), np.int64(item))):
            key = a << 32 | b
            at = place(keys, key)
            if keys[at] == -1:
                keys[at], entries[at] = key, used
                other_of[used], next_of[used] = b, first[a]
                first[a] = used
                used += 1
            counts[entries[at]] += 1
    return used


@kernel
def add_neighbours(items: I32, weight: F32, first: I32, other_of: I32, next_of: I32, counts: F32, scores: F32) -> None:
    """Add to `scores` (items,) what has been clicked with `items` (n,)."""
    for n in range(len(items)):
        at = first[items[n]]
        while at >= 0:
            scores[other_of[at]] += weight[n] * counts[at]
            at = next_of[at]


class ItemKNN:
    kind: ClassVar[Kind] = "clicks"
    package: ClassVar[str | None] = None
    Settings = ItemKNNSettings
    tuned: ClassVar[ItemKNNSettings | None] = ItemKNNSettings(
        window=10, last_items=10, decay=0.8, popularity=0.5, shrink=5.0
    )
    space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "window": (1, 3, 10, 20, 50),
        "last_items": (1, 3, 5, 10, 20, 50),
        "decay": (0.5, 0.7, 0.8, 0.9, 1.0),
        "popularity": (0.0, 0.1, 0.25, 0.5),
        "shrink": (0.0, 1.0, 5.0, 20.0),
    }

    def __init__(self, settings: ItemKNNSettings, context: PeerContext) -> None:
        self._settings = settings
        self._last: defaultdict[int, deque[int]] = defaultdict(
            lambda: deque(maxlen=max(settings.window, settings.last_items))
        )
        self._clicks: F32 = np.zeros(context.events, dtype=np.float32)
        self._first: I32 = np.full(context.events, -1, dtype=np.int32)
        self._used = 0
        self._keys: I64 = np.full(2 * FIRST_PAIRS, -1, dtype=np.int64)
        self._entries: I32 = np.zeros(2 * FIRST_PAIRS, dtype=np.int32)
        self._other_of: I32 = np.zeros(FIRST_PAIRS, dtype=np.int32)
        self._next_of: I32 = np.zeros(FIRST_PAIRS, dtype=np.int32)
        self._counts: F32 = np.zeros(FIRST_PAIRS, dtype=np.float32)

    def _double(self) -> None:
        """Make room for as many pairs again."""
        keys: I64 = np.full(2 * len(self._keys), -1, dtype=np.int64)
        entries: I32 = np.zeros(2 * len(self._keys), dtype=np.int32)
        rehash(self._keys, self._entries, keys, entries)
        self._keys, self._entries = keys, entries
        self._other_of, self._next_of = (np.r_[old, np.zeros_like(old)] for old in (self._other_of, self._next_of))
        self._counts = np.r_[self._counts, np.zeros_like(self._counts)]

    def begin(self, user: int) -> None:
        """It knows nothing of sessions."""

    def score(self, user: int, count: int) -> F32:
        settings = self._settings
        scores: F32 = np.zeros(count, dtype=np.float32)
        if user in self._last:
            items = np.array(self._last[user], dtype=np.int32)[::-1][: settings.last_items]
            damped = (self._clicks[items] + settings.shrink) ** (settings.popularity - 1)
            weight = damped * settings.decay ** np.arange(len(items))
            add_neighbours(
                items, weight.astype(np.float32), self._first, self._other_of, self._next_of, self._counts, scores
            )
            scores /= np.maximum(self._clicks[:count] + settings.shrink, 1) ** settings.popularity
        return behind(scores, self._clicks[:count])

    def learn(self, user: int, item: int) -> None:
        last = self._last[user]
        others = np.array([other for other in list(last)[-self._settings.window :] if other != item], dtype=np.int32)
        while self._used + 2 * len(others) > len(self._counts):
            self._double()
        self._used = count_pairs(
            item,
            others,
            self._keys,
            self._entries,
            self._first,
            self._other_of,
            self._next_of,
            self._counts,
            self._used,
        )
        self._clicks[item] += 1
        if item in last:
            last.remove(item)
        last.append(item)
