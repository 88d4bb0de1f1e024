"""DeepFM: a factorisation machine and a deep network over the same vectors, fitted jointly, in torch.

    y = mu + sigma (sum_f b_f + sum_(f < g) v_f . v_g + w . relu(W2 relu(W1 [v_1 ... v_4] + c1) + c2))

over the fields user, item, the item's categories and the user's groups (fields.py). Squared error, L2 per occurrence, dropout
on hidden units, fused Adam. Years take part as categories, one for each decade.
Cost: some 5 s of CPU a million ratings and epoch.

Guo, Tang, Ye, Li, He (2017), DeepFM: a factorization-machine based neural network for CTR prediction, IJCAI.
Deviations: ratings instead of clicks, hence squared error, a mean and biases; some users and items are made unknown while
training, so that the network learns to predict new ones (Volkovs, Yu, Poutanen (2017), DropoutNet, NIPS).
"""

from collections.abc import Callable

from streamer.core.arrays import F32, I32
from streamer.core.dataset import Dataset
from streamer.core.protocols import Epoch, Kind
from streamer.models.offline import fitting
from streamer.models.offline.networks.fields import FieldsParameters, Rating


class DeepFM:
    """A protocols.Rater."""

    kind: Kind = "ratings"
    Parameters = FieldsParameters

    def __init__(self, name: str, parameters: FieldsParameters, *, seed: int) -> None:
        """`seed` determines initial values, the order of the ratings and dropout."""
        self.name, self.parameters, self._seed = name, parameters, seed
        self._rating: Rating | None = None

    def fit(self, train: Dataset, validation: Dataset, on_progress: Callable[[Epoch], None]) -> None:
        """See protocols.OfflineModel."""
        self._rating = Rating(train, self.parameters, products=True, seed=self._seed)
        self._rating.fit(train, validation, self.parameters, on_progress)

    def predict(self, users: I32, items: I32) -> F32:
        """See protocols.Rater."""
        assert self._rating is not None, "fit it first"
        return fitting.predicted(self._rating.predicted, users, items)
