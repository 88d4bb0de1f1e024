"""The kernels of the Bayesian hybrid; the model stands in bayesian_hybrid.py.

Rows, in deviations of the ratings: a user's is [w (n,), the lower triangle of P row after row (n (n + 1) / 2,), surprise,
time, time, events], with w = [bias, session, consensus, popularity, p (dim,), category weights (categories,)]; an item's
is [q (dim,), its variances (dim,), b, its variance, events]; the stream's is [events, mu, squares, refused, consensus,
popularity, beta (categories,), Gamma (categories, dim), events of categories]. An item's categories are the bits of one word.

x is kept as its entries that may differ from 0: entry s of `x` belongs to weight `at[s]`. What a user never met has
covariances of exactly 0 and is left out.
"""

from typing import NamedTuple

import numpy as np

from streamer.arrays import F32, F64, I32, I64, U8, U64, Array
from streamer.batch import RATING
from streamer.kernel import kernel

BIAS, SESSION, CONSENSUS, POPULARITY, FIXED = 0, 1, 2, 3, 4  # weights; FIXED: how many before p
EVENTS, MU, SQUARES, REFUSED, AGREEING, POPULAR, LEARNED = range(7)  # columns of the stream; LEARNED: where beta begins
WORD = 4194304.0  # a time in ms as two numbers that float32 holds exactly
LATEST = 2.0**45  # ms, the year 3084: later times, and those as long before 1970, count as this one
SMALLEST = 1e-9  # variance that a weight keeps, whatever rounding took


class Model(NamedTuple):
    """The constants, as kernels take them; see bayesian_hybrid.py for what they are."""

    dim: int
    categories: int
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
    clip: float


@kernel
def deviation(stream: F64) -> float:
    """sigma of the ratings so far, 0 while all were alike."""
    return float(np.sqrt(stream[0, SQUARES] / max(stream[0, EVENTS], 1.0)))


@kernel
def word_of(words: U64, row: int) -> np.uint64:
    """The categories of an item row; none for a row that nothing is said of."""
    return words[row, 0] if 0 <= row < len(words) else np.uint64(0)


@kernel
def continues(user: Array, time_ms: float, model: Model) -> bool:
    """Whether an event of this time is of the user's last session; a step backwards is."""
    high = len(user) - 3
    since = time_ms - (np.float64(user[high]) * WORD + np.float64(user[high + 1]))
    return bool(user[high + 2] > 0 and since <= model.gap_ms)


@kernel
def look(item: Array, word: np.uint64, stream: F64, model: Model, x: F64, at: I32) -> int:
    """The item as its users' weights see it: x and at, and how many entries they have."""
    dim, first = model.dim, FIXED + model.dim
    count, rest, number = first, word, 0
    while rest != np.uint64(0) and number < model.categories:
        if rest & np.uint64(1):
            at[count] = first + number
            count += 1
        rest >>= np.uint64(1)
        number += 1
    g = 1.0 / np.sqrt(max(count - first, 1))
    base = np.float64(item[2 * dim])
    for j in range(dim):
        x[FIXED + j] = np.float64(item[j])
    for s in range(first, count):
        x[s] = g
        number = at[s] - first
        base += g * stream[0, LEARNED + number]
        row = LEARNED + model.categories + number * dim
        for j in range(dim):
            x[FIXED + j] += g * stream[0, row + j]
    x[BIAS] = x[SESSION] = 1.0
    x[CONSENSUS] = base
    x[POPULARITY] = 0.25 * np.log(1.0 + np.float64(item[2 * dim + 2])) - 0.7
    for j in range(first):
        at[j] = j
    return count


@kernel
def expected(user: Array, stream: F64, fade: float, x: F64, at: I32, count: int) -> float:
    """The rating around mu, in deviations; `fade` is what is left of the session bias."""
    new = user[len(user) - 1] == 0
    consensus = stream[0, AGREEING] if new else np.float64(user[CONSENSUS])
    popularity = stream[0, POPULAR] if new else np.float64(user[POPULARITY])
    z = x[CONSENSUS] + np.float64(user[BIAS]) + fade * np.float64(user[SESSION])
    z += x[CONSENSUS] * consensus + x[POPULARITY] * popularity
    for s in range(FIXED, count):
        z += x[s] * np.float64(user[at[s]])
    return float(z)


@kernel
def let_pass(user: Array, stream: F64, fade: float, model: Model) -> None:
    """What the time since the user's last event does to w and P: a session that fades, tastes that walk."""
    dim, n = model.dim, FIXED + model.dim + model.categories
    if user[len(user) - 1] == 0:
        user[CONSENSUS], user[POPULARITY] = stream[0, AGREEING], stream[0, POPULAR]
    user[SESSION] = fade * np.float64(user[SESSION])
    user[n] += model.bias_process
    start = n + 1  # of row i
    for i in range(1, n):
        if i == SESSION:
            user[start] = fade * np.float64(user[start])
            user[start + 1] = fade * fade * np.float64(user[start + 1]) + (1.0 - fade * fade) * model.session
        else:
            user[start + SESSION] = fade * np.float64(user[start + SESSION])
        if i == CONSENSUS:
            user[start + i] += model.consensus_process
        if FIXED <= i < FIXED + dim:
            user[start + i] += model.latent_process
        start += i + 1


@kernel
def spread(user: Array, n: int, x: F64, at: I32, count: int, px: F64) -> float:
    """P x into px (n,); x'Px, the variance of the user's part of an answer."""
    for i in range(n):
        px[i] = 0.0
    for s in range(count):
        j, value = at[s], x[s]
        start = n + (j * (j + 1) >> 1)
        for i in range(j):
            px[i] += value * np.float64(user[start + i])
        place = start + j
        for i in range(j, n):
            px[i] += value * np.float64(user[place])
            place += i + 1
    total = 0.0
    for s in range(count):
        total += x[s] * px[at[s]]
    return 0.0 if total < 0.0 else total  # NaN stays what it is


@kernel
def noise_of(user: Array, model: Model) -> float:
    """R of this user: more for those whose ratings surprised more than they should have."""
    surprise, events = np.float64(user[len(user) - 4]), np.float64(user[len(user) - 1])
    return float(model.noise * (model.habit_events + surprise) / (model.habit_events + events))


@kernel
def doubt(user: Array, item: Array, model: Model) -> float:
    """The variance of the item's part of an answer."""
    dim, c = model.dim, 1.0 + np.float64(user[CONSENSUS])
    total = c * c * (np.float64(item[2 * dim + 1]) + model.item_process)
    for j in range(dim):
        p = np.float64(user[FIXED + j])
        total += p * p * np.float64(item[dim + j])
    return total


@kernel
def move_item(user: Array, item: Array, model: Model, error: float, s: float) -> None:
    """What an error of variance `s` says of the item, by w as it was before the error."""
    dim, c = model.dim, 1.0 + np.float64(user[CONSENSUS])
    variance = np.float64(item[2 * dim + 1]) + model.item_process
    item[2 * dim] += variance * c * error / s
    item[2 * dim + 1] = variance - variance * c * variance * c / s
    for j in range(dim):
        variance = np.float64(item[dim + j])
        move = variance * np.float64(user[FIXED + j])
        item[j] += move * error / s
        item[dim + j] = variance - move * move / s
    item[2 * dim + 2] += 1.0


@kernel
def move_stream(user: Array, stream: F64, model: Model, error: float, x: F64, at: I32, count: int) -> None:
    """A small step of what all users and items share, by w as it was before the error."""
    dim, first, c = model.dim, FIXED + model.dim, 1.0 + np.float64(user[CONSENSUS])
    stream[0, AGREEING] += model.consensus_rate * error * x[CONSENSUS]
    stream[0, POPULAR] += model.popularity_rate * error * x[POPULARITY]
    for s in range(first, count):
        number = at[s] - first
        met = LEARNED + model.categories * (1 + dim) + number
        rate = max(model.category_rate, 1.0 / (stream[0, met] + model.category_events))
        stream[0, met] += 1.0
        stream[0, LEARNED + number] += rate * error * c * x[s]
        row = LEARNED + model.categories + number * dim
        for j in range(dim):
            slope = error * np.float64(user[FIXED + j]) * x[s]
            stream[0, row + j] += model.vector_rate * slope - model.vector_decay * stream[0, row + j]


@kernel
def move_user(user: Array, n: int, error: float, s: float, px: F64) -> None:
    """What an error of variance `s` says of the user."""
    start = n
    for i in range(n):
        if px[i] != 0.0:
            step = px[i] / s
            user[i] += step * error
            for j in range(i + 1):
                user[start + j] -= step * px[j]
            if user[start + i] < SMALLEST:
                user[start + i] = SMALLEST
        start += i + 1


@kernel
def note_time(user: Array, time_ms: float) -> None:
    """One more event; the time is that of the latest."""
    high = len(user) - 3
    last = np.float64(user[high]) * WORD + np.float64(user[high + 1])
    if user[high + 2] == 0 or time_ms > last:
        user[high] = np.floor(time_ms / WORD)
        user[high + 1] = time_ms - np.floor(time_ms / WORD) * WORD
    user[high + 2] += 1.0


@kernel
def learn_hybrid(
    user: Array,
    user_touched: U8,
    item: Array,
    item_touched: U8,
    stream: F64,
    stream_touched: U8,
    words: U64,
    kinds: U8,
    users: I32,
    items: I32,
    values: F32,
    times_ms: I64,
    model: Model,
    out: F32,
) -> None:
    """Predict, then move, event by event; `words` is (item rows, 1)."""
    n = FIXED + model.dim + model.categories
    x, px, at = np.zeros(n), np.zeros(n), np.zeros(n, dtype=np.int32)
    for k in range(len(kinds)):
        out[k] = np.nan
        if kinds[k] != RATING:
            continue
        u, i, y, mu, sigma = user[users[k]], item[items[k]], np.float64(values[k]), stream[0, MU], deviation(stream)
        time_ms = min(max(np.float64(times_ms[k]), -LATEST), LATEST)
        fade = model.fade if continues(u, time_ms, model) else 0.0
        count = look(i, word_of(words, items[k]), stream, model, x, at)
        predicted = mu + sigma * expected(u, stream, fade, x, at, count)
        out[k] = predicted
        stream_touched[0] = 1
        if not np.isfinite(y + predicted):
            stream[0, REFUSED] += 1.0
            continue
        let_pass(u, stream, fade, model)
        user_touched[users[k]] = 1
        noise = noise_of(u, model)
        s = noise + spread(u, n, x, at, count, px) + doubt(u, i, model)
        if not np.isfinite(s):  # a variance is not: time has passed for the user, and nothing else
            stream[0, REFUSED] += 1.0
            continue
        stream[0, EVENTS] += 1.0
        stream[0, MU] += (y - mu) / stream[0, EVENTS]
        stream[0, SQUARES] += (y - mu) * (y - stream[0, MU])
        error = 0.0  # while all ratings were alike there is nothing to measure an error by
        if sigma > 0.0:
            error = min(max((y - predicted) / sigma, -model.clip), model.clip)
        u[len(u) - 4] += noise / model.noise * error * error / s
        move_item(u, i, model, error, s)
        move_stream(u, stream, model, error, x, at, count)
        move_user(u, n, error, s, px)
        note_time(u, time_ms)
        item_touched[items[k]] = 1


@kernel
def predict_hybrid(
    user: Array,
    item: Array,
    stream: F64,
    words: U64,
    users: I32,
    items: I32,
    times_ms: I64,
    nobody: Array,
    nothing: Array,
    model: Model,
    out: F32,
) -> None:
    """Predictions for pairs of rows into `out` (n,); a row outside its table is `nobody` or `nothing`."""
    n = FIXED + model.dim + model.categories
    x, at = np.zeros(n), np.zeros(n, dtype=np.int32)
    for k in range(len(items)):
        u = user[users[k]] if 0 <= users[k] < len(user) else nobody
        i = item[items[k]] if 0 <= items[k] < len(item) else nothing
        time_ms = min(max(np.float64(times_ms[k]), -LATEST), LATEST)
        fade = model.fade if continues(u, time_ms, model) else 0.0
        count = look(i, word_of(words, items[k]), stream, model, x, at)
        out[k] = stream[0, MU] + deviation(stream) * expected(u, stream, fade, x, at, count)
