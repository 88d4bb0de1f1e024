"""EASE, a linear autoencoder in closed form, refitted after every 20% of the stream. It follows the paper, in NumPy.

    B = I - P diag(1 / diag(P)),    P = (X'X + l2 I)^-1,    scores = x B

X (users, items) is 1 where a user has clicked. It has no package on PyPI. The fit is cubic in the number of items, so that only the most
clicked ones take part (the paper's data is cut likewise). Before the first fit, and for users who have clicked none of them, items rank by
popularity; an item that has no column comes behind.

Steck (2019), Embarrassingly shallow autoencoders for sparse data, WWW.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec
import numpy as np

from benchmarks.protocols import FITS, PeerContext
from streamer.core.arrays import F32, I32
from streamer.core.protocols import Kind


class EASESettings(msgspec.Struct, frozen=True):
    l2: float = 500.0
    items: int = 4000  # most clicked items that take part
    last_items: int = 1_000_000  # of the user, as the query


class EASE:
    kind: ClassVar[Kind] = "clicks"
    package: ClassVar[str | None] = None
    Settings = EASESettings
    tuned: ClassVar[EASESettings | None] = EASESettings(l2=200.0, items=2000, last_items=5)
    space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "l2": (1.0, 3.0, 10.0, 30.0, 100.0, 200.0, 500.0, 1000.0),
        "items": (1000, 2000, 4000),
        "last_items": (1, 2, 3, 5, 10, 20, 1_000_000),
    }

    def __init__(self, settings: EASESettings, context: PeerContext) -> None:
        self._settings, self._every = settings, max(1, context.events // FITS)
        self._clicked: defaultdict[int, dict[int, None]] = defaultdict(dict)  # the last one at the end
        self._clicks = 0
        self._counts: F32 = np.zeros(context.events, dtype=np.float32)
        self._column_of: I32 = np.full(context.events, -1, dtype=np.int32)
        self._columns: I32 = np.empty(0, dtype=np.int32)  # the items that take part
        self._linear: F32 = np.empty((0, 0), dtype=np.float32)  # B

    def begin(self, user: int) -> None:
        """It knows nothing of sessions."""

    def score(self, user: int, count: int) -> F32:
        last = list(self._clicked.get(user, ()))[-self._settings.last_items :]
        known = self._column_of[last]
        known = known[known >= 0]
        if not len(known):
            return self._counts[:count]
        scores: F32 = np.full(count, np.nan, dtype=np.float32)
        scores[self._columns] = self._linear[known].sum(axis=0)
        return scores

    def learn(self, user: int, item: int) -> None:
        self._clicks += 1
        self._counts[item] += 1
        clicked = self._clicked[user]
        clicked.pop(item, None)
        clicked[item] = None
        if self._clicks % self._every == 0 and self._clicks < FITS * self._every:
            self._fit()

    def _fit(self) -> None:
        chosen = np.argsort(-self._counts, kind="stable")[: min(self._settings.items, np.count_nonzero(self._counts))]
        self._columns = chosen.astype(np.int32)
        self._column_of[:] = -1
        self._column_of[self._columns] = np.arange(len(chosen), dtype=np.int32)
        gram: F32 = np.zeros((len(chosen), len(chosen)), dtype=np.float32)
        for clicked in self._clicked.values():
            own = self._column_of[list(clicked)]
            own = own[own >= 0]
            gram[np.ix_(own, own)] += 1
        gram[np.diag_indices_from(gram)] += self._settings.l2
        inverse = np.linalg.inv(gram)
        self._linear = (-inverse / np.diag(inverse)).astype(np.float32)
        np.fill_diagonal(self._linear, 0)
