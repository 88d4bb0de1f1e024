"""Bounded lists of successors: [sum, item, ..., count, ...], with counts in 1/1,024; see transitions.py for the paper.

`gather` sums the lists of a whole context once, so that any number of items is scored at the price of a look into `mass`.
"""

import numpy as np

from streamer.core.arrays import F64, I32
from streamer.core.batch import PROPOSE
from streamer.core.kernel import kernel

HOP = 16  # items from which a second step is taken
UNIT = 1024  # counts are kept in 1/1,024
SUM_LARGEST = 524288.0  # clicks: a list with a larger sum is halved, so that sums stay below 2^31


@kernel
def position_of(row: I32, i: int) -> int:
    """The last position of i in a row, -1 where it is absent."""
    position = -1
    for n in range(len(row)):  # no early exit, so that the processor compares many at once
        position = max(position, n if row[n] == i else -1)
    return position


@kernel
def count_of(row: I32, position: int) -> float:
    """The clicks at a position of a list, 0 for position -1."""
    return row[1 + (len(row) >> 1) + position] / UNIT if position >= 0 else 0.0


@kernel
def add_successor(row: I32, position: int, i: int, clicks: float) -> None:
    """Add `clicks` to item i, which is at `position` (-1: absent) of a list [sum, item, ..., count, ...].

    No count falls below 0.
    """
    size = len(row) >> 1
    items, counts = row[1 : 1 + size], row[1 + size :]
    units = int(np.floor(UNIT * clicks + 0.5))
    if position < 0:
        if units <= 0:
            return
        least = counts[0]
        for n in range(size):
            least = min(least, counts[n])
        position = position_of(counts, least)
        items[position] = i
    units = max(units, -counts[position])
    counts[position] += units
    row[0] += units
    if row[0] > UNIT * SUM_LARGEST:
        row[0] = 0
        for n in range(size):
            counts[n] >>= 1
            row[0] += counts[n]


@kernel
def largest(mass: F64, found: I32) -> tuple[I32, F64]:
    """The HOP items of most mass among those in `found`, -1 where there are fewer, and their masses."""
    items, masses = np.full(HOP, -1, dtype=np.int32), np.zeros(HOP)
    for i in found:
        own, place = mass[i], HOP - 1
        if own <= masses[place]:
            continue
        while place > 0 and masses[place - 1] < own:
            items[place], masses[place] = items[place - 1], masses[place - 1]
            place -= 1
        items[place], masses[place] = i, own
    return items, masses


@kernel
def add_list(row: I32, share: float, mass: F64, found: I32, count: int) -> int:
    """Add `share` times the clicks of a list to `mass` (item rows,); write items that had none behind the `count` in `found`.

    Returns how many are in `found` then.
    """
    half = len(row) >> 1
    for n in range(half):
        i, units = row[1 + n], row[1 + half + n]
        if i >= 0 and units > 0:
            if mass[i] == 0.0:
                found[count] = i
                count += 1
            mass[i] += share * (units / UNIT)
    return count


@kernel
def gather(
    context: I32, lists: I32, lags: F64, pseudo_counts: float, onward: float, mass: F64, found: I32
) -> tuple[int, float, float]:
    """Add sum_t a_t n_ci / (n_c + m) to `mass` (item rows,) of all items in the context's lists, and write these to `found`.

    Of what is left for popularity, the part `onward` goes the same way one step further, from the likeliest HOP items.
    Returns how many were found, the factor of an item's share s_i, and the sum of the weights a_t, `lags`. `mass` is 0 before.
    """
    count, rest, weights = 0, 0.0, 0.0
    for t in range(len(context)):
        c = context[t]
        if c < 0:
            break
        share = lags[t] / (lists[c, 0] / UNIT + pseudo_counts)
        count = add_list(lists[c], share, mass, found, count)
        rest += share * pseudo_counts
        weights += lags[t]
    if weights == 0.0:
        return 0, 1.0, 1.0
    if count > 0 and onward > 0.0:
        items, masses = largest(mass, found[:count])
        passed, whole = onward * rest, masses.sum()
        rest -= passed
        for m in range(HOP):
            if items[m] < 0:
                break
            row = lists[items[m]]
            share = passed * masses[m] / whole / (row[0] / UNIT + pseudo_counts)
            count = add_list(row, share, mass, found, count)
            rest += share * pseudo_counts
    return count, rest, weights


@kernel
def propose(
    mass: F64, found: I32, popularity: F64, u: int, clicked: int, seen: int, pages: I32, page_of: I32, window: int, probes: I32,
    best: F64,
) -> None:  # fmt: skip
    """Fill the places of PROPOSE in `probes` (m,) with the items of most mass that the user has not seen and that were clicked; then -1.

    Leaves `mass` 0 at what the user has seen and at `clicked`. `best` (m,) is scratch.
    """
    size, filled, first = pages.shape[1], 0, -1
    for c in range(max(0, seen - window), seen):
        i = pages[page_of[u, (c % (size * page_of.shape[1])) // size], c % size]
        if i < len(mass):
            mass[i] = 0.0
    mass[clicked] = 0.0
    for m in range(len(probes)):
        if probes[m] == PROPOSE:
            first = m if first < 0 else first
            probes[m], filled = -1, filled + 1
    for n in range(len(found)):
        own, place = mass[found[n]], first + filled - 1
        if filled == 0 or own <= 0.0 or popularity[found[n], 0] <= 0.0 or (probes[place] >= 0 and own <= best[place]):
            continue
        while place > first and (probes[place - 1] < 0 or best[place - 1] < own):
            probes[place], best[place] = probes[place - 1], best[place - 1]
            place -= 1
        probes[place], best[place] = found[n], own
