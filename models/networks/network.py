"""Networks that learn online: `deep-fm` and `embedding-network`.

    y = mu + sigma (b_u + b_i + b_categories + b_groups + sum_(f < g) v_f . v_g + w . relu(W2 relu(W1 [v_u, v_i, v_c, v_g] + c1) + c2))
    v_u <- v_u + s_u (z dy/dv_u - l2 v_u),   v_i <- v_i + s_i (z dy/dv_i - l2 v_i),   z = (y - prediction) / sigma

over four fields: the user, the item, the mean of its categories, the mean of the user's groups. The embedding network is the
same without the products of fields. **Only vectors and biases of users and items move online**, through the hidden layers as they stand; what all share
(layers, categories, groups) is fitted by a retraining alone (models/offline/networks/network_trainer.py) and is 0 before the first:
`deep-fm` then is a factorisation machine of user and item, `embedding-network` their biases. Steps are those of biased_mf.py, and shortened where they would go
further than the error asks for, as a slope through layers may be steep.
Cost: O(4 dim first + first second) an event: some 1 us for 32 factors and 16, 16 units. State: v, b, n float32 (rows, dim + 2); the network, float32, 61 KB.

Guo, Tang, Ye, Li, He (2017), DeepFM, IJCAI; He, Liao, Zhang, Nie, Hu, Chua (2017), Neural collaborative filtering, WWW.
Deviation: the layers do not move with each event. A step of theirs moves every answer, so that it must be small to be safe, and
what it brings is small; and a network that stands still between retrainings is one that the gate has seen.
"""

from collections.abc import Mapping
from typing import cast

import msgspec
import numpy as np

from streamer.core.arrays import F32, F64, I32, Array
from streamer.core.batch import RATING, Batch, UserView
from streamer.core.protocols import ItemSets, Kind
from streamer.core.tables import Side, Table
from streamer.models.networks.kernel import LENGTHS, Layout, learn_network, predict_network


class NetworkParameters(msgspec.Struct, frozen=True):
    """Sizes, steps and penalties, for ratings of mean 0 and deviation 1."""

    dim: int = 32
    """Length of a field's vector. That of the offline models."""
    hidden: tuple[int, int] = (16, 16)
    """Units of the hidden layers. That of the offline models."""
    products: bool = True
    """Whether fields are multiplied two by two, beside the hidden layers: a factorisation machine."""
    bias_rate: float = 0.25
    """First step of a bias, a share of the error. That of biased-mf, as are the rest."""
    learning_rate: float = 0.2
    """First step of the vectors, a share of the error."""
    step_floor: float = 0.2
    """Where the decay of the steps ends, a share of the first."""
    bias_l2: float = 0.02
    """Pull of a bias towards 0, a share of itself a step."""
    l2: float = 0.05
    """Pull of the vectors towards 0, a share of themselves a step."""
    noise: float = 0.1
    """Standard deviation of an item's first vector."""
    clip: float = 4.0
    """Largest error learned from, in deviations of the ratings."""


class Network:
    """Learns as its kernel says; trained, it serves what torch fitted, without torch."""

    kind: Kind = "ratings"
    Parameters = NetworkParameters

    def __init__(self, name: str, parameters: NetworkParameters, *, seed: int) -> None:
        """The seed reaches items through their rows' keys."""
        self.name, self.parameters = name, parameters
        p, zeros = parameters, [0.0] * (parameters.dim + 2)
        self.layout = Layout(p.dim, *p.hidden, p.products)
        self.user = Table("user", zeros)  # vector, b, n
        self.item = Table("item", zeros, random=p.dim, scale=p.noise)
        self.stream = Table("stream", [0.0] * 4, dtype=np.float64)  # events, mu, squares, refused
        self.network = Table("stream", [1.0] * LENGTHS + [0.0] * (self.layout.width - LENGTHS))
        self.words = Table("item", [0, 0], dtype=np.uint64)  # until `attach`
        self.rates = (p.bias_rate, p.learning_rate, p.step_floor, p.bias_l2, p.l2, p.clip)

    def attach(self, categories: Table, category_sets: ItemSets) -> None:
        """See Categorised."""
        self.words = categories

    def tables(self) -> Mapping[str, Table]:
        """See Stateful."""
        return {"user": self.user, "item": self.item, "stream": self.stream, "network": self.network}

    def learn(self, batch: Batch) -> F32:
        """See OnlineLearner; predictions are not clipped."""
        out = np.empty(len(batch), dtype=np.float32)
        user, item, stream, said = self.user, self.item, self.stream, batch.profiles
        learn_network(
            user.values, user.touched, item.values, item.touched, stream.values, stream.touched, self.network.values,
            self.words.values, batch.kinds, batch.users, batch.items, batch.values, said.slots, said.groups,
            self.layout, self.rates, out,
        )  # fmt: skip
        return out

    def predict(self, batch: Batch) -> F32:
        """See OnlineLearner; predictions are not clipped."""
        out = np.empty(len(batch), dtype=np.float32)
        said = batch.profiles
        self._predict(self.user.values, batch.users, batch.items, said.slots, said.groups, out)
        out[batch.kinds != RATING] = np.nan
        return out

    def score(self, user: UserView, items: I32) -> F32:
        """The predicted ratings, (len(items),), not clipped."""
        out = np.empty(len(items), dtype=np.float32)
        one = np.array(user.rows[self.name], ndmin=2)  # a copy: a read-only row would compile the kernel once more
        groups = np.array([user.groups or (-1,)], dtype=np.int32)
        nobody = np.zeros(len(items), dtype=np.int32)
        self._predict(one, nobody, items, np.zeros(1, dtype=np.int32), groups, out)
        return out

    def _predict(self, user: Array, users: I32, items: I32, slots: I32, groups: I32, out: F32) -> None:
        predict_network(
            user, self.item.values, self.stream.values, self.network.values, self.words.values, users, items, slots,
            groups, self.layout, out,
        )  # fmt: skip

    @property
    def refused(self) -> int:
        """See Guarded."""
        return int(self.stream.values[0, 3])

    def norms(self, side: Side, rows: I32) -> F64:
        """See Watched: vector and bias, in deviations of the ratings; over what a training made of descent's, so that none steps at a swap."""
        values = (self.user if side == "user" else self.item).values[rows, :-1].astype(np.float64)
        return cast(F64, np.linalg.norm(values, axis=1) / float(self.network.values[0, 0 if side == "user" else 1]))

    def widths(self, side: Side, rows: I32) -> Mapping[str, F64]:
        """See Watched: descent has no posterior."""
        return {}

    def vectors(self) -> Array:
        """See ItemVectors."""
        return self.item.values[:, : self.parameters.dim]
