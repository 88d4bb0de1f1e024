"""The embedding network: vectors of user, item, categories and groups, concatenated, under hidden layers, in torch.

    y = mu + sigma (b_u + b_i + b_categories + b_groups + w . relu(W2 relu(W1 [v_u, v_i, v_categories, v_groups] + c1) + c2))

Side information (an item's categories, with one for each decade, and a user's groups) makes two of the four fields (fields.py).
Squared error, L2 per occurrence, dropout on hidden units, fused Adam. Cost: some 5 s of CPU a million ratings and epoch.

He, Liao, Zhang, Nie, Hu, Chua (2017), Neural collaborative filtering, WWW (its multi-layer perceptron), and fastai's
`collab_learner(use_nn=True)`: Howard, Gugger (2020), Deep learning for coders, ch. 8.
Deviations: mean and biases are added to the network, which only has to learn what they leave; no sigmoid range; some users
and items are made unknown while training.
"""

from collections.abc import Callable

from streamer.core.arrays import F32, I32
from streamer.core.dataset import Dataset
from streamer.core.protocols import Epoch, Kind
from streamer.models.offline import fitting
from streamer.models.offline.networks.fields import FieldsParameters, Rating


class EmbeddingNetwork:
    """A protocols.Rater."""

    kind: Kind = "ratings"
    Parameters = FieldsParameters

    def __init__(self, name: str, parameters: FieldsParameters, *, seed: int) -> None:
        """`seed` determines initial values, the order of the ratings and dropout."""
        self.name, self.parameters, self._seed = name, parameters, seed
        self._rating: Rating | None = None

    def fit(self, train: Dataset, validation: Dataset, on_progress: Callable[[Epoch], None]) -> None:
        """See protocols.OfflineModel."""
        self._rating = Rating(train, self.parameters, products=False, seed=self._seed)
        self._rating.fit(train, validation, self.parameters, on_progress)

    def predict(self, users: I32, items: I32) -> F32:
        """See protocols.Rater."""
        assert self._rating is not None, "fit it first"
        return fitting.predicted(self._rating.predicted, users, items)
