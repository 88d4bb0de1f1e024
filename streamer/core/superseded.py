"""Which events of a history still hold: of a user's ratings of an item the last one, unless it was withdrawn; of clicks repeated
within seconds the first.

The encoder says so event by event (`kinds` of a Batch), as far back as users' histories reach; here a whole history is looked
at, without that limit.
"""

import numpy as np

from streamer.core.arrays import F32, I32, I64, U8, Array, Bool
from streamer.core.batch import CLICK, RATING, REPEATED, RETRACTED, Events
from streamer.core.kernel import kernel

RECENT = 8  # of the last events of its user in which a click is looked for that is made again


@kernel
def clicked_just_now(recent: I64, word: int, time_ms: int, window_ms: int) -> bool:
    """Whether one of the user's last events (RECENT, 2), words and times, has this word and a time within the window."""
    found = False
    for j in range(len(recent)):
        found |= recent[j, 0] == word and abs(recent[j, 1] - time_ms) <= window_ms
    return found


@kernel
def _mark_clicks(
    users: I32, words: I64, times_ms: I64, timed: Bool, kinds: U8, window_ms: int, recent: I64, counts: I64
) -> None:
    for k in range(len(users)):
        u = users[k]
        if kinds[k] == CLICK and timed[k] and clicked_just_now(recent[u], words[k], times_ms[k], window_ms):
            kinds[k] = REPEATED
        if kinds[k] != REPEATED:
            at = counts[u] % recent.shape[1]
            recent[u, at, 0], recent[u, at, 1] = words[k], times_ms[k]
            counts[u] += 1


def mark_repeated(users: I32, items: I32, codes: I32, values: F32, times_ms: I64, timed: Bool, kinds: U8, window_ms: int) -> None:  # fmt: skip
    """Write REPEATED to `kinds` (n,) of events that say nothing new, in order; `codes` are those of the kinds of clicks (core.kinds).

    `timed` says which have a time of their own, see `stream.history`. `kinds` are RATING, CLICK or RETRACTED. Cost: O(n log n), 144 bytes a user.
    """
    rated = np.flatnonzero(kinds != CLICK)
    starts, _ = _runs(users[rated], items[rated], np.where(kinds[rated] == RETRACTED, np.inf, values[rated]))
    again = np.ones(len(rated), dtype=np.bool_)
    again[starts] = False
    first = _firsts(users[rated], items[rated])
    again[first] |= kinds[rated[first]] == RETRACTED  # nothing to withdraw
    kinds[rated[again]] = REPEATED
    if window_ms > 0 and len(rated) < len(kinds):
        count = int(users.max()) + 1
        # as in a user's history: a rating's word is never that of a click
        words = items.astype(np.int64) << 32 | np.where(kinds == CLICK, codes, 0).astype(np.int64) & 0xFFFFFFFF
        recent, counts = np.full((count, RECENT, 2), -1, dtype=np.int64), np.zeros(count, dtype=np.int64)
        _mark_clicks(users, words, times_ms, timed, kinds, window_ms, recent, counts)


def holding(users: I32, items: I32, kinds: U8, values: F32) -> Bool:
    """Whether each event (n,), in order, still holds; its kind may be any of a Batch. Cost: O(n log n)."""
    holds: Bool = kinds == CLICK
    rated = np.flatnonzero((kinds != CLICK) & (kinds != REPEATED))
    said = np.where(kinds[rated] == RETRACTED, np.inf, values[rated])
    starts, last = _runs(users[rated], items[rated], said)
    kept = rated[starts[last]]
    holds[kept] = kinds[kept] != RETRACTED
    return holds


def current(events: Events) -> Events:
    """The events that still hold, as RATING and CLICK; the same object if all do."""
    holds = holding(events.users, events.items, events.kinds, events.values)
    if holds.all() and bool((events.kinds <= CLICK).all()):
        return events
    kept = events.select(holds)
    kept.kinds[kept.kinds != CLICK] = RATING
    return kept


def _runs(users: I32, items: I32, said: Array) -> tuple[I64, Bool]:
    """Where a pair of user and item says something else than before (r,), and whether that is the last it says (r,)."""
    pairs = users.astype(np.int64) << 32 | items
    order = np.argsort(pairs, kind="stable")
    pairs, said = pairs[order], said[order]
    other = pairs[1:] != pairs[:-1]
    starts = np.flatnonzero(
        np.concatenate([np.ones(min(1, len(pairs)), dtype=np.bool_), other | (said[1:] != said[:-1])])
    )
    run_pairs = pairs[starts]
    last = np.concatenate([run_pairs[1:] != run_pairs[:-1], np.ones(min(1, len(starts)), dtype=np.bool_)])
    return order[starts], last


def _firsts(users: I32, items: I32) -> I64:
    """Where each pair of user and item comes first."""
    firsts: I64 = np.unique(users.astype(np.int64) << 32 | items, return_index=True)[1]
    return firsts
