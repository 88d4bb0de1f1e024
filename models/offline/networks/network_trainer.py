"""Refits an online network on its whole history: torch fits vectors and layers, and the learner serves them without torch.

First the learner replays its history, which gives counts, mean and scale, and rows to users and items that occur only in the
last tenth. Then torch fits everything on the first nine tenths. After each epoch the fitted parameters are written into the
learner, which then learns the last tenth online, event by event, as in the service. **The epoch whose predictions of that tenth
are best is kept**, each prediction made just before the rating was learned; if none is better than the replay, the replay is
kept. So no event is left out, and nothing is chosen on data that it was fitted to.
Cost: some 5 s of CPU a million ratings and epoch, 10 to 20 epochs, and twice the cost of learning.

Papers as in deep_fm.py and embedding_network.py; prequential choice: Dawid (1984), Statistical theory: the prequential
approach, JRSS A 147.
"""

from collections.abc import Callable, Mapping
from math import nan

import msgspec
import numpy as np

from streamer.core.arrays import F32, Array
from streamer.core.batch import CATEGORIES, GROUPS, RATING, Batch
from streamer.core.dataset import Dataset, SideInformation
from streamer.core.errors import StreamerError
from streamer.core.protocols import Epoch, OnlineLearner
from streamer.models.biased_mf import deviation
from streamer.models.networks.kernel import NORM_RATIOS
from streamer.models.networks.network import Network
from streamer.models.offline import fitting
from streamer.models.offline.networks.fields import Fields, FieldsParameters, fit_fields
from streamer.models.replay import learn_whole

FIRST_PASS = 0.2  # the share of progress of the replay
RATINGS_REQUIRED = 100  # with fewer ratings nothing is fitted; also the smallest step
STEPS = 50  # steps in an epoch of a short history


class NetworkTrainerParameters(msgspec.Struct, frozen=True):
    """How epochs are judged; sizes are the learner's, steps and penalties those of the offline models."""

    judged_share: float = 0.1
    """Share of the events, the last ones, by which epochs are judged."""
    seed: int = 1
    """Determines initial values, the order of the ratings and dropout."""


class NetworkTrainer:
    """The protocols.Trainer of the online networks."""

    Parameters = NetworkTrainerParameters

    def __init__(self, name: str, parameters: NetworkTrainerParameters) -> None:
        self.name, self.parameters = name, parameters
        self._tables: Mapping[str, Array] = {}

    def fit(self, learner: OnlineLearner, history: Batch, on_progress: Callable[[float], None]) -> None:
        """See protocols.Trainer; raises StreamerError for a learner that is not a Network."""
        if not isinstance(learner, Network):
            raise StreamerError(
                f"the trainer {self.name} fits online networks, not {learner.name}: name another trainer for it"
            )
        cut = len(history) - round(self.parameters.judged_share * len(history))
        first, last = history.part(0, cut), history.part(cut, len(history))
        learn_whole(learner, first, lambda share: on_progress(FIRST_PASS * share))
        descended = _copies(learner)
        least = _error(last, learner.learn(last))
        self._tables = _copies(learner)
        rated = np.flatnonzero((first.kinds == RATING) & np.isfinite(first.values))
        if len(rated) < RATINGS_REQUIRED or np.isnan(least):
            on_progress(1.0)
            return
        p, products = learner.parameters, learner.layout.products
        chosen = FieldsParameters()
        batch = min(chosen.batch, max(RATINGS_REQUIRED, len(rated) // STEPS))
        shape = msgspec.structs.replace(chosen, dim=p.dim, hidden=p.hidden, batch=batch)
        data = _dataset(learner, first, rated)
        z = ((data.values - descended["stream"][0, 1]) / deviation(descended["stream"])).clip(-p.clip, p.clip)
        fitting.set_seed(self.parameters.seed)
        network = Fields(data.user_count, data.side.categories, data.side.groups, shape, products=products)

        def judged() -> float:
            _write(learner, descended, network, data)
            return _error(last, learner.learn(last))

        def report(epoch: Epoch) -> None:
            on_progress(FIRST_PASS + (1.0 - FIRST_PASS) * epoch.number / (epoch.of + 1))

        fit_fields(network, data, z.astype(np.float32), shape, judged, report)
        if judged() < least:
            self._tables = _copies(learner)
        on_progress(1.0)

    def export(self) -> Mapping[str, Array]:
        """See protocols.Trainer."""
        return self._tables


def _dataset(learner: Network, history: Batch, rated: Array) -> Dataset:
    """The ratings at indices `rated` of the history, with the categories of items and groups of users."""
    users, items = len(learner.user.values), len(learner.item.values)
    categories: F32 = np.zeros((items, CATEGORIES), dtype=np.float32)
    category_words = learner.category_words.values[:items]
    bits = np.unpackbits(np.ascontiguousarray(category_words).view(np.uint8), axis=1, bitorder="little")
    categories[: len(category_words)] = bits
    groups: F32 = np.zeros((users, GROUPS), dtype=np.float32)
    slots = history.profiles.slots[:users]
    for user in np.flatnonzero(slots >= 0).tolist():
        members = history.profiles.groups[slots[user]]
        groups[user, members[members >= 0]] = 1.0
    side = SideInformation(
        user_ids=[""] * users, item_ids=[""] * items, titles=[], category_names=[], categories=categories,
        years=np.empty(0, dtype=np.float32), group_names=[], groups=groups,
    )  # fmt: skip
    return Dataset(
        side, history.kinds[rated], history.users[rated], history.items[rated], history.values[rated],
        history.clicks[rated], history.times_ms[rated],
    )  # fmt: skip


def _write(learner: Network, descended: Mapping[str, Array], network: Fields, data: Dataset) -> None:
    """Set the learner's tables to the replay's, then write the fitted rows of rated users and items and the shared parameters."""
    for name, table in learner.tables().items():
        table.values[:] = descended[name]
    dim, row = learner.layout.dim, learner.network.values[0]
    sides = ((learner.user, network.users, data.users), (learner.item, network.items, data.items))
    for side, (table, embedding, numbers) in enumerate(sides):
        rated = np.unique(numbers)
        before = _length(table.values[rated, : dim + 1])
        table.values[rated, : dim + 1] = fitting.array(embedding.weight)[rated]
        length = _length(table.values[rated, : dim + 1])
        row[side] = length / before if length > 0 and before > 0 else 1.0
    categories, groups = data.side.categories[np.unique(data.items)], data.side.groups[np.unique(data.users)]
    parts = [
        fitting.array(network.categories) * (categories.sum(axis=0) > 0)[:, None],  # the others hold only noise
        fitting.array(network.groups) * (groups.sum(axis=0) > 0)[:, None],
        fitting.array(network.first.weight).T, fitting.array(network.first.bias),
        fitting.array(network.second.weight).T, fitting.array(network.second.bias), fitting.array(network.last.weight),
    ]  # fmt: skip
    row[NORM_RATIOS:] = np.concatenate([part.ravel() for part in parts])


def _length(rows: Array) -> float:
    """The median length of the rows; 0 without rows."""
    return float(np.median(np.linalg.norm(rows.astype(np.float64), axis=1))) if len(rows) else 0.0


def _copies(learner: Network) -> dict[str, Array]:
    return {name: table.values.copy() for name, table in learner.tables().items()}


def _error(history: Batch, predicted: F32) -> float:
    """Mean squared error of predictions made before learning each rating; NaN without ratings."""
    rated = (history.kinds == RATING) & np.isfinite(history.values)
    errors = predicted[rated].clip(history.lows[rated], history.highs[rated]) - history.values[rated].astype(np.float64)
    return float(np.mean(np.square(errors))) if rated.any() else nan
