"""What shows whether learning is sound: how many steps were refused, how long the rows are, how sure the beliefs.

A learner that diverges has rows that grow without end; one that is too sure has beliefs whose width goes to 0. Both are
read from live rows, a sample evenly spaced over the table, from any thread while it learns.
Cost: 0.3 to 1 ms a learner for 1,000 rows of each side, when somebody asks; nothing where events are learned.
"""

from collections.abc import Callable, Iterator, Mapping, Sized
from typing import NamedTuple

import numpy as np

from streamer.core.arrays import F64, I32
from streamer.core.protocols import Guarded, OnlineLearner, Watched
from streamer.core.tables import Side, spaced

SAMPLED_ROWS = 1000
QUANTILES = {"p50": 0.5, "p95": 0.95, "max": 1.0}


class Reading(NamedTuple):
    """One number of a learner's rows of one side."""

    learner: str
    side: Side
    of: str  # a norm: p50, p95 or max; a width: what the belief is about
    value: float


class Stability:
    """Looks at the live rows of all learners; from any thread."""

    def __init__(self, learners: Mapping[str, OnlineLearner], sample_users: Callable[[int], I32], items: Sized) -> None:
        """Learners by name; `sample_users` answers rows of at most so many users in memory; `items` has a row for each."""
        self._learners, self._sample_users, self._items = learners, sample_users, items

    def refused(self) -> Mapping[str, int]:
        """Steps refused so far, by learner."""
        return {name: made.refused for name, made in self._learners.items() if isinstance(made, Guarded)}

    def norms(self) -> Iterator[Reading]:
        """Quantiles of the rows' lengths; nothing of a side without rows."""
        for name, made, side, rows in self._watched():
            lengths = made.norms(side, rows)
            if len(lengths):
                for said, value in zip(QUANTILES, _quantiles(lengths), strict=True):
                    yield Reading(name, side, said, value)

    def widths(self) -> Iterator[Reading]:
        """Mean standard deviations of beliefs; nothing of learners that have none."""
        for name, made, side, rows in self._watched():
            for of, found in made.widths(side, rows).items():
                yield Reading(name, side, of, float(found.mean()))

    def _watched(self) -> Iterator[tuple[str, Watched, Side, I32]]:
        sampled: dict[Side, I32] = {
            "user": self._sample_users(SAMPLED_ROWS),
            "item": spaced(len(self._items), SAMPLED_ROWS),
        }
        for name, made in self._learners.items():
            if isinstance(made, Watched):
                for side, rows in sampled.items():
                    if len(rows):
                        yield name, made, side, rows


def _quantiles(lengths: F64) -> list[float]:
    """NaN and infinity sort last, so that the largest shows them."""
    ordered = np.sort(lengths)
    return [float(ordered[round(share * (len(ordered) - 1))]) for share in QUANTILES.values()]
