"""EmbeddingDotBias, as in the fastai course: factors and biases in a sigmoid range, the one-cycle policy, decoupled weight decay.

    y = low + (high - low) sigmoid(c + g (b_u + b_i + p_u . q_i))
    minimise  mean over ratings of (y - rating)^2 / sigma^2;   with each step of Adam also  w -= step lambda w

Steps grow for a quarter of the fit and then fall to 0, while momentum does the opposite. The decay shrinks every row at
every step, rated or not, so it is divided by the root of the number of steps: a longer fit or more data decay less at each. The
result is the epoch that is best on the validation part, but the fit always completes its cycle. An unseen user or item
has a row of 0.
Cost: some 3 s of CPU a million ratings and epoch; a step also moves all rows (Adam is dense).

Howard, Gugger (2020), Deep learning for coders with fastai and PyTorch, chapter 8; Smith (2018), A disciplined approach to neural
network hyper-parameters; Loshchilov, Hutter (2019), Decoupled weight decay regularization, ICLR, whose appendix normalises the decay in this way.
Deviation: the model includes the mean (c), the range follows the ratings, and biases decay less than factors.
"""

from collections.abc import Callable

import msgspec
import torch

from streamer.core.arrays import F32, I32
from streamer.core.dataset import Dataset
from streamer.core.protocols import Epoch, Factors, Kind
from streamer.models.offline import fitting
from streamer.models.offline.factorisation import product

LEAST_STEPS = 100  # in a pass: with fewer, as in a small history, the cycle would end before anything is learned


class EmbeddingDotBiasParameters(msgspec.Struct, frozen=True):
    """Size, range, cycle and decay."""

    dim: int = 50
    """Factors. The course's choice."""
    margin: float = 1 / 9
    """How far the range extends beyond the ratings on each side, as a share of their span: 0 to 5.5 for .5 to 5, as in
    the course."""
    epochs: int = 10
    """Number of passes. The course's 5 are 1% worse."""
    batch: int = 512
    """Ratings in a step; fewer where a pass would have less than LEAST_STEPS."""
    learning_rate: float = 0.01
    """The highest in the cycle. The course's .005 needs twice the passes."""
    decay: float = 40.0
    """Decay of the factors, over the root of the number of steps."""
    bias_decay: float = 4.0
    """Decay of the biases, over the root of the number of steps."""
    noise: float = 0.01
    """Standard deviation of the initial factors. The course's choice."""

    @property
    def patience(self) -> int:
        """The number of epochs: a cycle is never stopped early."""
        return self.epochs


class EmbeddingDotBias:
    """A protocols.Rater and Factorised."""

    kind: Kind = "ratings"
    Parameters = EmbeddingDotBiasParameters

    def __init__(self, name: str, parameters: EmbeddingDotBiasParameters, *, seed: int) -> None:
        """`seed` determines initial values and the order of the ratings."""
        self.name, self.parameters, self._seed = name, parameters, seed
        self._network: product.Product

    def fit(self, train: Dataset, validation: Dataset, on_progress: Callable[[Epoch], None]) -> None:
        """See protocols.OfflineModel."""
        p = self.parameters
        p = msgspec.structs.replace(p, batch=max(1, min(p.batch, len(train) // LEAST_STEPS)))
        fitting.set_seed(self._seed)
        network = self._network = product.Product(train, product.range_of(train, p.margin), p.dim, p.noise)
        steps = max(1, -(-len(train) // p.batch) * p.epochs)
        optimiser = torch.optim.AdamW(
            [
                {"params": [network.users.weight, network.items.weight], "weight_decay": p.decay / steps**0.5},
                {"params": [network.user_biases.weight, network.item_biases.weight], "weight_decay": p.bias_decay / steps**0.5},
            ],
            lr=p.learning_rate, eps=1e-5, fused=True,
        )  # fmt: skip
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, p.learning_rate, total_steps=steps + 1, pct_start=0.25, base_momentum=0.85, max_momentum=0.95
        )
        fitting.descend(
            network, len(train), product.penalised_loss(network, train, 0.0, 0.0),
            fitting.mean_squared_error(network, validation), optimiser, p, on_progress, after_step=cycle.step,
        )  # fmt: skip

    def predict(self, users: I32, items: I32) -> F32:
        """See protocols.Rater."""
        return fitting.predicted(self._network, users, items)

    def export(self) -> Factors:
        """See protocols.Factorised; without the range, which does not change the order of items."""
        return self._network.factors()
