"""The layout of the Bayesian hybrid's rows, and how its kernels read them. The model is described in bayesian_hybrid.py.

All values are in standard deviations of the ratings.

user     [w (n,), lower triangle of P row by row (n (n + 1) / 2,), surprise, time, time, events], where
         w = [bias, session, consensus, popularity, p (dim,), category weights (categories,)]
item     [q (dim,), variances of q (dim,), b, variance of b, events]
stream   [events, mu, squares, refused, consensus, popularity, beta (known,), Gamma (known, dim), events by category (known,)],
         where `known` is the number of all possible categories
calibration   [k (8,), variances of k (8,), a (4,), h, ratings, ratings in their 80% interval, gain, squared errors]
group    [users, what is added to bias, p and category weights of a new user of the group (1 + dim + categories,)]
set of items with exactly the same categories   [items, sum of b, sum of q (dim,)], in the row of the set's representative

An item's categories are the bits of its category words. Categories in which users have no weight act through beta and Gamma alone.

x is sparse: entry s of `x` belongs to weight `at[s]`. Categories that a user has never met have covariances of exactly 0
and are skipped.
"""

from typing import NamedTuple

import numpy as np

from streamer.core.arrays import F64, I32, U64, Array
from streamer.core.kernel import kernel

BIAS, SESSION, CONSENSUS, POPULARITY, FIXED = 0, 1, 2, 3, 4  # positions in w; FIXED: where p begins
EVENTS, MU, SQUARES, REFUSED, START_CONSENSUS, START_POPULARITY, BETA = range(
    7
)  # columns of the stream; BETA: where beta begins
TIME_WORD = 4194304.0  # a time in ms is stored as quotient and remainder by this, which float32 holds exactly
LATEST = 2.0**45  # ms, the year 3084: later times are set to it, and times that far before 1970 to its negative
SMALLEST = 1e-9  # the smallest variance of a weight, whatever the rounding


_SEQUENCE = np.uint64(0x03F79D71B4CB0A89)  # each of its windows of six bits is another number
_NUMBERS = np.empty(64, dtype=np.uint8)
for _bit in range(64):
    _NUMBERS[((0x03F79D71B4CB0A89 << _bit) & (2**64 - 1)) >> 58] = _bit


class Model(NamedTuple):
    """The constants as kernels take them; `BayesianHybridParameters` explains them."""

    dim: int
    categories: int
    known: int  # categories with beta and Gamma: CATEGORIES, or 0 where none are used
    bias_share: (
        float  # the multiple of its parameter that is the variance of a new user's bias; likewise the next three
    )
    consensus_share: float
    popularity_share: float
    category_share: float
    item_share: float  # likewise of a new item's b
    vector_share: float  # likewise of its q
    noise: float
    habit_events: float
    session: float
    fade: float  # factor of the session bias for each event
    gap_ms: float
    carry: float
    carry_ms: float
    bias_process: float
    latent_process: float
    item_process: float
    consensus_process: float
    consensus_rate: float
    popularity_rate: float
    category_rate: float
    category_events: float
    vector_rate: float
    vector_decay: float
    preference_noise: float
    group_users: float
    alike_items: float
    clip: float
    calibration_prior: float
    calibration_forgetting: float
    spread_rate: float


@kernel
def lowest_bit(word: np.uint64) -> int:
    """The number of the lowest bit that is 1; any number for 0. By a de Bruijn sequence: Leiserson, Prokop, Randall (1998)."""
    return int(_NUMBERS[((word & (~word + np.uint64(1))) * _SEQUENCE) >> np.uint64(58)])


@kernel
def deviation(stream: F64) -> float:
    """sigma of the ratings so far; 0 while all of them are equal."""
    return float(np.sqrt(stream[0, SQUARES] / max(stream[0, EVENTS], 1.0)))


@kernel
def session_left(user: Array, time_ms: float, model: Model) -> float:
    """The share of the session's bias that is left in an event at this time. One before the last event is in its session."""
    high = len(user) - 3
    since = time_ms - (np.float64(user[high]) * TIME_WORD + np.float64(user[high + 1]))
    if user[high + 2] == 0:
        return 0.0
    return model.fade if since <= model.gap_ms else float(model.carry * np.exp(-since / model.carry_ms))


@kernel
def start_share(weight: int, model: Model) -> float:
    """The multiple of its parameter that is the variance of a new user's weight."""
    if weight >= FIXED + model.dim:
        return model.category_share
    if weight == BIAS:
        return model.bias_share
    if weight == CONSENSUS:
        return model.consensus_share
    return model.popularity_share if weight == POPULARITY else 1.0


@kernel
def effective_item(
    item: Array, row: int, set_sums: Array, sets: I32, representatives: I32, model: Model, effective: Array
) -> int:
    """Write an item's row to `effective`; one without ratings gets the shrunk mean of items with the same categories added.

    Returns the representative's row, -1 where there is none.
    """
    for j in range(len(effective)):
        effective[j] = item[j]
    dim, representative = model.dim, -1
    if item[2 * dim + 2] == 0:
        for j in range(dim):
            effective[dim + j] *= model.vector_share
        effective[2 * dim + 1] *= model.item_share
    if 0 <= row < len(sets) and sets[row, 0] >= 0:
        representative = representatives[sets[row, 0]]
    if not 0 <= representative < len(set_sums):
        return -1
    if item[2 * dim + 2] == 0:
        count = model.alike_items + np.float64(set_sums[representative, 0])
        for j in range(dim + 1):
            mean = np.float64(set_sums[representative, 1 + j]) / count
            if np.isfinite(mean):
                effective[2 * dim if j == 0 else j - 1] += mean
    return representative


@kernel
def look_at_item(
    item: Array, category_words: U64, row: int, stream: F64, model: Model, x: F64, at: I32
) -> tuple[int, int]:
    """Write the item's features to `x` and `at`.

    Return how many there are, without and with categories in which users have no weight.
    """
    dim, first = model.dim, FIXED + model.dim
    count = total = first
    for word in range(category_words.shape[1] if 0 <= row < len(category_words) else 0):
        rest = category_words[row, word]
        number = 64 * word + lowest_bit(rest)
        while rest != np.uint64(0) and number < model.known:
            at[total] = first + number
            total += 1
            count = total if number < model.categories else count
            rest &= rest - np.uint64(1)
            number = 64 * word + lowest_bit(rest)
    g = 1.0 / np.sqrt(max(total - first, 1))
    base = np.float64(item[2 * dim])
    for j in range(dim):
        x[FIXED + j] = np.float64(item[j])
    for s in range(first, total):
        x[s] = g
        number = at[s] - first
        base += g * stream[0, BETA + number]
        place = BETA + model.known + number * dim
        q, gamma = x[FIXED:first], stream[0, place : place + dim]
        for j in range(dim):
            q[j] += g * gamma[j]
    x[BIAS] = x[SESSION] = 1.0
    x[CONSENSUS] = base
    x[POPULARITY] = 0.25 * np.log(1.0 + np.float64(item[2 * dim + 2])) - 0.7
    for j in range(first):
        at[j] = j
    return count, total


@kernel
def look_at_category(number: int, stream: F64, model: Model, x: F64, at: I32) -> int:
    """As `look_at_item`, for an item that has this category and nothing else, without consensus; return the number of entries."""
    place = BETA + model.known + number * model.dim
    for j in range(model.dim):
        x[j], at[j] = stream[0, place + j], FIXED + j
    if number >= model.categories:
        return model.dim
    x[model.dim], at[model.dim] = 1.0, FIXED + model.dim + number
    return model.dim + 1


@kernel
def preference_variance(number: int, model: Model) -> float:
    """r, the variance of a stated preference; where users have no weight, that of one rating."""
    return model.preference_noise if number < model.categories else model.noise


@kernel
def preference_deviations(value: float, stream: F64, model: Model) -> float:
    """A stated preference in deviations of the ratings; beyond `clip` it grows with its logarithm only."""
    z = (value - stream[0, MU]) / deviation(stream)
    if abs(z) > model.clip:
        z = np.sign(z) * model.clip * (1.0 + np.log(abs(z) / model.clip))
    return float(z)


@kernel
def user_variance(user: Array, n: int, x: F64, at: I32, count: int, px: F64) -> float:
    """Write P x to `px` (n,) and return x'Px, the user's share of a prediction's variance.

    x begins with the weights that every item has.
    """
    first = min(
        count, n
    )  # weights 0 to first - 1 have an entry each, so their part is read row by row, as it is stored
    while first > 0 and at[first - 1] != first - 1:
        first -= 1
    start = n
    for i in range(first):
        row, a, b = user[start : start + i + 1], 0.0, 0.0
        for j in range(i):
            px[j] += x[i] * np.float64(row[j])
        for j in range(0, i - 1, 2):
            a += x[j] * np.float64(row[j])
            b += x[j + 1] * np.float64(row[j + 1])
        if i % 2 == 1:
            a += x[i - 1] * np.float64(row[i - 1])
        px[i] = (a + b) + x[i] * np.float64(row[i])
        start += i + 1
    whole = first - first % 4
    for i in range(first, n):
        row = user[start : start + first]
        start += i + 1
        if whole > 0 and row[0] == 0.0 and row[first - 1] == 0.0:  # a category that the user has never met
            px[i] = 0.0
            continue
        a = b = c = d = 0.0
        for j in range(0, whole, 4):
            a += x[j] * np.float64(row[j])
            b += x[j + 1] * np.float64(row[j + 1])
            c += x[j + 2] * np.float64(row[j + 2])
            d += x[j + 3] * np.float64(row[j + 3])
        for j in range(whole, first):
            a += x[j] * np.float64(row[j])
        px[i] = (a + b) + (c + d)
    for s in range(first, count):
        j, value = at[s], x[s]
        start = n + (j * (j + 1) >> 1)
        row, column, place = user[start : start + j], user[start + j :], 0
        for i in range(len(row)):
            px[i] += value * np.float64(row[i])
        for i in range(j, n):
            px[i] += value * np.float64(column[place])
            place += i + 1
    total = 0.0
    for s in range(count):
        total += x[s] * px[at[s]]
    return 0.0 if total < 0.0 else total  # NaN stays NaN
