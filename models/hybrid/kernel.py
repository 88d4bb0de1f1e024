"""The kernels with which the Bayesian hybrid learns and predicts; rows.py describes the rows."""

import numpy as np

from streamer.core.arrays import F32, F64, I32, I64, U8, U64, Array
from streamer.core.batch import CATEGORIES, RATING, REPLACED
from streamer.core.kernel import kernel
from streamer.models.hybrid.calibration import INPUTS, OWN, calibrated, calibration_of, learn_calibration
from streamer.models.hybrid.profile import apply_profile, move_groups, start_in_groups, variance_removed
from streamer.models.hybrid.rows import (
    BETA,
    BIAS,
    CONSENSUS,
    EVENTS,
    FIXED,
    LATEST,
    MU,
    POPULARITY,
    REFUSED,
    SESSION,
    SMALLEST,
    SQUARES,
    START_CONSENSUS,
    START_POPULARITY,
    TIME_WORD,
    Model,
    deviation,
    effective_item,
    look_at_item,
    session_left,
    start_share,
    user_variance,
)
from streamer.models.hybrid.spread import learn_spread
from streamer.models.hybrid.take_back import take_back


@kernel
def expected(user: Array, stream: F64, fade: float, x: F64, at: I32, count: int) -> float:
    """The predicted rating minus mu, in deviations; `fade` is the share of the session bias that is left."""
    new = user[len(user) - 1] == 0
    consensus = stream[0, START_CONSENSUS] if new else np.float64(user[CONSENSUS])
    popularity = stream[0, START_POPULARITY] if new else np.float64(user[POPULARITY])
    z = x[CONSENSUS] + np.float64(user[BIAS]) + fade * np.float64(user[SESSION])
    z += x[CONSENSUS] * consensus + x[POPULARITY] * popularity
    for s in range(FIXED, count):
        z += x[s] * np.float64(user[at[s]])
    return float(z)


@kernel
def advance_time(user: Array, stream: F64, fade: float, model: Model) -> None:
    """The filter's time update of w and P: the session fades, and tastes gain process noise."""
    dim, n = model.dim, FIXED + model.dim + model.categories
    if user[len(user) - 1] == 0:
        user[CONSENSUS], user[POPULARITY] = stream[0, START_CONSENSUS], stream[0, START_POPULARITY]
    user[SESSION] = fade * np.float64(user[SESSION])
    user[n] += model.bias_process
    user[n + 1] = fade * np.float64(user[n + 1])
    user[n + 2] = fade * fade * np.float64(user[n + 2]) + (1.0 - fade * fade) * model.session
    place = n + 3 + SESSION  # of the session's covariance with weight i
    for i in range(SESSION + 1, n):
        user[place] = fade * np.float64(user[place])
        place += i + 1
    user[n + CONSENSUS * (CONSENSUS + 3) // 2] += model.consensus_process
    for i in range(FIXED, FIXED + dim):
        user[n + i * (i + 3) // 2] += model.latent_process


@kernel
def begin_user(user: Array, n: int, model: Model) -> None:
    """Give the weights of a user without events their tuned variances."""
    for i in range(n):
        user[n + i * (i + 3) // 2] *= start_share(i, model)


@kernel
def noise_of(user: Array, model: Model) -> float:
    """R of this user: larger where past errors were larger than their predicted variance."""
    surprise, events = np.float64(user[len(user) - 4]), np.float64(user[len(user) - 1])
    return float(model.noise * (model.habit_events + surprise) / (model.habit_events + events))


@kernel
def item_variance(user: Array, item: Array, model: Model) -> float:
    """The item's share of a prediction's variance."""
    dim, c = model.dim, 1.0 + np.float64(user[CONSENSUS])
    total = c * c * (np.float64(item[2 * dim + 1]) + model.item_process)
    for j in range(dim):
        p = np.float64(user[FIXED + j])
        total += p * p * np.float64(item[dim + j])
    return total


@kernel
def move_item(user: Array, item: Array, model: Model, error: float, s: float) -> None:
    """Update the item with an error of variance `s`, using w from before the user's own update."""
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
def move_stream(user: Array, stream: F64, model: Model, error: float, x: F64, at: I32, total: int) -> None:
    """A small step of the parameters that all users and items share, using w from before the user's own update."""
    dim, first, c = model.dim, FIXED + model.dim, 1.0 + np.float64(user[CONSENSUS])
    stream[0, START_CONSENSUS] += model.consensus_rate * error * x[CONSENSUS]
    stream[0, START_POPULARITY] += model.popularity_rate * error * x[POPULARITY]
    for s in range(first, total):
        number = at[s] - first
        counts_at = BETA + model.known * (1 + dim) + number
        rate = max(model.category_rate, 1.0 / (stream[0, counts_at] + model.category_events))
        stream[0, counts_at] += 1.0
        stream[0, BETA + number] += rate * error * c * x[s]
        row = BETA + model.known + number * dim
        # a category without a weight of its own starts in a random direction of its own, which must not decay
        decay = model.vector_decay if number < model.categories else 0.0
        p, gamma = user[FIXED : FIXED + dim], stream[0, row : row + dim]
        for j in range(dim):
            slope = error * np.float64(p[j]) * x[s]
            gamma[j] += model.vector_rate * slope - decay * gamma[j]


@kernel
def move_user(user: Array, n: int, error: float, s: float, px: F64, narrow: Array) -> None:
    """Update the user's w and P with an error of variance `s`; `narrow` (n + 1,), of the type of `user`, is overwritten.

    P, which is rounded to that type anyway, is moved in its arithmetic: float32's is twice as fast.
    """
    start, part = n, 1.0 / s
    for i in range(n):
        narrow[i] = px[i]
    for i in range(n):
        if px[i] != 0.0:
            user[i] += part * px[i] * error
            narrow[n] = part * px[i]
            step = narrow[n]
            row = user[start : start + i + 1]  # a slice: indices that may be negative keep loops from being vectorised
            for j in range(len(row)):
                row[j] -= step * narrow[j]
            if row[i] < SMALLEST:
                row[i] = SMALLEST
        start += i + 1


@kernel
def record_event(user: Array, time_ms: float) -> None:
    """Count one more event, and keep the latest time."""
    high = len(user) - 3
    last = np.float64(user[high]) * TIME_WORD + np.float64(user[high + 1])
    if user[high + 2] == 0 or time_ms > last:
        user[high] = np.floor(time_ms / TIME_WORD)
        user[high + 1] = time_ms - np.floor(time_ms / TIME_WORD) * TIME_WORD
    user[high + 2] += 1.0


@kernel
def move_set_sums(item: Array, effective: Array, set_sums: Array, dim: int) -> None:
    """Update a set's sums after one of its items has moved away from `effective`; an item counts from its first rating."""
    new = effective[2 * dim + 2] == 0
    if new:
        set_sums[0] += 1.0
    set_sums[1] += np.float64(item[2 * dim]) - (0.0 if new else np.float64(effective[2 * dim]))
    for j in range(dim):
        set_sums[2 + j] += np.float64(item[j]) - (0.0 if new else np.float64(effective[j]))


@kernel
def learn_hybrid(
    user: Array,
    user_touched: U8,
    item: Array,
    item_touched: U8,
    stream: F64,
    stream_touched: U8,
    calibration: F64,
    calibration_touched: U8,
    group_means: Array,
    group_means_touched: U8,
    set_sums: Array,
    set_sums_touched: U8,
    category_words: U64,
    sets: I32,
    representatives: I32,
    kinds: U8,
    users: I32,
    items: I32,
    values: F32,
    times_ms: I64,
    slots: I32,
    preferences: F32,
    groups: I32,
    probes: I32,
    earlier: F32,
    ages: I32,
    user_start: Array,
    item_start: Array,
    model: Model,
    out: F32,
    scores: F32,
) -> None:
    """Predict, then update, event by event.

    `category_words` to `representatives` come from `attach`, `slots` to `groups` from batch.Profiles, `probes` as in protocols.Probed,
    `earlier` and `ages` from batch.TakenBack.
    """
    n, most = FIXED + model.dim + model.categories, FIXED + model.dim + CATEGORIES
    x, px, at = np.zeros(most), np.zeros(n), np.zeros(most, dtype=np.int32)
    informed, gains, variances = np.empty(user.shape[1], user.dtype), np.empty((CATEGORIES, n)), np.empty(CATEGORIES)
    effective, nobody = np.empty(item.shape[1], item.dtype), np.full(1, -1, np.int32)
    own_calibration, inputs, narrow = np.empty(OWN), np.empty(INPUTS), np.empty(n + 1, user.dtype)
    for k in range(len(kinds)):
        out[k] = np.nan
        asked = probes.shape[1] if probes.shape[1] and probes[k, 0] >= 0 else 0
        learned = kinds[k] == RATING or kinds[k] == REPLACED
        time_ms = min(max(np.float64(times_ms[k]), -LATEST), LATEST)
        if k < len(earlier) and not np.isnan(earlier[k]):
            u, slot = user[users[k]], slots[users[k]] if users[k] < len(slots) else -1
            changed = take_back(
                u, user_start, item[items[k]], item_start, items[k], stream, calibration, group_means, groups[slot] if slot >= 0 else nobody,
                set_sums, sets, representatives, category_words, np.float64(earlier[k]), ages[k], time_ms, noise_of(u, model),
                model, x, at, px,
            )  # fmt: skip
            user_touched[users[k]] = item_touched[items[k]] = stream_touched[0] = calibration_touched[0] = 1
            if slot >= 0:
                group_means_touched[0] = 1
            if changed >= 0:
                set_sums_touched[changed] = 1
        if not learned and asked == 0:
            continue
        u, i, y, mu, sigma = user[users[k]], item[items[k]], np.float64(values[k]), stream[0, MU], deviation(stream)
        slot = slots[users[k]] if users[k] < len(slots) else -1
        v, stated = u, 0  # v: the row with the user's profile
        if slot >= 0:
            stated = apply_profile(
                u, preferences[slot], groups[slot], group_means, stream, model, informed, x, at, gains, variances
            )
            v = informed
        fade = model.fade if u[-1] > 0 else 0.0  # probes are scored within the session, as `score` does without a time
        if asked > 0:
            calibration_of(v, fade, calibration, model, own_calibration)
        for m in range(asked):
            scores[k, m] = np.nan
            if probes[k, m] >= 0:
                effective_item(item[probes[k, m]], probes[k, m], set_sums, sets, representatives, model, effective)
                count, total = look_at_item(effective, category_words, probes[k, m], stream, model, x, at)
                z = expected(v, stream, fade, x, at, count)
                scores[k, m] = mu + sigma * calibrated(own_calibration, z, x[CONSENSUS], model)
        if not learned:
            continue
        fade = session_left(u, time_ms, model)
        calibration_of(v, fade, calibration, model, own_calibration)
        representative = effective_item(i, items[k], set_sums, sets, representatives, model, effective)
        count, total = look_at_item(effective, category_words, items[k], stream, model, x, at)
        z = expected(v, stream, fade, x, at, count)
        z_calibrated = calibrated(own_calibration, z, x[CONSENSUS], model)
        predicted = mu + sigma * z  # by the filter, which learns from its own errors
        out[k] = mu + sigma * z_calibrated if kinds[k] == RATING else np.nan
        stream_touched[0] = 1
        if not np.isfinite(y + predicted):
            stream[0, REFUSED] += 1.0
            continue
        if u[-1] == 0:
            begin_user(u, n, model)
        advance_time(u, stream, fade, model)
        user_touched[users[k]] = 1
        noise = noise_of(u, model)
        own = user_variance(u, n, x, at, count, px)
        removed = variance_removed(fade, x, at, count, gains, variances, stated)
        s = noise + (0.0 if removed > own else own - removed) + item_variance(v, effective, model)
        if not np.isfinite(s):  # a variance is not finite: the user's row has had the time update and nothing more
            stream[0, REFUSED] += 1.0
            continue
        if sigma > 0.0 and kinds[k] == RATING:
            error = min(max((y - mu) / sigma - z_calibrated, -model.clip), model.clip)
            learn_spread(z_calibrated, s, error, calibration, model)
            learn_calibration(own_calibration, z, x[CONSENSUS], error, calibration, model, inputs)
            calibration_touched[0] = 1
        stream[0, EVENTS] += 1.0
        stream[0, MU] += (y - mu) / stream[0, EVENTS]
        stream[0, SQUARES] += (y - mu) * (y - stream[0, MU])
        sigma = sigma if sigma > 0.0 else deviation(stream)  # the first rating that differs sets the scale itself
        new = u[-1] == 0
        if new and slot >= 0:
            start_in_groups(u, groups[slot], group_means, model)
        error = 0.0  # while all ratings are equal there is no scale for an error
        if sigma > 0.0:
            error = min(max((y - predicted) / sigma, -model.clip), model.clip)
        u[-4] += noise / model.noise * error * error / s
        own_error, own_s = error, s  # of the row without the profile
        if stated > 0:
            own_s = noise + own + item_variance(u, effective, model)
            own_error = min(max((y - mu) / sigma - expected(u, stream, 1.0, x, at, count), -model.clip), model.clip)
        if i[2 * model.dim + 2] == 0:
            i[:] = effective
        move_item(v, i, model, error, s)
        if representative >= 0:
            move_set_sums(i, effective, set_sums[representative], model.dim)
            set_sums_touched[representative] = 1
        move_stream(v, stream, model, error, x, at, total)
        move_user(u, n, own_error, own_s, px, narrow)
        if slot >= 0 and groups[slot, 0] >= 0:
            move_groups(groups[slot], group_means, model, own_error / own_s, px, new)
            group_means_touched[0] = 1
        record_event(u, time_ms)
        item_touched[items[k]] = 1


@kernel
def predict_hybrid(
    user: Array,
    item: Array,
    stream: F64,
    calibration: F64,
    group_means: Array,
    set_sums: Array,
    category_words: U64,
    sets: I32,
    representatives: I32,
    users: I32,
    items: I32,
    times_ms: I64,
    slots: I32,
    preferences: F32,
    groups: I32,
    new_user: Array,
    new_item: Array,
    model: Model,
    out: F32,
) -> None:
    """Predictions for pairs of rows into `out` (n,); for rows outside the tables, `new_user` and `new_item` are used."""
    n, most = FIXED + model.dim + model.categories, FIXED + model.dim + CATEGORIES
    x, at = np.zeros(most), np.zeros(most, dtype=np.int32)
    informed, gains, variances = np.empty(user.shape[1], user.dtype), np.empty((CATEGORIES, n)), np.empty(CATEGORIES)
    effective, own_calibration = np.empty(item.shape[1], item.dtype), np.empty(OWN)
    for k in range(len(items)):
        u = user[users[k]] if 0 <= users[k] < len(user) else new_user
        i = item[items[k]] if 0 <= items[k] < len(item) else new_item
        slot = slots[users[k]] if 0 <= users[k] < len(slots) else -1
        v = u
        if slot >= 0:
            apply_profile(
                u, preferences[slot], groups[slot], group_means, stream, model, informed, x, at, gains, variances
            )
            v = informed
        time_ms = min(max(np.float64(times_ms[k]), -LATEST), LATEST)
        fade = session_left(u, time_ms, model)
        effective_item(i, items[k], set_sums, sets, representatives, model, effective)
        count, _ = look_at_item(effective, category_words, items[k], stream, model, x, at)
        calibration_of(v, fade, calibration, model, own_calibration)
        z = expected(v, stream, fade, x, at, count)
        z = calibrated(own_calibration, z, x[CONSENSUS], model)
        out[k] = stream[0, MU] + deviation(stream) * z
