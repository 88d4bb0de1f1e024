"""The smoother of the Bayesian hybrid's refit in plain NumPy: the joint Gaussian of all steps of a row, conditioned at once."""

from typing import NamedTuple

import numpy as np

from streamer.core.arrays import F64, I64
from streamer.models.hybrid.smoother import Dynamics, Ratings


class Smoothed(NamedTuple):
    """A row with T ratings."""

    told: F64  # (T, c), each without its own rating, like the next two
    predictions: F64  # (T,)
    spreads: F64  # (T,)
    mean: F64  # (n,) after the last rating
    covariance: F64  # (n, n)
    moved: F64  # (n,) how far the start is from where it was
    informed: F64  # (n, n) how far its covariance is below the prior


def twin_smooth(ratings: Ratings, dynamics: Dynamics, row: int) -> Smoothed:
    """See smoother.py; errors are not clipped."""
    chosen = ratings.order[ratings.starts[row] : ratings.starts[row + 1]]
    n, d, steps = len(dynamics.prior), len(dynamics.process), len(chosen)
    x = np.zeros((steps, (steps + 1) * n))
    mean, covariance = dynamics.starts[row].astype(np.float64), np.diag(dynamics.prior)
    means, joint = np.zeros((steps + 1) * n), np.zeros(((steps + 1) * n, (steps + 1) * n))
    means[:n], joint[:n, :n] = mean, covariance  # the start, then a block for each rating
    for t, k in enumerate(chosen.tolist(), 1):
        f, q = np.ones(n), np.zeros(n)
        q[:d] = dynamics.process
        if dynamics.fading >= 0:
            f[dynamics.fading] = ratings.fades[k]
            q[dynamics.fading] += (1 - ratings.fades[k] ** 2) * dynamics.prior[dynamics.fading]
        mean, covariance = f * mean, f[:, None] * covariance * f + np.diag(q)
        here = slice(t * n, (t + 1) * n)
        means[here], joint[here, here] = mean, covariance
        before = f[:, None] * joint[here.start - n : here.start, : here.start]
        joint[here, : here.start], joint[: here.start, here] = before, before.T
        x[t - 1, t * n : t * n + d] = ratings.dense[k]
        item = ratings.of[k]
        positions = ratings.sparse[item, : ratings.sparse_counts[item]]
        x[t - 1, t * n + positions] = ratings.shares[item]
    z, r = ratings.targets[chosen], ratings.variances[chosen].astype(np.float64)

    def conditioned(on: I64) -> tuple[F64, F64]:
        a = x[on]
        gain = joint @ a.T @ np.linalg.inv(a @ joint @ a.T + np.diag(r[on]))
        return means + gain @ (z[on] - a @ means), joint - gain @ a @ joint

    told, predictions, spreads = np.zeros((steps, len(dynamics.told))), np.zeros(steps), np.zeros(steps)
    for t in range(steps):
        found, left = conditioned(np.delete(np.arange(steps), t))
        told[t], predictions[t], spreads[t] = found[(t + 1) * n + dynamics.told], x[t] @ found, x[t] @ left @ x[t]
    found, left = conditioned(np.arange(steps))
    informed = np.diag(dynamics.prior) - left[:n, :n]
    return Smoothed(told, predictions, spreads, found[-n:], left[-n:, -n:], found[:n] - means[:n], informed)
