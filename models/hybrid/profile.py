"""The kernels with which the Bayesian hybrid uses profiles: stated preferences, and groups of users. rows.py describes the rows.

A user's row holds what their ratings taught, starting from the means of their groups. A stated preference counts as a rating
of an item that has this category and nothing else. It is never mixed into the stored row: the order of Gaussian evidence does
not matter, so it is added whenever the row is used, and a changed profile replaces the old one without a trace. With a the
category's x and z the preference in deviations from the mean,

    s = r + a'Pa,   w <- w + Pa (z - beta - a'w) / s,   P <- P - Pa a'P / s

for one preference after the other. Of P only the Pa are computed.
"""

import numpy as np

from streamer.core.arrays import F32, F64, I32, Array
from streamer.core.kernel import kernel
from streamer.models.hybrid.rows import (
    BETA,
    BIAS,
    CONSENSUS,
    FIXED,
    POPULARITY,
    SESSION,
    START_CONSENSUS,
    START_POPULARITY,
    Model,
    deviation,
    look_at_category,
    preference_deviations,
    preference_variance,
    start_share,
    user_variance,
)


@kernel
def start_in_groups(user: Array, groups: I32, group_means: Array, model: Model) -> None:
    """Add the means of these groups to the row of a user without ratings."""
    width = 2 + model.dim + model.categories
    for group in groups:
        if group >= 0:
            user[BIAS] += group_means[0, group * width + 1]
            for j in range(model.dim + model.categories):
                user[FIXED + j] += group_means[0, group * width + 2 + j]


@kernel
def apply_profile(
    user: Array,
    preferences: F32,
    groups: I32,
    group_means: Array,
    stream: F64,
    model: Model,
    informed: Array,
    x: F64,
    at: I32,
    gains: F64,
    variances: F64,
) -> int:
    """Write the user's row with this profile to `informed` (width,), except P; return how many preferences were stated.

    P is to be reduced by the outer square of each of `gains` (stated, n), divided by its entry of `variances` (stated,).
    """
    n = FIXED + model.dim + model.categories
    informed[:n] = user[:n]
    informed[-4:] = user[-4:]
    if user[-1] == 0:
        informed[CONSENSUS], informed[POPULARITY] = stream[0, START_CONSENSUS], stream[0, START_POPULARITY]
        start_in_groups(informed, groups, group_means, model)
    stated = 0
    if deviation(stream) == 0.0:
        return 0
    for number in range(model.known):
        if np.isnan(preferences[number]):
            continue
        count = look_at_category(number, stream, model, x, at)
        px = gains[stated]
        r = preference_variance(number, model)
        own = user_variance(user, n, x, at, count, px)
        if user[-1] == 0:  # P is diagonal
            own = 0.0
            for e in range(count):
                px[at[e]] *= start_share(at[e], model)
                own += x[e] * px[at[e]]
        s = r + own
        error = preference_deviations(np.float64(preferences[number]), stream, model) - stream[0, BETA + number]
        for k in range(stated):
            projection = 0.0
            for e in range(count):
                projection += x[e] * gains[k, at[e]]
            s -= projection * projection / variances[k]
            for i in range(n):
                px[i] -= projection / variances[k] * gains[k, i]
        s = max(s, r)
        for e in range(count):
            error -= x[e] * np.float64(informed[at[e]])
        for i in range(n):
            informed[i] += px[i] * error / s
        variances[stated] = s
        stated += 1
    return stated


@kernel
def variance_removed(fade: float, x: F64, at: I32, count: int, gains: F64, variances: F64, stated: int) -> float:
    """By how much the stated preferences reduce the variance of a prediction, after the session has faded."""
    total = 0.0
    for k in range(stated):
        projection = (fade - 1.0) * gains[k, SESSION]
        for e in range(count):
            projection += x[e] * gains[k, at[e]]
        total += projection * projection / variances[k]
    return total


@kernel
def move_groups(groups: I32, group_means: Array, model: Model, step: float, px: F64, new: bool) -> None:
    """Move the means of a user's groups a little in the direction in which the user has just moved, step px.

    A group's mean is a filter over its users' moves, with a prior worth `group_users` users. The groups of one user share
    the move.
    """
    width, total = 2 + model.dim + model.categories, 1.0
    for group in groups:
        if group >= 0:
            if new:
                group_means[0, group * width] += 1.0
            total += 1.0 / (model.group_users + np.float64(group_means[0, group * width]))
    for group in groups:
        if group >= 0:
            share = step / (model.group_users + np.float64(group_means[0, group * width])) / total
            group_means[0, group * width + 1] += share * px[BIAS]
            for j in range(model.dim + model.categories):
                if px[FIXED + j] != 0.0:
                    group_means[0, group * width + 2 + j] += share * px[FIXED + j]
