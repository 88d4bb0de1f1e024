"""One-pass transitions: the online learner of `streamer.models.transitions.transitions` after learning the training part once, in order.

The baseline for every sequence model: it sees each event only once.
Cost: about 1 us a click.
"""

from collections.abc import Callable, Sequence
from math import nan

import numpy as np

from streamer.core.arrays import F32, I32
from streamer.core.dataset import Dataset, as_batch
from streamer.core.protocols import Epoch, Kind
from streamer.models.transitions.transitions import Transitions as Learner
from streamer.models.transitions.transitions import TransitionsParameters, record_click, score_transitions


class Transitions:
    """The protocols.NextItem that counts successors."""

    kind: Kind = "clicks"
    Parameters = TransitionsParameters

    def __init__(self, name: str, parameters: TransitionsParameters, *, seed: int) -> None:
        """The seed is unused: nothing here is random."""
        self.name, self.parameters = name, parameters
        self._learner = Learner(name, parameters, seed=seed)
        self._items = 0

    def fit(self, train: Dataset, validation: Dataset, on_progress: Callable[[Epoch], None]) -> None:
        """See protocols.OfflineModel."""
        clicks, learner = train.clicked(), self._learner
        for table, count in (
            (learner.user, train.user_count),
            (learner.lists, train.item_count),
            (learner.popularity, train.item_count),
        ):
            table.reserve(count)
            table.begin(np.arange(count, dtype=np.int32), [0] * count)
        learner.learn(as_batch(clicks))
        self._items = train.item_count
        on_progress(Epoch(1, 1, nan, nan))

    def scores(self, users: I32, histories: Sequence[I32]) -> F32:
        """See protocols.NextItem."""
        learner = self._learner
        items = np.arange(self._items, dtype=np.int32)
        out = np.empty((len(histories), len(items)), dtype=np.float32)
        for row, history in enumerate(histories):
            context = np.full(learner.parameters.window, -1, dtype=np.int32)
            for item in history[
                -4 * len(context) :
            ]:  # an item that was clicked twice moves to the front and pushes no other out
                record_click(context, item, 1.0)
            score_transitions(
                context, learner.lists.values, learner.popularity.values, learner.stream.values, items, learner.constants,
                out[row],
            )  # fmt: skip
        return out
