"""The kernels of the learners of ratings, and of the trainer `als`, in plain NumPy."""

import itertools

import numpy as np

from streamer.core.arrays import F64, I32, I64, Array
from streamer.core.batch import RATING, Batch
from streamer.models.bias import Bias
from streamer.models.biased_mf import BiasedMF
from streamer.models.blend import WEIGHTS, Stack
from streamer.models.hybrid.bayesian_hybrid import BayesianHybrid
from streamer.models.hybrid.rows import Model
from streamer.models.twins.changes import (
    calibration_inputs,
    rated,
    session_left,
    start_shares,
    take_back_bias,
    take_back_hybrid,
    take_from_counts,
    take_from_moments,
)


def twin_bias(learner: Bias, batch: Batch) -> F64:
    """See bias.py."""
    out = np.full(len(batch), np.nan)
    parameters, stream = learner.parameters, learner.stream.values[0]
    process = np.array([parameters.user_process, parameters.item_process])
    for k, earlier, is_rating in rated(batch):
        rows = learner.user.values[batch.users[k]], learner.item.values[batch.items[k]]
        if earlier is not None:
            take_back_bias(learner, *rows, earlier, int(batch.taken_back.ages[k]))
        if not is_rating:
            continue
        b, p = np.array(rows, dtype=np.float64).T  # each (2,): user, item
        p += process
        out[k] = stream[1] + stream[3] * b.sum()
        s = parameters.noise + p.sum()
        b += p * (batch.values[k] - out[k]) / stream[3] / s
        p -= p**2 / s
        for side, row in enumerate(rows):
            row[:] = b[side], p[side]
        stream[0] += 1
        stream[1] += (batch.values[k] - stream[1]) / stream[0]
    out[batch.kinds != RATING] = np.nan
    return out


def twin_biased_mf(learner: BiasedMF, batch: Batch) -> F64:
    """See biased_mf.py."""
    out = np.full(len(batch), np.nan)
    parameters, stream, dim = learner.parameters, learner.stream.values[0], learner.parameters.dim
    l2 = np.append(np.full(dim, parameters.l2), parameters.bias_l2)
    rate = np.append(np.full(dim, parameters.learning_rate), parameters.bias_rate)
    for k, earlier, is_rating in rated(batch):
        user, item = learner.user.values[batch.users[k]], learner.item.values[batch.items[k]]
        if earlier is not None:
            take_from_counts(stream, user, item, earlier)
        if not is_rating:
            continue
        p, q = user.astype(np.float64), item.astype(np.float64)
        n, mu, squares = stream[:3]
        sigma = np.sqrt((1 + squares) / (1 + n))
        out[k] = mu + sigma * (p[dim] + q[dim] + (p[:dim] @ q[:dim] if q[-1] else 0.0))
        z = np.clip((batch.values[k] - out[k]) / sigma, -parameters.clip, parameters.clip)
        for row, own, other in ((user, p, q), (item, q, p)):
            step = rate * max(parameters.step_floor, (own[-1] + 1) ** -0.5)
            slope = np.append(other[:dim], 1.0)
            row[:] = np.append(own[:-1] + step * (z * slope - l2 * own[:-1]), own[-1] + 1)
        stream[0] += 1
        stream[1] += (batch.values[k] - mu) / stream[0]
        stream[2] += (batch.values[k] - mu) * (batch.values[k] - stream[1])
    out[batch.kinds != RATING] = np.nan
    return out


def twin_bayesian_hybrid(learner: BayesianHybrid, batch: Batch) -> F64:
    """See bayesian_hybrid.py; with P as a full matrix and x dense."""
    out = np.full(len(batch), np.nan)
    m, n, dim, stream = learner.model, learner.size, learner.model.dim, learner.stream.values[0]
    p, lower, own = slice(4, 4 + dim), np.tril_indices(n), m.categories
    parts = np.split(stream, [6, 6 + m.known, 6 + m.known * (1 + dim)])
    beta, gamma, event_counts = parts[1], parts[2].reshape(m.known, dim), parts[3]
    group_means = learner.group_means.values[0].reshape(-1, 2 + dim + own)
    for k, earlier, is_rating in rated(batch):
        if earlier is not None:
            take_back_hybrid(learner, batch, k, earlier)
        if not is_rating:
            continue
        user, item = learner.user.values[batch.users[k]], learner.item.values[batch.items[k]]
        category_words, time_ms, y = (
            learner.category_words.values[batch.items[k]],
            int(batch.times_ms[k]),
            float(batch.values[k]),
        )
        bits = [int(category_words[number // 64]) >> number % 64 & 1 for number in range(64 * len(category_words))]
        indicator = np.array((bits + [0] * m.known)[: m.known], dtype=np.float64)
        g = indicator / np.sqrt(max(indicator.sum(), 1))
        w, cov = user[:n].astype(np.float64), np.zeros((n, n))
        cov[lower] = user[n:-4]
        cov += np.tril(cov, -1).T
        if not user[-1]:
            cov *= start_shares(m)
        q, v, b, v_b = (
            item[:dim].astype(np.float64),
            item[dim : 2 * dim].astype(np.float64),
            float(item[-3]),
            float(item[-2]),
        )
        if not item[-1]:
            v, v_b = v * m.vector_share, v_b * m.item_share
        category_set, representative = learner.category_sets.sets.values[batch.items[k], 0], -1
        if category_set >= 0:
            representative = int(learner.category_sets.representatives[category_set])
        if representative >= 0 and not item[-1]:
            b += float(learner.set_sums.values[representative, 1]) / (
                m.alike_items + float(learner.set_sums.values[representative, 0])
            )
            q += learner.set_sums.values[representative, 2:] / (
                m.alike_items + float(learner.set_sums.values[representative, 0])
            )
        start = np.concatenate([[1, 0], 0 * q]) if not item[-1] else np.concatenate([[0, b], q])
        base = b + beta @ g
        x = np.concatenate([[1, 1, base, np.log1p(item[-1]) / 4 - 0.7], q + g @ gamma, g[:own]])
        last_ms = 2**22 * int(user[-3]) + int(user[-2])
        fade = session_left(m, user, time_ms)
        if not user[-1]:
            w[2], w[3] = stream[4], stream[5]
        groups, preferences = _profile(batch, int(batch.users[k]))
        if not user[-1]:
            w[[0, *range(4, n)]] += group_means[groups, 1:].astype(np.float64).sum(axis=0)
        mu, sigma = stream[1], np.sqrt(stream[2] / max(stream[0], 1))
        informed, informed_cov = w, cov
        for number, stated in preferences.items() if sigma and m.known else ():
            a = np.concatenate([np.zeros(4), gamma[number], np.eye(own, m.known)[:, number]])
            s = (m.preference_noise if number < own else m.noise) + a @ informed_cov @ a
            informed = (
                informed
                + informed_cov
                @ a
                * (_preference_deviations((stated - mu) / sigma, m.clip) - beta[number] - a @ informed)
                / s
            )
            informed_cov = informed_cov - np.outer(informed_cov @ a, informed_cov @ a) / s
        w, informed = ([*one[:1], fade * one[1], *one[2:]] for one in (w, informed))
        w, informed = np.array(w), np.array(informed)
        z = base + x @ informed
        k_v = learner.calibration.values[0, :16].reshape(2, 8)
        f = calibration_inputs(m, z, float(user[-1]), informed[1], base)
        z += k_v[0] @ f
        out[k] = mu + sigma * z
        if sigma and batch.kinds[k] == RATING:
            error_calibrated, s = np.clip((y - mu) / sigma - z, -m.clip, m.clip), m.noise + k_v[1] @ f**2
            k_v[0] += k_v[1] * f * error_calibrated / s
            k_v[1] = np.minimum((k_v[1] - (k_v[1] * f) ** 2 / s) / m.calibration_forgetting, m.calibration_prior)
        stream[0] += 1
        stream[1] += (y - mu) / stream[0]
        stream[2] += (y - mu) * (y - stream[1])
        process = np.diag([m.bias_process, (1 - fade**2) * m.session, m.consensus_process, 0.0] + [0.0] * (n - 4))
        process[p, p] += m.latent_process * np.eye(dim)
        faded = np.eye(n) - (1 - fade) * np.diag(np.eye(n)[1])
        cov, informed_cov = faded @ cov @ faded + process, faded @ informed_cov @ faded + process
        v_b, c, px = v_b + m.item_process, 1 + informed[2], cov @ x
        habit = (m.habit_events + user[-4]) / (m.habit_events + user[-1])
        scale, sigma = sigma, sigma or np.sqrt(stream[2] / stream[0])
        s, own_s = (
            m.noise * habit + x @ covariance @ x + (1 + weights[2]) ** 2 * v_b + weights[p] ** 2 @ v
            for weights, covariance in ((informed, informed_cov), (w, cov))
        )
        if scale and batch.kinds[k] == RATING:
            _learn_spread(
                m, learner.calibration.values[0], float(np.clip(z, -m.clip, m.clip)), s, float(error_calibrated)
            )
        e, own_error = (
            np.clip((y - mu - scale * (base + x @ weights)) / sigma, -m.clip, m.clip) if sigma else 0.0
            for weights in (informed, w)
        )
        item[:] = np.concatenate(
            [
                q + v * informed[p] * e / s,
                v - (v * informed[p]) ** 2 / s,
                [b + v_b * c * e / s, v_b - (v_b * c) ** 2 / s, item[-1] + 1],
            ]
        )
        if representative >= 0:
            learner.set_sums.values[representative] += np.concatenate([[0, item[-3]], item[:dim]]) + start * np.repeat(
                [1, -1], [1, dim + 1]
            )
        stream[4:6] += np.array([m.consensus_rate, m.popularity_rate]) * e * x[2:4]
        beta += np.maximum(m.category_rate, 1 / (event_counts + m.category_events)) * e * c * g
        event_counts += indicator
        decay = np.where(np.arange(m.known) < own, m.vector_decay, 0.0)
        gamma += np.outer(g, m.vector_rate * e * informed[p]) - (decay * indicator)[:, None] * gamma
        group_means[groups, 0] += not user[-1]
        shares = 1 / (m.group_users + group_means[groups, 0].astype(np.float64))
        moves = np.outer(shares / (1 + shares.sum()), px[[0, *range(4, n)]] * own_error / own_s)
        group_means[groups, 1:] += moves
        narrow = px.astype(user.dtype)  # P is moved in the arithmetic of the type in which it is stored
        w, cov = w + px * own_error / own_s, cov.astype(user.dtype) - np.outer((px / own_s).astype(user.dtype), narrow)
        time = divmod(max(time_ms, last_ms) if user[-1] else time_ms, 2**22)
        user[:] = np.concatenate([w, cov[lower], [user[-4] + habit * e**2 / s], time, [user[-1] + 1]])
    out[batch.kinds != RATING] = np.nan
    return out


def _learn_spread(m: Model, calibration: F64, z: float, s: float, error: float) -> None:
    """See hybrid/spread.py."""
    a, counts = calibration[16:20], calibration[20:]
    g = np.array([1, abs(z) - 0.8, z, np.log(s) + 0.3])
    variance, ratings = s * np.exp(np.clip(a @ g, -2, 2)), counts[1]
    inside, constant = abs(error) <= counts[0] * np.sqrt(variance), (s + counts[4]) / (1 + ratings)
    gain = (np.log(constant) + error**2 / constant - np.log(variance) - error**2 / variance) / 2
    rate = max(m.spread_rate, 1 / (ratings + 200))
    counts[0] = np.clip(counts[0] + 0.01 * (0.8 - inside), 1.2816 / 2, 1.2816 * 2)
    counts[1:] += 1, inside, gain, error**2
    a[:] = np.clip(a + rate * (min(error**2 / variance, 6) - 1) * g, -2, 2)


def _profile(batch: Batch, user: int) -> tuple[list[int], dict[int, float]]:
    """The groups of a user row, and its stated preferences by category."""
    slot = int(batch.profiles.slots[user]) if user < len(batch.profiles.slots) else -1
    if slot < 0:
        return [], {}
    stated = batch.profiles.preferences[slot]
    groups = batch.profiles.groups[slot]
    return groups[groups >= 0].tolist(), {int(c): float(stated[c]) for c in np.flatnonzero(~np.isnan(stated))}


def _preference_deviations(z: float, clip: float) -> float:
    return z if abs(z) <= clip else float(np.sign(z)) * clip * (1 + float(np.log(abs(z) / clip)))


def twin_stack(learner: Stack, batch: Batch) -> F64:
    """See blend.py; with P as a full matrix."""
    out = np.full(len(batch), np.nan)
    p, stream, n = learner.parameters, learner.stream.values[0], len(learner.experts) + 1
    priors, lower = np.append(np.full(n - 1, p.weight_prior), p.constant_prior), np.tril_indices(n)
    w, packed = stream[WEIGHTS : WEIGHTS + n], stream[WEIGHTS + n :]
    opinions = np.array([batch.opinions[name].predicted for name in learner.experts], dtype=np.float64)  # (k, n)
    for k, earlier, is_rating in rated(batch):
        if earlier is not None:
            take_from_moments(stream, (0, 1, 2), earlier)
        if not is_rating:
            continue
        count, mu, squares = stream[:3]
        sigma, y = np.sqrt(squares / max(count, 1)), float(batch.values[k])
        base = opinions[0, k]
        if sigma and batch.kinds[k] == RATING:
            x = np.append(np.clip(np.append(opinions[1:, k] - base, base - mu) / sigma, -p.clip, p.clip), 1.0)
            cov = np.zeros((n, n))
            cov[lower] = packed
            cov += np.tril(cov, -1).T
            z, px = w @ x, cov @ x
            out[k] = base + sigma * z
            s = p.forgetting * p.noise + x @ px
            w += px * np.clip((y - base) / sigma - z, -p.clip, p.clip) / s
            cov = (cov - np.outer(px, px) / s) / p.forgetting
            keep = np.sqrt(np.minimum(1, priors / np.diag(cov)))
            packed[:] = (cov * np.outer(keep, keep))[lower]
        else:
            out[k] = base
        stream[0] += 1
        stream[1] += (y - mu) / stream[0]
        stream[2] += (y - mu) * (y - stream[1])
    out[batch.kinds != RATING] = np.nan
    return out


def twin_solve_side(
    own: Array, other: Array, starts: I64, others: I32, z: F64, weights: F64, l2: float, bias_l2: float
) -> None:
    """See als.py."""
    penalty = np.diag([l2] * (own.shape[1] - 2) + [bias_l2])
    for row, (start, stop) in enumerate(itertools.pairwise(starts)):
        w, q = weights[start:stop], other[others[start:stop]].astype(np.float64)
        if w.sum() > 0:
            x = np.column_stack([q[:, :-2], np.ones(len(q))])
            rest = z[start:stop] - q[:, -2]
            own[row, :-1] = np.linalg.solve((x.T * w) @ x + np.sqrt(w.sum()) * penalty, (x.T * w) @ rest)
