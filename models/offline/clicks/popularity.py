"""Popularity: every user gets the most clicked items. The baseline for every other next-item model.

    score = sum of the weights of the item's clicks

Cost: one pass over the clicks.
"""

from collections.abc import Callable, Sequence
from math import nan

import msgspec
import numpy as np

from streamer.core.arrays import F32, I32
from streamer.core.dataset import Dataset
from streamer.core.protocols import Epoch, Kind


class PopularityParameters(msgspec.Struct, frozen=True):
    """No parameters."""


class Popularity:
    """The protocols.NextItem that counts clicks."""

    kind: Kind = "clicks"
    Parameters = PopularityParameters

    def __init__(self, name: str, parameters: PopularityParameters, *, seed: int) -> None:
        """The seed is unused: nothing here is random."""
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
