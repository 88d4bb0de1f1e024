"""The Bayesian hybrid's posterior given a whole history; joint_fit.py is its trainer.

Users and items are smoothed in turn (smoother.py), each given what the other one's ratings say about it, without the rating in
question:

    users    z - b = h'(features of the item) + noise,   noise R_u + the item's variance along the user's weights
    items    z - the rest = [p, c]'[q + Gamma g, b + beta.g] + noise,   noise R_u + the user's variance along the item

where b, q and c are those without the rating, and tastes, sessions and biases drift as they do online. After each sweep, beta and
Gamma are the ridge regression of items on their categories; users start from the mean of the smoothed starts; the latent space is
turned and stretched so that tastes have the learner's own prior in it; and R_u is R times the damped mean of e^2 / S, as online.
A tuned width v of a prior is the fixed point of its evidence: with m the smoothed start and V its covariance, summed over rows,

    v <- (sum m^2 + 20 v0) / (sum (1 - V / v) + 20)

where v0 is the learner's own width, which counts for 20 rows. R, the session's width and drift take steps while the evidence of the filter,
-(ln S + e^2 / S) / 2, gains from them: of a sample of users, or of all items for the drift of their biases.

MacKay (1992), Bayesian interpolation, Neural Computation 4(3), eq. 4.5 (widths); Liu, Rubin, Wu (1998), Parameter expansion to
accelerate EM, Biometrika 85 (the latent space); others as in smoother.py and joint_fit.py.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from streamer.core.arrays import F32, F64, I32, I64, Array
from streamer.core.batch import RATING, REPLACED, Batch
from streamer.models.hybrid.bayesian_hybrid import BayesianHybrid
from streamer.models.hybrid.parameters import TUNED
from streamer.models.hybrid.profile import start_in_groups
from streamer.models.hybrid.rows import (
    BETA,
    BIAS,
    CONSENSUS,
    FIXED,
    MU,
    POPULARITY,
    SESSION,
    START_CONSENSUS,
    Model,
    deviation,
)
from streamer.models.hybrid.smoother import SEGMENT, Dynamics, Ratings, by_row, packed, smooth
from streamer.models.replay import DAY_MS

LEAST, MOST = 1e-3, 1e4  # multiples of a tuned constant
STEP = 4.0  # the largest factor between the widths of a prior in two sweeps
ROWS = 20.0  # rows that the parameters' own widths count for
GAINED = 0.5  # nats of evidence that a step must gain
_OF_USERS = {"noise": 0.25, "session_prior": 1.0, "latent_process": 3.0, "bias_process": 1.0, "consensus_process": 1.0}


class Tuning(NamedTuple):
    """Which constants a stage tunes."""

    steps: tuple[float, ...]  # the factors by which constants step after the first sweeps; none: all constants are kept
    noise: bool  # R, too


KEPT = Tuning((), noise=False)


def fitted(history: Batch, days: float | None) -> Array:
    """Which events are fitted, (n,)."""
    rated: Array = ((history.kinds == RATING) | (history.kinds == REPLACED)) & np.isfinite(history.values)
    if days is None or not len(history):
        return rated
    late: Array = history.times_ms >= history.times_ms.max() - days * DAY_MS
    return np.asarray(rated & late)


class Posterior:
    """The state of a fit: messages between users and items, what both share, and the constants."""

    def __init__(self, learner: BayesianHybrid, history: Batch, chosen: I64, ridge: float, sample_ratings: int) -> None:
        """Start from the learner, which has learned `history`; `chosen` are the events that are fitted."""
        self.learner, self.ridge, self.sample_ratings, self.model = learner, ridge, sample_ratings, learner.model
        m, p, stream = learner.model, learner.parameters, learner.stream.values[0]
        self.dim, self.first, self.size = m.dim, FIXED + m.dim, learner.size
        n, count = learner.size, len(chosen)
        self.users, self.items = history.users[chosen], history.items[chosen]
        self.z = (history.values[chosen].astype(np.float64) - stream[MU]) / deviation(learner.stream.values)
        users, items = len(learner.user.values), len(learner.item.values)
        self.by_user, self.by_item = by_row(self.users, users), by_row(self.items, items)
        self.active = np.diff(self.by_user[1]) > 0
        self.sparse, self.counts, self.g = _categories(learner, items)
        self.known = np.flatnonzero((self.g > 0).any(axis=0))
        at = BETA + m.known
        gamma = stream[at : at + m.known * m.dim].reshape(m.known, m.dim)
        self.shared = np.column_stack([gamma, stream[BETA:at]])  # (known, dim + 1): Gamma, beta
        rows = learner.item.values.astype(np.float64)
        self.means = (
            rows[:, [*range(m.dim), 2 * m.dim]] + self.g @ self.shared
        )  # (items, dim + 1): q + Gamma g, b + beta.g
        self.spreads = rows[:, [*range(m.dim, 2 * m.dim), 2 * m.dim + 1]]
        self.rated = np.bincount(self.items, minlength=items) > 0
        self.counted = rows[:, -1] > 0
        whole = fitted(history, None)
        self.whole = np.count_nonzero(whole) == count
        before = np.empty(np.count_nonzero(whole))
        order, starts = by_row(history.items[whole], items)
        before[order] = np.arange(len(order)) - np.repeat(starts[:-1], np.diff(starts))
        self.dense = np.ones((count, self.first), dtype=np.float32)
        self.dense[:, POPULARITY] = 0.25 * np.log1p(before[np.isin(np.flatnonzero(whole), chosen)]) - 0.7
        self.fades = _fades(self.by_user, history.times_ms[chosen].astype(np.float64), m)
        self.weights = np.zeros(
            (count, m.dim + 1), np.float32
        )  # the users' p and 1 + c, each without the rating itself
        self.rest, self.user_noise, self.predicted = (np.zeros(count, np.float32) for _ in range(3))
        self.habits: F64 = np.ones(users)  # R_u / R
        self.surprise: F64 = np.zeros(users)
        diagonal = np.arange(n)
        self.prior: F64 = learner.user.start[n + diagonal * (diagonal + 3) // 2].astype(np.float64)
        self.own_prior = self.prior.copy()
        self.item_prior: F64 = np.append(np.full(m.dim, p.vector_prior), p.item_prior)
        self.own_item_prior = self.item_prior.copy()
        self.tuned = dict.fromkeys(TUNED, 1.0)
        self.begin: F64 = np.zeros(n)
        self.begin[[CONSENSUS, POPULARITY]] = stream[START_CONSENSUS : START_CONSENSUS + 2]
        self.groups = _group_starts(learner, history, users)
        self.basis: F64 = np.eye(m.dim)  # of tastes, from that of the learner
        self.states: Array = np.zeros((users, n + n * (n + 1) // 2), np.float32)
        self.item_states: Array = np.zeros((items, (m.dim + 1) * (m.dim + 4) // 2))
        self.shares = 1.0 / np.sqrt(np.maximum(self.counts, 1))
        weighted = np.where(self.sparse < n, self.sparse, -1)  # categories without a weight act through beta and Gamma
        self.sparse_used, self.used_counts = packed(weighted)
        self._tell_items()

    def continue_from(self, other: "Posterior") -> None:
        """Take over what users and items share, items and constants of a fit on a part of the history."""
        for name in ("shared", "means", "spreads", "prior", "item_prior", "begin", "habits"):
            setattr(self, name, getattr(other, name).copy())
        self.tuned = dict(other.tuned)
        self.basis = other.basis.copy()
        self.groups[:, FIXED : self.first] = self.groups[:, FIXED : self.first] @ self.basis
        self._tell_items()

    def _tell_items(self) -> None:
        """Start with messages of items that include the ratings themselves, with the variance of the items."""
        self.told = self.means[self.items].astype(np.float32)  # (n, dim + 1)
        spread = self.spreads @ np.append(np.full(self.dim, self.learner.parameters.latent_prior), 1.0)
        self.item_noise = spread[self.items].astype(np.float32)

    def sweep(self, tuning: Tuning, number: int) -> None:
        """Smooth users, then items, and take a step of what they share. `number` counts the sweeps with this tuning."""
        squares, informed = self.smooth_users()
        step = tuning.steps[number] if number < len(tuning.steps) else 1.0
        if step > 1.0:
            self._tune(step, noise=tuning.noise)
        first = self.first
        if tuning.steps:
            for weight in (BIAS, CONSENSUS, POPULARITY):
                self._widen(slice(weight, weight + 1), squares, informed)
            self._widen(slice(first, self.size), squares, informed)
        self._smooth_items(step, widen=bool(tuning.steps))
        self._stretch(squares[FIXED:first, FIXED:first], informed[FIXED:first, FIXED:first])
        g = self.g[self.counted][:, self.known]
        ridge = self.ridge * np.eye(len(self.known))
        self.shared[self.known] = np.linalg.solve(g.T @ g + ridge, g.T @ self.means[self.counted])

    def _widen(self, weights: slice, squares: F64, informed: F64) -> None:
        """The fixed point of the evidence of the width that these weights have in common (MacKay 1992)."""
        prior, own = self.prior[weights], self.own_prior[weights]
        found = np.trace(squares[weights, weights]) + ROWS * own[0]
        certain = np.trace(informed[weights, weights]) / prior[0] + ROWS
        self.prior[weights] = np.clip(found / certain, prior / STEP, prior * STEP)

    def smooth_users(self) -> tuple[F64, F64]:
        """Smooth all users; see `smooth` for what is returned, (n, n) each."""
        order, starts = self.by_user
        evidence, sums, squares, informed = self._users(order, starts, back=True)
        if self.active.any():
            self.begin[[CONSENSUS, POPULARITY]] += sums[[CONSENSUS, POPULARITY]] / np.count_nonzero(self.active)
        self.weights[:, self.dim] += 1.0
        moved = np.einsum("nd,nd->n", self.weights, self.told)
        self.rest = (self.predicted + self.told[:, self.dim] - moved).astype(np.float32)
        counts, m = np.diff(starts), self.model
        errors = self.habits[self.users] * evidence[:, 0]
        self.surprise = np.bincount(self.users, errors, minlength=len(counts)).astype(np.float64)
        self.habits = (m.habit_events + self.surprise) / (m.habit_events + counts)
        return squares, informed

    def _users(self, order: I64, starts: I64, *, back: bool) -> tuple[F32, F64, F64, F64]:
        m, tuned, n = self.model, self.tuned, self.size
        self.dense[:, CONSENSUS], self.dense[:, FIXED:] = self.told[:, self.dim], self.told[:, : self.dim]
        prior, process = self.prior.copy(), np.zeros(self.first)
        prior[SESSION] *= tuned["session_prior"]
        process[BIAS], process[CONSENSUS] = (
            m.bias_process * tuned["bias_process"],
            m.consensus_process * tuned["consensus_process"],
        )
        process[FIXED:] = m.latent_process * tuned["latent_process"]
        coordinates = np.append(np.arange(FIXED, self.first), CONSENSUS).astype(np.int64)
        variances = (m.noise * tuned["noise"] * self.habits[self.users] + self.item_noise).astype(np.float32)
        ratings = Ratings(
            starts, order, self.dense, self.items, self.sparse_used, self.used_counts, self.shares,
            self.z - self.told[:, self.dim], variances, self.fades,
        )  # fmt: skip
        dynamics = Dynamics(self.groups + self.begin, prior, process, SESSION, coordinates, m.clip, SEGMENT)
        evidence, sums, squares, informed = (
            np.zeros((len(self.z), 2), np.float32),
            np.zeros(n),
            np.zeros((n, n)),
            np.zeros((n, n)),
        )
        smooth(
            ratings, dynamics, self.states, self.weights, self.predicted, self.user_noise, evidence, sums, squares, informed, back
        )  # fmt: skip
        return evidence, sums, squares, informed

    def _smooth_items(self, step: float, *, widen: bool) -> None:
        d = self.dim + 1
        if step > 1.0:
            self._climb("item_process", step, lambda: _total(self._items(back=False)[0]))
        _, squares, informed = self._items(back=True)
        diagonal = d + np.arange(d) * (np.arange(d) + 3) // 2
        self.means[self.rated] = self.item_states[self.rated, :d]
        self.spreads[self.rated] = self.item_states[self.rated][:, diagonal]
        if not widen:
            return
        found = np.diag(squares) + ROWS * self.own_item_prior
        certain = np.diag(informed) / self.item_prior + ROWS
        self.item_prior = np.clip(found / certain, self.item_prior / STEP, self.item_prior * STEP)

    def _items(self, *, back: bool) -> tuple[F32, F64, F64]:
        m, d, count = self.model, self.dim + 1, len(self.z)
        order, starts = self.by_item
        process = np.zeros(d)
        process[self.dim] = m.item_process * self.tuned["item_process"]
        nothing = np.zeros((1, 1), np.int32)
        noise = m.noise * self.tuned["noise"] * self.habits[self.users] + self.user_noise
        ratings = Ratings(
            starts, order, self.weights, np.zeros(count, np.int32), nothing, np.zeros(1, np.int32), np.ones(1),
            self.z - self.rest, noise.astype(np.float32), self.fades,
        )  # fmt: skip
        begin = self.g @ self.shared + self._set_means()
        dynamics = Dynamics(begin, self.item_prior, process, -1, np.arange(d, dtype=np.int64), m.clip, SEGMENT)
        evidence, squares, informed = np.zeros((count, 2), np.float32), np.zeros((d, d)), np.zeros((d, d))
        smooth(
            ratings, dynamics, self.item_states, self.told, np.zeros(count, np.float32), self.item_noise, evidence, np.zeros(d),
            squares, informed, back,
        )  # fmt: skip
        return evidence, squares, informed

    def _set_means(self) -> F64:
        """The shrunk mean of other items with exactly the same categories, without what these explain, (items, dim + 1)."""
        sets, own = self._sets(), self.means - self.g @ self.shared
        inside = (sets >= 0) & self.counted
        count = int(sets.max(initial=0)) + 1
        numbers = np.bincount(sets[inside], minlength=count)
        sums = np.column_stack([np.bincount(sets[inside], column[inside], minlength=count) for column in own.T])
        at = np.maximum(sets, 0)
        others = numbers[at] - inside
        found = (sums[at] - own * inside[:, None]) / (self.model.alike_items + others)[:, None]
        return np.where((sets >= 0)[:, None], found, 0.0)

    def _sets(self) -> I32:
        """The set of each item, (items,), -1 for none."""
        found = np.full(len(self.means), -1, dtype=np.int32)
        sets = self.learner.category_sets.sets.values[: len(found), 0]
        found[: len(sets)] = sets
        return found

    def _stretch(self, squares: F64, informed: F64) -> None:
        """Change to the basis in which the evidence's widths of tastes are the prior's."""
        if not self.whole:
            return
        _, vectors = np.linalg.eigh(squares)
        few = ROWS * self.learner.parameters.latent_prior
        found, certain = (np.einsum("ij,ik,kj->j", vectors, some, vectors) + few for some in (squares, informed))
        roots = np.sqrt(np.clip(found / certain, 1 / STEP, STEP))
        there, back = (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T  # for q; for p
        dim = self.dim
        self.means[:, :dim], self.shared[:, :dim] = self.means[:, :dim] @ there, self.shared[:, :dim] @ there
        self.told[:, :dim] = self.told[:, :dim] @ there.astype(np.float32)
        self.spreads[:, :dim] = self.spreads[:, :dim] @ (there * there)
        self.item_prior[:dim] = self.item_prior[:dim] @ (there * there)
        self.basis = self.basis @ back
        self.groups[:, FIXED : self.first] = self.groups[:, FIXED : self.first] @ back

    def _tune(self, step: float, *, noise: bool) -> None:
        """Step through the constants of users while the evidence of a sample of users gains."""
        order, starts = self.by_user
        counts = np.diff(starts)
        some = np.flatnonzero(counts > 0)
        some = some[:: max(1, -(-len(order) // self.sample_ratings))]
        chosen = np.concatenate([order[starts[u] : starts[u + 1]] for u in some])
        sampled = np.zeros(len(counts), dtype=np.int64)
        sampled[some] = counts[some]
        starts = np.concatenate([[0], np.cumsum(sampled)]).astype(np.int64)
        for name, power in _OF_USERS.items():
            if name == "noise" and not noise:
                continue
            self._climb(name, step**power, lambda: _total(self._users(chosen, starts, back=False)[0][chosen]))

    def _climb(self, name: str, factor: float, evidence: Callable[[], float]) -> None:
        """Multiply or divide a constant by `factor` while the evidence gains."""
        best = evidence()
        for step in (factor, factor * factor, 1.0 / factor):  # drift far above none may gain where a little does not
            moved = False
            while LEAST <= self.tuned[name] * step <= MOST:
                self.tuned[name] *= step
                found = evidence()
                if found <= best + GAINED:
                    self.tuned[name] /= step
                    break
                best, moved = found, True
            if moved:
                break

    def write(self) -> None:
        """Smooth users once more, and write all of it to the learner's tables."""
        self.smooth_users()
        learner, m, dim, stream = self.learner, self.model, self.dim, self.learner.stream.values[0]
        inside, n = self.active, learner.size
        learner.user.values[inside, : n + n * (n + 1) // 2] = self.states[inside]
        learner.user.values[inside, -4] = self.surprise[inside]
        own, counted = self.means - self.g @ self.shared, self.counted
        columns = np.concatenate([np.arange(dim), [2 * dim], dim + np.arange(dim), [2 * dim + 1]])
        learner.item.values[np.ix_(counted, columns)] = np.hstack([own, self.spreads])[counted]
        at = BETA + m.known
        stream[BETA:at], stream[at : at + m.known * dim] = self.shared[:, dim], self.shared[:, :dim].ravel()
        stream[START_CONSENSUS : START_CONSENSUS + 2] = self.begin[[CONSENSUS, POPULARITY]]
        sets, representatives = self._sets(), learner.category_sets.representatives
        learner.set_sums.values[:] = 0.0
        for row in np.flatnonzero((sets >= 0) & counted).tolist():
            sums = learner.set_sums.values[representatives[sets[row]]]
            sums[0] += 1.0
            sums[1] += own[row, dim]
            sums[2:] += own[row, :dim]
        p, tuned = learner.parameters, self.tuned
        tuned["bias_prior"], tuned["consensus_prior"] = (
            self.prior[BIAS] / p.bias_prior,
            self.prior[CONSENSUS] / p.consensus_prior,
        )
        tuned["popularity_prior"] = self.prior[POPULARITY] / p.popularity_prior
        if self.size > self.first:
            tuned["category_prior"] = self.prior[self.first] / p.category_prior
        tuned["item_prior"] = self.item_prior[dim] / p.item_prior
        tuned["vector_prior"] = self.item_prior[:dim].mean() / p.vector_prior
        groups = learner.group_means.values[0].reshape(-1, 2 + dim + m.categories)
        groups[:, 2 : 2 + dim] = groups[:, 2 : 2 + dim] @ self.basis
        learner.tuned.values[0] = [tuned[name] for name in TUNED]
        learner.restored()


def _total(evidence: F32) -> float:
    return float(-0.5 * evidence.astype(np.float64).sum())


def _categories(learner: BayesianHybrid, items: int) -> tuple[I32, I32, F64]:
    """Each item's categories as positions in w (items, k), -1 fills the rest; their number (items,); g (items, known)."""
    known, first = learner.model.known, FIXED + learner.model.dim
    words = learner.category_words.values[:items]
    has = np.zeros((items, max(known, 1)), dtype=np.bool_)
    for number in range(known if words.shape[1] else 0):
        if number // 64 < words.shape[1]:
            has[: len(words), number] = (words[:, number // 64] >> np.uint64(number % 64)) & np.uint64(1)
    counts = has.sum(axis=1).astype(np.int32)
    g = (has / np.sqrt(np.maximum(counts, 1))[:, None])[:, :known]
    return np.where(has, first + np.arange(has.shape[1]), -1).astype(np.int32), counts, g


def _fades(by_user: tuple[I64, I64], times_ms: F64, model: Model) -> F64:
    """The share of the session's bias that is left at each rating, (n,), as `session_left` has it."""
    order, starts = by_user
    found = np.zeros(len(order))
    for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        if end - begin > 1:
            here = times_ms[order[begin:end]]
            since = here[1:] - np.maximum.accumulate(here)[:-1]
            later = model.carry * np.exp(-np.maximum(since, 0.0) / model.carry_ms)
            found[order[begin + 1 : end]] = np.where(since <= model.gap_ms, model.fade, later)
    return found


def _group_starts(learner: BayesianHybrid, history: Batch, users: int) -> F64:
    """What each user's groups add to the start, (users, n)."""
    found = np.zeros((users, learner.size))
    for user in np.flatnonzero(history.profiles.slots[:users] >= 0).tolist():
        row = learner.user.start.copy()
        start_in_groups(
            row, history.profiles.groups[history.profiles.slots[user]], learner.group_means.values, learner.model
        )
        found[user] = row[: learner.size]
    return found
