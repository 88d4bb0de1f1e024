"""The kernel with which the Bayesian hybrid chooses questions by what their answers would teach; rows.py describes the rows.

Whatever a user answers about item i, P is reduced by P x x'P / s. Only the move of the mean, P x e / s with E e^2 = s, depends
on the answer. The variance of each target's prediction is t'Pt plus the target's own variances v times w^2, and its mean over
the targets is expected to fall by

    (x'P M P x - sum v_j (P x)_j^2) / s        M: mean of t t' over the targets, v: mean of their variances

All targets are summed up in one matrix, so the cost of each item that may be asked about does not depend on their number.
Each question is the best one given answers to the earlier ones: a greedy choice, which comes near the best set. The session's
bias counts as noise here: answers come in a session of their own, and recommendations are for later (t has no entry for the
session).
An answer is expected where the filter expects it, without the calibration of what is predicted. What is predicted gains as
announced even so: after five answers of users of ml-latest-small who were held out, the squared error of calibrated
predictions for their other items falls by .117 +- .034 (standard error), and .105 is announced; in simulated worlds by .142 +- .031
(.088), .200 +- .029 (.129) and, where tastes turn, .071 +- .019 (.080).
Cost: n^2 for each target; for each question n^3, and about 0.4 us for each item.

Krause, Singh, Guestrin (2008), Near-optimal sensor placements in Gaussian processes, JMLR 9. Deviation: variances in
place of mutual information, since the aim is to know the targets well.
"""

import numpy as np

from streamer.core.arrays import F64, I32, U64, Array
from streamer.core.batch import CATEGORIES
from streamer.core.kernel import kernel
from streamer.models.hybrid.kernel import noise_of
from streamer.models.hybrid.rows import BIAS, CONSENSUS, FIXED, SESSION, Model, deviation, effective_item, look_at_item


@kernel
def covariance_of(user: Array, n: int, model: Model) -> F64:
    """P as a full matrix (n, n), at the beginning of a new session."""
    p, start = np.empty((n, n)), n
    for i in range(n):
        for j in range(i + 1):
            p[i, j] = p[j, i] = np.float64(user[start + j])
        start += i + 1
    p[SESSION] = 0.0
    p[:, SESSION] = 0.0
    p[SESSION, SESSION] = model.session
    return p


@kernel
def advance_covariance(p: F64, fade: float, model: Model) -> None:
    """The time update of a full P, as `advance_time` makes it of a packed one."""
    p[SESSION] *= fade
    p[:, SESSION] *= fade
    p[SESSION, SESSION] += (1.0 - fade * fade) * model.session
    p[BIAS, BIAS] += model.bias_process
    p[CONSENSUS, CONSENSUS] += model.consensus_process
    for j in range(FIXED, FIXED + model.dim):
        p[j, j] += model.latent_process


@kernel
def quadratic_form(m: F64, x: F64, at: I32, count: int) -> float:
    """x'Mx for a symmetric M (n, n)."""
    total = 0.0
    for e in range(count):
        row, own = m[at[e]], 0.0
        for f in range(e):
            own += x[f] * row[at[f]]
        total += x[e] * (2.0 * own + x[e] * row[at[e]])
    return float(total)


@kernel
def item_variance_at(item: Array, weight: int, model: Model) -> float:
    """The variance of the item's factor (or bias) that the given user weight multiplies; 0 for the other weights."""
    if weight == CONSENSUS:
        return float(np.float64(item[2 * model.dim + 1]) + model.item_process)
    return float(item[model.dim + weight - FIXED]) if FIXED <= weight < FIXED + model.dim else 0.0


@kernel
def ask_hybrid(
    user: Array,
    item: Array,
    stream: F64,
    set_sums: Array,
    category_words: U64,
    sets: I32,
    representatives: I32,
    items: I32,
    shares: F64,
    targets: I32,
    new_item: Array,
    model: Model,
    asked: I32,
    variances: F64,
) -> int:
    """Write the indices into `items` to ask about to `asked` and return their number. See protocols.Asking.

    `variances` is (len(asked) + 1,).
    """
    first, n, most = FIXED + model.dim, FIXED + model.dim + model.categories, FIXED + model.dim + CATEGORIES
    x, at, effective = np.zeros(most), np.zeros(most, dtype=np.int32), np.empty(item.shape[1], item.dtype)
    p, sigma, free = covariance_of(user, n, model), deviation(stream), shares > 0.0
    squares = np.empty(first)  # expected squares of the weights that multiply uncertain factors of items
    for j in range(first):
        squares[j] = (np.float64(user[j]) + (1.0 if j == CONSENSUS else 0.0)) ** 2
    m, v, part = np.zeros((n, n)), np.zeros(n), 1.0 / max(len(targets), 1)
    for target in targets:
        effective_item(
            item[target] if 0 <= target < len(item) else new_item,
            target,
            set_sums,
            sets,
            representatives,
            model,
            effective,
        )
        count, _ = look_at_item(effective, category_words, target, stream, model, x, at)
        x[SESSION] = 0.0
        for e in range(count):
            for f in range(count):
                m[at[e], at[f]] += part * x[e] * x[f]
        for j in range(CONSENSUS, first):
            v[j] += part * item_variance_at(effective, j, model)
    variances[0] = sigma * sigma * ((p * m).sum() + (squares * v[:first]).sum())
    for q in range(len(asked)):
        advance_covariance(p, 1.0 if q == 0 else model.fade, model)
        b = product(product(p, m - np.diag(v)), p)
        best, most_worth, best_s = -1, 0.0, 1.0
        for k in range(len(items)):
            if not free[k]:
                continue
            i = items[k]
            effective_item(
                item[i] if 0 <= i < len(item) else new_item, i, set_sums, sets, representatives, model, effective
            )
            count, _ = look_at_item(effective, category_words, i, stream, model, x, at)
            s = noise_of(user, model) + quadratic_form(p, x, at, count)
            for j in range(CONSENSUS, first):
                s += squares[j] * item_variance_at(effective, j, model)
            worth = shares[k] * quadratic_form(b, x, at, count) / s
            if worth > most_worth:
                best, most_worth, best_s = k, worth, s
        if best < 0:
            return q
        i = items[best]
        effective_item(
            item[i] if 0 <= i < len(item) else new_item, i, set_sums, sets, representatives, model, effective
        )
        count, _ = look_at_item(effective, category_words, i, stream, model, x, at)
        px = np.zeros(n)
        for e in range(count):
            px += x[e] * p[at[e]]
        for j in range(n):
            p[j] -= px[j] / best_s * px
        squares += px[:first] * px[:first] / best_s
        asked[q], free[best] = best, False
        variances[q + 1] = sigma * sigma * ((p * m).sum() + (squares * v[:first]).sum())
    return len(asked)


@kernel
def product(a: F64, b: F64) -> F64:
    """AB"""
    c = np.zeros((a.shape[0], b.shape[1]))
    for i in range(len(a)):
        for k in range(len(b)):
            c[i] += a[i, k] * b[k]
    return c
