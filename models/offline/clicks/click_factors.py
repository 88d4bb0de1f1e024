"""Refits skip-gram, or a learner like it, by the item vectors of a model of the field that factorises clicks.

    s = u . e_i + b_i   ->   v_i = x_i = R e_i, both as long as suits the learner

Users' vectors and counts are learned by the learner itself, in a pass over the history with the items as they are: the model's say
nothing of a user's last clicks. Vectors of another length become those of the learner's that lose least of all products with the
model's users (`factors.shortened`), and are turned (Procrustes, by count) to where a pass of the learner over the same history
puts its own. Items that nobody clicked stay as the learner's own. Each user's last click stops the fit.
Cost: that of the model, and of two passes of the learner.

Schonemann (1966), A generalized solution of the orthogonal Procrustes problem, Psychometrika 31(1).
"""

from collections.abc import Callable, Mapping

import msgspec
import numpy as np

from streamer.core.arrays import Array, Bool
from streamer.core.batch import Batch
from streamer.core.dataset import Dataset, SideInformation, dataset_from_batch, empty_side_information
from streamer.core.errors import BadSettings, StreamerError
from streamer.core.protocols import Epoch, Factorised, OnlineLearner
from streamer.core.tables import rotation
from streamer.models.offline import model
from streamer.models.offline.clicks.word2vec import learn_users, suited
from streamer.models.offline.factorisation.factors import shortened
from streamer.models.replay import learn_whole
from streamer.models.skip_gram import SkipGram

FIRST_PASS, FITTED = 0.1, 0.9  # shares of the progress at which the learner's pass and the fit have ended
FEWEST = 3  # clicks of a user of whom the last is put aside
FEWEST_USERS = 5  # such users, below which there is nothing to stop a fit by


class ClickFactorsParameters(msgspec.Struct, frozen=True):
    """Which model."""

    model: str | None = None
    """A name of streamer.models.offline.MODELS; none: that of the learner."""
    seed: int = 1
    """Of first values and the order of clicks."""


class ClickFactors:
    """protocols.Trainer and Informed, for learners that are a SkipGram."""

    Parameters = ClickFactorsParameters

    def __init__(self, name: str, parameters: ClickFactorsParameters) -> None:
        self.name, self.parameters = name, parameters
        self._side: SideInformation | None = None
        self._tables: Mapping[str, Array] = {}

    def inform(self, side: SideInformation) -> None:
        """See protocols.Informed."""
        self._side = side

    def fit(self, learner: OnlineLearner, history: Batch, on_progress: Callable[[float], None]) -> None:
        """See protocols.Trainer; raises StreamerError for another learner, BadSettings for a model that does not factorise clicks."""
        if not isinstance(learner, SkipGram):
            raise StreamerError(f"the trainer {self.name} fits learners like skip-gram, not {learner.name}")
        name = self.parameters.model or learner.name
        made = model(name, seed=self.parameters.seed, candidates=0)  # without its second stage, which has no vectors
        if not isinstance(made, Factorised) or made.kind != "clicks":
            raise BadSettings(f"the model {name} does not factorise clicks: its rows cannot be those of {learner.name}")
        learn_whole(learner, history, lambda share: on_progress(FIRST_PASS * share))
        side = self._side or empty_side_information(len(learner.user.values), len(learner.item.values))
        clicks = dataset_from_batch(history, side).clicked()
        last = _last(clicks)
        if np.count_nonzero(last) >= FEWEST_USERS:

            def heard(epoch: Epoch) -> None:
                on_progress(FIRST_PASS + (FITTED - FIRST_PASS) * min(1.0, epoch.number / epoch.of))

            made.fit(clicks.select(~last), clicks.select(last), heard)
            self._put(learner, made, clicks.select(~last))
            on_progress(FITTED)
            learn_users(learner, history, lambda share: on_progress(FITTED + (1.0 - FITTED) * share))
        on_progress(1.0)
        self._tables = {called: table.values for called, table in learner.tables().items()}

    def export(self) -> Mapping[str, Array]:
        """See protocols.Trainer."""
        return self._tables

    def _put(self, learner: SkipGram, made: Factorised, train: Dataset) -> None:
        dim, items, factors = learner.parameters.dim, np.unique(train.items), made.export()
        _, e = shortened(factors.users[np.unique(train.users)], factors.items[items], dim)
        rows = learner.item.values[items]
        before = rows[:, :dim].copy(), rows[:, dim:].copy()
        counts = np.bincount(train.items, minlength=train.item_count)[items]
        turned = (e @ rotation(before[0], e, counts)).astype(np.float32)
        v, x = suited(before, (turned, turned))
        learner.item.values[items, :dim], learner.item.values[items, dim:] = turned * v, turned * x


def _last(clicks: Dataset) -> Bool:
    """Each user's last click, of those with some; (clicks,)."""
    order, starts = clicks.by_user()
    counts = np.diff(starts)
    last: Bool = np.zeros(len(clicks), dtype=np.bool_)
    last[order[starts[1:][counts >= FEWEST] - 1]] = True
    return last
