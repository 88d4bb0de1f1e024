"""Refits a learner by letting it learn its whole history again, in order, from nothing.

What comes out is a function of the history alone: whatever is in it no more, of forgotten users among the rest, has left
no trace. Cost: `passes` times what learning costs. On each further pass items begin with what the one before taught, and users,
the running moments and the counts begin anew, so that nothing is counted twice.
"""

from collections.abc import Callable, Mapping

import msgspec

from streamer.arrays import Array
from streamer.batch import Batch
from streamer.protocols import OnlineLearner

PART = 10_000  # events between two words about progress


class ReplayParameters(msgspec.Struct, frozen=True):
    """How often."""

    passes: int = 1
    """Times that the history is learned."""


class Replay:
    """protocols.Trainer for every learner that is not made of others."""

    Parameters = ReplayParameters

    def __init__(self, name: str, parameters: ReplayParameters) -> None:
        self.name, self.parameters = name, parameters
        self._tables: dict[str, Array] = {}

    def fit(self, learner: OnlineLearner, history: Batch, told: Callable[[float], None]) -> None:
        """See protocols.Trainer."""
        for table in learner.tables().values():
            if table.side != "item":
                table.values[:] = table.start
        for start in range(0, len(history), PART):
            learner.learn(history.part(start, min(start + PART, len(history))))
            told(min(1.0, (start + PART) / len(history)))
        self._tables = {name: table.values for name, table in learner.tables().items()}

    def export(self) -> Mapping[str, Array]:
        """See protocols.Trainer."""
        return self._tables
