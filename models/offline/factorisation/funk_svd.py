"""FunkSVD: three biases, then one factor after the other, each fitted to the residuals of those before it.

    y = mu + sigma z,   z = b_u + b_i + p_u1 q_i1 + p_u2 q_i2 + ...
    r_0 = z - b_u - b_i,   r_f = r_f-1 - p_uf q_if
    minimise for each f  mean over ratings of  (r_f-1 - p_uf q_if)^2 + n_u^-.5 l2 p_uf^2 + n_i^-.5 l2 q_if^2

mu is the global bias; b_u and b_i are fitted first, and together. Earlier factors are fixed and their residuals are stored for each
rating, as Funk does it. A factor is kept if it lowers the validation error; the fit ends after two in a row that do not.
An unseen user or item has a row of 0.
Cost: .5 s of CPU a million ratings and epoch, and some ten epochs a factor; a step also moves all rows of one factor.

Funk (2006), Netflix update: try this at home, sifter.org/simon/journal/20061211.html.
Deviation: Adam on batches instead of single ratings, random initial values instead of .1 for all, and a penalty of n^-.5 a rating.
"""

from collections.abc import Callable
from math import inf

import msgspec
import torch
from torch import Tensor

from streamer.core.arrays import F32, I32
from streamer.core.dataset import Dataset
from streamer.core.protocols import Epoch, Factors, Kind
from streamer.models.offline import fitting
from streamer.models.offline.factorisation import product


class FunkSVDParameters(msgspec.Struct, frozen=True):
    """Size, steps and penalties."""

    dim: int = 40
    """Largest number of factors. Funk's first choice; some 30 are kept on ml-latest-small."""
    epochs: int = 30
    """Largest number of passes, for the biases and for each factor."""
    batch: int = 4096
    """Ratings in a step."""
    patience: int = 2
    """Number of passes without a better validation error after which a factor is done, and number of factors in a row
    without one after which the fit ends."""
    learning_rate: float = 0.01
    """Adam's."""
    l2: float = 1.25
    """Penalty of the factors. As for als; .8 and less are worse."""
    bias_l2: float = 1.0
    """Penalty of the biases. As for als."""
    noise: float = 0.1
    """Standard deviation of a factor's initial values. With .1 for all, as Funk has it, few factors gain anything."""


class FunkSVD:
    """A protocols.Rater and Factorised."""

    kind: Kind = "ratings"
    Parameters = FunkSVDParameters

    def __init__(self, name: str, parameters: FunkSVDParameters, *, seed: int) -> None:
        """`seed` determines initial values and the order of the ratings."""
        self.name, self.parameters, self._seed = name, parameters, seed
        self._network: product.Product

    def fit(self, train: Dataset, validation: Dataset, on_progress: Callable[[Epoch], None]) -> None:
        """See protocols.OfflineModel."""
        p = self.parameters
        fitting.set_seed(self._seed)
        line = product.line_of(train)
        network = self._network = product.Product(train, line, p.dim, 0.0)
        rest, held = _Residuals(train, line), _Residuals(validation, line)
        losses: list[float] = []

        def report(epoch: Epoch) -> None:
            losses.append(epoch.validation_loss)
            on_progress(Epoch(len(losses), p.epochs * (1 + p.dim), epoch.train_loss, epoch.validation_loss))

        def stage(of: product.Product) -> float:
            """Fit the parameters of `of` that have gradients to the residuals; return the best validation error."""
            began = len(losses)
            fitting.descend(
                of, len(train), product.penalised_loss(of, train, p.l2, p.bias_l2, rest.z),
                lambda: held.error(of), fitting.adam([w for w in of.parameters() if w.requires_grad], p.learning_rate), p, report,
            )  # fmt: skip
            return min(losses[began:], default=inf)

        biases = product.Product(train, product.Line(0.0, 1.0), 0, 0.0)
        best, without_gain = stage(biases), 0
        rest.less(biases), held.less(biases)
        network.user_biases, network.item_biases = biases.user_biases, biases.item_biases
        for place in range(p.dim):
            factor = product.Product(train, product.Line(0.0, 1.0), 1, p.noise)
            factor.user_biases.requires_grad_(False)
            factor.item_biases.requires_grad_(False)
            found = stage(factor)
            if found >= best:
                without_gain += 1
                if without_gain >= p.patience:
                    break
                continue
            best, without_gain = found, 0
            rest.less(factor), held.less(factor)
            with torch.no_grad():
                network.users.weight[:, place] = factor.users.weight[:, 0]
                network.items.weight[:, place] = factor.items.weight[:, 0]

    def predict(self, users: I32, items: I32) -> F32:
        """See protocols.Rater."""
        return fitting.predicted(self._network, users, items)

    def export(self) -> Factors:
        """See protocols.Factorised."""
        return self._network.factors()


class _Residuals:
    """The residuals of the ratings of a part, in deviations."""

    def __init__(self, part: Dataset, line: product.Line) -> None:
        self.users, self.items, values = fitting.rated(part)
        self.z: Tensor = (values - line.mean) / line.deviation
        self._deviation = line.deviation

    @torch.no_grad()
    def less(self, network: product.Product) -> None:
        """Subtract the predictions of `network`."""
        self.z = self.z - fitting.predict_in_slices(network, self.users, self.items)

    def error(self, network: product.Product) -> float:
        """The mean squared error, in ratings, of `network` as a prediction of the residuals; NaN without ratings."""
        errors = self.z - fitting.predict_in_slices(network, self.users, self.items)
        return float(errors.square().mean()) * self._deviation**2
