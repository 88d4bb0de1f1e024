"""The twin of the networks: the equations at the top of networks/network.py, in float64."""

import numpy as np

from streamer.core.arrays import F64, Array
from streamer.core.batch import CATEGORIES, GROUPS, RATING, Batch
from streamer.models.networks.kernel import FIELDS, NORM_RATIOS
from streamer.models.networks.network import Network
from streamer.models.twins.changes import rated, take_from_counts


def twin_network(learner: Network, batch: Batch) -> F64:
    """See network.py."""
    out = np.full(len(batch), np.nan)
    p, dim, (first, second) = learner.parameters, learner.parameters.dim, learner.parameters.hidden
    sizes = [
        NORM_RATIOS, CATEGORIES * (dim + 1), GROUPS * (dim + 1), FIELDS * dim * first, first, first * second, second, second,
    ]  # fmt: skip
    _, of_categories, of_groups, w1, c1, w2, c2, w3 = np.split(
        learner.network.values[0].astype(np.float64), np.cumsum(sizes)[:-1]
    )
    of_categories, of_groups = of_categories.reshape(-1, dim + 1), of_groups.reshape(-1, dim + 1)
    w1, w2 = w1.reshape(-1, first), w2.reshape(first, second)
    stream, l2 = learner.stream.values[0], np.append(np.full(dim, p.l2), p.bias_l2)
    for k, earlier, is_rating in rated(batch):
        user, item = learner.user.values[batch.users[k]], learner.item.values[batch.items[k]]
        if earlier is not None:
            take_from_counts(stream, user, item, earlier)
        if not is_rating:
            continue
        u, i = user.astype(np.float64), item.astype(np.float64)
        word = learner.category_words.values[batch.items[k]]
        bits = [n for n in range(CATEGORIES) if int(word[n // 64]) >> n % 64 & 1]
        slots = batch.profiles.slots
        slot = slots[batch.users[k]] if batch.users[k] < len(slots) else -1
        members = batch.profiles.groups[slot][batch.profiles.groups[slot] >= 0] if slot >= 0 else []
        known = np.append(i[:dim] * (i[-1] > 0), i[dim])
        fields = np.stack([u[:-1], known, _mean(of_categories[bits]), _mean(of_groups[members])])  # (4, dim + 1)
        v, x = fields[:, :dim], fields[:, :dim].ravel()
        h1 = np.maximum(x @ w1 + c1, 0)
        h2 = np.maximum(h1 @ w2 + c2, 0)
        z = fields[:, dim].sum() + w3 @ h2
        slope = (w1 @ ((w2 @ (w3 * (h2 > 0))) * (h1 > 0))).reshape(FIELDS, dim)
        if p.products:
            z += (np.square(v.sum(axis=0)) - np.square(v).sum(axis=0)).sum() / 2
            slope += v.sum(axis=0) - v
        n, mu, squares = stream[:3]
        sigma = np.sqrt((1 + squares) / (1 + n))
        out[k] = mu + sigma * z
        error = np.clip((batch.values[k] - out[k]) / sigma, -p.clip, p.clip)
        rates = [p.learning_rate * max(p.step_floor, (row[-1] + 1) ** -0.5) for row in (u, i)]
        reach = max(1.0, sum(rate * np.square(slope[side]).sum() for side, rate in enumerate(rates)))
        for side, (row, own) in enumerate(((user, u), (item, i))):
            step = np.append(np.full(dim, rates[side] / reach), p.bias_rate * rates[side] / p.learning_rate)
            row[:] = np.append(own[:-1] + step * (error * np.append(slope[side], 1.0) - l2 * own[:-1]), own[-1] + 1)
        stream[0] += 1
        stream[1] += (batch.values[k] - mu) / stream[0]
        stream[2] += (batch.values[k] - mu) * (batch.values[k] - stream[1])
    out[batch.kinds != RATING] = np.nan
    return out


def _mean(rows: Array) -> Array:
    return np.asarray(rows.sum(axis=0) / max(len(rows), 1))
