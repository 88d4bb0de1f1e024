"""The kernel that follows the scale of ratings, see scale.py.

head       [numbers by the columns below]
bins       equal parts of the range: weight, lowest and highest rating, number of ratings (4, BINS)
keys       of the newest users (WITNESSES,)
seen       items of the newest ratings, -1 where there are fewer (SEEN,)
witnesses  [their newest ratings (EACH,), NaN where there are fewer, ratings among the newest 256, when the last one came]
"""

import numpy as np

from streamer.core.arrays import F32, F64, I32, U8, U64, Bool
from streamer.core.kernel import kernel

# Columns of the head
RATINGS = 0  # of this scale
LOW, HIGH = 1, 2
STREAK = 3  # weight of the ratings outside that most of the newest ones are; 0: they are not
NEAR, FAR = 4, 5  # shares of ratings outside, within 1/4 of the width and all, among the newest 256
LEAST, MOST = 6, 7  # of the ratings since the streak began
LOGS = 8  # mean of log(1 + rating), of the newest 4,096
FRACTIONS = 9  # share of ratings that are not whole, of the newest 4,096
COUNTS = 10  # 1: they are counts, not ratings
CHANGES, WILD, TOTAL = 11, 12, 13  # changes of scale, ratings outside, ratings; ever
ARRIVALS = 14  # of users among the newest ones, of this scale
CONVERSIONS = 15  # how often what is known was converted, ever: at changes of scale, and as the ends of a new one move
OUTSIDE = 16  # the newest ratings outside begin here
RECENT = 8
HEAD = OUTSIDE + RECENT

BINS = 64  # equal parts of the range: weight, lowest and highest rating, and number of ratings of each
WITNESSES, EACH = 16, 4  # the newest users, and the newest ratings of each
SEEN = 3  # enough for files in the order of items, and little enough for catalogues of a few
COUNT, STAMP = EACH, EACH + 1  # columns of a witness, after its ratings
MEMORY, WINDOW, LONG = 4096.0, 256.0, 4096.0  # weight in bins before it is halved; ratings
TOLERANCE, BELOW, CLOSE = 16.0, 0.5, 0.25
NEAR_SHARE, FAR_SHARE, RARE, GAP, GAP_BELOW = 0.015, 0.05, 0.01, 0.125, 1.0
FEW = 4.0  # above this weight of ratings outside, in a row or nearly so, the range is not widened, as the scale may have changed
ENOUGH = 16.0  # weight of the ratings outside that make a change, if of two users; twice that for one
YOUNG = 1000.0  # ratings of a new scale while its ends may still move
CHECKED, TRIMMED = 8, 32  # ratings between tests
NARROW, UNLIKELY_USERS, UNLIKELY_RATINGS = 0.6, 1e-5, 1e-12
MOST_COUNTED = 10.0  # a scale of counts reaches further than the usual scales of ratings


@kernel
def bin_of(value: float, head: F64) -> int:
    """The bin of a rating within the range."""
    width = head[HIGH] - head[LOW]
    return 0 if width <= 0.0 else min(int((value - head[LOW]) / width * BINS), BINS - 1)


@kernel
def total(bins: F64, row: int, first: int, last: int) -> float:
    """The sum over these bins, both included."""
    found = 0.0
    for b in range(first, last + 1):
        found += bins[row, b]
    return float(found)


@kernel
def put(bins: F64, b: int, weight: float, least: float, most: float, ratings: float) -> None:
    """Add to bin `b`."""
    bins[1, b] = min(bins[1, b], least) if bins[0, b] > 0.0 else least
    bins[2, b] = max(bins[2, b], most) if bins[0, b] > 0.0 else most
    bins[0, b] += weight
    bins[3, b] += ratings


@kernel
def move_range(head: F64, bins: F64, low: float, high: float) -> None:
    """Give the scale another range, and sort the bins anew; what lies outside is forgotten."""
    head[LOW], head[HIGH] = low, high
    old = np.empty((4, BINS))
    for b in range(BINS):
        for row in range(4):
            old[row, b], bins[row, b] = bins[row, b], 0.0
    for b in range(BINS):
        middle = 0.5 * (old[1, b] + old[2, b])
        if old[0, b] > 0.0 and low <= middle <= high:
            put(bins, bin_of(middle, head), old[0, b], max(old[1, b], low), min(old[2, b], high), old[3, b])


@kernel
def is_new(head: F64, seen: I32, item: int) -> bool:
    """Whether none of the newest ratings was of this item; note it."""
    found = True
    for j in range(SEEN):
        found = found and seen[j] != item
    seen[int(head[TOTAL]) % SEEN] = item
    return found


@kernel
def witness(head: F64, keys: U64, witnesses: F64, key: np.uint64, value: float, new: bool) -> float:
    """Count the rating of a user, and note it if its item is `new`, as one bad item says little of the scale; return its weight."""
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
        for j in range(EACH):
            witnesses[found, j] = np.nan
    one = witnesses[found]
    one[COUNT] = 1.0 + one[COUNT] * (1.0 - min((head[TOTAL] + 1.0 - one[STAMP]) / WINDOW, 1.0))
    one[STAMP] = head[TOTAL] + 1.0
    if new:
        for j in range(EACH - 1, 0, -1):
            one[j] = one[j - 1]
        one[0] = value
    return float((1.0 if new else 0.25) / np.sqrt(one[COUNT]))


@kernel
def tolerance(head: F64, ratings: float) -> float:
    """How many widths of the range beyond its end a rating may lie after so many ratings, which count little if of few users."""
    share = TOLERANCE / max(min(ratings, 4.0 * head[ARRIVALS]), 1.0)
    return float(share * max(share, 1.0))


@kernel
def outside_on(head: F64, above: bool) -> float:
    """The median of the newest ratings outside on this side."""
    found, n = np.empty(RECENT), 0
    for j in range(RECENT):
        value, place = head[OUTSIDE + j], n
        if not ((value > head[HIGH]) if above else (value < head[LOW])):  # also for NaN
            continue
        while place > 0 and found[place - 1] > value:
            found[place] = found[place - 1]
            place -= 1
        found[place] = value
        n += 1
    return float(found[n // 2])


@kernel
def admit(head: F64, bins: F64, value: float, weight: float) -> bool:
    """Widen the range for a rating outside, or count it as wild; returns whether it is within the range now."""
    low, high = head[LOW], head[HIGH]
    if head[RATINGS] == 0.0:
        head[LOW] = head[HIGH] = value
        return True
    if low <= value <= high:
        head[STREAK] = max(0.0, head[STREAK] - 0.5 * weight)
        head[NEAR] -= weight / WINDOW * head[NEAR]
        head[FAR] -= weight / WINDOW * head[FAR]
        head[LEAST], head[MOST] = min(head[LEAST], value), max(head[MOST], value)
        return True
    width, above = high - low, value > high
    beyond, tolerated = (value - high if above else low - value), tolerance(head, head[RATINGS])
    if width == 0.0 or beyond <= width * (tolerated if above else max(tolerated, BELOW)):
        move_range(head, bins, min(low, value), max(high, value))
        return True
    if head[STREAK] == 0.0:
        head[LEAST] = head[MOST] = value
    head[STREAK] += weight
    head[LEAST], head[MOST] = min(head[LEAST], value), max(head[MOST], value)
    head[NEAR] += weight / WINDOW * ((1.0 if beyond <= CLOSE * width else 0.0) - head[NEAR])
    head[FAR] += weight / WINDOW * (1.0 - head[FAR])
    head[OUTSIDE + int(head[WILD]) % RECENT] = value
    end = value
    if head[STREAK] > FEW:
        head[WILD] += 1.0
        return False
    if head[FAR] >= FAR_SHARE:
        end = outside_on(head, above)
    elif beyond > CLOSE * width or head[NEAR] < NEAR_SHARE:
        head[WILD] += 1.0
        return False
    move_range(head, bins, min(low, end), max(high, end))
    head[NEAR] = head[FAR] = 0.0
    return bool(head[LOW] <= value <= head[HIGH])


@kernel
def trim(head: F64, bins: F64) -> None:
    """Withdraw an end of the range that hardly any rating reaches, far from all others."""
    low, high, rare = head[LOW], head[HIGH], RARE * total(bins, 0, 0, BINS - 1)
    unsure = tolerance(head, total(bins, 3, 0, BINS - 1))
    b, weight, ratings = BINS - 1, bins[0, BINS - 1], bins[3, BINS - 1]
    while (weight < rare or ratings < 2.0) and b > 0:
        b -= 1
        weight, ratings = weight + bins[0, b], ratings + bins[3, b]
    supported = bins[2, b] - low
    if bins[0, b] > 0.0 and high - bins[2, b] > (GAP + unsure) * supported:
        high = bins[2, b]
    b, weight, ratings = 0, bins[0, 0], bins[3, 0]
    while (weight < rare or ratings < 2.0) and b < BINS - 1:
        b += 1
        weight, ratings = weight + bins[0, b], ratings + bins[3, b]
    if bins[0, b] > 0.0 and bins[1, b] - low > (GAP_BELOW + unsure) * (high - bins[1, b]):
        low = bins[1, b]
    if low <= high and (low != head[LOW] or high != head[HIGH]):
        move_range(head, bins, low, high)


@kernel
def outsiders(head: F64, witnesses: F64) -> int:
    """How many of the newest users gave most of their newest ratings outside the range."""
    users = 0
    for w in range(WITNESSES):
        outside = inside = 0
        for j in range(EACH):
            value = witnesses[w, j]
            if np.isfinite(value):
                within = head[LOW] <= value <= head[HIGH]
                inside += within
                outside += not within
        users += outside > inside
    return users


@kernel
def narrow_part(head: F64, bins: F64, witnesses: F64) -> tuple[float, float]:
    """The part of the range to which the newest users keep, if that is too unlikely to be chance; (inf, -inf) if it is not."""
    everything, before = total(bins, 0, 0, BINS - 1), np.inf
    least, most, users, ratings = np.inf, -np.inf, 0, 0
    for _ in range(WITNESSES):
        newest, known = -1, ratings
        for w in range(WITNESSES):
            if witnesses[w, STAMP] < before and (newest < 0 or witnesses[w, STAMP] > witnesses[newest, STAMP]):
                newest = w
        if newest < 0 or witnesses[newest, COUNT] == 0.0:
            break
        before = witnesses[newest, STAMP]
        for j in range(EACH):
            value = min(max(witnesses[newest, j], head[LOW]), head[HIGH])
            if np.isfinite(witnesses[newest, j]):
                least, most, ratings = min(least, value), max(most, value), ratings + 1
        users += ratings > known
        if ratings == 0:
            continue
        if most - least > NARROW * (head[HIGH] - head[LOW]):
            break
        share = total(bins, 0, bin_of(least, head), bin_of(most, head)) / everything
        if users > 2 and most > least and share**users <= UNLIKELY_USERS and share**ratings <= UNLIKELY_RATINGS:
            return least, most
    return np.inf, -np.inf


@kernel
def change(head: F64, bins: F64, witnesses: F64, low: float, high: float) -> None:
    """Begin a new scale of this range."""
    for b in range(BINS):
        for row in range(4):
            bins[row, b] = 0.0
    for j in range(RECENT):
        head[OUTSIDE + j] = np.nan
    for w in range(WITNESSES):
        witnesses[w, COUNT] = witnesses[w, STAMP] = 0.0
        for j in range(EACH):
            witnesses[w, j] = np.nan
    head[STREAK] = head[NEAR] = head[FAR] = head[COUNTS] = head[LOGS] = head[FRACTIONS] = 0.0
    head[LOW], head[HIGH], head[RATINGS], head[ARRIVALS] = low, high, ENOUGH, ENOUGH / 4.0
    head[CHANGES] += 1.0


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
def follow(
    head: F64, bins: F64, keys: U64, seen: I32, witnesses: F64, rated: Bool, values: F32, users: U64, items: I32,
    like_share: float, lows: F32, highs: F32, learned: F32, likes: U8, changes: F64,
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
        weight = witness(head, keys, witnesses, users[k], value, is_new(head, seen, items[k]))
        inside = admit(head, bins, value, weight)
        head[RATINGS] += 1.0
        head[TOTAL] += 1.0
        describe(head, bins, value, weight, inside)
        learned[k] = min(max(value, head[LOW]), head[HIGH])
        likes[k] = is_like(head, value, like_share)
        if int(head[RATINGS]) % TRIMMED == 0:
            trim(head, bins)
            head[COUNTS] = are_counts(head, bins)
            if total(bins, 0, 0, BINS - 1) > MEMORY:
                for b in range(BINS):
                    bins[0, b] *= 0.5
                    bins[3, b] *= 0.5
        part = np.inf, -np.inf
        if head[STREAK] >= ENOUGH and (head[STREAK] >= 2.0 * ENOUGH or outsiders(head, witnesses) > 1):
            part = head[LEAST], head[MOST]
        elif int(head[TOTAL]) % CHECKED == 0 and head[RATINGS] >= 2 * TRIMMED:
            part = narrow_part(head, bins, witnesses)
        if part[0] <= part[1]:
            change(head, bins, witnesses, part[0], part[1])
        elif head[CHANGES] == 0.0 or head[RATINGS] > YOUNG:
            continue
        if low != head[LOW] or high != head[HIGH]:
            changes[found, 0] = k + 1
            changes[found, 1], changes[found, 2] = line(low, high, head[LOW], head[HIGH])
            head[CONVERSIONS] += 1.0
            found += 1
    return found
