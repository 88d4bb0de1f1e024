"""The rows of the Bayesian hybrid as its kernels read them; the model stands in bayesian_hybrid.py.

Rows, in deviations of the ratings: a user's is [w (n,), the lower triangle of P row after row (n (n + 1) / 2,), surprise,
time, time, events], with w = [bias, session, consensus, popularity, p (dim,), category weights (categories,)]; an item's
is [q (dim,), its variances (dim,), b, its variance, events]; the stream's is [events, mu, squares, refused, consensus,
popularity, beta (known,), Gamma (known, dim), events of categories (known,)], `known` being all categories that there can
be; that of a group of users is [users, what their bias, p and category weights begin with more (1 + dim + categories,)].
What is known of items of the very same categories is [items, sum of b, sum of q (dim,)], in the row of the eldest of them.
An item's categories are the bits of its words. Those without a weight of the user's own are known by beta and Gamma alone.

x is kept as its entries that may differ from 0: entry s of `x` belongs to weight `at[s]`. What a user never met has
covariances of exactly 0 and is left out.
"""

from typing import NamedTuple

import numpy as np

from streamer.core.arrays import F64, I32, U64, Array
from streamer.core.kernel import kernel

BIAS, SESSION, CONSENSUS, POPULARITY, FIXED = 0, 1, 2, 3, 4  # weights; FIXED: how many before p
EVENTS, MU, SQUARES, REFUSED, AGREEING, POPULAR, LEARNED = range(7)  # columns of the stream; LEARNED: where beta begins
WORD = 4194304.0  # a time in ms as two numbers that float32 holds exactly
LATEST = 2.0**45  # ms, the year 3084: later times, and those as long before 1970, count as this one
SMALLEST = 1e-9  # variance that a weight keeps, whatever rounding took


class Model(NamedTuple):
    """The constants, as kernels take them; see bayesian_hybrid.py for what they are."""

    dim: int
    categories: int
    known: int  # categories with beta and Gamma: CATEGORIES, or 0 where none are used
    noise: float
    habit_events: float
    session: float
    fade: float  # of the session bias, an event
    gap_ms: float
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


@kernel
def deviation(stream: F64) -> float:
    """sigma of the ratings so far, 0 while all were alike."""
    return float(np.sqrt(stream[0, SQUARES] / max(stream[0, EVENTS], 1.0)))


@kernel
def continues(user: Array, time_ms: float, model: Model) -> bool:
    """Whether an event of this time is of the user's last session; a step backwards is."""
    high = len(user) - 3
    since = time_ms - (np.float64(user[high]) * WORD + np.float64(user[high + 1]))
    return bool(user[high + 2] > 0 and since <= model.gap_ms)


@kernel
def place(item: Array, row: int, alike: Array, sets: I32, representatives: I32, model: Model, bed: Array) -> int:
    """An item's row into `bed`, one without ratings moved to where items of the very same categories are; the row of their eldest, -1: none."""
    for j in range(len(bed)):
        bed[j] = item[j]
    dim, representative = model.dim, -1
    if 0 <= row < len(sets) and sets[row, 0] >= 0:
        representative = representatives[sets[row, 0]]
    if not 0 <= representative < len(alike):
        return -1
    if item[2 * dim + 2] == 0:
        count = model.alike_items + np.float64(alike[representative, 0])
        for j in range(dim + 1):
            mean = np.float64(alike[representative, 1 + j]) / count
            if np.isfinite(mean):
                bed[2 * dim if j == 0 else j - 1] += mean
    return representative


@kernel
def look(item: Array, words: U64, row: int, stream: F64, model: Model, x: F64, at: I32) -> tuple[int, int]:
    """The item as its users' weights see it: x and at, how many entries they have, and how many with the categories without a weight."""
    dim, first = model.dim, FIXED + model.dim
    count = total = first
    for half in range(words.shape[1] if 0 <= row < len(words) else 0):
        rest, number = words[row, half], 64 * half
        while rest != np.uint64(0) and number < model.known:
            if rest & np.uint64(1):
                at[total] = first + number
                total += 1
                count = total if number < model.categories else count
            rest >>= np.uint64(1)
            number += 1
    g = 1.0 / np.sqrt(max(total - first, 1))
    base = np.float64(item[2 * dim])
    for j in range(dim):
        x[FIXED + j] = np.float64(item[j])
    for s in range(first, total):
        x[s] = g
        number = at[s] - first
        base += g * stream[0, LEARNED + number]
        place = LEARNED + model.known + number * dim
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
def ponder(number: int, stream: F64, model: Model, x: F64, at: I32) -> int:
    """An item that is nothing but of this category, as `look` sees items, without what all think of it; how many entries."""
    place = LEARNED + model.known + number * model.dim
    for j in range(model.dim):
        x[j], at[j] = stream[0, place + j], FIXED + j
    if number >= model.categories:
        return model.dim
    x[model.dim], at[model.dim] = 1.0, FIXED + model.dim + number
    return model.dim + 1


@kernel
def vagueness(number: int, model: Model) -> float:
    """r, the variance of a stated preference: where users have no weight it says as little as one rating."""
    return model.preference_noise if number < model.categories else model.noise


@kernel
def stance(value: float, stream: F64, model: Model) -> float:
    """A stated preference in deviations of the ratings; what is off their scale counts by its logarithm, as it means no more than that."""
    z = (value - stream[0, MU]) / deviation(stream)
    if abs(z) > model.clip:
        z = np.sign(z) * model.clip * (1.0 + np.log(abs(z) / model.clip))
    return float(z)


@kernel
def spread(user: Array, n: int, x: F64, at: I32, count: int, px: F64) -> float:
    """P x into px (n,); x'Px, the variance of the user's part of an answer. x begins with the weights that every item has, in their order."""
    first = min(count, n)  # weights 0 to first - 1 have an entry each: their part is read row by row, as it lies
    while first > 0 and at[first - 1] != first - 1:
        first -= 1
    start = n
    for i in range(first):
        row, total = user[start : start + i + 1], 0.0
        for j in range(i):
            total += x[j] * np.float64(row[j])
            px[j] += x[i] * np.float64(row[j])
        px[i] = total + x[i] * np.float64(row[i])
        start += i + 1
    whole = first - first % 4
    for i in range(first, n):
        row = user[start : start + first]
        a = b = c = d = 0.0
        for j in range(0, whole, 4):
            a += x[j] * np.float64(row[j])
            b += x[j + 1] * np.float64(row[j + 1])
            c += x[j + 2] * np.float64(row[j + 2])
            d += x[j + 3] * np.float64(row[j + 3])
        for j in range(whole, first):
            a += x[j] * np.float64(row[j])
        px[i] = (a + b) + (c + d)
        start += i + 1
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
    return 0.0 if total < 0.0 else total  # NaN stays what it is
