"""Bias only: the mean plus a bias of each user and each item. The baseline for every other model of ratings.

    y = mu + b_u + b_i,    minimise  sum (y - mu - b_u - b_i)^2 + lambda_u sum b_u^2 + lambda_i sum b_i^2

by exact coordinate descent, users and items in turn. The two penalties are chosen on the validation part, so that the
baseline is a fair one. An unseen user or item has a bias of 0.
Cost: some 5 ns a rating, sweep and pair of penalties.

Koren, Bell, Volinsky (2009), Matrix factorization techniques for recommender systems, IEEE Computer 42(8), eq. 4.
"""

from collections.abc import Callable
from itertools import product

import msgspec
import numpy as np

from streamer.core.arrays import F32, F64, I32
from streamer.core.dataset import Dataset
from streamer.core.protocols import Epoch, Factors, Kind


class BiasOnlyParameters(msgspec.Struct, frozen=True):
    """The penalties that are tried, and the number of sweeps."""

    sweeps: int = 10
    """How often users and items are solved for. From 5 on nothing changes beyond the third digit."""
    penalties: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    """Tried for users and for items, in ratings at the mean. Koren's choices on Netflix are 10 and 25."""


class BiasOnly:
    """The protocols.Rater with nothing but mean and biases."""

    kind: Kind = "ratings"
    Parameters = BiasOnlyParameters

    def __init__(self, name: str, parameters: BiasOnlyParameters, *, seed: int) -> None:
        """The seed is unused: nothing here is random."""
        self.name, self.parameters = name, parameters
        self.mean, self.users, self.items = 0.0, np.empty(0), np.empty(0)

    def fit(self, train: Dataset, validation: Dataset, on_progress: Callable[[Epoch], None]) -> None:
        """See protocols.OfflineModel; an epoch is a pair of penalties."""
        best, pairs = np.inf, list(product(self.parameters.penalties, repeat=2))
        for number, (of_users, of_items) in enumerate(pairs, 1):
            found = solve_biases(train, of_users, of_items, self.parameters.sweeps)
            losses = [
                float(np.mean(np.square(_predicted(*found, part.users, part.items) - part.values)))
                if len(part)
                else np.nan
                for part in (train, validation)
            ]
            on_progress(Epoch(number, len(pairs), *losses))
            if losses[1] < best or number == 1:
                best, (self.mean, self.users, self.items) = losses[1], found

    def predict(self, users: I32, items: I32) -> F32:
        """See protocols.Rater."""
        return _predicted(self.mean, self.users, self.items, users, items).astype(np.float32)

    def export(self) -> Factors:
        """See protocols.Factorised: with vectors of dimension 0."""
        biases = self.users.astype(np.float32), self.items.astype(np.float32)
        users, items = (np.empty((len(side), 0), dtype=np.float32) for side in biases)
        return Factors(users, items, *biases, self.mean)


def solve_biases(train: Dataset, of_users: float, of_items: float, sweeps: int) -> tuple[float, F64, F64]:
    """Mean, biases of users (users,) and of items (items,) for two penalties; 0 where there is no rating."""
    values = train.values.astype(np.float64)
    mean = float(values.mean()) if len(values) else 0.0
    users, items = np.zeros(train.user_count), np.zeros(train.item_count)
    n_users = np.bincount(train.users, minlength=len(users)) + of_users
    n_items = np.bincount(train.items, minlength=len(items)) + of_items
    for _ in range(sweeps):
        items = np.bincount(train.items, values - mean - users[train.users], len(items)) / n_items
        users = np.bincount(train.users, values - mean - items[train.items], len(users)) / n_users
    return mean, users, items


def _predicted(mean: float, of_users: F64, of_items: F64, users: I32, items: I32) -> F64:
    return mean + of_users[users] + of_items[items]
