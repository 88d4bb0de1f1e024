"""Networks that learn online: `deep-fm` and `embedding-network`.

    y = mu + sigma (b_u + b_i + b_categories + b_groups + sum_(f < g) v_f . v_g + w . relu(W2 relu(W1 [v_u, v_i, v_c, v_g] + c1) + c2))
    v_u <- v_u + s_u (z dy/dv_u - l2 v_u),   v_i <- v_i + s_i (z dy/dv_i - l2 v_i),   z = (y - prediction) / sigma

over four fields: the user, the item, the mean of its categories, the mean of the user's groups. The embedding network is the
same without the products of fields. **Only vectors and biases of users and items are learned online**, by gradients through
the fixed hidden layers. The shared parameters (layers, categories, groups) are fitted by a retraining only
(models/offline/networks/network_trainer.py) and are 0 before the first one: until then `deep-fm` is a factorisation machine of
user and item, and `embedding-network` the sum of their biases. Steps are those of biased_mf.py, shortened where they would
overshoot the error, as the gradient through layers may be steep.
Cost: O(4 dim first + first second) an event: some 1 us for 32 factors and 16, 16 units. State: v, b, n float32 (rows, dim + 2);
the network, float32, 61 KB.

Guo, Tang, Ye, Li, He (2017), DeepFM, IJCAI; He, Liao, Zhang, Nie, Hu, Chua (2017), Neural collaborative filtering, WWW.
Deviation: the layers do not learn online. A step of the layers changes every prediction, so it would have to be small, and its
gain would be small, too; and a network that is fixed between retrainings stays the one that passed the gate.
"""

from collections.abc import Mapping
from typing import cast

import msgspec
import numpy as np

from streamer.core.arrays import F32, F64, I32, Array
from streamer.core.batch import RATING, Batch, UserView
from streamer.core.protocols import ItemSets, Kind
from streamer.core.tables import Side, Table
from streamer.models.biased_mf import rescale_moments
from streamer.models.networks.kernel import NORM_RATIOS, Layout, learn_network, predict_network


class NetworkParameters(msgspec.Struct, frozen=True):
    """Sizes, steps and penalties, for ratings of mean 0 and deviation 1."""

    dim: int = 32
    """Length of a field's vector. As in the offline models."""
    hidden: tuple[int, int] = (16, 16)
    """Units of the hidden layers. As in the offline models."""
    products: bool = True
    """Whether pairwise products of fields are added to the hidden layers, as in a factorisation machine."""
    bias_rate: float = 0.25
    """First step of a bias, a share of the error. As in biased-mf, like the rest."""
    learning_rate: float = 0.2
    """First step of the vectors, a share of the error."""
    step_floor: float = 0.2
    """Smallest step, a share of the first."""
    bias_l2: float = 0.02
    """Pull of a bias towards 0, a share of itself a step."""
    l2: float = 0.05
    """Pull of the vectors towards 0, a share of themselves a step."""
    noise: float = 0.1
    """Standard deviation of an item's initial vector."""
    clip: float = 4.0
    """Larger errors are clipped to this, in deviations of the ratings."""


class Network:
    """A factorisation machine online; after a training by torch a neural network, served without torch."""

    kind: Kind = "ratings"
    Parameters = NetworkParameters

    def __init__(self, name: str, parameters: NetworkParameters, *, seed: int) -> None:
        """The seed acts through the keys of item rows only."""
        self.name, self.parameters = name, parameters
        p, zeros = parameters, [0.0] * (parameters.dim + 2)
        self.layout = Layout(p.dim, *p.hidden, p.products)
        self.user = Table("user", zeros)  # vector, b, n
        self.item = Table("item", zeros, random=p.dim, scale=p.noise)
        self.stream = Table("stream", [0.0] * 4, dtype=np.float64)  # events, mu, squares, refused
        self.network = Table("stream", [1.0] * NORM_RATIOS + [0.0] * (self.layout.width - NORM_RATIOS))
        self.category_words = Table("item", [0, 0], dtype=np.uint64)  # until `attach`
        self.rates = (p.bias_rate, p.learning_rate, p.step_floor, p.bias_l2, p.l2, p.clip)

    def attach(self, categories: Table, category_sets: ItemSets) -> None:
        """See Categorised."""
        self.category_words = categories

    def tables(self) -> Mapping[str, Table]:
        """See Stateful."""
        return {"user": self.user, "item": self.item, "stream": self.stream, "network": self.network}

    def learn(self, batch: Batch) -> F32:
        """See OnlineLearner; predictions are not clipped."""
        out = np.empty(len(batch), dtype=np.float32)
        user, item, stream, profiles = self.user, self.item, self.stream, batch.profiles
        learn_network(
            user.values, user.touched, item.values, item.touched, stream.values, stream.touched, self.network.values,
            self.category_words.values, batch.kinds, batch.users, batch.items, batch.values, batch.taken_back.earlier,
            profiles.slots, profiles.groups,
            self.layout, self.rates, out,
        )  # fmt: skip
        return out

    def predict(self, batch: Batch) -> F32:
        """See OnlineLearner; predictions are not clipped."""
        out = np.empty(len(batch), dtype=np.float32)
        profiles = batch.profiles
        self._predict(self.user.values, batch.users, batch.items, profiles.slots, profiles.groups, out)
        out[batch.kinds != RATING] = np.nan
        return out

    def score(self, user: UserView, items: I32) -> F32:
        """The predicted ratings, (len(items),), not clipped."""
        out = np.empty(len(items), dtype=np.float32)
        one = np.array(user.rows[self.name], ndmin=2)  # a copy: a read-only row would compile the kernel again
        groups = np.array([user.groups or (-1,)], dtype=np.int32)
        nobody = np.zeros(len(items), dtype=np.int32)
        self._predict(one, nobody, items, np.zeros(1, dtype=np.int32), groups, out)
        return out

    def _predict(self, user: Array, users: I32, items: I32, slots: I32, groups: I32, out: F32) -> None:
        predict_network(
            user, self.item.values, self.stream.values, self.network.values, self.category_words.values, users, items, slots,
            groups, self.layout, out,
        )  # fmt: skip

    def rescale(self, factor: float, shift: float) -> None:
        """See Rescaled: rows are in deviations, so only mu and sigma change."""
        rescale_moments(self.stream, factor, shift)

    @property
    def refused(self) -> int:
        """See Guarded."""
        return int(self.stream.values[0, 3])

    def norms(self, side: Side, rows: I32) -> F64:
        """See Watched: vector and bias, in deviations of the ratings.

        They are divided by the ratio by which the training changed them, so that a swap shows no jump.
        """
        values = (self.user if side == "user" else self.item).values[rows, :-1].astype(np.float64)
        return cast(F64, np.linalg.norm(values, axis=1) / float(self.network.values[0, 0 if side == "user" else 1]))

    def widths(self, side: Side, rows: I32) -> Mapping[str, F64]:
        """See Watched: none, as gradient descent has no posterior."""
        return {}

    def vectors(self) -> Array:
        """See ItemVectors."""
        return self.item.values[:, : self.parameters.dim]
