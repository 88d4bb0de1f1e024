"""The twin of the online GRU: the equations at the top of networks/gru.py, in float64."""

import numpy as np

from streamer.core.arrays import F64
from streamer.core.batch import Batch
from streamer.models.networks.gru import CONSTANT, COUNT_SMALLEST, GRU, OFFSET, TRAINED, WEIGHTS
from streamer.models.twins.changes import clicked


def twin_gru(learner: GRU, batch: Batch) -> F64:
    """See gru.py."""
    out = np.full(len(batch), np.nan)
    dim, stream = learner.parameters.dim, learner.stream.values[0]
    row, item, counts = learner.network.values[0].astype(np.float64), learner.item.values, learner.counts.values[:, 0]
    size, gates = 3 * dim * dim, 3 * dim
    w_i, w_h, c_i, c_h = np.split(row[WEIGHTS:], np.cumsum([size, size, gates]))
    w_i, w_h = w_i.reshape(dim, gates), w_h.reshape(dim, gates)
    for k, back in clicked(batch):
        less = min(back, counts[batch.items[k]])
        counts[batch.items[k]] -= less
        stream[0] -= less
        if batch.clicks[k] <= 0:
            continue
        i, state = batch.items[k], learner.user.values[batch.users[k]]
        known, h, e = item[i, dim + 1] > 0, state.astype(np.float64), item[i, :dim].astype(np.float64)
        score = h @ e + item[i, dim] if known else row[OFFSET] + np.log(max(counts[i], COUNT_SMALLEST))
        constant = row[CONSTANT] if row[TRAINED] else np.log(max(stream[0], 1.0))
        out[k] = min(np.exp(score - constant), 1.0)
        if known and row[TRAINED]:
            a, b = np.split(e @ w_i + c_i, 3), np.split(h @ w_h + c_h, 3)
            r, z = (1 / (1 + np.exp(-(a[gate] + b[gate]))) for gate in (0, 1))
            state[:] = (1 - z) * np.tanh(a[2] + r * b[2]) + z * h
        counts[i] += batch.clicks[k]
        stream[0] += batch.clicks[k]
    return out
