"""The kernels with which the Bayesian hybrid learns; its rows stand in bayesian_hybrid_rows.py."""

import numpy as np

from streamer.core.arrays import F32, F64, I32, I64, U8, U64, Array
from streamer.core.batch import CATEGORIES, RATING
from streamer.core.kernel import kernel
from streamer.models.hybrid.profile import certainty, listen, move_groups, welcome
from streamer.models.hybrid.rows import (
    AGREEING,
    BIAS,
    CONSENSUS,
    EVENTS,
    FIXED,
    LATEST,
    LEARNED,
    MU,
    POPULAR,
    POPULARITY,
    REFUSED,
    SESSION,
    SMALLEST,
    SQUARES,
    WORD,
    Model,
    continues,
    deviation,
    look,
    place,
    spread,
)


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
def move_stream(user: Array, stream: F64, model: Model, error: float, x: F64, at: I32, total: int) -> None:
    """A small step of what all users and items share, by w as it was before the error."""
    dim, first, c = model.dim, FIXED + model.dim, 1.0 + np.float64(user[CONSENSUS])
    stream[0, AGREEING] += model.consensus_rate * error * x[CONSENSUS]
    stream[0, POPULAR] += model.popularity_rate * error * x[POPULARITY]
    for s in range(first, total):
        number = at[s] - first
        met = LEARNED + model.known * (1 + dim) + number
        rate = max(model.category_rate, 1.0 / (stream[0, met] + model.category_events))
        stream[0, met] += 1.0
        stream[0, LEARNED + number] += rate * error * c * x[s]
        row = LEARNED + model.known + number * dim
        decay = (
            model.vector_decay if number < model.categories else 0.0
        )  # these begin apart from one another, and stay so
        p, gamma = user[FIXED : FIXED + dim], stream[0, row : row + dim]
        for j in range(dim):
            slope = error * np.float64(p[j]) * x[s]
            gamma[j] += model.vector_rate * slope - decay * gamma[j]


@kernel
def move_user(user: Array, n: int, error: float, s: float, px: F64) -> None:
    """What an error of variance `s` says of the user."""
    start = n
    for i in range(n):
        if px[i] != 0.0:
            step = px[i] / s
            user[i] += step * error
            row = user[start : start + i + 1]  # a slice: indices that may be negative keep loops from being vectorised
            for j in range(len(row)):
                row[j] -= step * px[j]
            if row[i] < SMALLEST:
                row[i] = SMALLEST
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
def move_alike(item: Array, bed: Array, alike: Array, dim: int) -> None:
    """What the items of a set are known for, after one of them has moved away from `bed`; one without ratings was not among them."""
    new = bed[2 * dim + 2] == 0
    if new:
        alike[0] += 1.0
    alike[1] += np.float64(item[2 * dim]) - (0.0 if new else np.float64(bed[2 * dim]))
    for j in range(dim):
        alike[2 + j] += np.float64(item[j]) - (0.0 if new else np.float64(bed[j]))


@kernel
def learn_hybrid(
    user: Array,
    user_touched: U8,
    item: Array,
    item_touched: U8,
    stream: F64,
    stream_touched: U8,
    crowd: Array,
    crowd_touched: U8,
    alike: Array,
    alike_touched: U8,
    words: U64,
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
    model: Model,
    out: F32,
    scores: F32,
) -> None:
    """Predict, then move, event by event.

    `words` to `eldest` are what was attached, `slots` to `groups` are a batch.Profiles, probes as in protocols.Probed.
    """
    n, most = FIXED + model.dim + model.categories, FIXED + model.dim + CATEGORIES
    x, px, at = np.zeros(most), np.zeros(n), np.zeros(most, dtype=np.int32)
    mind, gains, doubts = np.empty(user.shape[1], user.dtype), np.empty((CATEGORIES, n)), np.empty(CATEGORIES)
    bed = np.empty(item.shape[1], item.dtype)
    for k in range(len(kinds)):
        out[k] = np.nan
        asked = probes.shape[1] if probes.shape[1] and probes[k, 0] >= 0 else 0
        if kinds[k] != RATING and asked == 0:
            continue
        u, i, y, mu, sigma = user[users[k]], item[items[k]], np.float64(values[k]), stream[0, MU], deviation(stream)
        slot = slots[users[k]] if users[k] < len(slots) else -1
        v, heard = u, 0  # v: what the user is taken to think
        if slot >= 0:
            heard = listen(u, preferences[slot], groups[slot], crowd, stream, model, mind, x, at, gains, doubts)
            v = mind
        for m in range(asked):
            scores[k, m] = np.nan
            if probes[k, m] >= 0:
                place(item[probes[k, m]], probes[k, m], alike, sets, representatives, model, bed)
                count, total = look(bed, words, probes[k, m], stream, model, x, at)
                # a session's bias is the same for all items
                scores[k, m] = mu + sigma * expected(v, stream, 0.0, x, at, count)
        if kinds[k] != RATING:
            continue
        time_ms = min(max(np.float64(times_ms[k]), -LATEST), LATEST)
        fade = model.fade if continues(u, time_ms, model) else 0.0
        representative = place(i, items[k], alike, sets, representatives, model, bed)
        count, total = look(bed, words, items[k], stream, model, x, at)
        predicted = mu + sigma * expected(v, stream, fade, x, at, count)
        out[k] = predicted
        stream_touched[0] = 1
        if not np.isfinite(y + predicted):
            stream[0, REFUSED] += 1.0
            continue
        let_pass(u, stream, fade, model)
        user_touched[users[k]] = 1
        noise = noise_of(u, model)
        own = spread(u, n, x, at, count, px)
        certain = certainty(fade, x, at, count, gains, doubts, heard)
        s = noise + (0.0 if certain > own else own - certain) + doubt(v, bed, model)
        if not np.isfinite(s):  # a variance is not: time has passed for the user, and nothing else
            stream[0, REFUSED] += 1.0
            continue
        stream[0, EVENTS] += 1.0
        stream[0, MU] += (y - mu) / stream[0, EVENTS]
        stream[0, SQUARES] += (y - mu) * (y - stream[0, MU])
        sigma = sigma if sigma > 0.0 else deviation(stream)  # the first rating that differs is its own measure
        new = u[-1] == 0
        if new and slot >= 0:
            welcome(u, groups[slot], crowd, model)
        error = 0.0  # while all ratings were alike there is nothing to measure an error by
        if sigma > 0.0:
            error = min(max((y - predicted) / sigma, -model.clip), model.clip)
        u[-4] += noise / model.noise * error * error / s
        alone, s_alone = error, s  # of the row without what was heard
        if heard > 0:
            s_alone = noise + own + doubt(u, bed, model)
            alone = min(max((y - mu) / sigma - expected(u, stream, 1.0, x, at, count), -model.clip), model.clip)
        if i[2 * model.dim + 2] == 0:
            i[:] = bed
        move_item(v, i, model, error, s)
        if representative >= 0:
            move_alike(i, bed, alike[representative], model.dim)
            alike_touched[representative] = 1
        move_stream(v, stream, model, error, x, at, total)
        move_user(u, n, alone, s_alone, px)
        if slot >= 0 and groups[slot, 0] >= 0:
            move_groups(groups[slot], crowd, model, alone / s_alone, px, new)
            crowd_touched[0] = 1
        note_time(u, time_ms)
        item_touched[items[k]] = 1


@kernel
def predict_hybrid(
    user: Array,
    item: Array,
    stream: F64,
    crowd: Array,
    alike: Array,
    words: U64,
    sets: I32,
    representatives: I32,
    users: I32,
    items: I32,
    times_ms: I64,
    slots: I32,
    preferences: F32,
    groups: I32,
    nobody: Array,
    nothing: Array,
    model: Model,
    out: F32,
) -> None:
    """Predictions for pairs of rows into `out` (n,); a row outside its table is `nobody` or `nothing`."""
    n, most = FIXED + model.dim + model.categories, FIXED + model.dim + CATEGORIES
    x, at = np.zeros(most), np.zeros(most, dtype=np.int32)
    mind, gains, doubts = np.empty(user.shape[1], user.dtype), np.empty((CATEGORIES, n)), np.empty(CATEGORIES)
    bed = np.empty(item.shape[1], item.dtype)
    for k in range(len(items)):
        u = user[users[k]] if 0 <= users[k] < len(user) else nobody
        i = item[items[k]] if 0 <= items[k] < len(item) else nothing
        slot = slots[users[k]] if 0 <= users[k] < len(slots) else -1
        v = u
        if slot >= 0:
            listen(u, preferences[slot], groups[slot], crowd, stream, model, mind, x, at, gains, doubts)
            v = mind
        time_ms = min(max(np.float64(times_ms[k]), -LATEST), LATEST)
        fade = model.fade if continues(u, time_ms, model) else 0.0
        place(i, items[k], alike, sets, representatives, model, bed)
        count, _ = look(bed, words, items[k], stream, model, x, at)
        out[k] = stream[0, MU] + deviation(stream) * expected(v, stream, fade, x, at, count)
