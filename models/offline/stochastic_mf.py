"""Stochastic matrix factorisation with mean and biases, in torch.

    y = mu + sigma z,   z = b_u + b_i + p_u . q_i
    minimise  mean over ratings of  (y - prediction)^2 / sigma^2 + n_u^-.5 (l2 |p_u|^2 + bias_l2 b_u^2) + n_i^-.5 (l2 |q_i|^2 + bias_l2 b_i^2)

The penalty is taken once per occurrence: a row of n ratings pays n times n^-.5, so what is known well is held back less, and rows
without a rating in the batch are left alone. It is the objective of `als`, descended. (Without n^-.5, as the online learner
has it, the test error on ml-latest-small is .7% higher.) Fused Adam. An unseen user or item has a row of 0.
Cost: 1 to 1.5 s of CPU a million ratings and epoch at 32 factors; a step also moves all rows (Adam is dense).

Koren, Bell, Volinsky (2009), Matrix factorization techniques for recommender systems, IEEE Computer 42(8), eq. 5.
"""

from collections.abc import Callable

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from streamer.arrays import F32, I32
from streamer.dataset import Dataset
from streamer.models.offline import fitting
from streamer.protocols import Epoch, Factors, Kind


class StochasticMFParameters(msgspec.Struct, frozen=True):
    """Size, steps and penalties."""

    dim: int = 32
    """Factors. 64 gain no more."""
    epochs: int = 60
    """Passes at most."""
    batch: int = 1024
    """Ratings a step."""
    patience: int = 3
    """Passes without a better validation error before it ends."""
    learning_rate: float = 0.005
    """Adam's. .01 with twice the batch ends .2% higher."""
    l2: float = 1.25
    """Penalty of the factors. As for als."""
    bias_l2: float = 1.0
    """Penalty of the biases. As for als."""
    noise: float = 0.1
    """Standard deviation of the first factors."""


class _Network(nn.Module):
    def __init__(self, users: int, items: int, mean: float, deviation: float, p: StochasticMFParameters) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, p.dim), nn.Embedding(items, p.dim)
        self.user_biases, self.item_biases = nn.Embedding(users, 1), nn.Embedding(items, 1)
        self.mean, self.deviation = mean, deviation
        for factors in (self.users, self.items):
            nn.init.normal_(factors.weight, 0.0, p.noise)
        for biases in (self.user_biases, self.item_biases):
            nn.init.zeros_(biases.weight)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        biases = (self.user_biases(users) + self.item_biases(items)).squeeze(1)
        predicted: Tensor = self.mean + self.deviation * (biases + (self.users(users) * self.items(items)).sum(1))
        return predicted


class StochasticMF:
    """protocols.Rater and Factorised."""

    kind: Kind = "ratings"
    Parameters = StochasticMFParameters

    def __init__(self, name: str, parameters: StochasticMFParameters, *, seed: int) -> None:
        """`seed` draws first values and the order of the ratings."""
        self.name, self.parameters, self._seed = name, parameters, seed
        self._network = _Network(0, 0, 0.0, 1.0, parameters)

    def fit(self, train: Dataset, validation: Dataset, told: Callable[[Epoch], None]) -> None:
        """See protocols.OfflineModel."""
        p = self.parameters
        fitting.seeded(self._seed)
        mean, deviation = fitting.scale(train)
        network = _Network(train.user_count, train.item_count, mean, deviation, p).to(fitting.device())
        self._network = network
        users, items, values = fitting.rated(train)
        z = (values - mean) / deviation
        user_shares, item_shares = (
            torch.bincount(rows, minlength=count).clamp_(min=1).to(torch.float32).rsqrt_()
            for rows, count in ((users, train.user_count), (items, train.item_count))
        )

        def loss(rows: Tensor) -> Tensor:
            u, i = users[rows], items[rows]
            a, b, c, d = network.users(u), network.items(i), network.user_biases(u), network.item_biases(i)
            errors = z[rows] - (c + d).squeeze(1) - (a * b).sum(1)
            of_user = p.l2 * a.square().sum(1) + p.bias_l2 * c.square().squeeze(1)
            of_item = p.l2 * b.square().sum(1) + p.bias_l2 * d.square().squeeze(1)
            return torch.mean(errors.square() + of_user * user_shares[u] + of_item * item_shares[i])

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
        deviation = np.float32(network.deviation)
        root = np.sqrt(deviation)
        return Factors(
            fitting.array(network.users.weight) * root, fitting.array(network.items.weight) * root,
            fitting.array(network.user_biases.weight).ravel() * deviation,
            fitting.array(network.item_biases.weight).ravel() * deviation, network.mean,
        )  # fmt: skip
