"""The kernels with which the Bayesian hybrid takes in what users say of themselves; its rows stand in bayesian_hybrid_rows.py.

A user's row is what their ratings taught, begun where their groups were. A stated preference is a rating of an item that is
nothing but of its category. It is never mixed into the row: Gaussian evidence may come in any order, so it is added on top
wherever the row is used, and a profile that changes replaces what was said before without a trace. With a the category's x
and what was said z deviations from the mean,

    s = r + a'Pa,   w <- w + Pa (z - beta - a'w) / s,   P <- P - Pa a'P / s

for one preference after the other, of which only w and the Pa are ever written down.
"""

import numpy as np

from streamer.core.arrays import F32, F64, I32, Array
from streamer.core.kernel import kernel
from streamer.models.hybrid.rows import (
    AGREEING,
    BIAS,
    CONSENSUS,
    FIXED,
    LEARNED,
    POPULAR,
    POPULARITY,
    SESSION,
    Model,
    deviation,
    ponder,
    spread,
    stance,
    vagueness,
)


@kernel
def welcome(user: Array, groups: I32, crowd: Array, model: Model) -> None:
    """Let a user without ratings begin where the users of these groups did."""
    width = 2 + model.dim + model.categories
    for group in groups:
        if group >= 0:
            user[BIAS] += crowd[0, group * width + 1]
            for j in range(model.dim + model.categories):
                user[FIXED + j] += crowd[0, group * width + 2 + j]


@kernel
def listen(
    user: Array,
    preferences: F32,
    groups: I32,
    crowd: Array,
    stream: F64,
    model: Model,
    mind: Array,
    x: F64,
    at: I32,
    gains: F64,
    doubts: F64,
) -> int:
    """The row of a user as this profile makes it, into `mind` (width,), but for P; how many preferences were heard.

    P loses `gains` (heard, n) each times itself over its `doubts` (heard,).
    """
    n = FIXED + model.dim + model.categories
    mind[:n] = user[:n]
    mind[-4:] = user[-4:]
    if user[-1] == 0:
        mind[CONSENSUS], mind[POPULARITY] = stream[0, AGREEING], stream[0, POPULAR]
        welcome(mind, groups, crowd, model)
    heard = 0
    if deviation(stream) == 0.0:
        return 0
    for number in range(model.known):
        if np.isnan(preferences[number]):
            continue
        count = ponder(number, stream, model, x, at)
        px = gains[heard]
        r = vagueness(number, model)
        s = r + spread(user, n, x, at, count, px)
        error = stance(np.float64(preferences[number]), stream, model) - stream[0, LEARNED + number]
        for k in range(heard):
            along = 0.0
            for e in range(count):
                along += x[e] * gains[k, at[e]]
            s -= along * along / doubts[k]
            for i in range(n):
                px[i] -= along / doubts[k] * gains[k, i]
        s = max(s, r)
        for e in range(count):
            error -= x[e] * np.float64(mind[at[e]])
        for i in range(n):
            mind[i] += px[i] * error / s
        doubts[heard] = s
        heard += 1
    return heard


@kernel
def certainty(fade: float, x: F64, at: I32, count: int, gains: F64, doubts: F64, heard: int) -> float:
    """How much smaller the variance of an answer is for what was heard; the session has faded since."""
    total = 0.0
    for k in range(heard):
        along = (fade - 1.0) * gains[k, SESSION]
        for e in range(count):
            along += x[e] * gains[k, at[e]]
        total += along * along / doubts[k]
    return total


@kernel
def move_groups(groups: I32, crowd: Array, model: Model, step: float, px: F64, new: bool) -> None:
    """Let the groups of a user, who has just moved by step px, begin a little more like that.

    A group's mean is a filter over its users' moves, with a prior worth `group_users` users; what groups share is shared.
    """
    width, total = 2 + model.dim + model.categories, 1.0
    for group in groups:
        if group >= 0:
            if new:
                crowd[0, group * width] += 1.0
            total += 1.0 / (model.group_users + np.float64(crowd[0, group * width]))
    for group in groups:
        if group >= 0:
            share = step / (model.group_users + np.float64(crowd[0, group * width])) / total
            crowd[0, group * width + 1] += share * px[BIAS]
            for j in range(model.dim + model.categories):
                if px[FIXED + j] != 0.0:
                    crowd[0, group * width + 2 + j] += share * px[FIXED + j]
