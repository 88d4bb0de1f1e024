"""EmbeddingMF: 128 factors in a sigmoid range, as in many articles and courses, with mean and biases added.

    y = low + (high - low) sigmoid(c + g (b_u + b_i + p_u . q_i)),   p, q ~ N(0, .01) initially
    minimise  mean over ratings of  (y - rating)^2 / sigma^2 + n_u^-.5 (l2 |p_u|^2 + bias_l2 b_u^2) + n_i^-.5 (l2 |q_i|^2 + bias_l2 b_i^2)

The range is that of the training ratings plus a ninth on both sides: 0 to 5.5 for ratings from .5 to 5. c makes the prediction
for rows of 0 the mean, and g is such that the bracket is in deviations of the ratings. An unseen user or item has a row of 0.
Cost: some 3 s of CPU a million ratings and epoch; a step also moves all rows (Adam is dense).

Salakhutdinov, Mnih (2008), Probabilistic matrix factorization, NIPS: the product through a sigmoid.
Deviation: the articles' bare sigmoid(p . q) predicts the middle of the range for unseen rows, and collapses under Adam's weight
decay; hence mean, biases, a penalty per occurrence and early stopping.
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
    """How far the range extends beyond the ratings on each side, as a share of their span."""
    epochs: int = 60
    """Largest number of passes; most fits stop at 15 to 20."""
    batch: int = 1024
    """Ratings in a step."""
    patience: int = 3
    """Number of passes without a better validation error after which the fit ends."""
    learning_rate: float = 0.005
    """Adam's."""
    l2: float = 1.25
    """Penalty of the factors. As for als; 1 to 1.25 are alike, from 1.5 on it is worse."""
    bias_l2: float = 1.0
    """Penalty of the biases. As for als."""
    noise: float = 0.01
    """Standard deviation of the initial factors. The articles' choice."""


class EmbeddingMF:
    """A protocols.Rater and Factorised."""

    kind: Kind = "ratings"
    Parameters = EmbeddingMFParameters

    def __init__(self, name: str, parameters: EmbeddingMFParameters, *, seed: int) -> None:
        """`seed` determines initial values and the order of the ratings."""
        self.name, self.parameters, self._seed = name, parameters, seed
        self._network: product.Product

    def fit(self, train: Dataset, validation: Dataset, on_progress: Callable[[Epoch], None]) -> None:
        """See protocols.OfflineModel."""
        p = self.parameters
        fitting.set_seed(self._seed)
        network = self._network = product.Product(train, product.range_of(train, p.margin), p.dim, p.noise)
        fitting.descend(
            network, len(train), product.penalised_loss(network, train, p.l2, p.bias_l2),
            fitting.mean_squared_error(network, validation), fitting.adam(network.parameters(), p.learning_rate), p, on_progress,
        )  # fmt: skip

    def predict(self, users: I32, items: I32) -> F32:
        """See protocols.Rater."""
        return fitting.predicted(self._network, users, items)

    def export(self) -> Factors:
        """See protocols.Factorised; without the range, which does not change the order of items."""
        return self._network.factors()
