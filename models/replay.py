"""Refits a learner by letting it learn its whole history again, in order, from an empty state.

The result depends on the history alone: events that are no longer in it, such as those of forgotten users, leave no
trace, and with an unchanged history the result equals the former tables bit by bit. For counts (popularity, transitions) and
filters (bias) no fit is better. Cost: that of learning.
"""

from collections.abc import Callable, Mapping

import msgspec
import numpy as np

from streamer.core.arrays import F32, Array
from streamer.core.batch import Batch
from streamer.core.protocols import OnlineLearner

PART = 10_000  # events between two reports of progress
DAY_MS = 86_400_000.0


class ReplayParameters(msgspec.Struct, frozen=True):
    """No parameters."""


class Replay:
    """The protocols.Trainer of any learner that is not composed of others."""

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
    """Let the learner learn `history` as it would online; return its predictions (n,). `on_progress` gets the share done."""
    predicted = np.empty(len(history), dtype=np.float32)
    for start in range(0, len(history), PART):
        stop = min(start + PART, len(history))
        predicted[start:stop] = learner.learn(history.part(start, stop))
        on_progress(stop / len(history))
    return predicted
