"""Biased matrix factorisation by stochastic gradient descent.

    y = mu + sigma (b_u + b_i + p_u . q_i),    z = (y - prediction) / sigma

    b <- b + s (z - l2 b),   p_u <- p_u + s (z q_i - l2 p_u),   q_i <- q_i + s (z p_u - l2 q_i)
    s = rate max(floor, (n + 1)^-1/2)

where n is the row's number of events so far, and mu and sigma are the running mean and deviation of all ratings, so that any
scale of ratings gives the same results. Users start at 0 and items in small noise, so that the factors differ.
For an unseen user or item the prediction is mu plus the other side's bias. A step cannot be undone: a rating that replaces an
earlier one leaves the counts, mu and sigma as if that had never been, and is one more step; one that withdraws it, none.
Cost: O(dim) an event. State: p or q, b, n float32 (rows, dim + 2); events, mu, squares, steps refused.

Koren, Bell, Volinsky (2009), Matrix factorization techniques for recommender systems, IEEE Computer 42(8), eq. 5.
Deviations: the steps decay by row, which is safer without tuning, but not to 0, as tastes keep changing; z is clipped; a step
from a row that is not finite or exceeds LARGEST is refused and counted (descent diverges from latent steps of .3 upward,
clipped or not).
"""

from collections.abc import Mapping

import msgspec
import numpy as np

from streamer.core.arrays import F32, F64, I32, U8, Array
from streamer.core.batch import RATING, REPLACED, Batch, UserView
from streamer.core.kernel import kernel
from streamer.core.protocols import Kind
from streamer.core.tables import Side, Table
from streamer.models.evidence import take_from_counts

LARGEST = 1e12  # a step is refused from this squared length of its two rows on


class BiasedMFParameters(msgspec.Struct, frozen=True):
    """Steps and penalties, for ratings of mean 0 and deviation 1."""

    dim: int = 32
    """Factors of a user and an item. The design's choice for ratings and clicks alike."""
    bias_rate: float = 0.25
    """First step of a bias, a share of the error. That of the bias learner's filter, .23 / (.23 + .68)."""
    learning_rate: float = 0.2
    """First step of the factors, a share of the error. Below the .3 from which the design saw descent diverge."""
    step_floor: float = 0.2
    """Smallest step, a share of the first. The steps of the bias learner's filter settle at about that."""
    bias_l2: float = 0.02
    """Pull of a bias towards 0, a share of itself a step. Koren et al.'s lambda on Netflix."""
    l2: float = 0.05
    """Pull of the factors towards 0, a share of themselves a step. Koren's range is .02 to .1."""
    noise: float = 0.1
    """Standard deviation of an item's first factors. The paper's authors start at .1 and below."""
    clip: float = 4.0
    """Larger errors are clipped to this, in deviations of the ratings. No rating of a five-star scale is further off."""


@kernel
def latent(p: Array, q: Array, dim: int) -> tuple[float, float]:
    """p . q and |p|^2 + |q|^2 over the first `dim` columns, in float64, as four partial sums that the processor computes at once."""
    a = b = c = d = 0.0
    e = f = g = h = 0.0
    whole = dim - dim % 4
    for j in range(0, whole, 4):
        p0, p1, p2, p3 = np.float64(p[j]), np.float64(p[j + 1]), np.float64(p[j + 2]), np.float64(p[j + 3])
        q0, q1, q2, q3 = np.float64(q[j]), np.float64(q[j + 1]), np.float64(q[j + 2]), np.float64(q[j + 3])
        a += p0 * q0
        b += p1 * q1
        c += p2 * q2
        d += p3 * q3
        e += p0 * p0 + q0 * q0
        f += p1 * p1 + q1 * q1
        g += p2 * p2 + q2 * q2
        h += p3 * p3 + q3 * q3
    for j in range(whole, dim):
        a += np.float64(p[j]) * np.float64(q[j])
        e += np.float64(p[j]) * np.float64(p[j]) + np.float64(q[j]) * np.float64(q[j])
    return (a + b) + (c + d), (e + f) + (g + h)


@kernel
def deviation(stream: F64) -> float:
    """sigma of the ratings so far, starting from one imaginary rating with an error of 1, so that it is never 0."""
    return float(np.sqrt((1.0 + stream[0, 2]) / (1.0 + stream[0, 0])))


def rescale_moments(stream: Table, factor: float, shift: float) -> None:
    """Change mu and sigma, see Rescaled; squares may fall to -1, where sigma is 0."""
    row = stream.values[0]
    row[1] = factor * row[1] + shift
    row[2] = factor * factor * (1.0 + row[2]) - 1.0
    stream.touched[0] = 1


@kernel
def learn_biased_mf(
    user: Array,
    user_touched: U8,
    item: Array,
    item_touched: U8,
    stream: F64,
    stream_touched: U8,
    kinds: U8,
    users: I32,
    items: I32,
    values: F32,
    earlier: F32,
    rates: tuple[float, float, float, float, float, float],
    out: F32,
) -> None:
    """User and item rows are [factors, b, n]; stream is [events, mu, squares, refused]; rates as in `BiasedMF.rates`."""
    bias_rate, learning_rate, step_floor, bias_l2, l2, clip = rates
    dim = user.shape[1] - 2
    for k in range(len(kinds)):
        out[k] = np.nan
        if k < len(earlier) and not np.isnan(earlier[k]):  # only counts, mean and deviation can be taken back
            take_from_counts(stream, user[users[k]], item[items[k]], dim + 1, np.float64(earlier[k]))
            user_touched[users[k]] = item_touched[items[k]] = stream_touched[0] = 1
        if kinds[k] != RATING and kinds[k] != REPLACED:
            continue
        p, q, y = user[users[k]], item[items[k]], np.float64(values[k])
        mu, sigma = stream[0, 1], deviation(stream)
        dot, size = latent(p, q, dim)
        b_u, b_i, n_u, n_i = np.float64(p[dim]), np.float64(q[dim]), np.float64(p[dim + 1]), np.float64(q[dim + 1])
        predicted = mu + sigma * (b_u + b_i + (dot if n_i > 0 else 0.0))  # a new item's factors are only noise
        out[k] = predicted if kinds[k] == RATING else np.nan
        z = min(max((y - predicted) / sigma, -clip), clip)
        stream_touched[0] = 1
        if not (np.isfinite(y) and size + b_u * b_u + b_i * b_i + n_u + n_i < LARGEST):  # also refuses NaN
            stream[0, 3] += 1
            continue
        s_u, s_i = max(step_floor, 1.0 / np.sqrt(n_u + 1.0)), max(step_floor, 1.0 / np.sqrt(n_i + 1.0))
        p[dim] = b_u + bias_rate * s_u * (z - bias_l2 * b_u)
        q[dim] = b_i + bias_rate * s_i * (z - bias_l2 * b_i)
        s_u, s_i = learning_rate * s_u, learning_rate * s_i
        for j in range(dim):
            p_j, q_j = np.float64(p[j]), np.float64(q[j])
            p[j] = p_j + s_u * (z * q_j - l2 * p_j)
            q[j] = q_j + s_i * (z * p_j - l2 * q_j)
        p[dim + 1] = n_u + 1.0
        q[dim + 1] = n_i + 1.0
        stream[0, 0] += 1.0
        stream[0, 1] = mu + (y - mu) / stream[0, 0]
        stream[0, 2] += (y - mu) * (y - stream[0, 1])
        user_touched[users[k]] = 1
        item_touched[items[k]] = 1


@kernel
def predict_biased_mf(user: Array, item: Array, stream: F64, users: I32, items: I32, out: F32) -> None:
    """Predictions for pairs of rows into `out` (n,); a row outside its table is an unseen one."""
    dim = user.shape[1] - 2
    sigma = deviation(stream)
    for k in range(len(items)):
        u, i, z = users[k], items[k], 0.0
        known_user, known_item = 0 <= u < len(user), 0 <= i < len(item)
        if known_user:
            z += user[u, dim]
        if known_item:
            z += item[i, dim]
        if known_user and known_item and item[i, dim + 1] > 0:
            z += latent(user[u], item[i], dim)[0]
        out[k] = stream[0, 1] + sigma * z


class BiasedMF:
    """The usual baseline of rating prediction; also the learner behind several refitted models (`models.REFITTED_BY`)."""

    kind: Kind = "ratings"
    Parameters = BiasedMFParameters

    def __init__(self, name: str, parameters: BiasedMFParameters, *, seed: int) -> None:
        """The seed acts through the keys of item rows only."""
        self.name, self.parameters = name, parameters
        p, zeros = parameters, [0.0] * (parameters.dim + 2)
        self.user = Table("user", zeros)  # p, b, n
        self.item = Table("item", zeros, random=p.dim, scale=p.noise)  # q, b, n
        self.stream = Table("stream", [0.0] * 4, dtype=np.float64)  # events, mu, squares, refused
        self.rates = (p.bias_rate, p.learning_rate, p.step_floor, p.bias_l2, p.l2, p.clip)

    def tables(self) -> Mapping[str, Table]:
        """See Stateful."""
        return {"user": self.user, "item": self.item, "stream": self.stream}

    def learn(self, batch: Batch) -> F32:
        """See OnlineLearner; predictions are not clipped."""
        out = np.empty(len(batch), dtype=np.float32)
        user, item, stream = self.user, self.item, self.stream
        learn_biased_mf(
            user.values, user.touched, item.values, item.touched, stream.values, stream.touched,
            batch.kinds, batch.users, batch.items, batch.values, batch.taken_back.earlier, self.rates, out,
        )  # fmt: skip
        return out

    def predict(self, batch: Batch) -> F32:
        """See OnlineLearner; predictions are not clipped."""
        out = np.empty(len(batch), dtype=np.float32)
        predict_biased_mf(self.user.values, self.item.values, self.stream.values, batch.users, batch.items, out)
        out[batch.kinds != RATING] = np.nan
        return out

    def score(self, user: UserView, items: I32) -> F32:
        """The predicted ratings, (len(items),), not clipped."""
        out = np.empty(len(items), dtype=np.float32)
        one = np.array(user.rows[self.name], ndmin=2)  # a copy: a read-only row would compile the kernel again
        predict_biased_mf(one, self.item.values, self.stream.values, np.zeros(len(items), dtype=np.int32), items, out)
        return out

    def rescale(self, factor: float, shift: float) -> None:
        """See Rescaled: rows are in deviations, so only mu and sigma change."""
        rescale_moments(self.stream, factor, shift)

    @property
    def refused(self) -> int:
        """See Guarded."""
        return int(self.stream.values[0, 3])

    def norms(self, side: Side, rows: I32) -> F64:
        """See Watched: factors and bias, in deviations of the ratings. Items start at noise sqrt(dim)."""
        table = self.user if side == "user" else self.item
        return np.asarray(np.linalg.norm(table.values[rows, :-1].astype(np.float64), axis=1))

    def widths(self, side: Side, rows: I32) -> Mapping[str, F64]:
        """See Watched: none, as gradient descent has no posterior."""
        return {}

    def vectors(self) -> Array:
        """See ItemVectors."""
        return self.item.values[:, : self.parameters.dim]
