"""The kernels that keep the range of ratings, and how many ratings lie where in it, see scale.py.

head  [numbers by the columns below]
bins  equal parts of the range: weight, lowest and highest rating, number of ratings (4, BINS)
"""

import numpy as np

from streamer.core.arrays import F64
from streamer.core.kernel import kernel

# Columns of the head
RATINGS = 0  # of this scale
LOW, HIGH = 1, 2
STREAK = 3  # weight of the ratings outside that most of the newest ones are; 0: they are not
NEAR, FAR = 4, 5  # shares of ratings outside, within 1/4 of the width and all, among the newest 256
NOTED = 6  # newest ratings, of this scale
USERS_EPISODES, ITEMS_EPISODES = 7, 16  # episodes of users and of items, ever
LOGS = 8  # mean of log(1 + rating), of the newest 4,096
FRACTIONS = 9  # share of ratings that are not whole, of the newest 4,096
COUNTS = 10  # 1: they are counts, not ratings
CHANGES, WILD, TOTAL = 11, 12, 13  # changes of scale, ratings outside, ratings; ever
ARRIVALS = 14  # of users among the newest ones, of this scale
CONVERSIONS = 15  # how often what is known was converted, ever: at changes of scale, and as the ends of a new one move
WEIGHT, OWED, SAMPLED = (
    17,
    18,
    19,
)  # of all ratings of this scale; since the last rating of the sample; ratings in the sample, ever
OUTSIDE = 20  # the newest ratings outside begin here
RECENT = 8
HEAD = OUTSIDE + RECENT

BINS = 64  # equal parts of the range: weight, lowest and highest rating, and number of ratings of each
MEMORY, WINDOW, LONG = 4096.0, 256.0, 4096.0  # weight in bins before it is halved; ratings
TOLERANCE, BELOW, CLOSE = 16.0, 0.5, 0.25
NEAR_SHARE, FAR_SHARE, RARE, GAP, GAP_BELOW = 0.015, 0.05, 0.01, 0.125, 1.0
FEW = 4.0  # above this weight of ratings outside, in a row or nearly so, the range is not widened, as the scale may have changed


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
        return True
    width, above = high - low, value > high
    beyond, tolerated = (value - high if above else low - value), tolerance(head, head[RATINGS])
    if width == 0.0 or beyond <= width * (tolerated if above else max(tolerated, BELOW)):
        move_range(head, bins, min(low, value), max(high, value))
        return True
    head[STREAK] += weight
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
