"""Takes back what an earlier rating did to the Bayesian hybrid. rows.py describes the rows, models/evidence.py the inverse step.

The earlier rating is seen from the present: the item's row is what it is now without the rating, the session has faded since,
and what the user's bias has wandered makes the rating that much noisier. User and item each move by the other's coefficients,
so both are found together, by a fixed point. The user's w and P are then exactly those without the rating as far as the item's
row, R and the shared parameters have not moved since; a user or an item whose only rating is taken back is as new. beta, Gamma and
the means of groups, which are learned by descent, get the opposite step, and the calibration the opposite one of its filter. Cost: some ten times that of learning an event.
"""

import numpy as np

from streamer.core.arrays import F64, I32, U64, Array
from streamer.core.kernel import kernel
from streamer.models.evidence import TURNS, take_from_moments, variances_before
from streamer.models.hybrid.calibration import take_from_calibration
from streamer.models.hybrid.profile import move_groups
from streamer.models.hybrid.rows import (
    BETA,
    CONSENSUS,
    EVENTS,
    FIXED,
    MU,
    POPULARITY,
    REFUSED,
    SESSION,
    SQUARES,
    START_CONSENSUS,
    START_POPULARITY,
    Model,
    deviation,
    look_at_item,
    session_left,
    start_share,
    user_variance,
)


@kernel
def take_from_stream(a: F64, stream: F64, model: Model, error: float, x: F64, at: I32, total: int) -> None:
    """The opposite of move_stream, with the same rates; `a` are the user's latent weights, and 1 + that on consensus."""
    dim, first = model.dim, FIXED + model.dim
    stream[0, START_CONSENSUS] -= model.consensus_rate * error * x[CONSENSUS]
    stream[0, START_POPULARITY] -= model.popularity_rate * error * x[POPULARITY]
    for s in range(first, total):
        number = at[s] - first
        counts_at = BETA + model.known * (1 + dim) + number
        stream[0, counts_at] = max(0.0, stream[0, counts_at] - 1.0)
        rate = max(model.category_rate, 1.0 / (stream[0, counts_at] + model.category_events))
        stream[0, BETA + number] -= rate * error * a[dim] * x[s]
        row = BETA + model.known + number * dim
        for j in range(dim):
            stream[0, row + j] -= model.vector_rate * error * a[j] * x[s]


@kernel
def take_from_set(item: Array, b: float, q: F64, last: bool, set_sums: Array, model: Model) -> None:
    """Follow an item that has moved away from `b` and `q`, or has lost its last rating, in its set's sums.

    An item without ratings has the mean of its set added wherever it is read, so that mean is taken out of its row.
    """
    dim = model.dim
    set_sums[0] -= 1.0 if last else 0.0
    set_sums[1] += (0.0 if last else np.float64(item[2 * dim])) - b
    for j in range(dim):
        set_sums[2 + j] += (0.0 if last else np.float64(item[j])) - q[j]
    if last:
        count = model.alike_items + np.float64(set_sums[0])
        item[2 * dim] -= np.float64(set_sums[1]) / count
        for j in range(dim):
            item[j] -= np.float64(set_sums[2 + j]) / count


@kernel
def take_from_user(user: Array, n: int, px: F64, own: float, before: float, error: float, s: float) -> None:
    """The opposite of move_user; x'Px was `before` and is `own`."""
    longer, grown, place = before / own, (before - own) / (own * own), n
    for i in range(n):
        user[i] -= longer * px[i] * error / s
        row = user[place : place + i + 1]
        for j in range(len(row)):
            row[j] += grown * px[i] * px[j]
        place += i + 1
    events = max(1.0, np.float64(user[len(user) - 1]))
    user[len(user) - 4] *= (events - 1.0) / events
    user[len(user) - 1] = events - 1.0


@kernel
def prior_variance(start: Array, n: int, x: F64, at: I32, count: int, model: Model) -> float:
    """x'Px of a user without ratings."""
    total = 0.0
    for k in range(count):
        variance = np.float64(start[n + at[k] * (at[k] + 3) // 2]) * start_share(at[k], model)
        total += x[k] * x[k] * variance
    return total


@kernel
def take_back(
    user: Array, user_start: Array, item: Array, item_start: Array, row: int, stream: F64, calibration: F64, group_means: Array, groups: I32,
    set_sums: Array, sets: I32, representatives: I32, category_words: U64, y: float, age: int, time_ms: float, noise: float,
    model: Model, x: F64, at: I32, px: F64,
) -> int:  # fmt: skip
    """Take back a rating `y` of the item in `row`, given `age` of the user's events ago with R `noise`.

    Returns the row of `set_sums` that changed, -1 for none.
    """
    dim, n = model.dim, FIXED + model.dim + model.categories
    scale = deviation(stream)
    take_from_moments(stream, EVENTS, MU, SQUARES, y)
    sigma = deviation(stream) if deviation(stream) > 0.0 else scale  # the others may be all equal
    left = model.fade ** (age - 1) * session_left(user, time_ms, model)
    noise += age * model.bias_process + (1.0 - left * left) * model.session
    item[2 * dim + 2] = max(0.0, np.float64(item[2 * dim + 2]) - 1.0)
    last = item[2 * dim + 2] == 0.0
    # the item's parts: b, q; their means and variances, variances before, and the coefficients with which the rating moved them;
    # behind them, in all but the means, the user's x'Px
    means, v, prior, before, a = (
        np.empty(dim + 1),
        np.empty(dim + 2),
        np.empty(dim + 2),
        np.empty(dim + 2),
        np.ones(dim + 2),
    )
    for j in range(dim + 1):
        place, spread = (j, dim + j) if j < dim else (2 * dim, 2 * dim + 1)
        means[j], v[j] = item[place], item[spread]
        prior[j] = np.float64(item_start[spread]) * (model.vector_share if j < dim else model.item_share)
        a[j] = user[FIXED + j] if j < dim else 1.0 + user[CONSENSUS]
    error, own, s, total = 0.0, 0.0, 0.0, 0
    for _ in range(TURNS):  # item and user as they were are where the rating's own moves began
        count, total = look_at_item(item, category_words, row, stream, model, x, at)
        x[SESSION] = left
        own = v[dim + 1] = user_variance(user, n, x, at, count, px)
        prior[dim + 1] = prior_variance(user_start, n, x, at, count, model)
        s = variances_before(v, a, prior, noise, before)
        if sigma > 0.0:
            z = x[CONSENSUS]
            for k in range(count):
                z += x[k] * np.float64(user[at[k]])
            error = min(max(((y - stream[0, MU]) / sigma - z) * s / (s - before[dim + 1]), -model.clip), model.clip)
        if not (np.isfinite(s + error) and own > 0.0):
            break
        for j in range(dim + 1):
            weight = FIXED + j if j < dim else CONSENSUS
            a[j] = user[weight] - before[dim + 1] / own * px[weight] * error / s + (0.0 if j < dim else 1.0)
            item[j if j < dim else 2 * dim] = means[j] - before[j] * a[j] * error / s
    if not (np.isfinite(s + error) and own > 0.0):
        stream[0, REFUSED] += 1.0
        for j in range(dim + 1):
            item[j if j < dim else 2 * dim] = means[j]
        return -1
    for j in range(dim + 1):
        spread = dim + j if j < dim else 2 * dim + 1
        item[spread] = item_start[spread] if last else before[j]
    representative = -1
    if 0 <= row < len(sets) and sets[row, 0] >= 0:
        representative = representatives[sets[row, 0]]
    if not 0 <= representative < len(set_sums):
        representative = -1
    if representative >= 0:
        take_from_set(item, means[dim], means, last, set_sums[representative], model)
    take_from_stream(a, stream, model, error, x, at, total)
    take_from_user(user, n, px, own, before[dim + 1], error, s)
    if sigma > 0.0:
        z = (y - stream[0, MU]) / sigma
        take_from_calibration(user, z - error, x[CONSENSUS], z, calibration, model)
    move_groups(groups, group_means, model, -before[dim + 1] / own * error / s, px, False)
    if user[len(user) - 1] <= 0.0:
        user[:] = user_start
    return representative
