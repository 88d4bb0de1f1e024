"""GRU4Rec online: each click advances the user's state in a recurrent network, event by event, without torch.

    h_u <- GRU(e_i, h_u)    at each click of u on i,    s_j = h_u . e_j + b_j,    P(j | u) = exp(s_j - c)

The network, the items' vectors e and biases b are fitted by a retraining (models/offline/clicks/gru_trainer.py) and fixed between
retrainings; c is the mean of ln sum_j exp s_j at that time. Online, only h_u and the item's number of clicks n_j change. An item
that came after the retraining has e = 0, does not change any state, and has b_j = o + ln n_j, where o is the median of b - ln n
over the trained items. Before the first retraining this holds for all items, with o = 0, so that P is the item's share of the
clicks: popularity. A dislike is ignored. A like that is taken back leaves the counts; the state keeps it.
Cost: O(dim^2) a click, some 10 us at 64; a score O(dim) an item. State: float32 (users, dim), (items, dim + 2), the network 100 KB
at 64, which only a retraining writes; n float64.

Cho et al. (2014), Learning phrase representations using RNN encoder-decoder, EMNLP (the unit); Hidasi et al. (2016), ICLR,
as in models/offline/clicks/gru4rec.py. Deviation: P is normalised on average over users and not for each, as c is a constant.
"""

from collections.abc import Mapping

import msgspec
import numpy as np

from streamer.core.arrays import F32, F64, I32, U8, Array
from streamer.core.batch import Batch, UserView
from streamer.core.kernel import kernel
from streamer.core.protocols import Kind
from streamer.core.tables import Table
from streamer.models.skip_gram import logit

TRAINED, OFFSET, CONSTANT, WEIGHTS = 0, 1, 2, 3  # columns of the network: 1 once it is fitted, o, c, weights
COUNT_SMALLEST = 0.5  # the number of clicks that an item without clicks is given


class GRUParameters(msgspec.Struct, frozen=True):
    """The size of the network."""

    dim: int = 64
    """Length of an item's vector and of a user's state."""


def width(dim: int) -> int:
    """Number of columns of a network.

    They are the first WEIGHTS columns, then W_i (dim, 3 dim), W_h (dim, 3 dim), c_i (3 dim,) and c_h (3 dim,), each with
    the gates in the order r, z, n.
    """
    return WEIGHTS + 6 * dim * dim + 6 * dim


@kernel
def add_product(x: Array, rows: F64, out: F64) -> None:
    """Add x W to `out`, where W is `rows`, (len(x), len(out)); input by input, so that the inner loop is vectorised."""
    for j in range(len(x)):
        share, row = np.float64(x[j]), rows[j]
        for k in range(len(out)):
            out[k] += share * row[k]


@kernel
def advance(h: Array, e: Array, weights: F64, moved: F64) -> bool:
    """Write the state after input e to `moved` (dim,); return whether all of it is finite.

    `weights` is the network from column WEIGHTS on.
    """
    dim = len(h)
    size, gates = 3 * dim * dim, 3 * dim
    a, b = weights[2 * size : 2 * size + gates].copy(), weights[2 * size + gates :].copy()
    add_product(e, weights[:size].reshape((dim, gates)), a)
    add_product(h, weights[size : 2 * size].reshape((dim, gates)), b)
    total = 0.0
    for j in range(dim):
        r = 1.0 / (1.0 + np.exp(-(a[j] + b[j])))
        z = 1.0 / (1.0 + np.exp(-(a[dim + j] + b[dim + j])))
        n = np.tanh(a[2 * dim + j] + r * b[2 * dim + j])
        moved[j] = (1.0 - z) * n + z * np.float64(h[j])
        total += moved[j]
    return bool(np.isfinite(total))


@kernel
def score_of(h: Array, item: Array, counts: F64, network: Array, i: int) -> float:
    """s_i; -1 is an item that was never clicked."""
    dim = len(h)
    if 0 <= i < len(item) and item[i, dim + 1] > 0.0:
        return logit(h, item[i]) + np.float64(item[i, dim])
    n = counts[i, 0] if 0 <= i < len(counts) else 0.0
    return float(np.float64(network[0, OFFSET]) + np.log(n if n > COUNT_SMALLEST else COUNT_SMALLEST))


@kernel
def probability_of(s: float, network: Array, stream: F64) -> float:
    """P for a score; before the first training c is the log of the number of clicks."""
    trained = network[0, TRAINED] > 0.0
    c = np.float64(network[0, CONSTANT]) if trained else np.log(max(stream[0, 0], 1.0))
    p = np.exp(min(s - c, 0.0))
    return p if np.isfinite(p) else 0.0


@kernel
def learn_gru(
    user: Array, user_touched: U8, item: Array, counts: F64, counts_touched: U8, network: Array, stream: F64,
    stream_touched: U8, users: I32, items: I32, clicks: F32, withdrawn: F32, out: F32,
) -> None:  # fmt: skip
    """Predict, count and advance the state, click by click; `stream` is [sum of n, refused], `withdrawn` from batch.TakenBack."""
    dim = user.shape[1]
    weights, moved = network[0, WEIGHTS:].astype(np.float64), np.empty(dim)
    trained = network[0, TRAINED] > 0.0
    for k in range(len(clicks)):
        out[k] = np.nan
        u, i, weight = users[k], items[k], np.float64(clicks[k])
        if k < len(withdrawn) and withdrawn[k] > 0:  # a state cannot go back
            less = min(counts[i, 0], np.float64(withdrawn[k]))
            counts[i, 0] -= less
            stream[0, 0] -= less
            counts_touched[i] = stream_touched[0] = 1
        if weight <= 0.0 and np.isfinite(weight):
            continue
        h, known = user[u], item[i, dim + 1] > 0.0
        if weight > 0.0 and np.isfinite(weight):
            out[k] = probability_of(score_of(h, item, counts, network, i), network, stream)
        finite = np.isfinite(weight + counts[i, 0] + stream[0, 0])
        for j in range(dim):
            finite = finite and np.isfinite(h[j]) and np.isfinite(item[i, j])
        finite = finite and np.isfinite(item[i, dim] + item[i, dim + 1])
        if finite and trained and known:
            finite = advance(h, item[i, :dim], weights, moved)
        stream_touched[0] = 1
        if not finite:
            stream[0, 1] += 1.0
            continue
        if trained and known:
            for j in range(dim):
                h[j] = moved[j]
            user_touched[u] = 1
        counts[i, 0] += weight
        stream[0, 0] += weight
        counts_touched[i] = 1


@kernel
def predict_gru(
    user: Array, item: Array, counts: F64, network: Array, stream: F64, users: I32, items: I32, clicks: F32, out: F32
) -> None:
    """P of pairs of rows into `out` (n,); NaN for events that are not clicks."""
    new_user = np.zeros(user.shape[1], dtype=user.dtype)
    for k in range(len(items)):
        h = user[users[k]] if 0 <= users[k] < len(user) else new_user
        p = probability_of(score_of(h, item, counts, network, items[k]), network, stream)
        out[k] = p if clicks[k] > 0.0 and np.isfinite(clicks[k]) else np.nan


@kernel
def score_gru(h: Array, item: Array, counts: F64, network: Array, items: I32, out: F32) -> None:
    """s of `items` (n,) for one user's state h, into `out` (n,)."""
    for k in range(len(items)):
        out[k] = score_of(h, item, counts, network, items[k])


class GRU:
    """Popularity until it is trained; then the fitted GRU4Rec, served without torch."""

    kind: Kind = "clicks"
    Parameters = GRUParameters

    def __init__(self, name: str, parameters: GRUParameters, *, seed: int) -> None:
        """The seed is unused: nothing here is random."""
        self.name, self.parameters = name, parameters
        dim = parameters.dim
        self.user = Table("user", [0.0] * dim)  # h
        self.item = Table("item", [0.0] * (dim + 2))  # e, b, 1 where it was trained
        self.counts = Table("item", [0.0], dtype=np.float64)  # n
        self.network = Table("stream", [0.0] * width(dim))
        self.stream = Table("stream", [0.0, 0.0], dtype=np.float64)  # sum of n, refused

    @property
    def refused(self) -> int:
        """See Guarded."""
        return int(self.stream.values[0, 1])

    def tables(self) -> Mapping[str, Table]:
        """See Stateful."""
        return {
            "user": self.user, "item": self.item, "counts": self.counts, "network": self.network, "stream": self.stream,
        }  # fmt: skip

    def learn(self, batch: Batch) -> F32:
        """See OnlineLearner; P(i | u) of each click."""
        out = np.empty(len(batch), dtype=np.float32)
        learn_gru(
            self.user.values, self.user.touched, self.item.values, self.counts.values, self.counts.touched,
            self.network.values, self.stream.values, self.stream.touched, batch.users, batch.items, batch.clicks,
            batch.taken_back.withdrawn, out,
        )  # fmt: skip
        return out

    def predict(self, batch: Batch) -> F32:
        """See OnlineLearner; the state of an unseen user is 0."""
        out = np.empty(len(batch), dtype=np.float32)
        predict_gru(
            self.user.values, *self._kernel_tables(), self.stream.values, batch.users, batch.items, batch.clicks, out
        )
        return out

    def score(self, user: UserView, items: I32) -> F32:
        """s of each item, (len(items),)."""
        out = np.empty(len(items), dtype=np.float32)
        state = np.array(user.rows[self.name])  # a copy: a read-only row would compile the kernel again
        score_gru(state, *self._kernel_tables(), items, out)
        return out

    def _kernel_tables(self) -> tuple[Array, F64, Array]:
        return self.item.values, self.counts.values, self.network.values
