"""The kernels that score, condition and estimate uncertainty for one user of the Bayesian hybrid; rows.py describes the rows.

The user's row is a copy. One without events already holds the weights that a new user starts with.
"""

import numpy as np

from streamer.core.arrays import F32, F64, I32, U64, Array
from streamer.core.batch import CATEGORIES
from streamer.core.kernel import kernel
from streamer.models.hybrid.calibration import OWN, calibrated, calibration_of
from streamer.models.hybrid.kernel import advance_time, expected, item_variance, move_user, noise_of
from streamer.models.hybrid.rows import (
    BETA,
    BIAS,
    CONSENSUS,
    FIXED,
    MU,
    POPULARITY,
    SESSION,
    Model,
    deviation,
    effective_item,
    look_at_category,
    look_at_item,
    lowest_bit,
    preference_deviations,
    preference_variance,
    user_variance,
)
from streamer.models.hybrid.spread import WIDTH, variance_of


@kernel
def score_hybrid(
    user: Array,
    item: Array,
    stream: F64,
    set_sums: Array,
    category_words: U64,
    sets: I32,
    representatives: I32,
    calibration: F64,
    items: I32,
    new_item: Array,
    model: Model,
    out: F32,
) -> None:
    """Predict a user's ratings of `items` within the last session, into `out` (n,).

    Categories are summed up once for all items.
    """
    dim, first = model.dim, FIXED + model.dim
    fade = model.fade if user[len(user) - 1] > 0 else 0.0
    consensus, popularity = 1.0 + np.float64(user[CONSENSUS]), np.float64(user[POPULARITY])
    own = np.float64(user[BIAS]) + fade * np.float64(user[SESSION])
    category_scores = np.empty(model.known)
    for number in range(model.known):
        category_scores[number] = consensus * stream[0, BETA + number]
        if number < model.categories:
            category_scores[number] += np.float64(user[first + number])
        row = BETA + model.known + number * dim
        for j in range(dim):
            category_scores[number] += np.float64(user[FIXED + j]) * stream[0, row + j]
    mu, sigma = stream[0, MU], deviation(stream)
    effective, own_calibration = np.empty(item.shape[1], item.dtype), np.empty(OWN)
    calibration_of(user, fade, calibration, model, own_calibration)
    for k in range(len(items)):
        i = item[items[k]] if 0 <= items[k] < len(item) else new_item
        if i[2 * dim + 2] == 0:
            effective_item(i, items[k], set_sums, sets, representatives, model, effective)
            i = effective
        total, base, count = 0.0, 0.0, 0
        for word in range(category_words.shape[1] if 0 <= items[k] < len(category_words) else 0):
            rest = category_words[items[k], word]
            number = 64 * word + lowest_bit(rest)
            while rest != np.uint64(0) and number < model.known:
                total += category_scores[number]
                base += stream[0, BETA + number]
                count += 1
                rest &= rest - np.uint64(1)
                number = 64 * word + lowest_bit(rest)
        z = own + consensus * np.float64(i[2 * dim]) + total / np.sqrt(max(count, 1))
        base = np.float64(i[2 * dim]) + base / np.sqrt(max(count, 1))
        z += popularity * (0.25 * np.log(1.0 + np.float64(i[2 * dim + 2])) - 0.7)
        for j in range(dim):
            z += np.float64(user[FIXED + j]) * np.float64(i[j])
        out[k] = mu + sigma * calibrated(own_calibration, z, base, model)


@kernel
def uncertainty_hybrid(
    user: Array,
    item: Array,
    stream: F64,
    set_sums: Array,
    category_words: U64,
    sets: I32,
    representatives: I32,
    items: I32,
    new_item: Array,
    model: Model,
    out: F32,
) -> None:
    """Write the standard deviations of the predictions of `score_hybrid` to `out` (n,)."""
    n, most = FIXED + model.dim + model.categories, FIXED + model.dim + CATEGORIES
    x, px, at = np.zeros(most), np.zeros(n), np.zeros(most, dtype=np.int32)
    sigma, i = deviation(stream), np.empty(item.shape[1], item.dtype)
    for k in range(len(items)):
        effective_item(
            item[items[k]] if 0 <= items[k] < len(item) else new_item,
            items[k],
            set_sums,
            sets,
            representatives,
            model,
            i,
        )
        count, _ = look_at_item(i, category_words, items[k], stream, model, x, at)
        out[k] = sigma * np.sqrt(user_variance(user, n, x, at, count, px) + item_variance(user, i, model))


@kernel
def half_widths_hybrid(
    user: Array,
    item: Array,
    stream: F64,
    set_sums: Array,
    category_words: U64,
    sets: I32,
    representatives: I32,
    calibration: F64,
    fade: float,
    items: I32,
    new_item: Array,
    model: Model,
    out: F32,
) -> None:
    """Write half the widths of the 80% intervals of ratings of `items`, noise included, to `out` (n,).

    `user` is overwritten; `fade`: the share of the session's bias that is left.
    """
    n, most = FIXED + model.dim + model.categories, FIXED + model.dim + CATEGORIES
    x, px, at = np.zeros(most), np.zeros(n), np.zeros(most, dtype=np.int32)
    i, own = np.empty(item.shape[1], item.dtype), np.empty(OWN)
    calibration_of(user, fade, calibration, model, own)
    advance_time(user, stream, fade, model)
    for k in range(len(items)):
        known = item[items[k]] if 0 <= items[k] < len(item) else new_item
        effective_item(known, items[k], set_sums, sets, representatives, model, i)
        count, _ = look_at_item(i, category_words, items[k], stream, model, x, at)
        z = calibrated(own, expected(user, stream, 1.0, x, at, count), x[CONSENSUS], model)
        s = noise_of(user, model) + user_variance(user, n, x, at, count, px) + item_variance(user, i, model)
        out[k] = deviation(stream) * calibration[0, WIDTH] * np.sqrt(variance_of(z, s, calibration, model))


@kernel
def condition_hybrid(
    user: Array,
    item: Array,
    stream: F64,
    set_sums: Array,
    category_words: U64,
    sets: I32,
    representatives: I32,
    numbers: I32,
    stated_ratings: F64,
    items: I32,
    values: F64,
    new_item: Array,
    model: Model,
) -> None:
    """Update a user's row, and nothing else: first with stated preferences, then with ratings of items as in one session."""
    n, most, sigma = FIXED + model.dim + model.categories, FIXED + model.dim + CATEGORIES, deviation(stream)
    if sigma == 0.0:
        return
    x, px, at = np.zeros(most), np.zeros(n), np.zeros(most, dtype=np.int32)
    narrow = np.empty(n + 1, user.dtype)
    for k in range(len(numbers)):
        count = look_at_category(numbers[k], stream, model, x, at)
        s = preference_variance(numbers[k], model) + user_variance(user, n, x, at, count, px)
        error = preference_deviations(stated_ratings[k], stream, model) - stream[0, BETA + numbers[k]]
        for e in range(count):
            error -= x[e] * np.float64(user[at[e]])
        move_user(user, n, error, s, px, narrow)
    i = np.empty(item.shape[1], item.dtype)
    for k in range(len(items)):
        fade = model.fade if user[len(user) - 1] > 0 else 0.0
        effective_item(
            item[items[k]] if 0 <= items[k] < len(item) else new_item,
            items[k],
            set_sums,
            sets,
            representatives,
            model,
            i,
        )
        count, _ = look_at_item(i, category_words, items[k], stream, model, x, at)
        error = (values[k] - stream[0, MU]) / sigma - expected(user, stream, fade, x, at, count)
        advance_time(user, stream, fade, model)
        s = noise_of(user, model) + user_variance(user, n, x, at, count, px) + item_variance(user, i, model)
        move_user(user, n, min(max(error, -model.clip), model.clip), s, px, narrow)
        user[len(user) - 1] += 1.0
