"""How every torch model here is fitted: sliced tensors, one thread, early stopping at the best epoch.

There is no DataLoader, which makes a Python object of each example and costs 10 to 30 times as much as slices of one tensor.
"""

from collections.abc import Callable, Iterable
from copy import deepcopy
from math import inf, isnan, nan
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from streamer.core.arrays import I32, Array, Bool
from streamer.core.dataset import Dataset
from streamer.core.protocols import Epoch

SMALLEST, STEPS = (
    128,
    32,
)  # batches shrink, to SMALLEST at least, until an epoch has STEPS steps: a small history needs that many
torch.set_num_threads(1)  # two on a busy machine were 7 to 10 times slower than one


class Descent(Protocol):
    """The parameters that `descend` reads."""

    @property
    def epochs(self) -> int:
        """Largest number of passes."""

    @property
    def batch(self) -> int:
        """Largest number of examples in a step; smaller steps are taken to have STEPS in an epoch, down to SMALLEST examples."""

    @property
    def patience(self) -> int:
        """Number of passes without a better validation loss after which the fit ends."""


class Optimiser(Protocol):
    """A torch.optim.Optimizer, or several of them."""

    def zero_grad(self) -> None:
        """Clear the gradients."""

    def step(self) -> None:
        """Take one step."""


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def set_seed(seed: int) -> None:
    """Seed torch's random numbers. Call it before a network is made."""
    torch.manual_seed(seed)


def adam(parameters: Iterable[Tensor], learning_rate: float) -> torch.optim.Optimizer:
    """Fused Adam without weight decay: the penalty is in the loss, per occurrence.

    Adam's own `weight_decay` goes through its scaling, pulls rows that were not rated as hard as others, and makes an
    embedding model collapse at .1; see Loshchilov, Hutter (2019), Decoupled weight decay regularization, ICLR.
    """
    return torch.optim.Adam(parameters, lr=learning_rate, fused=True)


def descend(
    network: nn.Module, examples: int, loss: Callable[[Tensor], Tensor], validate: Callable[[], float],
    optimiser: Optimiser, chosen: Descent, on_progress: Callable[[Epoch], None], *, after_step: Callable[[], None] | None = None,
) -> int:  # fmt: skip
    """Minimise `loss`, a function of indices of examples (batch,); keep the weights of the epoch with the lowest `validate` and return its number.

    The order of examples is new in every epoch, from torch's generator. `validate` is called in evaluation mode without
    gradients; where it returns NaN (nothing to validate on) the last epoch is kept.
    """
    where = next(network.parameters()).device
    batch = min(chosen.batch, max(SMALLEST, examples // STEPS))
    best, kept, weights = inf, 0, deepcopy(network.state_dict())
    for number in range(1, chosen.epochs + 1):
        network.train()
        order, total = torch.randperm(examples).to(where), torch.zeros((), device=where)
        for start in range(0, examples, batch):
            rows = order[start : start + batch]
            optimiser.zero_grad()
            value = loss(rows)
            value.backward()  # type: ignore[no-untyped-call]  # torch gives it no types
            optimiser.step()
            if after_step is not None:
                after_step()
            total += value.detach() * len(rows)
        network.eval()
        with torch.no_grad():
            found = validate()
        on_progress(Epoch(number, chosen.epochs, float(total) / examples if examples else nan, found))
        if found < best or isnan(found) or number == 1:
            best, kept, weights = found, number, deepcopy(network.state_dict())
        elif number - kept >= chosen.patience:
            break
    network.load_state_dict(weights)
    network.eval()
    return kept


def tensor(values: Array) -> Tensor:
    """The array on the device; integers as int64, which indexing needs."""
    made = torch.from_numpy(np.ascontiguousarray(values))
    return made.to(device(), torch.int64 if values.dtype.kind in "iu" else made.dtype)


def array(values: Tensor) -> Array:
    """A copy of the tensor as an array."""
    made: Array = values.detach().cpu().numpy().copy()
    return made


def rated(part: Dataset) -> tuple[Tensor, Tensor, Tensor]:
    """Users, items and values of ratings, (n,) each."""
    return tensor(part.users), tensor(part.items), tensor(part.values)


def scale(part: Dataset) -> tuple[float, float]:
    """Mean and deviation of the ratings; (0, 1) without any. The deviation is never 0."""
    if not len(part):
        return 0.0, 1.0
    return float(part.values.mean(dtype=np.float64)), float(part.values.std(dtype=np.float64)) or 1.0


def mean_squared_error(predict: Callable[[Tensor, Tensor], Tensor], part: Dataset) -> Callable[[], float]:
    """A `validate` for `descend`: the mean squared error of `predict(users, items)` on the ratings of `part`; NaN without any."""
    users, items, values = rated(part)

    def measured() -> float:
        if not len(values):
            return nan
        return float(predict_in_slices(predict, users, items).sub_(values).square_().mean())

    return measured


def predict_in_slices(
    predict: Callable[[Tensor, Tensor], Tensor], users: Tensor, items: Tensor, size: int = 65536
) -> Tensor:
    """`predict` of all pairs, a slice at a time, so that memory is bounded."""
    parts = [predict(users[k : k + size], items[k : k + size]) for k in range(0, len(users), size)]
    return torch.cat(parts) if parts else torch.empty(0, device=users.device)


@torch.no_grad()
def predicted(predict: Callable[[Tensor, Tensor], Tensor], users: I32, items: I32) -> Array:
    """The results of `predict` as an array, for protocols.Rater."""
    return array(predict_in_slices(predict, tensor(users), tensor(items)))


@torch.no_grad()
def clear_unseen(embedding: nn.Embedding, seen: Array) -> None:
    """Set rows that are not in `seen` to 0: they hold nothing but their initial noise."""
    unseen: Bool = np.ones(embedding.num_embeddings, dtype=np.bool_)
    unseen[np.unique(seen)] = False
    embedding.weight[tensor(unseen.nonzero()[0])] = 0.0
