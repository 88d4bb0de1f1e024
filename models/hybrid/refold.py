"""Refits a Bayesian hybrid: filters the whole history once more, with shared parameters that were learned from all of it.

A user's filter is recursive least squares: given the items and the shared parameters, filtering a history in order is the
closed form, and no other fit is better. Early events suffer from what was not known yet: what categories say about items
(beta, Gamma), the weights on consensus and popularity of a new user, and the mean and scale of all ratings. So the learner
first replays its history as it would have learned it online, and each further pass (a fold) starts from the shared parameters
at the end of that replay. Everything else, items and users with their variances, groups and sets of items, starts at its
priors, so that each event counts once. (Items that keep what they learned from the same events make the filter too
certain: RMSE .7% worse on ml-latest-small after one such fold, 4% after two.)

Whether a fold is better depends on how fast tastes change: a filter that knew more from the start is slower to follow. So
there are several folds, with different process noise, and each is judged by its predictions of the last ratings, each made
just before it was learned. The replay itself, equal to learning online, is judged alike, and the best of all stays. Nothing
but the history is used. With `window_days` a fold covers the last events only, and users and items without any
of them keep their rows from the replay. Cost: 1 + len(walks) times the cost of learning.

Kalman (1960), as in bayesian_hybrid.py; priors from a first pass: Efron, Morris (1973), Stein's estimation rule and its
competitors, an empirical Bayes approach, JASA 68; prequential choice: Dawid (1984), Statistical theory: the prequential
approach, JRSS A 147.
"""

from collections.abc import Callable, Mapping
from functools import partial
from math import inf

import msgspec
import numpy as np

from streamer.core.arrays import F32, Array
from streamer.core.batch import RATING, Batch
from streamer.core.errors import StreamerError
from streamer.core.protocols import OnlineLearner
from streamer.models.hybrid.bayesian_hybrid import BayesianHybrid
from streamer.models.hybrid.rows import BETA, START_CONSENSUS
from streamer.models.replay import DAY_MS, learn_whole


class RefoldParameters(msgspec.Struct, frozen=True):
    """The folds, and how they are judged."""

    walks: tuple[float, ...] = (1.0, 1000.0)
    """One fold each, with latent_process (process noise of latent weights) times this. 1,000 gains where tastes turn by
    .05 rad a day."""
    judged_ratings: int = 10_000
    """Number of last ratings that folds are judged by. 5,000 lead to the same choice. 0: the last fold is taken without
    judgement."""
    window_days: float | None = None
    """Largest age of events that are filtered again; None: all of them."""


class Refold:
    """protocols.Trainer for the Bayesian hybrids."""

    Parameters = RefoldParameters

    def __init__(self, name: str, parameters: RefoldParameters) -> None:
        self.name, self.parameters = name, parameters
        self._tables: dict[str, Array] = {}

    def fit(self, learner: OnlineLearner, history: Batch, on_progress: Callable[[float], None]) -> None:
        """See protocols.Trainer; raises StreamerError for a learner that is not a BayesianHybrid."""
        if not isinstance(learner, BayesianHybrid):
            raise StreamerError(
                f"the trainer {self.name} fits Bayesian hybrids, not {learner.name}: name another trainer for it"
            )
        m, parts = learner.model, len(self.parameters.walks) + 1
        initial = _copies(learner)
        last = history.part(self._first(history), len(history))
        least = self._error(history, learn_whole(learner, history, partial(_after, on_progress, 0, parts)))
        replayed = self._tables = _copies(learner)
        for turn, walk in enumerate(self.parameters.walks, 1):
            self._reset(learner, last, initial, replayed)
            learner.model = m._replace(latent_process=walk * m.latent_process)
            error = self._error(last, learn_whole(learner, last, partial(_after, on_progress, turn, parts)))
            learner.model = m
            stream, counts_at = learner.stream.values[0], BETA + m.known * (1 + m.dim)
            # each event counts once: counts, mean, scale and calibration are those of the replay
            stream[:START_CONSENSUS] = replayed["stream"][0, :START_CONSENSUS]
            stream[counts_at:] = replayed["stream"][0, counts_at:]
            learner.calibration.values[:] = replayed["calibration"]
            if error < least or not self.parameters.judged_ratings:
                least, self._tables = error, _copies(learner)

    def export(self) -> Mapping[str, Array]:
        """See protocols.Trainer."""
        return self._tables

    def _reset(
        self, learner: BayesianHybrid, last: Batch, initial: dict[str, Array], replayed: dict[str, Array]
    ) -> None:
        """Keep shared parameters as the replay left them, and put the rows of the events' users and items back to their start."""
        everybody = np.arange(len(initial["user"])), np.arange(len(initial["item"]))
        whole = self.parameters.window_days is None
        users, items = everybody if whole else (np.unique(last.users), np.unique(last.items))
        for name, table in learner.tables().items():
            table.values[:] = replayed[name]
        learner.user.values[users] = initial["user"][users]
        learner.item.values[items] = initial["item"][items]
        learner.set_sums.values[:], learner.group_means.values[:] = initial["alike"], initial["groups"]

    def _first(self, history: Batch) -> int:
        """Index of the first event in the window."""
        days = self.parameters.window_days
        if days is None or not len(history):
            return 0
        return int(np.argmax(history.times_ms >= history.times_ms.max() - days * DAY_MS))

    def _error(self, history: Batch, predicted: F32) -> float:
        """Mean squared error of the last ratings, each predicted before it was learned; infinite without ratings."""
        rated = np.flatnonzero(history.kinds == RATING)
        rated = rated[max(0, len(rated) - self.parameters.judged_ratings) :]
        errors = predicted[rated].clip(history.lows[rated], history.highs[rated]) - history.values[rated].astype(float)
        return float(np.mean(np.square(errors))) if len(rated) else inf


def _copies(learner: BayesianHybrid) -> dict[str, Array]:
    return {name: table.values.copy() for name, table in learner.tables().items()}


def _after(on_progress: Callable[[float], None], turn: int, parts: int, share: float) -> None:
    on_progress((turn + share) / parts)
