"""The kernels with which the Bayesian hybrid answers about one user; the rows stand in bayesian_hybrid_rows.py.

The user's row is a copy that was begun: one without events has the weights that a new user begins with.
"""

import numpy as np

from streamer.core.arrays import F32, F64, I32, U64, Array
from streamer.core.batch import CATEGORIES
from streamer.core.kernel import kernel
from streamer.models.hybrid.kernel import doubt, expected, let_pass, move_user, noise_of
from streamer.models.hybrid.rows import (
    BIAS,
    CONSENSUS,
    FIXED,
    LEARNED,
    MU,
    POPULARITY,
    SESSION,
    Model,
    deviation,
    look,
    place,
    ponder,
    spread,
    stance,
    vagueness,
)


@kernel
def score_hybrid(
    user: Array,
    item: Array,
    stream: F64,
    alike: Array,
    words: U64,
    sets: I32,
    representatives: I32,
    items: I32,
    nothing: Array,
    model: Model,
    out: F32,
) -> None:
    """What a user would rate `items`, within the last session, into `out` (n,): all of w but q is summed up beforehand."""
    dim, first = model.dim, FIXED + model.dim
    fade = model.fade if user[len(user) - 1] > 0 else 0.0
    consensus, popularity = 1.0 + np.float64(user[CONSENSUS]), np.float64(user[POPULARITY])
    own = np.float64(user[BIAS]) + fade * np.float64(user[SESSION])
    liking = np.empty(model.known)
    for number in range(model.known):
        liking[number] = consensus * stream[0, LEARNED + number]
        if number < model.categories:
            liking[number] += np.float64(user[first + number])
        row = LEARNED + model.known + number * dim
        for j in range(dim):
            liking[number] += np.float64(user[FIXED + j]) * stream[0, row + j]
    mu, sigma = stream[0, MU], deviation(stream)
    bed = np.empty(item.shape[1], item.dtype)
    for k in range(len(items)):
        i = item[items[k]] if 0 <= items[k] < len(item) else nothing
        if i[2 * dim + 2] == 0:
            place(i, items[k], alike, sets, representatives, model, bed)
            i = bed
        total, count = 0.0, 0
        for half in range(words.shape[1] if 0 <= items[k] < len(words) else 0):
            rest, number = words[items[k], half], 64 * half
            while rest != np.uint64(0) and number < model.known:
                if rest & np.uint64(1):
                    total += liking[number]
                    count += 1
                rest >>= np.uint64(1)
                number += 1
        z = own + consensus * np.float64(i[2 * dim]) + total / np.sqrt(max(count, 1))
        z += popularity * (0.25 * np.log(1.0 + np.float64(i[2 * dim + 2])) - 0.7)
        for j in range(dim):
            z += np.float64(user[FIXED + j]) * np.float64(i[j])
        out[k] = mu + sigma * z


@kernel
def doubt_hybrid(
    user: Array,
    item: Array,
    stream: F64,
    alike: Array,
    words: U64,
    sets: I32,
    representatives: I32,
    items: I32,
    nothing: Array,
    model: Model,
    out: F32,
) -> None:
    """The standard deviation of what `score_hybrid` answers, into `out` (n,)."""
    n, most = FIXED + model.dim + model.categories, FIXED + model.dim + CATEGORIES
    x, px, at = np.zeros(most), np.zeros(n), np.zeros(most, dtype=np.int32)
    sigma, i = deviation(stream), np.empty(item.shape[1], item.dtype)
    for k in range(len(items)):
        place(
            item[items[k]] if 0 <= items[k] < len(item) else nothing, items[k], alike, sets, representatives, model, i
        )
        count, _ = look(i, words, items[k], stream, model, x, at)
        out[k] = sigma * np.sqrt(spread(user, n, x, at, count, px) + doubt(user, i, model))


@kernel
def condition_hybrid(
    user: Array,
    item: Array,
    stream: F64,
    alike: Array,
    words: U64,
    sets: I32,
    representatives: I32,
    numbers: I32,
    liked: F64,
    items: I32,
    values: F64,
    nothing: Array,
    model: Model,
) -> None:
    """Move a user's row and nothing else: by what is said of categories, then by ratings of items as of one session."""
    n, most, sigma = FIXED + model.dim + model.categories, FIXED + model.dim + CATEGORIES, deviation(stream)
    if sigma == 0.0:
        return
    x, px, at = np.zeros(most), np.zeros(n), np.zeros(most, dtype=np.int32)
    for k in range(len(numbers)):
        count = ponder(numbers[k], stream, model, x, at)
        s = vagueness(numbers[k], model) + spread(user, n, x, at, count, px)
        error = stance(liked[k], stream, model) - stream[0, LEARNED + numbers[k]]
        for e in range(count):
            error -= x[e] * np.float64(user[at[e]])
        move_user(user, n, error, s, px)
    i = np.empty(item.shape[1], item.dtype)
    for k in range(len(items)):
        fade = model.fade if user[len(user) - 1] > 0 else 0.0
        place(
            item[items[k]] if 0 <= items[k] < len(item) else nothing, items[k], alike, sets, representatives, model, i
        )
        count, _ = look(i, words, items[k], stream, model, x, at)
        error = (values[k] - stream[0, MU]) / sigma - expected(user, stream, fade, x, at, count)
        let_pass(user, stream, fade, model)
        s = noise_of(user, model) + spread(user, n, x, at, count, px) + doubt(user, i, model)
        move_user(user, n, min(max(error, -model.clip), model.clip), s, px)
        user[len(user) - 1] += 1.0
