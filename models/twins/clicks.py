"""The kernels of the learners of clicks, in plain NumPy."""

import numpy as np

from streamer.core.arrays import F64, Array, Bool
from streamer.core.batch import RATING, Batch, Seen
from streamer.core.seed import mix64
from streamer.models.click_blend.click_blend import COUNTS, PROBABILITIES, ClickBlend
from streamer.models.click_blend.kernel import LISTED, LISTED_WEIGHTS, OWN, WEIGHTS
from streamer.models.noise import UNIT
from streamer.models.popularity import Popularity, RecentPopularity
from streamer.models.skip_gram import REDRAWS, SQUARES, STEPS_LARGEST, SkipGram
from streamer.models.transitions.lists import UNIT as CLICK
from streamer.models.transitions.transitions import COUNT_SMALLEST, LAG_CLICKS, LAG_RATE, LAGS, Transitions
from streamer.models.twins.changes import clicked


def twin_popularity(learner: Popularity, batch: Batch) -> F64:
    """See popularity.py."""
    out = np.full(len(batch), np.nan)
    counts, stream = learner.item.values[:, 0], learner.stream.values[0]
    for k, back in clicked(batch):
        less = min(back, counts[batch.items[k]])
        counts[batch.items[k]] -= less
        stream[0] -= less
        if batch.clicks[k] > 0:
            out[k] = counts[batch.items[k]] / max(stream[0], 1e-300)
            counts[batch.items[k]] += batch.clicks[k]
            stream[0] += batch.clicks[k]
    return out


def twin_recent_popularity(learner: RecentPopularity, batch: Batch) -> F64:
    """See popularity.py; here every item's count decays at every click."""
    out = np.full(len(batch), np.nan)
    item, stream, decay = learner.item.values, learner.stream.values[0], 0.5 ** (1 / learner.parameters.half_life)
    counts = item[:, 0] * decay ** (stream[2] - item[:, 1])
    for k, back in clicked(batch):
        i = batch.items[k]
        if back:
            less = min(back, counts[i])
            counts[i] -= less
            item[i], stream[0] = (counts[i], stream[2]), stream[0] - less
        if batch.clicks[k] <= 0:
            continue
        out[k] = counts[i] / max(stream[0], 1e-300)
        counts[i] += batch.clicks[k]
        item[i] = counts[i], stream[2]
        counts *= decay
        stream[0], stream[2] = (stream[0] + batch.clicks[k]) * decay, stream[2] + 1
    return out


def twin_transitions(learner: Transitions, batch: Batch) -> F64:
    """See transitions.py; here every count decays at every click, and no list is halved, which takes a million clicks."""
    out = np.full(len(batch), np.nan)
    p, stream = learner.parameters, learner.stream.values[0]
    for k, back in clicked(batch):
        weight, i = float(batch.clicks[k]), int(batch.items[k])
        user, popularity = learner.user.values[batch.users[k]], learner.popularity.values
        if back:
            _take_back(learner, user, i, back)
        if not weight and batch.kinds[k] != RATING:
            continue
        context = user[user >= 0]
        lags = stream[LAGS : LAGS + len(context)]
        steps = np.minimum(1.0, lags / stream[LAGS])
        if weight > 0:
            recent = popularity[i, 0] * 0.5 ** ((stream[1] - popularity[i, 1]) / p.half_life)
            share = max(recent, COUNT_SMALLEST) / max(stream[0], COUNT_SMALLEST)
            lists = learner.lists.values[context]
            counts = lists[:, 1 + p.successors :].sum(axis=1, where=lists[:, 1 : 1 + p.successors] == i) / CLICK
            each = (counts + p.pseudo_counts * share) / (lists[:, 0] / CLICK + p.pseudo_counts)
            out[k] = min(lags @ each / lags.sum() if len(context) else share, 1.0)
            if len(context) > 1 and i not in context:
                rate = max(LAG_RATE, 1.0 / (LAG_CLICKS + stream[1]))
                lags += rate * (lags.sum() * (lags * each) / (lags @ each) - lags)
            popularity[i] = recent + weight, stream[1]
            stream[:2] = (stream[0] + weight) * 0.5 ** (1 / p.half_life), stream[1] + 1
        weight = weight or p.rated
        for c, share in zip(context.tolist(), weight * steps, strict=True):
            if c != i:
                _count(learner, c, i, share)
                _count(learner, i, c, p.backwards * share)
        rest = [c for c in context.tolist() if c != i]
        last = ([i, *rest] if weight > 0 else rest)[: p.window]
        user[:] = last + [-1] * (p.window - len(last))
    return out


def _take_back(learner: Transitions, user: Array, i: int, weight: float) -> None:
    context, p, stream = user[user >= 0].tolist(), learner.parameters, learner.stream.values[0]
    for place in [t for t, c in enumerate(context) if c == i]:
        for t, other in enumerate(context):
            if t != place:
                before, after = (other, i) if t > place else (i, other)
                step = -weight * min(1.0, stream[LAGS + abs(t - place) - 1] / stream[LAGS])
                _count(learner, before, after, step)
                _count(learner, after, before, p.backwards * step)
    user[:] = [c for c in context if c != i] + [-1] * (len(user) - len(context) + context.count(i))
    row = learner.popularity.values[i]
    recent = row[0] * 0.5 ** ((stream[1] - row[1]) / p.half_life)
    less = min(recent, weight)
    row[:], stream[0] = (recent - less, stream[1]), max(0.0, stream[0] - less)


def _count(learner: Transitions, of: int, i: int, clicks: float) -> None:
    row, size, units = learner.lists.values[of], learner.parameters.successors, int(np.floor(CLICK * clicks + 0.5))
    items, counts = row[1 : 1 + size], row[1 + size :]
    if i not in items:
        if units <= 0:
            return
        items[np.flatnonzero(counts == counts.min())[-1]] = i
    place = int(np.flatnonzero(items == i)[0])
    units = max(units, -int(counts[place]))
    counts[place] += units
    row[0] += units


def twin_skip_gram(learner: SkipGram, batch: Batch) -> F64:
    """See skip_gram.py; here the noise is summed anew for every click."""
    out = np.full(len(batch), np.nan)
    parameters, noise, stream = learner.parameters, learner.noise.values, learner.stream.values[0]
    dim, items = parameters.dim, learner.item.values
    for k, back in clicked(batch):
        weight, i = float(batch.clicks[k]), int(batch.items[k])
        user = learner.user.values[batch.users[k]]
        if back:
            rest = [c for c in user[dim:].tolist() if c != i]
            user[dim:] = rest + [-1] * (parameters.window - len(rest))
            _add_clicks(learner, i, -back)
            stream[0] = max(0.0, stream[0] - 1)
        if not weight:
            continue
        context = user[dim:][user[dim:] >= 0].astype(int)
        shares = parameters.decay ** np.arange(len(context))
        shares /= np.linalg.norm(shares)
        h = user[:dim] + shares @ items[context, dim : 2 * dim].astype(np.float64)
        p, size, odds, targets = parameters, min(abs(weight), STEPS_LARGEST), 0.0, [(i, 0.0)]
        if weight > 0:
            out[k] = _sigmoid(h @ items[i, :dim].astype(np.float64)) if noise[i, 0] else 0.5
            targets = [(i, 1.0)] + [(j, 0.0) for j in _negatives(learner, batch, int(k))]
            odds = -np.log(max(p.negatives, 1))
        move = np.zeros(dim)
        for j, label in targets:
            v = items[j, :dim].astype(np.float64)
            g = label - _sigmoid(h @ v + odds)
            items[j, 2 * dim] += g * g
            step = max(p.learning_rate / np.sqrt(SQUARES + items[j, 2 * dim]), p.step_smallest)
            move += g * v
            items[j, :dim] = v + min(step * size, p.step_largest) * g * h
        user[:dim] = user[:dim] + min(p.user_rate * size, p.step_largest) * move
        items[context, 2 * dim + 1] += move @ move * shares**2
        steps = np.maximum(p.context_rate / np.sqrt(SQUARES + items[context, 2 * dim + 1]), 2 * p.step_smallest)
        items[context, dim : 2 * dim] += np.outer(np.minimum(steps * size, 2 * p.step_largest) * shares, move)
        rest = [c for c in context.tolist() if c != i]
        last = ([i, *rest] if weight > 0 else rest)[: parameters.window]
        user[dim:] = last + [-1] * (parameters.window - len(last))
        if weight > 0:
            _add_clicks(learner, i, weight)
            stream[0] += 1
    return out


def _add_clicks(learner: SkipGram, i: int, clicks: float) -> None:
    noise = learner.noise.values[i]
    noise[0] = max(0, noise[0] + int(np.floor(UNIT * clicks + 0.5)))
    noise[1] = int(np.floor(UNIT * (noise[0] / UNIT) ** learner.parameters.noise_exponent + 0.5))


def twin_click_blend(learner: ClickBlend, batch: Batch) -> F64:
    """See click_blend.py; here the ring is counted anew for every click. The probes come with the batch."""
    p, stream, ring = learner.parameters, learner.stream.values[0], learner.ring.values[0]
    probes, own = batch.probes, 1 + p.proposed
    rated, counted, own_list, mixed = np.array(
        [(one == "ratings", one in COUNTS, one == "repeats", one in PROBABILITIES) for one in p.experts]
    ).T
    opinions = [batch.opinions[name] for name in p.experts]
    for k in np.flatnonzero(batch.clicks > 0):
        i = batch.items[k]
        if np.isfinite(batch.highs[k] - batch.lows[k]):
            stream[1] = batch.highs[k] - batch.lows[k]
        held = min(stream[0], len(ring))
        seen, proposals = _seen(batch.seen, int(batch.users[k]), int(batch.seen_counts[k])), probes[k, 1:own].tolist()
        chosen = [m for m, j in enumerate(probes[k]) if j >= 0 and (m < own + OWN or j not in proposals)]
        f = np.array([o.scores[k, chosen] if o.scores.size else np.zeros(len(chosen)) for o in opinions], np.float64)
        on_list = (f[own_list] > LISTED).any(axis=0)
        if len(chosen) > 1 and probes[k, 0] >= 0 and ((f[counted, 0] > 0).any() or i in ring):
            f[rated] *= 4 / stream[1] if stream[1] > 0 else 0.0
            again = f[own_list].sum(axis=0)
            f[counted], f[own_list] = np.log(np.maximum(f[counted], 1e-3)), 0.0
            shares = np.array([((ring == probes[k, m]).sum() + 0.5) / (held + 1) for m in chosen])
            count = min(int(batch.seen_counts[k]), batch.seen.window)
            q = [
                len(range(own + OWN, probes.shape[1])) * s
                if m >= own + OWN
                else min(OWN / count, 1.0)
                if m >= own
                else 1.0
                for m, s in zip(chosen, shares, strict=True)
            ]
            known = np.array([own <= m < own + OWN or (m == 0 and int(i) in seen) for m in chosen], dtype=np.float64)
            h = _with_mixture(stream[WEIGHTS:], f, mixed, known)
            z = stream[WEIGHTS : WEIGHTS + len(f) + 2] @ h[: len(f) + 2]
            if not on_list[0] and (~on_list).sum() > 1:
                _move_weights(learner, h[:, ~on_list], len(f), 1 / np.array(q)[~on_list])
            y = np.where(on_list, [np.ones(len(z)), again, z], 0.0)
            z = np.where(on_list, stream[LISTED_WEIGHTS : LISTED_WEIGHTS + 3] @ y, z)
            _move_listed(learner, y, z, 1 / np.array(q), float(shares[0]))
        ring[int(stream[0]) % len(ring)] = i
        stream[0] += 1
    probabilities = [one.predicted for one, is_rating in zip(opinions, rated, strict=True) if not is_rating]
    odds = [np.log(c / (1 - c)) for c in np.clip(np.array(probabilities, dtype=np.float64), 1e-9, 1 - 1e-9)]
    return np.asarray(1 / (1 + np.exp(-np.mean(odds, axis=0))), dtype=np.float64)


def _with_mixture(w: F64, f: F64, mixed: Bool, known: F64) -> F64:
    """All features (f, items) from those of the experts (n, items)."""
    n = len(f)
    parts = np.exp(w[n + 2 : n + 2 + mixed.sum(), None] + f[mixed])
    total = np.maximum(parts.sum(axis=0), 1e-12)
    return np.vstack([f, np.log(total) if mixed.any() else 0.0 * total, known, w[n] * parts / total])


def _move_weights(learner: ClickBlend, f: F64, experts: int, weights: F64) -> None:
    p, stream, n, d = learner.parameters, learner.stream.values[0, WEIGHTS:], len(f), np.clip(f - f[:, :1], -20, 20)
    w, variance, h = stream[:n], stream[n : 2 * n], stream[2 * n :].reshape(n, n)
    pi = np.exp(np.clip(w[: experts + 2] @ d[: experts + 2], -50, 50)) * weights
    pi /= pi.sum()
    reliability, g = pi[0] / (pi[0] + 5e-3), d @ pi
    spread = (d * pi) @ d.T - np.outer(g, g)
    variance += 0.01 * (np.diag(spread) - variance)
    h *= p.forgetting
    h += reliability * spread + (1 - p.forgetting) * p.prior * np.diag(np.maximum(variance, 0.01))
    w -= reliability * np.linalg.solve(h, g)
    w[experts + 2 :] = np.clip(w[experts + 2 :], -5, 5)


def _move_listed(learner: ClickBlend, y: F64, z: F64, weights: F64, share: float) -> None:
    p, stream = learner.parameters, learner.stream.values[0]
    v, h = stream[LISTED_WEIGHTS:][:3], stream[LISTED_WEIGHTS + 3 : WEIGHTS].reshape(3, 3)
    pi = np.exp(z - z.max()) * weights
    pi /= pi.sum()
    left = stream[3] * share
    stream[3] += 0.01 * (left / (left + (1 - stream[3]) * pi[0]) - stream[3])
    reliability, g = pi[0] / (pi[0] + 5e-3), y @ pi
    h *= p.forgetting
    h += reliability * ((y * pi) @ y.T - np.outer(g, g)) + (1 - p.forgetting) * p.prior * np.eye(3)
    v -= reliability * np.linalg.solve(h, g - y[:, 0])


def _negatives(learner: SkipGram, batch: Batch, k: int) -> list[int]:
    sums = np.cumsum(learner.noise.values[:, 1])
    if sums[-1] == 0:
        return []
    wanted = learner.parameters.negatives
    bits = [int(mix64(batch.keys[k], draw)) for draw in range(REDRAWS * wanted)]
    drawn = np.searchsorted(sums, [b % int(sums[-1]) for b in bits], side="right").tolist()
    excluded = _seen(batch.seen, int(batch.users[k]), int(batch.seen_counts[k])) | {int(batch.items[k])}
    return [int(j) for j in drawn if j not in excluded][:wanted]


def _seen(seen: Seen, user: int, count: int) -> set[int]:
    numbers = np.arange(max(0, count - seen.window), count)
    page = seen.pages.shape[1]
    places = (numbers % (page * seen.page_of.shape[1])) // page
    return set(seen.pages[seen.page_of[user, places], numbers % page].tolist())


def _sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))
