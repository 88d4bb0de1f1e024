"""Refits a Bayesian hybrid on a whole history: users, items, categories, the widths of all priors and drift, as one model.

Online, an event moves its user by what is known of the item then, and the item by what is known of the user then; later
evidence about either never comes back to the other. Here both sides are smoothed in turn (posterior.py), each given what the
other one's ratings say about it, without the rating in question, so that nothing counts as evidence for itself.

How wide priors are and how fast tastes drift differs between streams, and what the fit believes of it is biased, since messages go round
in circles. So the history's end is held out. The rest is fitted in stages, each of which continues from the one before: with the learner's
own constants; with widths and drift by evidence; with R too. After each stage the learner learns the held-out ratings online, and
their errors, each predicted before it was learned, are compared with those of the best stage before, or of learning online. What is
better by two standard errors, and for most users, is then brought up to the whole history in a few more sweeps. If no stage
is, the result is that of learning online, bit by bit.

The constants found stay with the learner in its table `tuned`, and it goes on learning with them. So does the pace of beta and Gamma: the
steps by which they are learned online shake what was fitted, so smaller ones are tried on the held-out ratings too.

The start is a replay, from which counts, mu and sigma and groups are kept; the calibration is that of the held-out ratings. With
`window_days` the last events only are fitted, and users without any of them keep their rows from the replay. Cost: some 3 us a
rating and sweep, for 25 weights; memory: 250 bytes a rating and three copies of the tables.

Stern, Herbrich, Graepel (2009), Matchbox, WWW (messages between both sides); MacKay (1992), Bayesian interpolation, Neural
Computation 4(3) (evidence); Dawid (1984), Statistical theory: the prequential approach, JRSS A 147 (the choice).
"""

from collections.abc import Callable, Mapping
from math import inf
from typing import NamedTuple

import msgspec
import numpy as np

from streamer.core.arrays import F32, F64, I32, Array
from streamer.core.batch import RATING, Batch
from streamer.core.errors import StreamerError
from streamer.core.protocols import OnlineLearner
from streamer.models.hybrid.bayesian_hybrid import BayesianHybrid
from streamer.models.hybrid.parameters import TUNED
from streamer.models.hybrid.posterior import KEPT, Posterior, Tuning, fitted
from streamer.models.hybrid.rows import deviation
from streamer.models.replay import learn_whole

PACES = (0.3, 0.1, 0.03)  # the multiples of the steps of beta and Gamma that are tried


class JointFitParameters(msgspec.Struct, frozen=True):
    """Sweeps, and how they are judged."""

    stages: tuple[int, ...] = (6, 6, 4)
    """Sweeps of each stage, at most three: with the learner's constants, with widths and drift by evidence, with R too."""
    last_sweeps: int = 3
    """Sweeps over the whole history, from what was fitted without its end."""
    held_share: float = 0.1
    """The share of the history, at its end, that a fit must predict better than learning online does. 0: the last stage is taken
    without judgement."""
    certainty: float = 2.0
    """By how many standard errors a stage must predict the held-out ratings better than the best before it, or than learning online."""
    sample_ratings: int = 20_000
    """About how many ratings, of whole users, the evidence for drift is computed on."""
    ridge: float = 1.0
    """Shrinkage of beta and Gamma, in items of one category. .2 to 5 gain alike."""
    window_days: float | None = None
    """Largest age of events that are fitted; None: all of them."""


STAGES = (KEPT, Tuning((4.0, 4.0), noise=False), Tuning((2.0, 2.0), noise=True))


class _Judged(NamedTuple):
    """A fit without the end of the history, and how the learner went on from it."""

    error: float
    errors: F64  # squared, of each held-out rating
    fit: Posterior
    pace: float
    calibration: Array


class JointFit:
    """protocols.Trainer for the Bayesian hybrids."""

    Parameters = JointFitParameters

    def __init__(self, name: str, parameters: JointFitParameters) -> None:
        self.name, self.parameters = name, parameters
        self._tables: dict[str, Array] = {}

    def fit(self, learner: OnlineLearner, history: Batch, on_progress: Callable[[float], None]) -> None:
        """See protocols.Trainer; raises StreamerError for a learner that is not a BayesianHybrid."""
        if not isinstance(learner, BayesianHybrid):
            raise StreamerError(
                f"the trainer {self.name} fits Bayesian hybrids, not {learner.name}: name another trainer for it"
            )
        p, count = self.parameters, len(history)
        early, late = (
            history.part(0, count - int(count * p.held_share)),
            history.part(count - int(count * p.held_share), count),
        )
        parts = 2 + sum(p.stages) + 2 * p.last_sweeps
        learn_whole(learner, early, lambda share: on_progress(share / parts))
        before = _copies(learner)
        errors = _errors(late, learn_whole(learner, late, _silent))
        raters = late.users[late.kinds == RATING]
        self._tables = _copies(learner)
        best, fit, done = None, None, 1
        for sweeps, tuning in zip(p.stages, STAGES, strict=False):
            _load(learner, before)
            fit = self._continued(learner, early, fit)
            if fit is None:
                break
            for sweep in range(sweeps):
                fit.sweep(tuning, sweep)
                done += 1
                on_progress(done / parts)
            fit.write()
            judged = self._judged(learner, late, fit)
            if not p.held_share or is_better(errors, judged.errors, raters, p.certainty):
                errors, best = judged.errors, judged
        if best is not None:
            _load(learner, self._tables)
            whole = self._continued(learner, history, best.fit)
            assert whole is not None
            for sweep in range(p.last_sweeps):
                whole.sweep(KEPT, sweep)
                on_progress((done + 2 * sweep) / parts)
            whole.write()
            _set_pace(learner, best.pace)
            learner.calibration.values[:] = best.calibration
            self._tables = _copies(learner)
        on_progress(1.0)

    def export(self) -> Mapping[str, Array]:
        """See protocols.Trainer."""
        return self._tables

    def _continued(self, learner: BayesianHybrid, history: Batch, fit: Posterior | None) -> Posterior | None:
        """A posterior of this history that continues from another one; None without ratings that differ."""
        chosen = np.flatnonzero(fitted(history, self.parameters.window_days))
        if not len(chosen) or deviation(learner.stream.values) == 0.0:
            return None
        found = Posterior(learner, history, chosen, self.parameters.ridge, self.parameters.sample_ratings)
        if fit is not None:
            found.continue_from(fit)
        return found

    def _judged(self, learner: BayesianHybrid, late: Batch, fit: Posterior) -> _Judged:
        """Let the learner, which has the fit's rows, learn the held-out ratings, at the pace that suits them best."""
        start, best = _copies(learner), None
        for pace in (1.0, *PACES):
            _load(learner, start)
            _set_pace(learner, pace)
            errors = _errors(late, learn_whole(learner, late, _silent))
            error = float(errors.mean()) if len(errors) else inf
            if best is not None and error >= best.error:
                break
            best = _Judged(error, errors, fit, pace, learner.calibration.values.copy())
        assert best is not None
        return best


def _set_pace(learner: BayesianHybrid, pace: float) -> None:
    learner.tuned.values[0, TUNED.index("shared_rate")] = pace
    learner.restored()


def _silent(share: float) -> None:
    pass


def _copies(learner: BayesianHybrid) -> dict[str, Array]:
    return {name: table.values.copy() for name, table in learner.tables().items()}


def _load(learner: BayesianHybrid, tables: Mapping[str, Array]) -> None:
    for name, table in learner.tables().items():
        table.values[:] = tables[name]
    learner.restored()


def _errors(history: Batch, predicted: F32) -> F64:
    """Squared errors of the ratings, (ratings,), from predictions (n,)."""
    rated = history.kinds == RATING
    errors = predicted[rated].clip(history.lows[rated], history.highs[rated]) - history.values[rated].astype(float)
    return np.asarray(np.square(errors), dtype=np.float64)


def is_better(before: F64, after: F64, users: I32, certainty: float) -> bool:
    """Whether squared errors (n,) fell by `certainty` standard errors of their mean, and fell for most users.

    The errors of one user depend on each other. A single one may have most of the held-out ratings, and must not decide.
    """
    if not len(before):
        return False
    change = after - before
    by_user, ratings = np.bincount(users, weights=change), np.bincount(users)
    error = float(np.sqrt(np.square(by_user - ratings * change.mean()).sum())) / len(change)
    most = 2 * int((by_user < 0.0).sum()) > int((ratings > 0).sum())
    return float(change.mean()) + certainty * error < 0.0 and most
