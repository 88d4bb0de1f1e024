"""The kernel that follows the scale of ratings, see scale.py; scale_range.py and scale_change.py name the parts of its state.

keys       of the newest users (WITNESSES,)
witnesses  [ratings among the newest 256, when the last one came]
"""

import numpy as np

from streamer.core.arrays import F32, F64, I32, U8, U32, U64, Bool
from streamer.core.kernel import kernel
from streamer.monitoring.scale_change import BLOCK, RING, narrower, note_episodes, note_sample, wider
from streamer.monitoring.scale_range import (
    ARRIVALS,
    BINS,
    CHANGES,
    CONVERSIONS,
    COUNTS,
    FAR,
    FEW,
    FRACTIONS,
    HIGH,
    LOGS,
    LOW,
    MEMORY,
    NEAR,
    NOTED,
    OUTSIDE,
    RATINGS,
    RECENT,
    STREAK,
    TOTAL,
    WINDOW,
    admit,
    bin_of,
    move_range,
    put,
    total,
    trim,
)  # fmt: skip

WITNESSES = 16  # the newest users
COUNT, STAMP = 0, 1  # columns of a witness
SEEN = 3  # newest ratings of other items: enough for files in the order of items, and little enough for catalogues of a few
LONG = 4096.0  # ratings
ENOUGH = 8.0  # ratings by which a new scale is known when it is found
YOUNG = 1000.0  # ratings of a new scale while its ends may still move
CHECKED, TRIMMED = 4, 32  # ratings between tests
MOST_COUNTED = 10.0  # a scale of counts reaches further than the usual scales of ratings


@kernel
def note(head: F64, values: F32, groups: U32, value: float, user: np.uint64, item: int) -> bool:
    """Enter a rating among the newest ones; returns whether none of those before it was of its item."""
    noted, found = int(head[TOTAL]), True
    for j in range(1, min(noted, SEEN) + 1):
        found = found and groups[1, (noted - j) % RING] != np.uint32(item)
    values[noted % RING], groups[0, noted % RING], groups[1, noted % RING] = value, np.uint32(user), np.uint32(item)
    head[NOTED] = min(head[NOTED] + 1.0, float(RING))
    return found


@kernel
def weight_of(head: F64, keys: U64, witnesses: F64, key: np.uint64, new: bool) -> float:
    """Count the rating of a user; return its weight, which is less if its item is not `new`, as one bad item says little of the scale."""
    found, oldest = -1, 0
    for w in range(WITNESSES):
        if keys[w] == key and witnesses[w, COUNT] > 0.0:
            found = w
        if witnesses[w, STAMP] < witnesses[oldest, STAMP]:
            oldest = w
    if found < 0:
        found = oldest
        keys[found] = key
        head[ARRIVALS] += 1.0
        witnesses[found, COUNT] = 0.0
    one = witnesses[found]
    one[COUNT] = 1.0 + one[COUNT] * (1.0 - min((head[TOTAL] + 1.0 - one[STAMP]) / WINDOW, 1.0))
    one[STAMP] = head[TOTAL] + 1.0
    return float((1.0 if new else 0.25) / np.sqrt(one[COUNT]))


@kernel
def change(head: F64, bins: F64, witnesses: F64, newest: F32, low: float, high: float, n: int) -> None:
    """Begin a new scale of this range, known from the n newest ratings."""
    bins[:] = 0.0
    witnesses[:] = 0.0
    head[OUTSIDE : OUTSIDE + RECENT] = np.nan
    head[STREAK] = head[NEAR] = head[FAR] = head[COUNTS] = head[LOGS] = head[FRACTIONS] = head[NOTED] = 0.0
    head[LOW], head[HIGH], head[RATINGS], head[ARRIVALS] = low, high, ENOUGH, ENOUGH / 4.0
    head[CHANGES] += 1.0
    for j in range(1, n + 1):
        value = newest[(int(head[TOTAL]) - j) % RING]
        if low <= value <= high:
            put(bins, bin_of(value, head), ENOUGH / n, value, value, 1.0)


@kernel
def describe(head: F64, bins: F64, value: float, weight: float, inside: bool) -> None:
    """Add a rating to what is known of the distribution."""
    share = 1.0 / min(head[RATINGS], LONG)
    head[LOGS] += share * (np.log1p(max(value, 0.0)) - head[LOGS])
    head[FRACTIONS] += share * ((0.0 if value == np.floor(value) else 1.0) - head[FRACTIONS])
    if inside:
        put(bins, bin_of(value, head), weight, value, value, 1.0)


@kernel
def are_counts(head: F64, bins: F64) -> float:
    """1 if the ratings are counts: whole, not negative, and most of them in the lowest fifth of a long range; else 0."""
    if head[LOW] < 0.0 or head[HIGH] <= MOST_COUNTED or head[FRACTIONS] > 0.0:
        return 0.0
    few = total(bins, 0, 0, bin_of(0.8 * head[LOW] + 0.2 * head[HIGH], head))
    return 1.0 if few >= (0.4 if head[COUNTS] else 0.6) * total(bins, 0, 0, BINS - 1) else 0.0


@kernel
def is_like(head: F64, value: float, like_share: float) -> bool:
    """Whether a rating is a like."""
    if head[COUNTS]:
        return bool(value > np.expm1(head[LOGS]))
    low = min(head[LOW], 0.0)
    return bool(value > 0.0 and head[HIGH] > 0.0 and value >= low + like_share * (head[HIGH] - low))


@kernel
def line(low: float, high: float, new_low: float, new_high: float) -> tuple[float, float]:
    """Factor and shift that map a range to another; ranges of one rating keep the ratio of their ends, if that has a meaning."""
    factor = 1.0
    if high > low and new_high > new_low:
        factor = (new_high - new_low) / (high - low)
    elif high > 0.0 and new_high > 0.0:
        factor = new_high / high
    return factor, new_high - factor * high


@kernel
def convert(first: F32, second: F32, third: F32, factor: float, shift: float) -> None:
    """Ratings known from before a change, on the scale after it."""
    for values in (first, second, third):
        for j in range(len(values)):
            values[j] = factor * values[j] + shift


@kernel
def follow(
    head: F64, bins: F64, keys: U64, witnesses: F64, newest: F32, groups: U32, episodes: F32, sample: F32, rated: Bool,
    values: F32, users: U64, items: I32, like_share: float, lows: F32, highs: F32, learned: F32, likes: U8, changes: F64,
) -> int:  # fmt: skip
    """Follow n events; returns how many rows of `changes` (n, 3) were written: the next event, factor, shift."""
    found = 0
    for k in range(len(values)):
        known = head[RATINGS] > 0.0
        lows[k], highs[k] = (head[LOW] if known else -np.inf), (head[HIGH] if known else np.inf)
        learned[k], likes[k] = values[k], 0
        if not rated[k]:
            continue
        value, low, high = np.float64(values[k]), head[LOW], head[HIGH]
        weight = weight_of(head, keys, witnesses, users[k], note(head, newest, groups, value, users[k], items[k]))
        inside = admit(head, bins, value, weight)
        head[RATINGS] += 1.0
        head[TOTAL] += 1.0
        describe(head, bins, value, weight, inside)
        note_sample(head, sample, value, weight)
        learned[k] = min(max(value, head[LOW]), head[HIGH])
        likes[k] = is_like(head, value, like_share)
        if int(head[RATINGS]) % TRIMMED == 0:
            trim(head, bins)
            head[COUNTS] = are_counts(head, bins)
            if total(bins, 0, 0, BINS - 1) > MEMORY:
                for b in range(BINS):
                    bins[0, b] *= 0.5
                    bins[3, b] *= 0.5
        if int(head[TOTAL]) % BLOCK == 0 and head[NOTED] >= RING:
            note_episodes(head, newest, groups, episodes)
        part = np.inf, -np.inf, 0
        if int(head[TOTAL]) % CHECKED == 0:
            if head[STREAK] > FEW:
                part = wider(head, newest, groups, episodes)
            elif int(head[TOTAL]) % (2 * CHECKED) == 0 and head[RATINGS] >= WINDOW:
                part = narrower(head, sample, newest, groups, episodes)
        if part[0] <= part[1] and head[RATINGS] < WINDOW:
            move_range(head, bins, min(head[LOW], part[0]), max(head[HIGH], part[1]))
            head[STREAK] = head[NEAR] = head[FAR] = 0.0
        elif part[0] <= part[1]:
            change(head, bins, witnesses, newest, part[0], part[1], part[2])
        if head[CHANGES] == 0.0 or head[RATINGS] > YOUNG:
            continue
        if low != head[LOW] or high != head[HIGH]:
            changes[found, 0] = k + 1
            changes[found, 1], changes[found, 2] = line(low, high, head[LOW], head[HIGH])
            convert(episodes[0], episodes[1], sample, changes[found, 1], changes[found, 2])
            head[CONVERSIONS] += 1.0
            found += 1
    return found
