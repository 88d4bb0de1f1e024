"""Kernels that smooth one side of the Bayesian hybrid: every row's state over all its ratings, given the other side.

A row (a user's w, or an item's q + Gamma g and b + beta.g) is a Gaussian state with a rating z_t = x_t.w_t + noise of variance r_t
at its step t. Before each step, weights gain process noise, and the session's bias fades by f_t. The filter runs forwards,

    e = z - x.w,   S = r + x'Px,   w <- w + P x e / S,   P <- P - P x x'P / S

and the smoother backwards, by adjoints l and L, which start at 0. With C = I - P x x' / S,

    l <- C'l - x e / S,   L <- C'L C + x x' / S;   mean = w - P l,   covariance = P - P L P,   then both times F' (and F)

with w and P as they were before the rating. What is given to the other side is the state without the rating itself (its
cavity): with v = x'(covariance)x and e' the error of the smoothed mean,

    mean without it = mean - covariance x e' / (r - v),   variance of x.w without it = v r / (r - v)

so no rating is evidence about itself. The rating counts for the other side with that variance added to its noise.
Cost: O(m^2) a rating, where m is the number of weights that the row's ratings touch, some 5 us for 25 weights. Memory: rows, and 8
SEGMENT m (c + 1) bytes for c coordinates; long rows are filtered twice, from checkpoints.

Rauch, Tung, Striebel (1965), Maximum likelihood estimates of linear dynamic systems, AIAA Journal 3(8), in the form of
Bierman (1973), Fixed interval smoothing with discrete measurements, Int. J. Control 18(1); cavities: Minka (2001), Expectation
propagation for approximate Bayesian inference, UAI.
"""

from typing import NamedTuple

import numpy as np

from streamer.core.arrays import F32, F64, I32, I64, Array
from streamer.core.kernel import kernel

SEGMENT = 256  # a good `segment`
LEAST = 1e-3  # r - v is at least this share of r


class Ratings(NamedTuple):
    """The n ratings as one side sees them; rows and their order in time by `starts` and `order`."""

    starts: I64  # (rows + 1,)
    order: I64  # (n,) numbers of ratings by row, then time
    dense: F32  # (n, d) entries 0 to d - 1 of x
    of: I32  # (n,) row of `sparse` with the others
    sparse: I32  # (m, k) positions in w of the entries that are 1 / sqrt(sparse_counts), beyond d
    sparse_counts: I32  # (m,) how many of them there are
    shares: F64  # (m,) the value of each
    targets: F64  # (n,) z
    variances: F32  # (n,) r
    fades: F64  # (n,) f


class Dynamics(NamedTuple):
    """How states begin and move."""

    starts: F64  # (rows, n) means before any rating
    prior: F64  # (n,) variances before any rating
    process: F64  # (d,) what a step adds to the variances
    fading: int  # the weight that fades, -1: none
    told: I64  # (c,) the weights below d whose means the other side needs
    clip: float  # larger errors are clipped
    segment: int  # the number of ratings whose steps are kept at a time


def by_row(rows: I32, count: int) -> tuple[I64, I64]:
    """The places (n,) of each row's entries, one row after the other, and where each row's begin (count + 1,)."""
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=count))]).astype(np.int64)
    return np.argsort(rows, kind="stable"), starts


def packed(positions: Array) -> tuple[I32, I32]:
    """Move what is not -1 to the left; return it (rows, k) and how many there are (rows,)."""
    counts = (positions >= 0).sum(axis=1).astype(np.int32)
    order = np.argsort(positions < 0, axis=1, kind="stable")[:, : max(1, int(counts.max(initial=0)))]
    return np.take_along_axis(positions, order, axis=1).astype(np.int32), counts


@kernel
def _features(ratings: Ratings, k: int, place: I64, at: I64, x: F64) -> int:
    """Write x of rating k; return its number of entries."""
    count: int = ratings.dense.shape[1]
    for j in range(count):
        at[j], x[j] = j, ratings.dense[k, j]
    row = ratings.of[k]
    first = count
    for s in range(ratings.sparse_counts[row]):
        at[count], x[count] = place[ratings.sparse[row, s] - first], ratings.shares[row]
        count += 1
    return count


@kernel
def _forward(
    ratings: Ratings, dynamics: Dynamics, begin: int, end: int, m: int, place: I64, w: F64, p: F64, at: I64, x: F64,
    moves: F64, rows: F64, means: F64, sums: F64, evidence: F32,
) -> None:  # fmt: skip
    """Filter the ratings begin to end - 1 of the order, and keep what the way back needs."""
    fading, told, d = dynamics.fading, dynamics.told, len(dynamics.process)
    for t in range(end - begin):
        k = ratings.order[begin + t]
        if fading >= 0:
            fade = ratings.fades[k]
            w[fading] *= fade
            for j in range(m):
                p[fading, j] *= fade
                p[j, fading] *= fade
            p[fading, fading] += (1.0 - fade * fade) * dynamics.prior[fading]
        for j in range(d):
            p[j, j] += dynamics.process[j]
        count, px = _features(ratings, k, place, at, x), moves[t]
        for j in range(m):
            row, total = p[j], 0.0
            for s in range(d):
                total += row[s] * x[s]
            for s in range(d, count):
                total += row[at[s]] * x[s]
            px[j] = total
        own = predicted = 0.0
        for s in range(count):
            own += x[s] * px[at[s]]
            predicted += x[s] * w[at[s]]
        r = np.float64(ratings.variances[k])
        total = own + r
        error = min(max(ratings.targets[k] - predicted, -dynamics.clip), dynamics.clip)
        evidence[k, 0], evidence[k, 1] = error * error / total, np.log(total)
        sums[t, 0], sums[t, 1], sums[t, 2], sums[t, 3] = own, predicted, error, total
        for c in range(len(told)):
            means[t, c] = w[told[c]]
            kept, row = rows[t, c], p[told[c]]
            for j in range(m):
                kept[j] = row[j]
        for j in range(m):
            w[j] += px[j] * error / total
            step, row = px[j] / total, p[j]
            for s in range(m):
                row[s] -= step * px[s]


@kernel
def _backward(
    ratings: Ratings, dynamics: Dynamics, begin: int, end: int, m: int, place: I64, slope: F64, curve: F64, at: I64, x: F64,
    moves: F64, rows: F64, means: F64, sums: F64, g: F64, told_means: F32, predictions: F32, spreads: F32,
) -> None:  # fmt: skip
    """Go back over the same ratings, and write what the other side needs."""
    fading, told = dynamics.fading, dynamics.told
    for t in range(end - begin - 1, -1, -1):
        k, px = ratings.order[begin + t], moves[t]
        count = _features(ratings, k, place, at, x)
        own, predicted, error, total = sums[t, 0], sums[t, 1], sums[t, 2], sums[t, 3]
        both = along = 0.0
        for j in range(m):
            row, sum_ = curve[j], 0.0
            for s in range(m):
                sum_ += row[s] * px[s]
            g[j] = sum_ / total
            both += g[j] * px[j] / total
            along += px[j] * slope[j] / total
        for s in range(count):
            i = at[s]
            slope[i] -= x[s] * (along + error / total)
            for j in range(m):
                curve[i, j] -= x[s] * g[j]
                curve[j, i] -= x[s] * g[j]
        for s in range(count):
            for q in range(count):
                curve[at[s], at[q]] += x[s] * x[q] * (both + 1.0 / total)
        smoothed, moved = own, 0.0
        for j in range(m):
            row, sum_ = curve[j], 0.0
            for s in range(m):
                sum_ += row[s] * px[s]
            g[j] = sum_
            smoothed -= px[j] * sum_
            moved -= px[j] * slope[j]
        r = total - own
        smoothed = max(smoothed, 0.0)
        left = max(r - smoothed, LEAST * r)
        step = (error - moved) / left
        for c in range(len(told)):
            covariance, mean, row = px[told[c]], means[t, c], rows[t, c]
            for j in range(m):
                covariance -= row[j] * g[j]
                mean -= row[j] * slope[j]
            told_means[k, c] = mean - covariance * step
        predictions[k] = predicted + moved - smoothed * step
        spreads[k] = smoothed * r / left
        if fading >= 0:
            fade = ratings.fades[k]
            slope[fading] *= fade
            for j in range(m):
                curve[fading, j] *= fade
                curve[j, fading] *= fade


@kernel
def smooth(
    ratings: Ratings, dynamics: Dynamics, states: Array, told_means: F32, predictions: F32, spreads: F32,
    evidence: F32, sums: F64, squares: F64, informed: F64, back: bool,
) -> None:  # fmt: skip
    """Smooth every row that has ratings; without `back` they are only filtered, for the evidence.

    Writes `states` (rows, n + n (n + 1) / 2), mean and lower triangle of the covariance after the last rating; for each rating
    without itself `told_means` (n, c), `predictions` (n,) of x.w and their variances `spreads` (n,); `evidence` (n, 2), e^2 / S and
    ln S of the filter. Adds the smoothed deviations from the start to `sums` (n,), their squares to `squares` (n, n), and
    how far their covariances are below the prior to `informed` (n, n).
    """
    size, d, coordinates = len(dynamics.prior), len(dynamics.process), len(dynamics.told)
    longest = 1
    for row in range(len(ratings.starts) - 1):
        longest = max(longest, ratings.starts[row + 1] - ratings.starts[row])
    w, slope, g, moved = np.zeros(size), np.zeros(size), np.zeros(size), np.zeros(size)
    p, curve = np.zeros((size, size)), np.zeros((size, size))
    place, full = np.zeros(size - d + 1, np.int64), np.zeros(size, np.int64)
    at, x = np.zeros(size + 1, np.int64), np.zeros(size + 1)
    moves, rows = np.zeros((dynamics.segment, size)), np.zeros((dynamics.segment, coordinates, size))
    means, kept = np.zeros((dynamics.segment, coordinates)), np.zeros((dynamics.segment, 4))
    segments = (longest + dynamics.segment - 1) // dynamics.segment
    kept_w, kept_p = np.zeros((segments, size)), np.zeros((segments, size, size))
    for row in range(len(ratings.starts) - 1):
        begin, end = ratings.starts[row], ratings.starts[row + 1]
        if begin == end:
            continue
        m = d
        place[:] = -1
        for j in range(d):
            full[j] = j
        for t in range(begin, end):
            other = ratings.of[ratings.order[t]]
            for s in range(ratings.sparse_counts[other]):
                position = ratings.sparse[other, s] - d
                if place[position] < 0:
                    place[position], full[m] = m, position + d
                    m += 1
        for j in range(m):
            w[j] = dynamics.starts[row, full[j]]
            for s in range(m):
                p[j, s] = dynamics.prior[full[j]] if s == j else 0.0
                curve[j, s] = 0.0
            slope[j] = 0.0
        number = (end - begin + dynamics.segment - 1) // dynamics.segment
        for segment in range(number):
            for j in range(m):
                kept_w[segment, j] = w[j]
                for s in range(m):
                    kept_p[segment, j, s] = p[j, s]
            first = begin + segment * dynamics.segment
            last = min(first + dynamics.segment, end)
            _forward(ratings, dynamics, first, last, m, place, w, p, at, x, moves, rows, means, kept, evidence)
        if not back:
            continue
        state = states[row]
        for j in range(size):
            state[j] = dynamics.starts[row, j]
        state[size:] = 0.0
        for j in range(size):
            state[size + j * (j + 3) // 2] = dynamics.prior[j]
        for j in range(m):
            state[full[j]] = w[j]
            for s in range(m):
                if full[s] <= full[j]:
                    state[size + full[j] * (full[j] + 1) // 2 + full[s]] = p[j, s]
        for segment in range(number - 1, -1, -1):
            first = begin + segment * dynamics.segment
            last = min(first + dynamics.segment, end)
            if segment < number - 1:
                for j in range(m):
                    w[j] = kept_w[segment, j]
                    for s in range(m):
                        p[j, s] = kept_p[segment, j, s]
                _forward(ratings, dynamics, first, last, m, place, w, p, at, x, moves, rows, means, kept, evidence)
            _backward(
                ratings, dynamics, first, last, m, place, slope, curve, at, x, moves, rows, means, kept, g, told_means,
                predictions, spreads,
            )  # fmt: skip
        for j in range(m):
            moved[j] = -dynamics.prior[full[j]] * slope[j]
        for j in range(m):
            a = full[j]
            sums[a] += moved[j]
            for s in range(m):
                b = full[s]
                squares[a, b] += moved[j] * moved[s]
                informed[a, b] += dynamics.prior[a] * curve[j, s] * dynamics.prior[b]
