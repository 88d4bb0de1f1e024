"""Whether learning is numerically sound: refused steps, norms of the rows, widths of the beliefs.

The rows of a learner that diverges grow without end; the beliefs of one that is overconfident shrink to width 0. Both are
read from the live rows, from a sample evenly spaced over each table, in any thread while the learner learns.
Cost: 0.3 to 1 ms a learner for 1,000 rows of each side, at each reading; nothing while events are learned.
"""

from collections.abc import Callable, Iterator, Mapping, Sized
from typing import NamedTuple

import numpy as np

from streamer.core.arrays import F64, I32
from streamer.core.protocols import Guarded, OnlineLearner, Watched
from streamer.core.tables import Side, evenly_spaced

SAMPLED_ROWS = 1000
QUANTILES = {"p50": 0.5, "p95": 0.95, "max": 1.0}


class Reading(NamedTuple):
    """One number about a learner's rows of one side."""

    learner: str
    side: Side
    of: str  # for a norm its quantile: p50, p95 or max; for a width what the belief is about
    value: float


class Stability:
    """Reads the live rows of all learners; from any thread."""

    def __init__(self, learners: Mapping[str, OnlineLearner], sample_users: Callable[[int], I32], items: Sized) -> None:
        """`learners` by name; `sample_users(n)` returns the rows of at most n users in memory; `items` has one row an item."""
        self._learners, self._sample_users, self._items = learners, sample_users, items

    def refused(self) -> Mapping[str, int]:
        """Steps refused so far, by learner."""
        return {name: learner.refused for name, learner in self._learners.items() if isinstance(learner, Guarded)}

    def norms(self) -> Iterator[Reading]:
        """Quantiles of the rows' lengths; none for a side without rows."""
        for name, learner, side, rows in self._watched():
            lengths = learner.norms(side, rows)
            if len(lengths):
                for quantile, value in zip(QUANTILES, _quantiles(lengths), strict=True):
                    yield Reading(name, side, quantile, value)

    def widths(self) -> Iterator[Reading]:
        """Mean standard deviations of beliefs; none for learners without beliefs."""
        for name, learner, side, rows in self._watched():
            for of, deviations in learner.widths(side, rows).items():
                yield Reading(name, side, of, float(deviations.mean()))

    def _watched(self) -> Iterator[tuple[str, Watched, Side, I32]]:
        sampled: dict[Side, I32] = {
            "user": self._sample_users(SAMPLED_ROWS),
            "item": evenly_spaced(len(self._items), SAMPLED_ROWS),
        }
        for name, learner in self._learners.items():
            if isinstance(learner, Watched):
                for side, rows in sampled.items():
                    if len(rows):
                        yield name, learner, side, rows


def _quantiles(lengths: F64) -> list[float]:
    """The QUANTILES of `lengths` (n,). NaN and infinity sort last, so that the largest shows them."""
    ordered = np.sort(lengths)
    return [float(ordered[round(share * (len(ordered) - 1))]) for share in QUANTILES.values()]
