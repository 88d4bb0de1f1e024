"""Stochastic matrix factorisation with mean and biases, in torch.

    y = mu + b_u + b_i + p_u . q_i
    minimise  mean over ratings of (y - prediction)^2 + l2 (|p_u|^2 + |q_i|^2) + bias_l2 (b_u^2 + b_i^2)

The penalty is taken once per occurrence: a row pays for each of its ratings, as in the online learner, and rows without a
rating in the batch are left alone. Fused Adam. An unseen user or item has a row of 0.
Cost: 1 to 1.5 s of CPU a million ratings and epoch at 32 factors; a step also moves all rows (Adam is dense).

Koren, Bell, Volinsky (2009), Matrix factorization techniques for recommender systems, IEEE Computer 42(8), eq. 5.
"""

from collections.abc import Callable

import msgspec
import torch
from torch import Tensor, nn

from streamer.arrays import F32, I32
from streamer.dataset import Dataset
from streamer.models.offline import fitting
from streamer.protocols import Epoch, Factors, Kind


class StochasticMFParameters(msgspec.Struct, frozen=True):
    """Size, steps and penalties."""

    dim: int = 64
    """Factors."""
    epochs: int = 60
    """Passes at most."""
    batch: int = 1024
    """Ratings a step."""
    patience: int = 3
    """Passes without a better validation error before it ends."""
    learning_rate: float = 0.003
    """Adam's."""
    l2: float = 0.14
    """Penalty of the factors, per occurrence. Koren's range is .02 to .1."""
    bias_l2: float = 0.005
    """Penalty of the biases, per occurrence."""
    noise: float = 0.05
    """Standard deviation of the first factors."""


class _Network(nn.Module):
    def __init__(self, users: int, items: int, mean: float, p: StochasticMFParameters) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, p.dim), nn.Embedding(items, p.dim)
        self.user_biases, self.item_biases = nn.Embedding(users, 1), nn.Embedding(items, 1)
        self.mean = mean
        for factors in (self.users, self.items):
            nn.init.normal_(factors.weight, 0.0, p.noise)
        for biases in (self.user_biases, self.item_biases):
            nn.init.zeros_(biases.weight)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        biases = self.user_biases(users) + self.item_biases(items)
        predicted: Tensor = self.mean + biases.squeeze(1) + (self.users(users) * self.items(items)).sum(1)
        return predicted


class StochasticMF:
    """protocols.Rater and Factorised."""

    kind: Kind = "ratings"
    Parameters = StochasticMFParameters

    def __init__(self, name: str, parameters: StochasticMFParameters, *, seed: int) -> None:
        """`seed` draws first values and the order of the ratings."""
        self.name, self.parameters, self._seed = name, parameters, seed
        self._network = _Network(0, 0, 0.0, parameters)

    def fit(self, train: Dataset, validation: Dataset, told: Callable[[Epoch], None]) -> None:
        """See protocols.OfflineModel."""
        p = self.parameters
        fitting.seeded(self._seed)
        mean = float(train.values.mean(dtype="float64")) if len(train) else 0.0
        network = self._network = _Network(train.user_count, train.item_count, mean, p).to(fitting.device())
        users, items, values = fitting.rated(train)

        def loss(rows: Tensor) -> Tensor:
            u, i = users[rows], items[rows]
            a, b, c, d = network.users(u), network.items(i), network.user_biases(u), network.item_biases(i)
            errors = values[rows] - network.mean - (c + d).squeeze(1) - (a * b).sum(1)
            penalty = p.l2 * (a.square().sum(1) + b.square().sum(1)) + p.bias_l2 * (c.square() + d.square()).squeeze(1)
            return torch.mean(errors.square() + penalty)

        fitting.descend(
            network, len(train), loss, fitting.mean_squared_error(network, validation),
            fitting.adam(network.parameters(), p.learning_rate), p, told,
        )  # fmt: skip
        fitting.clear_unseen(network.users, train.users)
        fitting.clear_unseen(network.items, train.items)

    def predict(self, users: I32, items: I32) -> F32:
        """See protocols.Rater."""
        return fitting.predicted(self._network, users, items)

    def export(self) -> Factors:
        """See protocols.Factorised."""
        network = self._network
        return Factors(
            fitting.array(network.users.weight), fitting.array(network.items.weight),
            fitting.array(network.user_biases.weight).ravel(), fitting.array(network.item_biases.weight).ravel(), network.mean,
        )  # fmt: skip
