"""Refits a learner by letting it learn its whole history again, in order, from nothing.

What comes out is a function of the history alone: whatever is in it no more, of forgotten users among the rest, has left
no trace; and where nothing is missing it is what there was, to the bit. For counts (popularity, transitions) and filters
(bias) that is the best fit there is. Cost: what learning costs.
"""

from collections.abc import Callable, Mapping

import msgspec
import numpy as np

from streamer.core.arrays import F32, Array
from streamer.core.batch import Batch
from streamer.core.protocols import OnlineLearner

PART = 10_000  # events between two words about progress
DAY_MS = 86_400_000.0


class ReplayParameters(msgspec.Struct, frozen=True):
    """None."""


class Replay:
    """protocols.Trainer for every learner that is not made of others."""

    Parameters = ReplayParameters

    def __init__(self, name: str, parameters: ReplayParameters) -> None:
        self.name, self.parameters = name, parameters
        self._tables: Mapping[str, Array] = {}

    def fit(self, learner: OnlineLearner, history: Batch, on_progress: Callable[[float], None]) -> None:
        """See protocols.Trainer."""
        learn_whole(learner, history, on_progress)
        self._tables = {name: table.values for name, table in learner.tables().items()}

    def export(self) -> Mapping[str, Array]:
        """See protocols.Trainer."""
        return self._tables


def learn_whole(learner: OnlineLearner, history: Batch, on_progress: Callable[[float], None]) -> F32:
    """Let the learner learn `history` as it would have online; what it predicted, (n,). `told` hears the share done."""
    predicted = np.empty(len(history), dtype=np.float32)
    for start in range(0, len(history), PART):
        stop = min(start + PART, len(history))
        predicted[start:stop] = learner.learn(history.part(start, stop))
        on_progress(stop / len(history))
    return predicted
