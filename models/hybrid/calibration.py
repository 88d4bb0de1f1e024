"""The last step of the Bayesian hybrid's predictions: what its filter gets wrong in the same way again and again.

    y = mu + sigma (z + k.f),   f = [1, z, |z| - .8, h z, h, s, s z, a - .7 z],   h = ln(1 + n_u) / 4 - 1

z is the filter's own prediction in deviations of the ratings, n_u the user's number of ratings, s what is left of the session's
bias, and a the item's consensus as in x. So high predictions, which end at the scale's highest, are straightened, and a
session's bias counts as much as it proves to count: in a stream without sessions, hardly. k is a filter of its own, with a
variance v for each weight. With e the error of the prediction and the forgetting factor lambda,

    S = R + sum v_j f_j^2,   k_j <- k_j + v_j f_j e / S,   v_j <- (v_j - v_j^2 f_j^2 / S) / lambda, at most its initial value

k starts at 0. The filter of users and items learns from its own errors, as if k did not exist. For one user, k.f is a function of z and a with four coefficients.
Cost: 30 ns. State: 16 columns of one row, followed by those of spread.py.

Kalman (1960), as in bayesian_hybrid.py; forgetting: Haykin (2002), Adaptive filter theory, ch. 9. Deviation: covariances between
weights are dropped, which costs nothing here, since the constants in f keep inputs nearly uncorrelated.
"""

import numpy as np

from streamer.core.arrays import F64, Array
from streamer.core.kernel import kernel
from streamer.models.hybrid.rows import SESSION, SMALLEST, Model
from streamer.models.hybrid.spread import initial_spread

INPUTS = 8  # of f
OWN = 6  # h and s of one user, and the coefficients of 1, z, |z| and a


def initial_calibration(variance: float) -> list[float]:
    """The row [k, v], followed by the columns of spread.py."""
    return [0.0] * INPUTS + [variance] * INPUTS + initial_spread()


@kernel
def _within(value: float, limit: float) -> float:
    return min(max(value, -limit), limit)


@kernel
def calibration_of(user: Array, fade: float, calibration: F64, model: Model, own: F64) -> None:
    """Write what k.f is for one user to `own` (OWN,); `fade`: the share left of the session's bias."""
    k = calibration[0]
    own[0] = h = 0.25 * np.log(1.0 + np.float64(user[len(user) - 1])) - 1.0
    own[1] = s = _within(fade * np.float64(user[SESSION]), model.clip)
    own[2] = k[0] - 0.8 * k[2] + k[4] * h + k[5] * s
    own[3] = k[1] + k[3] * h + k[6] * s - 0.7 * k[7]
    own[4], own[5] = k[2], k[7]


@kernel
def calibrated(own: F64, z: float, consensus: float, model: Model) -> float:
    """z + k.f"""
    bounded = _within(z, model.clip)
    moved = own[2] + own[3] * bounded + own[4] * abs(bounded) + own[5] * _within(consensus, model.clip)
    return float(z + moved)


@kernel
def _write_inputs(own: F64, z: float, consensus: float, model: Model, f: F64) -> None:
    z, h, s = _within(z, model.clip), own[0], own[1]
    f[0], f[1], f[2], f[3] = 1.0, z, abs(z) - 0.8, h * z
    f[4], f[5], f[6], f[7] = h, s, s * z, _within(consensus, model.clip) - 0.7 * z


@kernel
def learn_calibration(
    own: F64, z: float, consensus: float, error: float, calibration: F64, model: Model, f: F64
) -> None:
    """Learn that `calibrated` was `error` off; `f` (INPUTS,) is overwritten."""
    row, total = calibration[0], model.noise
    _write_inputs(own, z, consensus, model, f)
    for j in range(INPUTS):
        total += row[INPUTS + j] * f[j] * f[j]
    for j in range(INPUTS):
        move = row[INPUTS + j] * f[j]
        row[j] += move * error / total
        left = (row[INPUTS + j] - move * move / total) / model.calibration_forgetting
        row[INPUTS + j] = min(max(left, SMALLEST), model.calibration_prior)


@kernel
def take_from_calibration(user: Array, z: float, consensus: float, y: float, calibration: F64, model: Model) -> None:
    """Take back what a rating `y`, in deviations from the mean, taught k; `user` is as before it, and z was predicted.

    With S the sum of R and others, an error e before the step is e R / S after it. Exact but for what forgetting adds to v.
    """
    own, f, row = np.empty(OWN), np.empty(INPUTS), calibration[0]
    calibration_of(user, 1.0, calibration, model, own)
    error = y - calibrated(own, z, consensus, model)
    if not np.isfinite(error + np.float64(user[SESSION])):
        return
    error = _within(error, model.clip)
    _write_inputs(own, z, consensus, model, f)
    for j in range(INPUTS):
        row[j] -= row[INPUTS + j] * f[j] * error / model.noise
