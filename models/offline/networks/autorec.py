"""AutoRec: an autoencoder that gets an item's (or user's) known ratings and predicts the missing ones.

    r_ui = (y - mu - b_u - b_i) / sigma
    h_i = f(a + n_i^-.5 sum over users who rated i of r_ui V_u),   y_ui = mu + b_u + b_i + sigma (c_u + W_u . h_i)
    minimise  mean over the existing ratings of  (r_ui - c_u - W_u . h_i)^2 + n_u^-.5 l2 (|W_u|^2 + |V_u|^2)

f is a sigmoid. The loss is masked: missing ratings do not count as 0. In each step a share of the inputs is dropped, so that
the network learns to predict and not to copy. The biases are those of the model `bias`, which is fitted first. The last layer is linear, so W and h
are factors. Rows are never made dense: V_u and W_u are looked up only for the ratings of a batch of rows.
For an unseen user or item the prediction is that of the biases.
Cost: some 3 s of CPU a million ratings and epoch. Memory: (users + items) x dim, and for a batch its ratings x dim.

Sedhain, Menon, Sanner, Xie (2015), AutoRec: autoencoders meet collaborative filtering, WWW companion.
Deviation: residuals of the biases, sums divided by the root of the count, dropout of inputs, and a penalty per occurrence.
"""

from collections.abc import Callable
from typing import Literal

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from streamer.core.arrays import F32, F64, I32
from streamer.core.dataset import Dataset, group_rows
from streamer.core.protocols import Epoch, Factors, Kind
from streamer.models.offline import fitting
from streamer.models.offline.factorisation.bias import BiasOnly


class AutoRecParameters(msgspec.Struct, frozen=True):
    """Size, steps and penalties."""

    side: Literal["items", "users"] = "items"
    """The side whose rows are completed. Items, as in the paper: with users the validation error on ml-latest-small is
    5% higher."""
    dim: int = 64
    """Hidden units. The paper's are 500."""
    dropout: float = 0.3
    """Share of a row's ratings that are dropped from its input in a step."""
    epochs: int = 100
    """Largest number of passes."""
    batch: int = 128
    """Rows in a step."""
    patience: int = 4
    """Number of passes without a better validation error after which the fit ends; more where a pass has few steps, as with few
    rows: both layers must be learned before there is any gain."""
    learning_rate: float = 0.003
    """Adam's."""
    l2: float = 0.2
    """Penalty of a rating's rows in both layers. .1 to .2 are alike, .5 is worse."""
    noise: float = 0.05
    """Standard deviation of the initial weights."""


class _Network(nn.Module):
    """The weights of both layers, one row each for every column of the ratings."""

    def __init__(self, columns: int, seen: I32, p: AutoRecParameters) -> None:
        super().__init__()
        self.ins, self.outs, self.biases = (
            nn.Embedding(columns, p.dim),
            nn.Embedding(columns, p.dim),
            nn.Embedding(columns, 1),
        )
        self.hidden = nn.Parameter(torch.zeros(p.dim))
        nn.init.zeros_(self.biases.weight)
        self.to(fitting.device())
        for weights in (self.ins, self.outs):
            nn.init.normal_(weights.weight, 0.0, p.noise)
            fitting.clear_unseen(weights, seen)


class _Rows:
    """The ratings of a part, grouped by row."""

    def __init__(self, rows: I32, columns: I32, residuals: F64, count: int) -> None:
        order, starts = group_rows(rows, count)
        self.columns = fitting.tensor(columns[order])
        self.residuals = fitting.tensor(residuals[order].astype(np.float32))
        self.starts, self.counts = fitting.tensor(starts[:-1]), fitting.tensor(np.diff(starts))

    def of(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For each rating of `rows` (batch,): the index of its row in `rows`, its column, and its residual, (n,) each."""
        counts = self.counts[rows]
        owners = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), counts)
        before = torch.cumsum(counts, 0) - counts
        positions = torch.arange(len(owners), device=rows.device) - before[owners] + self.starts[rows][owners]
        return owners, self.columns[positions], self.residuals[positions]


class AutoRec:
    """A protocols.Rater and Factorised."""

    kind: Kind = "ratings"
    Parameters = AutoRecParameters

    def __init__(self, name: str, parameters: AutoRecParameters, *, seed: int) -> None:
        """`seed` determines initial values, dropout and the order of the rows."""
        self.name, self.parameters, self._seed = name, parameters, seed
        self._deviation = 1.0
        self._bias: Factors
        self._users, self._items = torch.empty(0), torch.empty(0)  # (rows, dim + 1) each: h and 1, W and c

    def fit(self, train: Dataset, validation: Dataset, on_progress: Callable[[Epoch], None]) -> None:
        """See protocols.OfflineModel."""
        p = self.parameters
        fitting.set_seed(self._seed)
        self._deviation = fitting.scale(train)[1]
        bias = BiasOnly(self.name, BiasOnly.Parameters(), seed=self._seed)
        bias.fit(train, validation, lambda epoch: None)
        self._bias = bias.export()
        self._biases = fitting.tensor(self._bias.user_biases), fitting.tensor(self._bias.item_biases)
        residuals = (train.values - bias.predict(train.users, train.items)).astype(np.float64) / self._deviation
        sides = [(train.items, train.item_count), (train.users, train.user_count)]
        (rows, row_count), (columns, column_count) = sides if p.side == "items" else sides[::-1]
        network, table = _Network(column_count, columns, p), _Rows(rows, columns, residuals, row_count)
        share = fitting.tensor(np.maximum(np.bincount(columns, minlength=column_count), 1).astype(np.float32)).rsqrt_()
        trained = fitting.tensor(np.unique(rows))

        def hidden(count: int, owners: Tensor, at: Tensor, shown: Tensor) -> Tensor:
            counts = torch.bincount(owners, weights=(shown != 0).to(torch.float32), minlength=count).clamp_(min=1.0)
            inside = network.ins(at) * (shown * counts.rsqrt()[owners])[:, None]
            return torch.sigmoid(network.hidden + inside.new_zeros(count, p.dim).index_add_(0, owners, inside))

        def loss(numbers: Tensor) -> Tensor:
            owners, at, targets = table.of(trained[numbers])
            shown = targets * (torch.rand(len(targets), device=targets.device) >= p.dropout)
            out = network.outs(at)
            predicted = network.biases(at).squeeze(1) + (out * hidden(len(numbers), owners, at, shown)[owners]).sum(1)
            penalty = p.l2 * share[at] * (out.square().sum(1) + network.ins(at).square().sum(1))
            return torch.mean((targets - predicted).square() + penalty)

        def fill() -> None:
            """Keep the network's result for all rows, as factors."""
            filled = torch.zeros(row_count, p.dim + 1, device=trained.device)
            for start in range(0, len(trained), 4096):
                part = trained[start : start + 4096]
                owners, at, shown = table.of(part)
                filled[part, : p.dim] = hidden(len(part), owners, at, shown)
                filled[part, p.dim] = 1.0
            out = torch.cat([network.outs.weight, network.biases.weight], dim=1).detach()
            self._items, self._users = (filled, out) if p.side == "items" else (out, filled)

        measured = fitting.mean_squared_error(self._rating, validation)

        def validate() -> float:
            fill()
            return measured()

        steps = -(-len(trained) // p.batch)  # in a pass
        patient = msgspec.structs.replace(p, patience=max(p.patience, p.patience * fitting.STEPS // max(1, steps)))
        fitting.descend(
            network,
            len(trained),
            loss,
            validate,
            fitting.adam(network.parameters(), p.learning_rate),
            patient,
            on_progress,
        )
        with torch.no_grad():
            fill()

    def _rating(self, users: Tensor, items: Tensor) -> Tensor:
        mean, (of_users, of_items) = self._bias.mean, self._biases
        return (
            mean
            + of_users[users]
            + of_items[items]
            + self._deviation * (self._users[users] * self._items[items]).sum(1)
        )

    def predict(self, users: I32, items: I32) -> F32:
        """See protocols.Rater."""
        return fitting.predicted(self._rating, users, items)

    def export(self) -> Factors:
        """See protocols.Factorised: hidden units and a 1 on the side that is completed, the last layer and its biases on the other."""
        root = np.sqrt(np.float32(self._deviation))
        users, items = (fitting.array(side) * root for side in (self._users, self._items))
        return self._bias._replace(users=users, items=items)
