"""The kernel with which the Bayesian hybrid says what an answer would teach it; its rows stand in bayesian_hybrid_rows.py.

Whatever a user answers about item i, P loses P x x'P / s; only where the mean moves to hangs on the answer: by P x e / s,
E e^2 = s. So what of each target's answer is known, that is t'Pt and the target's own variances v through w^2, is expected to vary less by

    (x'P M P x - sum v_j (P x)_j^2) / s        M: mean of t t' over the targets, v: mean of theirs

All targets are one matrix, so they cost nothing for each item that may be asked about. Of several questions each is the best one
after answers to those before: greedy, which comes near the best set. The mood of a session is noise here: answers
come in a session of their own, and what is recommended is for later (t has no entry for it).
Cost: n^2 a target; for each question n^3, and about 0.4 us an item.

Krause, Singh, Guestrin (2008), Near-optimal sensor placements in Gaussian processes, JMLR 9. Deviation: variances in the
place of mutual information, as what counts is how well the targets are known.
"""

import numpy as np

from streamer.core.arrays import F64, I32, U64, Array
from streamer.core.batch import CATEGORIES
from streamer.core.kernel import kernel
from streamer.models.hybrid.kernel import noise_of
from streamer.models.hybrid.rows import BIAS, CONSENSUS, FIXED, SESSION, Model, deviation, look, place


@kernel
def unfolded(user: Array, n: int, model: Model) -> F64:
    """P (n, n) as another session begins."""
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
def pass_time(p: F64, fade: float, model: Model) -> None:
    """What an event does to P beside its rating, as `let_pass` does: a session that fades, tastes that walk."""
    p[SESSION] *= fade
    p[:, SESSION] *= fade
    p[SESSION, SESSION] += (1.0 - fade * fade) * model.session
    p[BIAS, BIAS] += model.bias_process
    p[CONSENSUS, CONSENSUS] += model.consensus_process
    for j in range(FIXED, FIXED + model.dim):
        p[j, j] += model.latent_process


@kernel
def along(m: F64, x: F64, at: I32, count: int) -> float:
    """x'Mx for a symmetric M (n, n)."""
    total = 0.0
    for e in range(count):
        row, own = m[at[e]], 0.0
        for f in range(e):
            own += x[f] * row[at[f]]
        total += x[e] * (2.0 * own + x[e] * row[at[e]])
    return float(total)


@kernel
def variance_of(item: Array, weight: int, model: Model) -> float:
    """Of what of an item meets that weight of its users."""
    if weight == CONSENSUS:
        return float(np.float64(item[2 * model.dim + 1]) + model.item_process)
    return float(item[model.dim + weight - FIXED]) if FIXED <= weight < FIXED + model.dim else 0.0


@kernel
def ask_hybrid(
    user: Array,
    item: Array,
    stream: F64,
    alike: Array,
    words: U64,
    sets: I32,
    representatives: I32,
    items: I32,
    shares: F64,
    targets: I32,
    nothing: Array,
    model: Model,
    asked: I32,
    variances: F64,
) -> int:
    """Places in `items` to ask about into `asked`; how many. See protocols.Asking; `variances` is (len(asked) + 1,)."""
    first, n, most = FIXED + model.dim, FIXED + model.dim + model.categories, FIXED + model.dim + CATEGORIES
    x, at, bed = np.zeros(most), np.zeros(most, dtype=np.int32), np.empty(item.shape[1], item.dtype)
    p, sigma, free = unfolded(user, n, model), deviation(stream), shares > 0.0
    squares = np.empty(first)  # expected squares of the weights that meet what of items is uncertain
    for j in range(first):
        squares[j] = (np.float64(user[j]) + (1.0 if j == CONSENSUS else 0.0)) ** 2
    m, v, part = np.zeros((n, n)), np.zeros(n), 1.0 / max(len(targets), 1)
    for target in targets:
        place(item[target] if 0 <= target < len(item) else nothing, target, alike, sets, representatives, model, bed)
        count, _ = look(bed, words, target, stream, model, x, at)
        x[SESSION] = 0.0
        for e in range(count):
            for f in range(count):
                m[at[e], at[f]] += part * x[e] * x[f]
        for j in range(CONSENSUS, first):
            v[j] += part * variance_of(bed, j, model)
    variances[0] = sigma * sigma * ((p * m).sum() + (squares * v[:first]).sum())
    for q in range(len(asked)):
        pass_time(p, 1.0 if q == 0 else model.fade, model)
        b = product(product(p, m - np.diag(v)), p)
        best, most_worth, best_s = -1, 0.0, 1.0
        for k in range(len(items)):
            if not free[k]:
                continue
            i = items[k]
            place(item[i] if 0 <= i < len(item) else nothing, i, alike, sets, representatives, model, bed)
            count, _ = look(bed, words, i, stream, model, x, at)
            s = noise_of(user, model) + along(p, x, at, count)
            for j in range(CONSENSUS, first):
                s += squares[j] * variance_of(bed, j, model)
            worth = shares[k] * along(b, x, at, count) / s
            if worth > most_worth:
                best, most_worth, best_s = k, worth, s
        if best < 0:
            return q
        i = items[best]
        place(item[i] if 0 <= i < len(item) else nothing, i, alike, sets, representatives, model, bed)
        count, _ = look(bed, words, i, stream, model, x, at)
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
