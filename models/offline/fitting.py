"""How every torch model here is fitted: sliced tensors, one thread, early stopping, the best epoch kept.

No DataLoader: it makes a Python object an example, and costs 10 to 30 times what slices of one tensor do.
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
)  # a batch goes no lower to have so many steps an epoch: a small history needs them to get anywhere
torch.set_num_threads(1)  # two on a busy machine were 7 to 10 times slower than one


class Descent(Protocol):
    """The parameters that `descend` reads."""

    @property
    def epochs(self) -> int:
        """Passes at most."""

    @property
    def batch(self) -> int:
        """Examples a step at most: an epoch has STEPS of them, where a step keeps SMALLEST examples."""

    @property
    def patience(self) -> int:
        """Passes without a better validation loss before it ends."""


class Optimiser(Protocol):
    """torch.optim.Optimizer, or more than one of them."""

    def zero_grad(self) -> None:
        """Forget the gradients."""

    def step(self) -> None:
        """Go one step."""


def device() -> torch.device:
    """The GPU, where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seeded(seed: int) -> None:
    """All of torch's random numbers from here on follow from `seed`: call it before a network is made."""
    torch.manual_seed(seed)


def adam(parameters: Iterable[Tensor], learning_rate: float) -> torch.optim.Optimizer:
    """Fused Adam without weight decay: what holds weights back is in the loss, per occurrence.

    Adam's own `weight_decay` goes through its scaling, pulls rows that were not rated as hard as others, and collapses an
    embedding model at .1; see Loshchilov, Hutter (2019), Decoupled weight decay regularization, ICLR.
    """
    return torch.optim.Adam(parameters, lr=learning_rate, fused=True)


def descend(
    network: nn.Module, examples: int, loss: Callable[[Tensor], Tensor], validate: Callable[[], float],
    optimiser: Optimiser, chosen: Descent, on_progress: Callable[[Epoch], None], *, after_step: Callable[[], None] | None = None,
) -> int:  # fmt: skip
    """Minimise `loss`, of numbers of examples (batch,), and leave the weights of the epoch with the lowest `validate`; which one that was.

    Examples are drawn in a new order every epoch, from torch's generator. `validate` sees the network in evaluation mode
    and without gradients; where it is NaN (nothing to validate on) the last epoch is kept.
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
    """The array on the device; int32 numbers as int64, which indexing wants."""
    made = torch.from_numpy(np.ascontiguousarray(values))
    return made.to(device(), torch.int64 if values.dtype.kind in "iu" else made.dtype)


def array(values: Tensor) -> Array:
    """The tensor as an array of its own."""
    made: Array = values.detach().cpu().numpy().copy()
    return made


def rated(part: Dataset) -> tuple[Tensor, Tensor, Tensor]:
    """Users, items and values of ratings, (n,) each."""
    return tensor(part.users), tensor(part.items), tensor(part.values)


def scale(part: Dataset) -> tuple[float, float]:
    """Mean and deviation of the ratings, (0, 1) without any; a deviation is never 0. Any scale of ratings is learned alike by them."""
    if not len(part):
        return 0.0, 1.0
    return float(part.values.mean(dtype=np.float64)), float(part.values.std(dtype=np.float64)) or 1.0


def mean_squared_error(predict: Callable[[Tensor, Tensor], Tensor], part: Dataset) -> Callable[[], float]:
    """What `descend` validates with: of `predict(users, items)` on the ratings of `part`; NaN where there is none."""
    users, items, values = rated(part)

    def measured() -> float:
        if not len(values):
            return nan
        return float(in_slices(predict, users, items).sub_(values).square_().mean())

    return measured


def in_slices(predict: Callable[[Tensor, Tensor], Tensor], users: Tensor, items: Tensor, size: int = 65536) -> Tensor:
    """`predict` over all pairs, a slice at a time, so that memory is bounded."""
    parts = [predict(users[k : k + size], items[k : k + size]) for k in range(0, len(users), size)]
    return torch.cat(parts) if parts else torch.empty(0, device=users.device)


@torch.no_grad()
def predicted(predict: Callable[[Tensor, Tensor], Tensor], users: I32, items: I32) -> Array:
    """`predict` as protocols.Rater wants it."""
    return array(in_slices(predict, tensor(users), tensor(items)))


@torch.no_grad()
def clear_unseen(embedding: nn.Embedding, seen: Array) -> None:
    """Set to 0 the rows whose numbers are not in `seen`: what they hold is their first noise, and no opinion."""
    unseen: Bool = np.ones(embedding.num_embeddings, dtype=np.bool_)
    unseen[np.unique(seen)] = False
    embedding.weight[tensor(unseen.nonzero()[0])] = 0.0
