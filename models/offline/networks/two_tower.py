"""Two towers: a network for users and one for items, over ids and features; a rating is the product of their outputs.

    u = W2 relu(W1 [e_u, x_u] + a1) + a2,   v likewise for items from [e_i, x_i]
    y = mu + sigma (b_u + b_i + u . v)

e are embeddings of ids, x the features of `content.py`: categories, average rating, year, purity. Embeddings and biases have a
penalty per occurrence, hidden layers have dropout. An unseen user or item has an embedding and a bias of 0, so its prediction
comes from its features.

Averages among the features must not include the rating that is learned: that of an item with one rating would reveal it,
and the towers would learn to read it off. So the ratings are split into folds, and those of a fold are learned with features
from all others, as for a new rating.
Cost: some 7 s of CPU a million ratings and epoch, and the features once for each fold. Memory: (users + items) x (2 dim + hidden +
features x (folds + 1)) floats.

Yi et al. (2019), Sampling-bias-corrected neural modeling for large corpus item recommendations, RecSys: the towers.
Wolpert (1992), Stacked generalization, Neural Networks 5(2): features of a fold from the others.
Deviation: trained on ratings, with mean and biases, and not on clicks with a softmax.
"""

from collections.abc import Callable

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from streamer.core.arrays import F32, I32, Array
from streamer.core.dataset import Dataset
from streamer.core.protocols import Epoch, Factors, Kind
from streamer.models.offline import fitting
from streamer.models.offline.content import features


class TwoTowerParameters(msgspec.Struct, frozen=True):
    """Sizes, steps and penalties."""

    dim: int = 32
    """Length of the towers' outputs, and of the embeddings of ids."""
    hidden: int = 64
    """Units of the hidden layer."""
    dropout: float = 0.3
    """Share of the hidden units that are dropped in a step."""
    epochs: int = 40
    """Largest number of passes."""
    batch: int = 1024
    """Ratings in a step."""
    patience: int = 3
    """Number of passes without a better validation error after which the fit ends."""
    learning_rate: float = 0.002
    """Adam's."""
    l2: float = 1.25
    """Penalty of the embeddings. As for als; .5 to 2 are alike."""
    bias_l2: float = 1.0
    """Penalty of the biases. As for als."""
    folds: int = 10
    """Number of folds, each learned with features from the others. From 5 to 10 the error falls by .3%; with 1 there
    would be no averages in training."""
    noise: float = 0.1
    """Standard deviation of the initial embeddings."""


class _Tower(nn.Module):
    """One side: a call with rows (n,), and the fold that each one's features leave out, returns its outputs (n, dim)."""

    def __init__(self, known: F32, seen: I32, p: TwoTowerParameters) -> None:
        """`known` (folds + 1, rows, features): features without each of the folds, and last those of all ratings."""
        super().__init__()
        self.known: Tensor
        self.register_buffer("known", torch.from_numpy(known), persistent=False)
        self.ids, self.biases = nn.Embedding(known.shape[1], p.dim), nn.Embedding(known.shape[1], 1)
        self.layers = nn.Sequential(
            nn.Linear(p.dim + known.shape[2], p.hidden), nn.ReLU(), nn.Dropout(p.dropout), nn.Linear(p.hidden, p.dim)
        )
        nn.init.normal_(self.ids.weight, 0.0, p.noise)
        nn.init.zeros_(self.biases.weight)
        self.to(fitting.device())
        fitting.clear_unseen(self.ids, seen)

    def forward(self, rows: Tensor, without: Tensor | int) -> Tensor:
        outputs: Tensor = self.layers(torch.cat([self.ids(rows), self.known[without, rows]], dim=1))
        return outputs

    def all(self) -> Tensor:
        """The outputs of all rows, (rows, dim + 1), with the bias at the end."""
        rows = torch.arange(self.known.shape[1], device=self.known.device)
        return torch.cat([self(rows, -1), self.biases(rows)], dim=1)


class TwoTower:
    """A protocols.Rater and Factorised."""

    kind: Kind = "ratings"
    Parameters = TwoTowerParameters

    def __init__(self, name: str, parameters: TwoTowerParameters, *, seed: int) -> None:
        """`seed` determines initial values, dropout and the order of the ratings."""
        self.name, self.parameters, self._seed = name, parameters, seed
        self._mean, self._deviation = 0.0, 1.0
        self._users, self._items = torch.empty(0), torch.empty(0)  # (rows, dim + 1) each, the bias at the end

    def fit(self, train: Dataset, validation: Dataset, on_progress: Callable[[Epoch], None]) -> None:
        """See protocols.OfflineModel."""
        p = self.parameters
        fitting.set_seed(self._seed)
        self._mean, self._deviation = fitting.scale(train)
        drawn = np.random.default_rng(self._seed).integers(0, p.folds, len(train))
        of_users, of_items = self._known(train, drawn)
        towers = nn.ModuleList([_Tower(of_users, train.users, p), _Tower(of_items, train.items, p)])
        user_tower, item_tower = towers
        assert isinstance(user_tower, _Tower)
        assert isinstance(item_tower, _Tower)
        users, items, values = fitting.rated(train)
        folds = fitting.tensor(drawn)
        z = (values - self._mean) / self._deviation
        user_shares, item_shares = (
            torch.bincount(rows, minlength=count).clamp_(min=1).to(torch.float32).rsqrt_()
            for rows, count in ((users, train.user_count), (items, train.item_count))
        )

        def loss(rows: Tensor) -> Tensor:
            u, i, without = users[rows], items[rows], folds[rows]
            c, d = user_tower.biases(u).squeeze(1), item_tower.biases(i).squeeze(1)
            errors = z[rows] - c - d - (user_tower(u, without) * item_tower(i, without)).sum(1)
            of_user = p.l2 * user_tower.ids(u).square().sum(1) + p.bias_l2 * c.square()
            of_item = p.l2 * item_tower.ids(i).square().sum(1) + p.bias_l2 * d.square()
            return torch.mean(errors.square() + of_user * user_shares[u] + of_item * item_shares[i])

        measured = fitting.mean_squared_error(self._rating, validation)

        def validate() -> float:
            self._users, self._items = user_tower.all(), item_tower.all()
            return measured()

        fitting.descend(
            towers, len(train), loss, validate, fitting.adam(towers.parameters(), p.learning_rate), p, on_progress
        )
        with torch.no_grad():
            self._users, self._items = user_tower.all(), item_tower.all()

    def _known(self, train: Dataset, drawn: Array) -> tuple[F32, F32]:
        """The `known` features of each tower; `drawn` (n,) are the folds of the ratings."""
        z = (train.values.astype(np.float64) - self._mean) / self._deviation
        kept = [
            drawn != fold for fold in range(self.parameters.folds + 1)
        ]  # no rating is in the last fold, so its features leave out none
        users, items = zip(*(features(train.select(rows), z[rows]) for rows in kept), strict=True)
        return np.stack(users), np.stack(items)

    def _rating(self, users: Tensor, items: Tensor) -> Tensor:
        u, i, dim = self._users[users], self._items[items], self.parameters.dim
        return self._mean + self._deviation * ((u[:, :dim] * i[:, :dim]).sum(1) + u[:, dim] + i[:, dim])

    def predict(self, users: I32, items: I32) -> F32:
        """See protocols.Rater."""
        return fitting.predicted(self._rating, users, items)

    def export(self) -> Factors:
        """See protocols.Factorised; rows without ratings come from their features."""
        dim, deviation = self.parameters.dim, np.float32(self._deviation)
        users, items = fitting.array(self._users), fitting.array(self._items)
        return Factors(
            users[:, :dim] * np.sqrt(deviation), items[:, :dim] * np.sqrt(deviation), users[:, dim] * deviation,
            items[:, dim] * deviation, self._mean,
        )  # fmt: skip
