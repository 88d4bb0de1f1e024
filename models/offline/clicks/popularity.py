"""Popularity: everybody is shown what was clicked most. What every other next-item model must beat.

    score = sum of the item's clicks' weights

Cost: one look at each click.
"""

from collections.abc import Callable, Sequence
from math import nan

import msgspec
import numpy as np

from streamer.core.arrays import F32, I32
from streamer.core.dataset import Dataset
from streamer.core.protocols import Epoch, Kind


class PopularityParameters(msgspec.Struct, frozen=True):
    """None."""


class Popularity:
    """protocols.NextItem of counts."""

    kind: Kind = "clicks"
    Parameters = PopularityParameters

    def __init__(self, name: str, parameters: PopularityParameters, *, seed: int) -> None:
        """Nothing is random in it."""
        self.name, self.parameters = name, parameters
        self._counts: F32 = np.empty(0, dtype=np.float32)

    def fit(self, train: Dataset, validation: Dataset, on_progress: Callable[[Epoch], None]) -> None:
        """See protocols.OfflineModel."""
        clicks = train.clicked()
        self._counts = np.bincount(clicks.items, clicks.clicks, train.item_count).astype(np.float32)
        on_progress(Epoch(1, 1, nan, nan))

    def scores(self, users: I32, histories: Sequence[I32]) -> F32:
        """See protocols.NextItem."""
        return np.tile(self._counts, (len(histories), 1))
