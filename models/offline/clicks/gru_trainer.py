"""Refits the online `gru4rec` on its whole history: torch fits network, vectors and biases, the learner serves them without torch.

The fit is that of gru4rec.py, with each user's last click put aside to stop it by. Then the learner lives its life over again with
what was fitted, which gives every user the state that it would have had online, and every item its count.
Cost: that of the fit, 1 ms a click in all, and of learning everything once.
"""

from collections.abc import Callable, Mapping

import msgspec
import numpy as np

from streamer.core.arrays import Array, Bool
from streamer.core.batch import Batch
from streamer.core.dataset import Dataset, dataset_from_batch, empty_side_information
from streamer.core.errors import StreamerError
from streamer.core.protocols import Epoch, OnlineLearner
from streamer.models.networks.gru import CONSTANT, GRU, OFFSET, TRAINED, WEIGHTS
from streamer.models.offline import fitting
from streamer.models.offline.clicks.gru4rec import GRU4Rec, GRU4RecParameters
from streamer.models.offline.clicks.next_item import windows
from streamer.models.replay import learn_whole

FEWEST = 100  # clicks below which there is nothing to fit
FITTED = 0.9  # share of the progress at which the fit has ended
USERS = 1000  # whose states c is the mean over


class GRUTrainerParameters(msgspec.Struct, frozen=True):
    """Size is the learner's; sessions and steps are those of models/offline/clicks/gru4rec.py."""

    seed: int = 1
    """Draws first weights, dropout, negatives and the order of sessions."""


class GRUTrainer:
    """protocols.Trainer for the online GRU."""

    Parameters = GRUTrainerParameters

    def __init__(self, name: str, parameters: GRUTrainerParameters) -> None:
        self.name, self.parameters = name, parameters
        self._tables: Mapping[str, Array] = {}

    def fit(self, learner: OnlineLearner, history: Batch, on_progress: Callable[[float], None]) -> None:
        """See protocols.Trainer; raises StreamerError for a learner that is not a GRU."""
        if not isinstance(learner, GRU):
            raise StreamerError(f"the trainer {self.name} fits the online GRU, not {learner.name}: name another for it")
        clicked = (history.clicks > 0) & np.isfinite(history.clicks)
        side = empty_side_information(len(learner.user.values), len(learner.item.values))
        clicks = dataset_from_batch(history, side).select(clicked)
        if len(clicks) >= FEWEST:

            def heard(epoch: Epoch) -> None:
                on_progress(FITTED * epoch.number / (epoch.of + 1))

            last = _last(clicks)
            chosen = GRU4RecParameters(dim=learner.parameters.dim)
            model = GRU4Rec(self.name, chosen, seed=self.parameters.seed)
            model.fit(clicks.select(~last), clicks.select(last), heard)
            put(learner, model)
        learn_whole(learner, history, lambda share: on_progress(FITTED + (1.0 - FITTED) * share))
        _normalise(learner)
        on_progress(1.0)
        self._tables = {called: table.values for called, table in learner.tables().items()}

    def export(self) -> Mapping[str, Array]:
        """See protocols.Trainer."""
        return self._tables


def _last(clicks: Dataset) -> Bool:
    """Which clicks are the last of a user with three or more."""
    _, events, left = windows(clicks, 2)
    enough = np.bincount(clicks.users, minlength=clicks.user_count)[clicks.users[events]] >= 3
    found: Bool = np.zeros(len(clicks), dtype=np.bool_)
    found[events[(left == 0) & enough]] = True
    return found


def put(learner: GRU, model: GRU4Rec) -> None:
    """Into the learner's item rows and network goes what was fitted; rows of users stay."""
    dim, places, fitted = learner.parameters.dim, model.places, model.network
    item, network = learner.item.values, learner.network.values[0]
    biases = fitting.array(fitted.biases)
    item[:] = 0.0
    item[places.items, :dim] = fitting.array(fitted.items.weight[:-1])
    item[places.items, dim], item[places.items, dim + 1] = biases, 1.0
    weights = {called: fitting.array(value) for called, value in fitted.gru.named_parameters()}
    parts = [weights["weight_ih_l0"].T, weights["weight_hh_l0"].T, weights["bias_ih_l0"], weights["bias_hh_l0"]]
    network[WEIGHTS:] = np.concatenate([part.ravel() for part in parts])
    network[TRAINED], network[OFFSET] = 1.0, np.median(biases - np.log(places.counts))


def _normalise(learner: GRU) -> None:
    """c, over the first users as they now are and the trained items."""
    dim, item = learner.parameters.dim, learner.item.values.astype(np.float64)
    item = item[item[:, dim + 1] > 0]
    if len(item):
        scores = learner.user.values[:USERS].astype(np.float64) @ item[:, :dim].T + item[:, dim]
        most = scores.max(axis=1, keepdims=True)
        learner.network.values[0, CONSTANT] = np.mean(most[:, 0] + np.log(np.exp(scores - most).sum(axis=1)))
