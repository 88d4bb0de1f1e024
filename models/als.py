"""Biased alternating least squares: refits biased-mf on its whole history.

    minimise  sum w (z - b_u - b_i - p_u . q_i)^2 + sum_rows n^.5 (l2 |p or q|^2 + bias_l2 b^2),   z = (y - mu) / sigma

over all ratings, where n is the sum of a row's weights w. One side's factors and biases are solved for together while the
other side is fixed, alternating between users and items; users come last, so that they fit the final items. The start is the
result of one pass of the learner's own descent over the same history (or, with `warm`, the live rows), so that few
sweeps are enough and the space stays the one that the rows' initial values span: a refit without some events gives what
would have been learned had they never existed. A weight is 1, or halves for every `half_life_days` that a rating is
older than the last one; ratings older than `window_days` have weight 0, and rows without weight stay as descent left them. At
the end one side is scaled down and the other up, which changes no prediction, so that both have grown by the same factor
since descent: a gradient step is proportional to the rows of the other side, so this suits the learner (RMSE afterwards .3% lower
on ml-latest-small). The counts, which determine the learner's steps, mu and sigma are those of the whole history.
Cost: O(dim^2) a rating and half-sweep, O(dim^3) a row: 2.6 s of CPU a million ratings for 3 sweeps of 32 factors.

Zhou, Wilkinson, Schreiber, Pan (2008), Large-scale parallel collaborative filtering for the Netflix prize, AAIM.
Deviation: the penalty grows with the root of a row's count, not with the count (ALS-WR): rows with many ratings are shrunk less.
"""

from collections.abc import Callable, Mapping
from typing import cast

import msgspec
import numpy as np

from streamer.core.arrays import F64, I32, I64, Array
from streamer.core.batch import RATING, Batch
from streamer.core.dataset import group_rows
from streamer.core.errors import StreamerError
from streamer.core.kernel import kernel
from streamer.core.protocols import OnlineLearner
from streamer.models.biased_mf import BiasedMF, deviation
from streamer.models.replay import DAY_MS, learn_whole

FIRST_PASS = 0.2  # the share of progress that the pass of descent accounts for


class AlternatingLeastSquaresParameters(msgspec.Struct, frozen=True):
    """Sweeps, penalties and which events count, for ratings of mean 0 and deviation 1."""

    sweeps: int = 3
    """How often both sides are solved for. 3 from a warm start equal 10 from a cold one (the design's measurement)."""
    l2: float = 1.25
    """Penalty of the factors. 1 to 1.5 gain alike, on MovieLens and in simulated worlds; from 2 on the factors vanish."""
    bias_l2: float = 2.0
    """Penalty of the biases. 1 to 3 gain alike."""
    window_days: float | None = None
    """Largest age of ratings that count; None: all of them."""
    half_life_days: float | None = None
    """Age at which a rating counts half; None: all count the same."""
    warm: bool = False
    """Start from the live rows and not with a pass over the history: for histories that do not go back to the first event."""


@kernel
def solve_side(
    own: Array, other: Array, starts: I64, others: I32, z: F64, weights: F64, l2: float, bias_l2: float
) -> None:
    """Solve for the rows `own` of one side, in place; rows of `own` and `other` are [factors, b, n].

    Row r has ratings `starts[r]` to `starts[r + 1]` of `others`, `z` and `weights` (ratings,). A row without weight stays as it is.
    """
    n = own.shape[1] - 1  # factors and b
    a, x, y = np.empty((n, n)), np.ones(n), np.empty(n)
    for row in range(len(starts) - 1):
        a[:] = 0.0
        y[:] = 0.0
        total = 0.0
        for k in range(starts[row], starts[row + 1]):
            q, w = other[others[k]], weights[k]
            total += w
            for j in range(n - 1):
                x[j] = q[j]
            rest = z[k] - np.float64(q[n - 1])
            for i in range(n):
                wx = w * x[i]
                y[i] += wx * rest
                for j in range(i + 1):
                    a[i, j] += wx * x[j]
        if not total > 0.0:
            continue
        for i in range(n):
            a[i, i] += np.sqrt(total) * (l2 if i < n - 1 else bias_l2)
        for i in range(n):  # Cholesky, in place
            for j in range(i + 1):
                rest = a[i, j]
                for k in range(j):
                    rest -= a[i, k] * a[j, k]
                a[i, j] = np.sqrt(rest) if i == j else rest / a[j, j]
        for i in range(n):
            for k in range(i):
                y[i] -= a[i, k] * y[k]
            y[i] /= a[i, i]
        for i in range(n - 1, -1, -1):
            for k in range(i + 1, n):
                y[i] -= a[k, i] * y[k]
            y[i] /= a[i, i]
        if np.isfinite(y.sum()):
            for j in range(n):
                own[row, j] = y[j]


class AlternatingLeastSquares:
    """The protocols.Trainer of biased-mf."""

    Parameters = AlternatingLeastSquaresParameters

    def __init__(self, name: str, parameters: AlternatingLeastSquaresParameters) -> None:
        self.name, self.parameters = name, parameters
        self._tables: Mapping[str, Array] = {}

    def fit(self, learner: OnlineLearner, history: Batch, on_progress: Callable[[float], None]) -> None:
        """See protocols.Trainer; raises StreamerError for a learner that is not a BiasedMF."""
        if not isinstance(learner, BiasedMF):
            raise StreamerError(
                f"the trainer {self.name} fits biased-mf, not {learner.name}: name another trainer for it"
            )
        if not self.parameters.warm:
            learn_whole(learner, history, lambda share: on_progress(FIRST_PASS * share))
        p, users, items = self.parameters, learner.user.values, learner.item.values
        chosen = np.flatnonzero((history.kinds == RATING) & np.isfinite(history.values) & (self._weights(history) > 0))
        stream, clip = learner.stream.values, learner.parameters.clip
        z = (history.values[chosen].astype(np.float64) - stream[0, 1]) / deviation(stream)
        z, weights = z.clip(-clip, clip), self._weights(history)[chosen]
        of_users, of_items = history.users[chosen], history.items[chosen]
        user_order, user_starts = group_rows(of_users, len(users))
        item_order, item_starts = group_rows(of_items, len(items))
        by_user = user_starts, of_items[user_order], z[user_order], weights[user_order]
        by_item = item_starts, of_users[item_order], z[item_order], weights[item_order]
        rated = np.unique(of_users), np.unique(of_items)
        before = _length(users[rated[0]]), _length(items[rated[1]])
        for sweep in range(p.sweeps):
            solve_side(users, items, *by_user, p.l2, p.bias_l2)
            solve_side(items, users, *by_item, p.l2, p.bias_l2)
            on_progress(FIRST_PASS + (1.0 - FIRST_PASS) * (sweep + 1) / (p.sweeps + 1))
        solve_side(users, items, *by_user, p.l2, p.bias_l2)
        grown = _length(users[rated[0]]) * before[1], _length(items[rated[1]]) * before[0]
        if min(grown) > 0.0:
            scale = np.sqrt(grown[0] / grown[1])
            users[rated[0], :-2] /= scale
            items[rated[1], :-2] *= scale
        on_progress(1.0)
        self._tables = {name: table.values for name, table in learner.tables().items()}

    def export(self) -> Mapping[str, Array]:
        """See protocols.Trainer."""
        return self._tables

    def _weights(self, history: Batch) -> F64:
        """Weights of the events, (n,), by their age at the latest event."""
        p, times = self.parameters, history.times_ms
        days = (times.max(initial=times[0]) - times) / DAY_MS if len(times) else np.empty(0)
        weights = np.ones(len(times)) if p.half_life_days is None else 0.5 ** (days / p.half_life_days)
        if p.window_days is not None:
            weights[days > p.window_days] = 0.0
        return cast(F64, weights)


def _length(rows: Array) -> float:
    """Root mean square of the factors' lengths; 0 without rows."""
    return float(np.sqrt(np.square(rows[:, :-2].astype(np.float64)).sum() / max(len(rows), 1)))
