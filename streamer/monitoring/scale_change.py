"""The kernels that find out whether the scale of ratings has changed, see scale.py.

They walk back through the newest ratings, and ask how unlikely those are on the scale so far. Ratings of one user are no
independent witnesses, as some users give nothing but 1s, and neither are those of one item: a file may be in the order of its
users, or of its items. So the evidence is summed by users and by items, and both sums must do. n odd ratings of one user count

    min(n log(1 / p), (1 + n / 100) log(1 / q))

in nats, where p is the share of such ratings so far, and q that of users who gave no others, both learned from the stream. For
items it is the same. So three or four users of a few ratings each are enough, or one alone with 200 to 400 in a row.

Odd ratings of a narrower scale keep to a lower part of the range; those of a wider one lie outside, where p is taken as 1 / 3,
as wild ratings come in bursts, and a rating inside takes back a half.

values    the newest ratings (RING,), NaN of a user who was removed
groups    their users and their items (2, RING)
episodes  the highest of the first 4 to 8 ratings of a user, and of an item, in a block; NaN where there are fewer (2, EPISODES)
sample    of the ratings so far, each standing for the same weight; NaN where there are fewer (SAMPLE,)
"""

import numpy as np

from streamer.core.arrays import F32, F64, U32
from streamer.core.kernel import kernel
from streamer.monitoring.scale_range import (
    HIGH,
    ITEMS_EPISODES,
    LOW,
    MEMORY,
    NOTED,
    OWED,
    SAMPLED,
    TOTAL,
    USERS_EPISODES,
    WEIGHT,
)

RING = 512  # newest ratings that are looked at
EPISODES, SHORTEST, LONGEST = 256, 4, 8  # their number, and ratings of one
BLOCK = 128  # ratings in which episodes are looked for
SAMPLE = 256  # ratings of the sample
SLOTS = 1024  # of a table of groups: a power of 2, twice the ring
DECISIVE, DECISIVE_OUTSIDE = (
    18.0,
    12.0,
)  # nats for a narrower and for a wider scale, whose ratings were never seen before
PRIOR = 10.0  # groups thought to be known from the start, one of them an odd one
GROWTH = 100.0  # ratings of a group after which it counts twice
FEWEST = 16  # ratings that say anything
INSIDE = 0.5  # of a rating outside that one inside takes back
USUAL = 1.1  # nats of a rating outside, as if every third one could be wild
NARROW = 0.55  # of the range: a narrower scale leaves out the rest, at the upper end


@kernel
def slot_of(owners: U32, used: F64, key: np.uint32) -> int:
    """The place of a group in a table (SLOTS,), or that where it is to be put."""
    at = int(np.int64((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(54)))  # Fibonacci hashing
    while used[at] > 0.0 and owners[at] != key:
        at = (at + 1) % SLOTS
    return at


@kernel
def is_odd(value: float, low: float, high: float, outside: bool) -> bool:
    """Whether a rating lies from low to high, or outside if that is asked; NaN does neither."""
    return bool(np.isfinite(value) and (low <= value <= high) != outside)


@kernel
def evidence(
    values: F32, groups: U32, episodes: F32, noted: int, n: int, low: float, high: float, outside: bool, each: float
) -> float:
    """The evidence of the n newest ratings, in nats: those from `low` to `high` are odd, or all others if `outside`."""
    worth, slots = np.full(n, each), np.empty(n, dtype=np.int32)
    for side in range(2):
        most = unlikely(episodes[side], high if outside else -np.inf, np.inf if outside else high)
        owners, given, odd = np.empty(SLOTS, dtype=np.uint32), np.zeros(SLOTS), np.zeros(SLOTS)
        for j in range(n):
            at = (noted - 1 - j) % RING
            slots[j] = slot = slot_of(owners, given, groups[side, at])
            owners[slot] = groups[side, at]
            given[slot] += 1.0
            odd[slot] += is_odd(values[at], low, high, outside)
        for j in range(n):
            slot = slots[j]
            if is_odd(values[(noted - 1 - j) % RING], low, high, outside):
                net = max(odd[slot] - INSIDE * (given[slot] - odd[slot]), 0.0)
                worth[j] = min(worth[j], min(net * each, most * (1.0 + net / GROWTH)) / odd[slot])
            else:
                worth[j] = 0.0
    return float(worth.sum())


@kernel
def unlikely(episodes: F32, low: float, high: float) -> float:
    """log(1 / q), q being the share of the episodes that end above low, and not above high."""
    known, odd = PRIOR, 1.0
    for e in range(EPISODES):
        if np.isfinite(episodes[e]):
            known += 1.0
            odd += low < episodes[e] <= high
    return float(np.log(known / odd))


@kernel
def note_episodes(head: F64, values: F32, groups: U32, episodes: F32) -> None:
    """Enter the groups of the block of ratings that is about to leave the ring among the episodes: newer ones are what is judged."""
    for side in range(2):
        place = USERS_EPISODES if side == 0 else ITEMS_EPISODES
        owners, used, highest = np.empty(SLOTS, dtype=np.uint32), np.zeros(SLOTS), np.zeros(SLOTS)
        for at in range(int(head[TOTAL]) % RING, int(head[TOTAL]) % RING + BLOCK):
            if not np.isfinite(values[at]):
                continue
            slot = slot_of(owners, used, groups[side, at])
            owners[slot] = groups[side, at]
            if used[slot] < LONGEST:
                highest[slot] = max(highest[slot], values[at]) if used[slot] > 0.0 else values[at]
            used[slot] += 1.0
        for slot in range(SLOTS):
            if used[slot] >= SHORTEST:
                episodes[side, int(head[place]) % EPISODES] = highest[slot]
                head[place] += 1.0


@kernel
def share_of(sample: F32, least: float, most: float) -> float:
    """The share of the ratings so far that lie from least to most."""
    known, found = 2.0, 1.0
    for j in range(len(sample)):
        if np.isfinite(sample[j]):
            known += 1.0
            found += least <= sample[j] <= most
    return float(found / known)


@kernel
def note_sample(head: F64, sample: F32, value: float, weight: float) -> None:
    """Enter a rating in the sample once those since the last one have enough weight."""
    head[WEIGHT] += weight
    head[OWED] += weight
    each = max(min(head[WEIGHT] / SAMPLE, MEMORY / SAMPLE), 1.0)
    if head[OWED] >= each:
        head[OWED] -= each
        sample[int(head[SAMPLED]) % SAMPLE] = value
        head[SAMPLED] += 1.0


@kernel
def narrower(head: F64, sample: F32, values: F32, groups: U32, episodes: F32) -> tuple[float, float, int]:
    """The part of the range to which the newest ratings keep, if that is too unlikely to be chance; (inf, -inf) if it is not."""
    low, high, noted = head[LOW], head[HIGH], int(head[TOTAL])
    end = high - (1.0 - NARROW) * (high - (max(low, 0.0) if high > 0.0 else low))
    least, most = np.inf, -np.inf
    for n in range(1, int(head[NOTED]) + 1):
        value = values[(noted - n) % RING]
        if value > end:
            break
        if np.isfinite(value):
            least, most = min(least, max(value, low)), max(most, max(value, low))
        if n < FEWEST or n % (8 if n <= 64 else 32) != 0 or least >= most:
            continue
        if most - least > NARROW * (high - low):
            break
        each = -np.log(share_of(sample, least, most))
        if each * RING < DECISIVE:
            break
        if each * n >= DECISIVE and (
            evidence(values, groups, episodes, noted, n, least, most, False, each) >= DECISIVE
        ):
            return clearest(low, sample, values, noted, n)
    return np.inf, -np.inf, 0


@kernel
def clearest(low: float, sample: F32, values: F32, noted: int, n: int) -> tuple[float, float, int]:
    """The part of the range of those of the n newest ratings that are least likely: before them, the scale was the old one."""
    least, most, best, found = np.inf, -np.inf, 0.0, (np.inf, -np.inf, 0)
    for m in range(1, n + 1):
        value = values[(noted - m) % RING]
        if np.isfinite(value):
            least, most = min(least, max(value, low)), max(most, max(value, low))
        against = -m * np.log(share_of(sample, least, most))
        if against > best and least < most:
            best, found = against, (least, most, m)
    return found


@kernel
def wider(head: F64, values: F32, groups: U32, episodes: F32) -> tuple[float, float, int]:
    """The range of the newest ratings, if so many of them lie outside that they are not wild ones; (inf, -inf) if not."""
    low, high, noted = head[LOW], head[HIGH], int(head[TOTAL])
    least, most, net, best, found = np.inf, -np.inf, 0.0, 0.0, (np.inf, -np.inf, 0)
    for n in range(1, int(head[NOTED]) + 1):
        value = values[(noted - n) % RING]
        if np.isfinite(value):
            least, most = min(least, value), max(most, value)
            net += -INSIDE if low <= value <= high else 1.0
        if net > best:
            best, found = net, (least, most, n)
        if net < -FEWEST:
            break
        if net < FEWEST or n % (4 if n <= 64 else 32) != 0:
            continue
        if evidence(values, groups, episodes, noted, n, low, high, True, USUAL) >= DECISIVE_OUTSIDE:
            return found
    return np.inf, -np.inf, 0
