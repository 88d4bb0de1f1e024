"""How far a rating may lie from the calibrated prediction: the variance that the Bayesian hybrid states, and its 80% interval.

With S the variance that the filter expects of the error, and z as in calibration.py,

    variance of the rating = S exp(a.g),   g = [1, |z| - .8, z, ln S + .3],   a <- a + rate (e^2 / variance - 1) g

a step up the logarithm of the likelihood, from a = 0. So ratings near the ends of their scale, which cannot be far off, get less,
and a filter that is too sure of itself is corrected. The 80% interval is the prediction +- h deviations. h starts as a Gaussian's,
and grows where a rating misses the interval and shrinks where it does not, so that one in five misses whatever the errors'
distribution, on ratings of few distinct values too:

    h <- h + .01 ([|e| > h deviations] - .2)

The row also counts how well that does: the ratings within their interval, and the logarithm of the likelihood above that of
a constant variance, which is the mean of all squared errors before. The counts are part of the state.
Cost: 40 ns. State: nine columns in the row of the calibration. All of them are bounded, except for the counts.

Variance function of a generalised linear model with dispersion: Smyth (1989), Generalized linear models with varying dispersion,
JRSS B 51(1). Interval: Gibbs, Candes (2021), Adaptive conformal inference under distribution shift, NeurIPS, eq. 2. Deviation: the
width is adapted rather than the level.
"""

import numpy as np

from streamer.core.arrays import F64
from streamer.core.kernel import kernel
from streamer.models.hybrid.rows import Model

FIRST = 16  # column of the calibration where a begins; k and v are before it
WIDTH, RATINGS, COVERED, GAIN, SQUARED = range(FIRST + 4, FIRST + 9)
GAUSSIAN = 1.2816  # h of a Gaussian
OUTSIDE = 0.2  # the share of ratings outside their interval
WIDENING = 0.01  # the step of h: after n ratings the share inside is off by at most what h has moved / (WIDENING n)
EARLY_RATINGS = 200.0  # the first steps of a are 1 / (ratings + this)
LARGEST = 6.0  # of e^2 / variance in a step
WIDEST = 2.0  # of a, of a.g, and of the factor between h and a Gaussian's


def initial_spread() -> list[float]:
    """The columns [a, h, ratings, ratings in their interval, gain, squared errors]."""
    return [0.0] * 4 + [GAUSSIAN] + [0.0] * 4


@kernel
def variance_of(z: float, s: float, calibration: F64, model: Model) -> float:
    """The variance of a rating around the calibrated z, in deviations squared; the filter expects one of `s`."""
    row, bounded = calibration[0], min(max(z, -model.clip), model.clip)
    exponent = row[FIRST] + row[FIRST + 1] * (abs(bounded) - 0.8) + row[FIRST + 2] * bounded
    exponent += row[FIRST + 3] * (np.log(s) + 0.3)
    return float(s * np.exp(min(max(exponent, -WIDEST), WIDEST)))


@kernel
def learn_spread(z: float, s: float, error: float, calibration: F64, model: Model) -> None:
    """Learn that a rating was `error` off the calibrated z."""
    row, bounded = calibration[0], min(max(z, -model.clip), model.clip)
    variance, ratings = variance_of(z, s, calibration, model), row[RATINGS]
    if not np.isfinite(error + variance):
        return
    outside = abs(error) > row[WIDTH] * np.sqrt(variance)
    constant = (s + row[SQUARED]) / (1.0 + ratings)
    row[COVERED] += 0.0 if outside else 1.0
    row[GAIN] += 0.5 * (np.log(constant / variance) + error * error * (1.0 / constant - 1.0 / variance))
    row[SQUARED] += error * error
    row[RATINGS] += 1.0
    rate = max(model.spread_rate, 1.0 / (ratings + EARLY_RATINGS))
    width = row[WIDTH] + WIDENING * ((1.0 if outside else 0.0) - OUTSIDE)
    row[WIDTH] = min(max(width, GAUSSIAN / WIDEST), GAUSSIAN * WIDEST)
    step = rate * (min(error * error / variance, LARGEST) - 1.0)
    _move(row, FIRST, step)
    _move(row, FIRST + 1, step * (abs(bounded) - 0.8))
    _move(row, FIRST + 2, step * bounded)
    _move(row, FIRST + 3, step * (np.log(s) + 0.3))


@kernel
def _move(row: F64, column: int, step: float) -> None:
    row[column] = min(max(row[column] + step, -WIDEST), WIDEST)
