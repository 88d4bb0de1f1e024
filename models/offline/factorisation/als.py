"""Alternating least squares with biases: users' factors and biases are solved for together, then items', and so on.

    minimise  sum (z - b_u - b_i - p_u . q_i)^2 + sum_rows n^.5 (l2 |p or q|^2 + bias_l2 b^2),   z = (y - mu) / sigma

The result is the sweep that is best on the validation part. An unseen user or item has a row of 0.
Cost: that of the kernel, which is the one of `streamer.models.als`: O(dim^2) a rating and half-sweep.

Zhou, Wilkinson, Schreiber, Pan (2008), Large-scale parallel collaborative filtering for the Netflix prize, AAIM.
Deviation: the penalty grows with the root of a row's count, not with the count (ALS-WR).
"""

from collections.abc import Callable
from typing import cast

import msgspec
import numpy as np

from streamer.core.arrays import F32, I32, Array
from streamer.core.dataset import Dataset, group_rows
from streamer.core.protocols import Epoch, Factors, Kind
from streamer.models.als import solve_side


class AlternatingLeastSquaresParameters(msgspec.Struct, frozen=True):
    """Size, sweeps and penalties, for ratings of mean 0 and deviation 1."""

    dim: int = 32
    """Factors. The design's choice."""
    epochs: int = 40
    """Largest number of sweeps; most fits stop at 15 to 25."""
    patience: int = 3
    """Number of sweeps without a better validation error after which the fit ends."""
    l2: float = 1.25
    """Penalty of the factors. 1.25 to 1.5 are alike on MovieLens; from 2 on the factors vanish."""
    bias_l2: float = 1.0
    """Penalty of the biases."""
    noise: float = 0.1
    """Standard deviation of an item's initial factors."""


class AlternatingLeastSquares:
    """A protocols.Rater and Factorised."""

    kind: Kind = "ratings"
    Parameters = AlternatingLeastSquaresParameters

    def __init__(self, name: str, parameters: AlternatingLeastSquaresParameters, *, seed: int) -> None:
        """`seed` determines the items' initial factors."""
        self.name, self.parameters, self._seed = name, parameters, seed
        self._mean, self._deviation = 0.0, 1.0
        self._users: Array = np.empty(
            (0, 0), dtype=np.float32
        )  # factors, bias, and a column that the kernel leaves alone
        self._items: Array = np.empty((0, 0), dtype=np.float32)

    def fit(self, train: Dataset, validation: Dataset, on_progress: Callable[[Epoch], None]) -> None:
        """See protocols.OfflineModel."""
        p, drawn = self.parameters, np.random.default_rng(self._seed)
        values = train.values.astype(np.float64)
        self._mean, self._deviation = (float(values.mean()), float(values.std()) or 1.0) if len(values) else (0.0, 1.0)
        users = np.zeros((train.user_count, p.dim + 2), dtype=np.float32)
        items = np.zeros((train.item_count, p.dim + 2), dtype=np.float32)
        rated = np.unique(train.items)
        items[rated, : p.dim] = drawn.normal(0.0, p.noise, (len(rated), p.dim))
        z, weights = (values - self._mean) / self._deviation, np.ones(len(values))
        user_order, user_starts = train.by_user()
        item_order, item_starts = group_rows(train.items, train.item_count)
        best, waited = np.inf, 0
        for sweep in range(1, p.epochs + 1):
            solve_side(users, items, user_starts, train.items[user_order], z[user_order], weights, p.l2, p.bias_l2)
            solve_side(items, users, item_starts, train.users[item_order], z[item_order], weights, p.l2, p.bias_l2)
            losses = [self._loss(users, items, part) for part in (train, validation)]
            on_progress(Epoch(sweep, p.epochs, *losses))
            waited += 1
            if losses[1] < best or sweep == 1:
                best, waited, self._users, self._items = losses[1], 0, users.copy(), items.copy()
            if waited >= p.patience:
                break

    def _loss(self, users: Array, items: Array, part: Dataset) -> float:
        if not len(part):
            return float("nan")
        return float(np.mean(np.square(self._predicted(users, items, part.users, part.items) - part.values)))

    def _predicted(self, users: Array, items: Array, u: I32, i: I32) -> F32:
        dim = self.parameters.dim
        z = np.einsum("nd,nd->n", users[u, :dim], items[i, :dim]) + users[u, dim] + items[i, dim]
        return cast(F32, np.float32(self._mean) + np.float32(self._deviation) * z)

    def predict(self, users: I32, items: I32) -> F32:
        """See protocols.Rater."""
        return self._predicted(self._users, self._items, users, items)

    def export(self) -> Factors:
        """See protocols.Factorised; each side is multiplied by the root of the deviation."""
        dim, deviation = self.parameters.dim, np.float32(self._deviation)
        return Factors(
            self._users[:, :dim] * np.sqrt(deviation), self._items[:, :dim] * np.sqrt(deviation),
            self._users[:, dim] * deviation, self._items[:, dim] * deviation, self._mean,
        )  # fmt: skip
