"""Refits the online `gru4rec` on its whole history: torch fits network, vectors and biases, and the learner serves them without torch.

The fit is that of gru4rec.py, with each user's last click held out for early stopping. Then the learner replays its history
with the fitted network, which gives every user the state they would have had online, and every item its count.
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

CLICKS_REQUIRED = 100  # with fewer clicks nothing is fitted
FITTED_SHARE = 0.9  # progress at the end of the fit
USERS = 1000  # c is the mean over the states of this many users


class GRUTrainerParameters(msgspec.Struct, frozen=True):
    """The seed. The size is the learner's; sessions and steps are those of models/offline/clicks/gru4rec.py."""

    seed: int = 1
    """Determines initial weights, dropout, negatives and the order of sessions."""


class GRUTrainer:
    """The protocols.Trainer of the online GRU."""

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
        if len(clicks) >= CLICKS_REQUIRED:

            def report(epoch: Epoch) -> None:
                on_progress(FITTED_SHARE * epoch.number / (epoch.of + 1))

            last = _last(clicks)
            chosen = GRU4RecParameters(dim=learner.parameters.dim)
            model = GRU4Rec(self.name, chosen, seed=self.parameters.seed)
            model.fit(clicks.select(~last), clicks.select(last), report)
            write_network(learner, model)
        learn_whole(learner, history, lambda share: on_progress(FITTED_SHARE + (1.0 - FITTED_SHARE) * share))
        _normalise(learner)
        on_progress(1.0)
        self._tables = {called: table.values for called, table in learner.tables().items()}

    def export(self) -> Mapping[str, Array]:
        """See protocols.Trainer."""
        return self._tables


def _last(clicks: Dataset) -> Bool:
    """Whether each click is the last of a user with three or more; (clicks,)."""
    _, events, left = windows(clicks, 2)
    enough = np.bincount(clicks.users, minlength=clicks.user_count)[clicks.users[events]] >= 3
    found: Bool = np.zeros(len(clicks), dtype=np.bool_)
    found[events[(left == 0) & enough]] = True
    return found


def write_network(learner: GRU, model: GRU4Rec) -> None:
    """Write the fitted vectors, biases and weights into the learner's item rows and network; user rows stay."""
    dim, vocabulary, fit_fields = learner.parameters.dim, model.vocabulary, model.network
    item, network = learner.item.values, learner.network.values[0]
    biases = fitting.array(fit_fields.biases)
    item[:] = 0.0
    item[vocabulary.items, :dim] = fitting.array(fit_fields.items.weight[:-1])
    item[vocabulary.items, dim], item[vocabulary.items, dim + 1] = biases, 1.0
    weights = {called: fitting.array(value) for called, value in fit_fields.gru.named_parameters()}
    parts = [weights["weight_ih_l0"].T, weights["weight_hh_l0"].T, weights["bias_ih_l0"], weights["bias_hh_l0"]]
    network[WEIGHTS:] = np.concatenate([part.ravel() for part in parts])
    network[TRAINED], network[OFFSET] = 1.0, np.median(biases - np.log(vocabulary.counts))


def _normalise(learner: GRU) -> None:
    """Set c from the states of the first USERS users and the trained items."""
    dim, item = learner.parameters.dim, learner.item.values.astype(np.float64)
    item = item[item[:, dim + 1] > 0]
    if len(item):
        scores = learner.user.values[:USERS].astype(np.float64) @ item[:, :dim].T + item[:, dim]
        most = scores.max(axis=1, keepdims=True)
        learner.network.values[0, CONSTANT] = np.mean(most[:, 0] + np.log(np.exp(scores - most).sum(axis=1)))
