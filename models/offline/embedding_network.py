"""The embedding network: vectors of user and item and of what is known of both, concatenated, under hidden layers, in torch.

    y = mu + sigma (b_u + b_i + b_categories + b_groups + w . relu(W2 relu(W1 [v_u, v_i, v_categories, v_groups] + c1) + c2))

Side information (an item's categories, years among them in steps of ten, and a user's groups) is merged in as two more fields (fields.py). Squared error, L2 per
occurrence, dropout on hidden units, fused Adam. Cost: some 5 s of CPU a million ratings and epoch.

He, Liao, Zhang, Nie, Hu, Chua (2017), Neural collaborative filtering, WWW (its multi-layer perceptron), and fastai's
`collab_learner(use_nn=True)`: Howard, Gugger (2020), Deep learning for coders, ch. 8.
Deviations: mean and biases stand beside the network, which has only to say what they cannot; no sigmoid range; some users
and items are made unknown while training.
"""

from collections.abc import Callable

import msgspec

from streamer.arrays import F32, I32
from streamer.dataset import Dataset
from streamer.models.offline import fitting
from streamer.models.offline.fields import Rating
from streamer.protocols import Epoch, Kind


class EmbeddingNetworkParameters(msgspec.Struct, frozen=True):
    """Size, steps and penalties, for ratings of mean 0 and deviation 1."""

    dim: int = 32
    """Length of a field's vector. He et al. try 8 to 64."""
    hidden: tuple[int, int] = (16, 16)
    """Units of the hidden layers. With 32 or 64 the validation error on ml-latest-small is 1 to 3% higher."""
    dropout: float = 0.5
    """Share of hidden units left out."""
    unknown: float = 0.05
    """Share of examples whose user, and whose item, is made unknown while training."""
    epochs: int = 60
    """Passes at most."""
    batch: int = 2048
    """Ratings a step."""
    patience: int = 4
    """Passes without a better validation error before it ends."""
    learning_rate: float = 0.003
    """Adam's."""
    l2: float = 0.03
    """Penalty of vectors, per occurrence."""
    bias_l2: float = 0.005
    """Penalty of biases, per occurrence."""
    noise: float = 0.05
    """Standard deviation of the first vectors."""


class EmbeddingNetwork:
    """protocols.Rater."""

    kind: Kind = "ratings"
    Parameters = EmbeddingNetworkParameters

    def __init__(self, name: str, parameters: EmbeddingNetworkParameters, *, seed: int) -> None:
        """`seed` draws first values, the order of the ratings and what is left out."""
        self.name, self.parameters, self._seed = name, parameters, seed
        self._rating: Rating | None = None

    def fit(self, train: Dataset, validation: Dataset, told: Callable[[Epoch], None]) -> None:
        """See protocols.OfflineModel."""
        self._rating = Rating(train, self.parameters, products=False, seed=self._seed)
        self._rating.fit(train, validation, self.parameters, told)

    def predict(self, users: I32, items: I32) -> F32:
        """See protocols.Rater."""
        assert self._rating is not None, "fit it first"
        return fitting.predicted(self._rating.predicted, users, items)
