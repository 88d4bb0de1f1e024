"""Refits skip-gram, or a learner like it, with the item vectors of an offline model that factorises clicks.

    s = u . e_i + b_i   ->   v_i = x_i = R e_i, each scaled to suit the learner

Users' vectors and counts are learned by the learner itself, in a pass over the history with fixed items, as the model's user
vectors do not know about a user's last clicks. Vectors of another dimension are reduced to the learner's with the least
loss in the products with the model's users (`factors.reduce_dimensions`), and rotated (Procrustes, weighted by count) onto
those of a pass of the learner over the same history. Items without clicks keep the learner's vectors. Each user's last click
is held out to stop the fit.
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
from streamer.models.offline.clicks.word2vec import learn_users, scales_for_learner
from streamer.models.offline.factorisation.factors import reduce_dimensions
from streamer.models.replay import learn_whole
from streamer.models.skip_gram import SkipGram

FIRST_PASS, FITTED_SHARE = 0.1, 0.9  # progress at the end of the learner's pass, and of the fit
CLICKS_REQUIRED = 3  # users with at least so many clicks have their last one held out
USERS_REQUIRED = 5  # with fewer such users there is no fit: nothing could stop it


class ClickFactorsParameters(msgspec.Struct, frozen=True):
    """The model and its seed."""

    model: str | None = None
    """A name in streamer.models.offline.MODELS; None: the learner's name."""
    seed: int = 1
    """Determines initial values and the order of clicks."""


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
        """See protocols.Trainer.

        Raises StreamerError for another learner, BadSettings for a model that does not factorise clicks.
        """
        if not isinstance(learner, SkipGram):
            raise StreamerError(f"the trainer {self.name} fits learners like skip-gram, not {learner.name}")
        name = self.parameters.model or learner.name
        made = model(name, seed=self.parameters.seed, candidates=0)  # without its ranking stage, which has no vectors
        if not isinstance(made, Factorised) or made.kind != "clicks":
            raise BadSettings(f"the model {name} does not factorise clicks: its rows cannot be those of {learner.name}")
        learn_whole(learner, history, lambda share: on_progress(FIRST_PASS * share))
        side = self._side or empty_side_information(len(learner.user.values), len(learner.item.values))
        clicks = dataset_from_batch(history, side).clicked()
        last = _last(clicks)
        if np.count_nonzero(last) >= USERS_REQUIRED:

            def report(epoch: Epoch) -> None:
                on_progress(FIRST_PASS + (FITTED_SHARE - FIRST_PASS) * min(1.0, epoch.number / epoch.of))

            made.fit(clicks.select(~last), clicks.select(last), report)
            self._write(learner, made, clicks.select(~last))
            on_progress(FITTED_SHARE)
            learn_users(learner, history, lambda share: on_progress(FITTED_SHARE + (1.0 - FITTED_SHARE) * share))
        on_progress(1.0)
        self._tables = {called: table.values for called, table in learner.tables().items()}

    def export(self) -> Mapping[str, Array]:
        """See protocols.Trainer."""
        return self._tables

    def _write(self, learner: SkipGram, made: Factorised, train: Dataset) -> None:
        dim, items, factors = learner.parameters.dim, np.unique(train.items), made.export()
        _, e = reduce_dimensions(factors.users[np.unique(train.users)], factors.items[items], dim)
        rows = learner.item.values[items]
        before = rows[:, :dim].copy(), rows[:, dim : 2 * dim].copy()
        counts = np.bincount(train.items, minlength=train.item_count)[items]
        turned = (e @ rotation(before[0], e, counts)).astype(np.float32)
        v, x = scales_for_learner(before, (turned, turned))
        learner.item.values[items, :dim], learner.item.values[items, dim : 2 * dim] = turned * v, turned * x


def _last(clicks: Dataset) -> Bool:
    """Whether each click is its user's last, for users with enough of them; (clicks,)."""
    order, starts = clicks.by_user()
    counts = np.diff(starts)
    last: Bool = np.zeros(len(clicks), dtype=np.bool_)
    last[order[starts[1:][counts >= CLICKS_REQUIRED] - 1]] = True
    return last
