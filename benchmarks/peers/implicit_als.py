"""implicit's alternating least squares on clicks, refitted on all of them after every 20% of the stream.

Between two fits items stay as they are; users can be folded in (one least squares problem a query, on all that the user has
clicked). Before the first fit, and for users without vectors, items rank by popularity.

Hu, Koren, Volinsky (2008), Collaborative filtering for implicit feedback datasets, ICDM.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar

import msgspec
import numpy as np

from benchmarks.protocols import FITS, PeerContext
from streamer.core.arrays import F32
from streamer.core.protocols import Kind


class ImplicitALSSettings(msgspec.Struct, frozen=True):
    factors: int = 100
    regularization: float = 0.01
    alpha: float = 1.0
    iterations: int = 15
    fold_in: bool = False


class ImplicitALS:
    kind: ClassVar[Kind] = "clicks"
    package = "implicit"
    Settings = ImplicitALSSettings
    tuned = ImplicitALSSettings(regularization=30.0, alpha=10.0, fold_in=True)
    space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "fold_in": (False, True),
        "factors": (8, 16, 32, 64, 100),
        "regularization": (0.01, 0.1, 1.0, 10.0, 30.0, 100.0),
        "alpha": (1.0, 3.0, 10.0, 30.0),
        "iterations": (5, 15),
    }

    def __init__(self, settings: ImplicitALSSettings, context: PeerContext) -> None:
        self._settings, self._seed, self._every = settings, context.seed, max(1, context.events // FITS)
        self._library, self._sparse = import_module("implicit.cpu.als"), import_module("scipy.sparse")
        self._clicked: defaultdict[int, list[int]] = defaultdict(list)
        self._clicks, self._known = 0, 0  # items with a click when the model was fitted
        self._counts: F32 = np.zeros(context.events, dtype=np.float32)
        self._fitted: Any = None

    def begin(self, user: int) -> None:
        """It knows nothing of sessions."""

    def score(self, user: int, count: int) -> F32:
        vector = self._vector(user)
        if vector is None:
            return self._counts[:count]
        scores: F32 = np.full(count, np.nan, dtype=np.float32)
        scores[: self._known] = self._fitted.item_factors @ vector
        return scores

    def _vector(self, user: int) -> F32 | None:
        if self._fitted is None or user not in self._clicked:
            return None
        found: F32
        if self._settings.fold_in:
            known, counts = np.unique(self._clicked[user], return_counts=True)
            there = known < self._known
            own = self._sparse.csr_matrix(
                (counts[there].astype(np.float32), known[there], [0, int(there.sum())]), shape=(1, self._known)
            )
            found = self._fitted.recalculate_user(0, own)
        elif user < len(self._fitted.user_factors):
            found = self._fitted.user_factors[user]
        else:
            return None
        return found if found.any() else None

    def learn(self, user: int, item: int) -> None:
        self._clicks += 1
        self._counts[item] += 1
        self._clicked[user].append(item)
        if self._clicks % self._every == 0 and self._clicks < FITS * self._every:
            self._fit()

    def _fit(self) -> None:
        users = 1 + max(self._clicked)
        rows = np.repeat(np.arange(users), [len(self._clicked.get(user, ())) for user in range(users)])
        columns = np.concatenate([self._clicked.get(user, []) for user in range(users)]).astype(np.int32)
        self._known = 1 + int(columns.max())
        clicks = self._sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=(users, self._known))
        settings = self._settings
        model = self._library.AlternatingLeastSquares(
            factors=settings.factors, regularization=settings.regularization, alpha=settings.alpha,
            iterations=settings.iterations, num_threads=1, random_state=self._seed,
        )  # fmt: skip
        model.fit(clicks, show_progress=False)
        self._fitted = model
