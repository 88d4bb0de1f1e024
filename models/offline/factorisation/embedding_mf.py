"""EmbeddingMF: 128 factors through a sigmoid range, as articles and courses have it, with mean and biases put inside.

    y = low + (high - low) sigmoid(c + g (b_u + b_i + p_u . q_i)),   p, q ~ N(0, .01) at first
    minimise  mean over ratings of  (y - rating)^2 / sigma^2 + n_u^-.5 (l2 |p_u|^2 + bias_l2 b_u^2) + n_i^-.5 (l2 |q_i|^2 + bias_l2 b_i^2)

The range is that of the training ratings and a ninth more on both sides: 0 to 5.5 for ratings from .5 to 5. c answers the
mean for rows of 0, g makes a deviation of what is in brackets a deviation of the rating. An unseen user or item has a row of 0.
Cost: some 3 s of CPU a million ratings and epoch; a step also moves all rows (Adam is dense).

Salakhutdinov, Mnih (2008), Probabilistic matrix factorization, NIPS: the product through a sigmoid.
Deviation: the articles' bare sigmoid(p . q) answers the middle of the range for whatever it never saw, and Adam's weight decay
collapses it; so mean, biases, a penalty per occurrence and early stopping.
"""

from collections.abc import Callable

import msgspec

from streamer.core.arrays import F32, I32
from streamer.core.dataset import Dataset
from streamer.core.protocols import Epoch, Factors, Kind
from streamer.models.offline import fitting
from streamer.models.offline.factorisation import product


class EmbeddingMFParameters(msgspec.Struct, frozen=True):
    """Size, range, steps and penalties."""

    dim: int = 128
    """Factors. The articles' choice; 32 do as well."""
    margin: float = 1 / 9
    """How far the range goes beyond the ratings, as a share of what they span."""
    epochs: int = 60
    """Passes at most; most fits stop at 15 to 20."""
    batch: int = 1024
    """Ratings a step."""
    patience: int = 3
    """Passes without a better validation error before it ends."""
    learning_rate: float = 0.005
    """Adam's."""
    l2: float = 1.25
    """Penalty of the factors. As for als; from 1 to 1.25 all is alike, from 1.5 on it is worse."""
    bias_l2: float = 1.0
    """Penalty of the biases. As for als."""
    noise: float = 0.01
    """Standard deviation of the first factors. The articles' choice."""


class EmbeddingMF:
    """protocols.Rater and Factorised."""

    kind: Kind = "ratings"
    Parameters = EmbeddingMFParameters

    def __init__(self, name: str, parameters: EmbeddingMFParameters, *, seed: int) -> None:
        """`seed` draws first values and the order of the ratings."""
        self.name, self.parameters, self._seed = name, parameters, seed
        self._network: product.Product

    def fit(self, train: Dataset, validation: Dataset, on_progress: Callable[[Epoch], None]) -> None:
        """See protocols.OfflineModel."""
        p = self.parameters
        fitting.seeded(self._seed)
        network = self._network = product.Product(train, product.within(train, p.margin), p.dim, p.noise)
        fitting.descend(
            network, len(train), product.penalised(network, train, p.l2, p.bias_l2),
            fitting.mean_squared_error(network, validation), fitting.adam(network.parameters(), p.learning_rate), p, on_progress,
        )  # fmt: skip

    def predict(self, users: I32, items: I32) -> F32:
        """See protocols.Rater."""
        return fitting.predicted(self._network, users, items)

    def export(self) -> Factors:
        """See protocols.Factorised; the range is left out, which changes no order."""
        return self._network.factors()
