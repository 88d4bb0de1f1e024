"""The network that DeepFM and the embedding network share: a vector for every field of a rating, and hidden layers over all of them.

A rating has four fields: its user, its item, the item's categories and the user's groups. Each has a vector of the same length
and a bias; for several categories or groups the mean is taken. Unseen users and items have a row of 0.
"""

from collections.abc import Callable
from typing import ClassVar

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from streamer.core.arrays import F32, I32, Array
from streamer.core.dataset import Dataset
from streamer.core.protocols import Epoch, Kind
from streamer.models.offline import fitting

FIELDS = 4


class FieldsParameters(msgspec.Struct, frozen=True):
    """Size, steps and penalties, for ratings of mean 0 and deviation 1."""

    dim: int = 32
    """Length of a field's vector. DeepFM's paper has 10; He et al. try 8 to 64."""
    hidden: tuple[int, int] = (16, 16)
    """Units of the hidden layers. With 32 or 64 the validation error on ml-latest-small is 1 to 3% higher."""
    dropout: float = 0.5
    """Share of hidden units that are dropped in a step. The choice of DeepFM's paper."""
    unknown: float = 0.05
    """Share of examples whose user is made unknown while training, and of those whose item is."""
    epochs: int = 60
    """Largest number of passes."""
    batch: int = 2048
    """Ratings in a step."""
    patience: int = 4
    """Number of passes without a better validation error after which the fit ends."""
    learning_rate: float = 0.003
    """Adam's."""
    l2: float = 0.03
    """Penalty of vectors, per occurrence."""
    bias_l2: float = 0.005
    """Penalty of biases, per occurrence."""
    noise: float = 0.05
    """Standard deviation of the initial vectors."""


class Fields(nn.Module):
    """z = biases + (pairwise products of the fields) + hidden layers over the fields; for ratings of mean 0 and deviation 1."""

    def __init__(self, users: int, items: F32, groups: F32, shape: FieldsParameters, *, products: bool) -> None:
        """`items` (items, categories) and `groups` (users, groups) are indicators, 1 for members and else 0."""
        super().__init__()
        self.dim, self.unknown, self.products = shape.dim, shape.unknown, products
        width = shape.dim + 1  # the bias is last
        self.users, self.items = nn.Embedding(users, width), nn.Embedding(len(items), width)
        self.categories = nn.Parameter(torch.zeros(items.shape[1], width))
        self.groups = nn.Parameter(torch.zeros(groups.shape[1], width))
        first, second = shape.hidden
        self.first, self.second = nn.Linear(FIELDS * shape.dim, first), nn.Linear(first, second)
        self.last = nn.Linear(second, 1, bias=False)
        self.dropout = nn.Dropout(shape.dropout)
        for part in (self.users.weight, self.items.weight, self.categories, self.groups):
            nn.init.normal_(part, 0.0, shape.noise)
            nn.init.zeros_(part[:, -1])
        self.of_items, self.of_users = fitting.tensor(_means(items)), fitting.tensor(_means(groups))

    def fields(self, users: Tensor, items: Tensor) -> list[Tensor]:
        """The four fields of each example, (n, dim + 1) each; while training, some users and items are made unknown."""
        own = [self.users(users), self.items(items)]
        if self.training and self.unknown > 0:
            own = [rows * (torch.rand(len(rows), 1, device=rows.device) >= self.unknown) for rows in own]
        return [*own, self.of_items[items] @ self.categories, self.of_users[users] @ self.groups]

    def combined(self, fields: list[Tensor]) -> Tensor:
        """z of each example, (n,)."""
        vectors = [field[:, : self.dim] for field in fields]
        hidden = self.dropout(torch.relu(self.first(torch.cat(vectors, 1))))
        hidden = self.dropout(torch.relu(self.second(hidden)))
        z: Tensor = self.last(hidden).squeeze(1) + sum(field[:, self.dim] for field in fields)
        if self.products:
            total = vectors[0] + vectors[1] + vectors[2] + vectors[3]
            z = z + 0.5 * (total.square() - sum(vector.square() for vector in vectors)).sum(1)
        return z

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """z of pairs, (n,)."""
        return self.combined(self.fields(users, items))


def fit_fields(
    network: Fields, train: Dataset, z: F32, shape: FieldsParameters, validate: Callable[[], float], on_progress: Callable[[Epoch], None],
) -> int:  # fmt: skip
    """Fit on `z` (n,), the ratings of `train` at mean 0 and deviation 1; return the epoch with the lowest `validate`."""
    network.to(fitting.device())
    users, items, targets = fitting.tensor(train.users), fitting.tensor(train.items), fitting.tensor(z)

    def loss(rows: Tensor) -> Tensor:
        fields = network.fields(users[rows], items[rows])
        errors = (network.combined(fields) - targets[rows]).square()
        weights = sum(shape.l2 * f[:, :-1].square().sum(1) + shape.bias_l2 * f[:, -1].square() for f in fields)
        return torch.mean(errors + weights)

    kept = fitting.descend(
        network, len(train), loss, validate, fitting.adam(network.parameters(), shape.learning_rate), shape, on_progress
    )
    fitting.clear_unseen(network.users, train.users)
    fitting.clear_unseen(network.items, train.items)
    return kept


class Rating:
    """`Fields` with the mean and deviation of the training ratings, so that it predicts ratings."""

    def __init__(self, train: Dataset, shape: FieldsParameters, *, products: bool, seed: int) -> None:
        """`seed` determines the initial values."""
        fitting.set_seed(seed)
        values = train.values.astype(np.float64)
        self.mean, self.deviation = (float(values.mean()), float(values.std()) or 1.0) if len(values) else (0.0, 1.0)
        self.network = Fields(train.user_count, train.side.categories, train.side.groups, shape, products=products).to(
            fitting.device()
        )

    def fit(
        self, train: Dataset, validation: Dataset, shape: FieldsParameters, on_progress: Callable[[Epoch], None]
    ) -> None:
        """See protocols.OfflineModel."""
        z = ((train.values - self.mean) / self.deviation).astype(np.float32)
        fit_fields(self.network, train, z, shape, fitting.mean_squared_error(self.predicted, validation), on_progress)

    def predicted(self, users: Tensor, items: Tensor) -> Tensor:
        """Ratings of pairs, (n,)."""
        z: Tensor = self.network(users, items)
        return self.mean + self.deviation * z


class FieldsModel:
    """Fits and predicts for the models over `Fields`; a subclass says whether the products of the fields are part of it."""

    kind: Kind = "ratings"
    Parameters = FieldsParameters
    products: ClassVar[bool]

    def __init__(self, name: str, parameters: FieldsParameters, *, seed: int) -> None:
        """`seed` determines initial values, the order of the ratings and dropout."""
        self.name, self.parameters, self._seed = name, parameters, seed
        self._rating: Rating | None = None

    def fit(self, train: Dataset, validation: Dataset, on_progress: Callable[[Epoch], None]) -> None:
        """See protocols.OfflineModel."""
        self._rating = Rating(train, self.parameters, products=self.products, seed=self._seed)
        self._rating.fit(train, validation, self.parameters, on_progress)

    def predict(self, users: I32, items: I32) -> F32:
        """See protocols.Rater."""
        assert self._rating is not None, "fit it first"
        return fitting.predicted(self._rating.predicted, users, items)


def _means(members: F32) -> Array:
    """The rows scaled to sum to 1; empty rows stay 0."""
    return np.asarray(members / np.maximum(members.sum(axis=1, keepdims=True), 1.0), dtype=np.float32)
