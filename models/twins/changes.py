"""What a rating takes back, in plain NumPy: the twins of evidence.py, of hybrid/take_back.py and of the counts of others."""

from collections.abc import Iterator, Sequence

import numpy as np

from streamer.core.arrays import F64, Array
from streamer.core.batch import RATING, REPLACED, RETRACTED, Batch
from streamer.models.bias import Bias
from streamer.models.hybrid.bayesian_hybrid import BayesianHybrid
from streamer.models.hybrid.rows import Model


def rated(batch: Batch) -> Iterator[tuple[int, float | None, bool]]:
    """For each rating and retraction its place, the earlier rating if there is one, and whether it is a rating."""
    for k in np.flatnonzero(np.isin(batch.kinds, [RATING, REPLACED, RETRACTED])).tolist():
        earlier = float(batch.taken_back.earlier[k]) if k < len(batch.taken_back.earlier) else np.nan
        yield k, None if np.isnan(earlier) else earlier, batch.kinds[k] != RETRACTED


def clicked(batch: Batch) -> Iterator[tuple[int, float]]:
    """For each click or new rating, or like that is taken back, its place and the weight that is taken back."""
    withdrawn = batch.taken_back.withdrawn if len(batch.taken_back.withdrawn) else np.zeros(len(batch))
    for k in np.flatnonzero((batch.clicks != 0) | (batch.kinds == RATING) | (withdrawn > 0)).tolist():
        yield k, float(withdrawn[k])


def take_from_moments(row: Array, columns: Sequence[int], y: float) -> None:
    """Take y out of the count, the mean and, where there is a third column, the sum of squares."""
    n, mean = row[columns[0]] - 1, row[columns[1]]
    if n < 1:
        row[list(columns)] = 0.0
        return
    row[columns[0]], row[columns[1]] = n, mean - (y - mean) / n
    if len(columns) > 2:
        row[columns[2]] = max(0.0, row[columns[2]] - (y - mean) * (y - row[columns[1]]))


def take_from_counts(row: Array, user: Array, item: Array, y: float) -> None:
    """Take y out of the stream's moments, and one event out of the last columns of both rows."""
    take_from_moments(row, (0, 1, 2), y)
    for counted in (user, item):
        counted[-1] = max(0.0, counted[-1] - 1)


def variances_before(after: F64, squared: F64, prior: F64, noise: float) -> tuple[F64, float]:
    """See evidence.py: the variances of the parts before the event, and S."""
    before = after.copy()
    for _ in range(10):
        for k in range(len(after)):
            rest = noise + squared @ before - squared[k] * before[k]
            found = after[k] * rest / max(rest - squared[k] * after[k], 1e-3 * rest)
            before[k] = max(after[k], min(found, prior[k]))
    return before, float(noise + squared @ before)


def take_back_bias(learner: Bias, user: Array, item: Array, y: float, age: int) -> None:
    """See bias.py."""
    p, ones, stream = learner.parameters, np.ones(2), learner.stream.values[0]
    take_from_moments(stream, (0, 1), y)
    after, noise = np.array([user[1], item[1]], dtype=np.float64), p.noise + age * p.user_process
    before, _ = variances_before(after, ones, np.array([p.user_prior, p.item_prior]), noise)
    step = ((y - stream[1]) / stream[3] - float(user[0]) - float(item[0])) / noise
    user[:], item[:] = (user[0] - before[0] * step, before[0]), (item[0] - before[1] * step, before[1])


def session_left(m: Model, user: Array, time_ms: int) -> float:
    """See hybrid/rows.py."""
    since = time_ms - 2**22 * int(user[-3]) - int(user[-2])
    if not user[-1]:
        return 0.0
    return m.fade if since <= m.gap_ms else float(m.carry * np.exp(-since / m.carry_ms))


def calibration_inputs(m: Model, z: float, events: float, session: float, consensus: float) -> F64:
    """f of hybrid/calibration.py."""
    z, s, a = np.clip([z, session, consensus], -m.clip, m.clip)
    h = np.log1p(events) / 4 - 1
    return np.array([1, z, abs(z) - 0.8, h * z, h, s, s * z, a - 0.7 * z])


def start_shares(m: Model) -> F64:
    """What a new user's variances are multiplied by, (n,)."""
    shares = [m.bias_share, 1.0, m.consensus_share, m.popularity_share]
    return np.array(shares + [1.0] * m.dim + [m.category_share] * m.categories)


def take_back_hybrid(learner: BayesianHybrid, batch: Batch, k: int, y: float) -> None:
    """See hybrid/take_back.py; with P as a full matrix and x dense."""
    m, n, dim, stream = learner.model, learner.size, learner.model.dim, learner.stream.values[0]
    user, item, row = learner.user.values[batch.users[k]], learner.item.values[batch.items[k]], int(batch.items[k])
    age, time_ms, own, lower = int(batch.taken_back.ages[k]), int(batch.times_ms[k]), m.categories, np.tril_indices(n)
    parts = np.split(stream, [6, 6 + m.known, 6 + m.known * (1 + dim)])
    beta, gamma, event_counts = parts[1], parts[2].reshape(m.known, dim), parts[3]
    habit = m.noise * (m.habit_events + float(user[-4])) / (m.habit_events + float(user[-1]))
    scale = np.sqrt(stream[2] / max(stream[0], 1))
    take_from_moments(stream, (0, 1, 2), y)
    sigma = np.sqrt(stream[2] / max(stream[0], 1)) or scale
    item[-1] = max(0.0, item[-1] - 1)
    words = learner.category_words.values[row]
    bits = [int(words[number // 64]) >> number % 64 & 1 for number in range(64 * len(words))]
    indicator = np.array((bits + [0] * m.known)[: m.known], dtype=np.float64)
    g = indicator / np.sqrt(max(indicator.sum(), 1))
    w, cov = user[:n].astype(np.float64), np.zeros((n, n))
    cov[lower] = user[n:-4]
    cov += np.tril(cov, -1).T
    left = m.fade ** (age - 1) * session_left(m, user, time_ms)
    noise, starts = habit + age * m.bias_process + (1 - left**2) * m.session, learner.item.start.astype(np.float64)
    spreads, places = [*range(dim, 2 * dim), 2 * dim + 1], [*range(dim), 2 * dim]
    means, after, uses = item[places].astype(np.float64), item[spreads].astype(np.float64), [*range(4, 4 + dim), 2]  # fmt: skip
    a, item_shares = w[uses] + np.eye(dim + 1)[dim], np.append(np.full(dim, m.vector_share), m.item_share)
    for _ in range(10):
        base = float(item[-3]) + beta @ g
        x = np.concatenate([[1, left, base, np.log1p(item[-1]) / 4 - 0.7], item[:dim] + g @ gamma, g[:own]])
        px = cov @ x
        prior = (x**2 * start_shares(m)) @ learner.user.start[n + np.arange(n) * (np.arange(n) + 3) // 2].astype(
            np.float64
        )
        variances, priors = np.append(after, x @ px), np.append(starts[spreads] * item_shares, prior)
        before, s = variances_before(variances, np.append(a**2, 1.0), priors, noise)
        grown, v = before[-1], before[:-1]
        longer = grown / variances[-1]
        error = ((y - stream[1]) / sigma - base - x @ w) * s / (s - grown) if sigma else 0.0
        error = float(np.clip(error, -m.clip, m.clip))
        a = w[uses] - longer * px[uses] * error / s + np.eye(dim + 1)[dim]
        item[places] = means - v * a * error / s
    item[spreads] = v
    c, p, old = a[dim], a[:dim], np.concatenate([means[dim:], means[:dim]])
    last = item[-1] == 0
    if last:
        item[spreads] = starts[spreads]
    category_set = learner.category_sets.sets.values[row, 0]
    if category_set >= 0:
        sums = learner.set_sums.values[int(learner.category_sets.representatives[category_set])]
        new = np.concatenate([[item[-3]], item[:dim]]).astype(np.float64)
        sums[1:] += (0.0 if last else new) - old
        if last:
            sums[0] -= 1
            new = new - sums[1:].astype(np.float64) / (m.alike_items + float(sums[0]))
            item[-3], item[:dim] = new[0], new[1:]
    stream[4:6] -= np.array([m.consensus_rate, m.popularity_rate]) * error * x[2:4]
    event_counts[:] = np.maximum(0.0, event_counts - indicator)
    beta -= np.maximum(m.category_rate, 1 / (event_counts + m.category_events)) * error * c * g
    gamma -= np.outer(g, m.vector_rate * error * p)
    w -= longer * px * error / s
    cov += (grown - variances[-1]) / variances[-1] ** 2 * np.outer(px, px)
    events = max(1.0, float(user[-1]))
    user[:n], user[n:-4] = w, cov[lower]
    user[-4], user[-1] = user[-4] * (events - 1) / events, events - 1
    if sigma:
        z, k_v = (y - stream[1]) / sigma, learner.calibration.values[0, :16].reshape(2, 8)
        f = calibration_inputs(m, z - error, float(user[-1]), w[1], x[2])
        k_v[0] -= k_v[1] * f * np.clip(error - k_v[0] @ f, -m.clip, m.clip) / m.noise
    slot = int(batch.profiles.slots[batch.users[k]]) if batch.users[k] < len(batch.profiles.slots) else -1
    groups = [group for group in batch.profiles.groups[slot].tolist() if group >= 0] if slot >= 0 else []
    means = learner.group_means.values[0].reshape(-1, 2 + dim + own)
    shares = 1 / (m.group_users + means[groups, 0].astype(np.float64))
    means[groups, 1:] += np.outer(shares / (1 + shares.sum()), px[[0, *range(4, n)]] * -longer * error / s)
    if user[-1] <= 0:
        user[:] = learner.user.start
