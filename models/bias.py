"""Damped user and item bias, filtered.

    y = mu + unit (b_u + b_i) + noise,    b_u and b_i take a small random step with each of their events

Each bias is a Gaussian with a variance P. For each event, after the row's process noise is added to its P,

    e = (y - mu) / unit - b_u - b_i,   S = R + P_u + P_i,   b <- b + P e / S,   P <- P - P^2 / S

so that a new row moves by the damped mean of its errors, and an old one still follows a change of taste. All variances
are shares of the ratings' variance, which cancels in P / S: any scale of ratings gives the same results.
The unit is 1, and changes with the scale of ratings only, so that no row has to. For an unseen user or item the prediction is mu plus
the other side's bias. A rating that replaces an earlier one, or withdraws it, first takes back what that one did.
Cost: O(1) an event. State: b, P float32 (rows, 2); events, mu, steps refused, unit.

Kalman (1960), A new approach to linear filtering and prediction problems, J. Basic Engineering 82(1).
Deviation: the covariance between b_u and b_i is dropped, and mu is the running mean and not a part of the filter.
"""

from collections.abc import Mapping

import msgspec
import numpy as np

from streamer.core.arrays import F32, F64, I32, U8, Array
from streamer.core.batch import RATING, REPLACED, Batch, UserView
from streamer.core.kernel import kernel
from streamer.core.protocols import Kind
from streamer.core.tables import Side, Table
from streamer.models.evidence import take_from_moments, variances_before

LARGEST = 1e37  # the largest bias; float32 can hold it


class BiasParameters(msgspec.Struct, frozen=True):
    """Variances, in shares of the ratings' variance. The design's values for ratings from .5 to 5, divided by the variance
    of those ratings, 1.087."""

    noise: float = 0.684
    """Variance of a rating around its user's and item's biases (design: .743)."""
    user_prior: float = 0.23
    """Variance between users, on MovieLens: .138 for the users plus .11 for what the design models as sessions."""
    item_prior: float = 0.174
    """Variance between items (design: .189)."""
    user_process: float = 3e-3
    """What an event adds to its user's variance. Five times the design's (6.5e-4), which models sessions separately."""
    item_process: float = 3.4e-4
    """What an event adds to its item's variance (design: 3.7e-4)."""


@kernel
def take_back(user: Array, item: Array, stream: F64, y: float, noise: float, priors: tuple[float, float]) -> None:
    """Take back the earlier rating `y`, see evidence.py; no variance grows beyond its prior."""
    take_from_moments(stream, 0, 1, -1, y)
    after, before = np.array([np.float64(user[1]), np.float64(item[1])]), np.empty(2)
    variances_before(after, np.ones(2), np.array(priors), noise, before)
    p_u, p_i = before[0], before[1]
    step = ((y - stream[0, 1]) / stream[0, 3] - np.float64(user[0]) - np.float64(item[0])) / noise
    b_u, b_i = user[0] - p_u * step, item[0] - p_i * step
    if abs(b_u) < LARGEST and abs(b_i) < LARGEST:
        user[0], user[1], item[0], item[1] = b_u, p_u, b_i, p_i
    else:
        stream[0, 2] += 1


@kernel
def learn_bias(
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
    ages: I32,
    noise: float,
    user_process: float,
    item_process: float,
    priors: tuple[float, float],
    out: F32,
) -> None:
    """User and item rows are [b, P]; stream is [events, mu, refused, unit]; `earlier` and `ages` from batch.TakenBack."""
    unit = stream[0, 3]
    for k in range(len(kinds)):
        out[k] = np.nan
        if k < len(earlier) and not np.isnan(earlier[k]):
            u, i, y = users[k], items[k], np.float64(earlier[k])
            take_back(user[u], item[i], stream, y, noise + ages[k] * user_process, priors)
            user_touched[u] = item_touched[i] = stream_touched[0] = 1
        if kinds[k] != RATING and kinds[k] != REPLACED:
            continue
        u, i, y = users[k], items[k], np.float64(values[k])
        b_u, b_i = np.float64(user[u, 0]), np.float64(item[i, 0])
        p_u, p_i = user[u, 1] + user_process, item[i, 1] + item_process
        predicted = stream[0, 1] + unit * b_u + unit * b_i
        out[k] = predicted if kinds[k] == RATING else np.nan
        step = (y - predicted) / unit / (noise + p_u + p_i)
        stream_touched[0] = 1
        if not (abs(b_u + p_u * step) < LARGEST and abs(b_i + p_i * step) < LARGEST):  # also refuses NaN
            stream[0, 2] += 1
            continue
        s = noise + p_u + p_i
        user[u, 0], user[u, 1] = b_u + p_u * step, p_u - p_u * p_u / s
        item[i, 0], item[i, 1] = b_i + p_i * step, p_i - p_i * p_i / s
        stream[0, 0] += 1
        stream[0, 1] += (y - stream[0, 1]) / stream[0, 0]
        user_touched[u] = 1
        item_touched[i] = 1


def known_bias(values: Array, rows: I32) -> F64:
    """The biases of `rows` in a table's `values`, (n,) float64; 0 for unseen rows. Pure."""
    biases = np.zeros(len(rows))
    known = (rows >= 0) & (rows < len(values))
    biases[known] = values[rows[known], 0]
    return biases


class Bias:
    """The fastest learner of ratings, and the baseline in every chart of them."""

    kind: Kind = "ratings"
    Parameters = BiasParameters

    def __init__(self, name: str, parameters: BiasParameters, *, seed: int) -> None:
        """The seed is unused: nothing here is random."""
        self.name, self.parameters = name, parameters
        self.user = Table("user", [0.0, parameters.user_prior])  # b, P
        self.item = Table("item", [0.0, parameters.item_prior])  # b, P
        self.stream = Table("stream", [0.0, 0.0, 0.0, 1.0], dtype=np.float64, added=1)  # events, mu, refused, unit

    def tables(self) -> Mapping[str, Table]:
        """See Stateful."""
        return {"user": self.user, "item": self.item, "stream": self.stream}

    def learn(self, batch: Batch) -> F32:
        """See OnlineLearner; predictions are not clipped."""
        out = np.empty(len(batch), dtype=np.float32)
        user, item, stream, p = self.user, self.item, self.stream, self.parameters
        learn_bias(
            user.values, user.touched, item.values, item.touched, stream.values, stream.touched,
            batch.kinds, batch.users, batch.items, batch.values, batch.taken_back.earlier, batch.taken_back.ages,
            p.noise, p.user_process, p.item_process, (p.user_prior, p.item_prior), out,
        )  # fmt: skip
        return out

    def predict(self, batch: Batch) -> F32:
        """See OnlineLearner; predictions are not clipped."""
        _, mu, _, unit = self.stream.values[0]
        predicted = (
            mu + unit * known_bias(self.user.values, batch.users) + unit * known_bias(self.item.values, batch.items)
        )
        return np.where(batch.kinds == RATING, predicted, np.nan).astype(np.float32)

    def rescale(self, factor: float, shift: float) -> None:
        """See Rescaled."""
        row = self.stream.values[0]
        row[1], row[3] = factor * row[1] + shift, factor * row[3]
        self.stream.touched[0] = 1

    @property
    def refused(self) -> int:
        """See Guarded."""
        return int(self.stream.values[0, 2])

    def norms(self, side: Side, rows: I32) -> F64:
        """See Watched: the distance of biases from 0, in ratings."""
        return np.abs(self._rows(side, rows)[:, 0]) * float(self.stream.values[0, 3])

    def widths(self, side: Side, rows: I32) -> Mapping[str, F64]:
        """See Watched."""
        return {"bias": np.sqrt(self._rows(side, rows)[:, 1])}

    def _rows(self, side: Side, rows: I32) -> F64:
        return (self.user if side == "user" else self.item).values[rows].astype(np.float64)

    def score(self, user: UserView, items: I32) -> F32:
        """The predicted ratings, (len(items),), not clipped."""
        _, mu, _, unit = self.stream.values[0]
        known = mu + unit * float(user.rows[self.name][0])
        return np.asarray(known + unit * known_bias(self.item.values, items), dtype=np.float32)
