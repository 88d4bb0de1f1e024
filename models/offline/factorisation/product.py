"""The core that the factorisations in torch share: a product of embeddings plus mean and biases.

    z = b_u + b_i + p_u . q_i          in standard deviations above the mean
    y = mu + sigma z                   or, within a range,  y = low + (high - low) sigmoid(c + g z)

c and g are such that z = 0 gives mu and a small z changes it by sigma z. So penalties and steps mean the same with a
range and without one, on any scale of ratings, and for a row without ratings, which is 0 from the beginning, the prediction
is mu plus the other side's bias. Without them a range would predict its middle, 2.75 for 0 to 5.5.
"""

from collections.abc import Callable
from math import log
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from streamer.core.arrays import Array
from streamer.core.dataset import Dataset
from streamer.core.protocols import Factors
from streamer.models.offline import fitting


class Line(NamedTuple):
    """Ratings without bounds."""

    mean: float
    deviation: float

    def ratings(self, z: Tensor) -> Tensor:
        """The ratings that are `z` deviations above the mean."""
        return self.mean + self.deviation * z


class Range(NamedTuple):
    """Ratings through a sigmoid, which never leave `low` to `high`."""

    mean: float
    deviation: float
    low: float
    high: float

    def ratings(self, z: Tensor) -> Tensor:
        """The ratings that are `z` deviations above the mean, to first order."""
        span = self.high - self.low
        share = (self.mean - self.low) / span
        gain = self.deviation / (span * share * (1 - share))
        return self.low + span * torch.sigmoid(log(share / (1 - share)) + gain * z)


def line_of(train: Dataset) -> Line:
    """Mean and deviation of the training ratings, without bounds."""
    return Line(*fitting.scale(train))


def range_of(train: Dataset, margin: float) -> Range:
    """A range that extends beyond the training ratings by `margin` times their span, on both sides.

    A sigmoid never reaches its ends: without a margin the best rating could not be predicted.
    """
    mean, deviation = fitting.scale(train)
    low, high = (float(train.values.min()), float(train.values.max())) if len(train) else (mean, mean)
    beyond = margin * ((high - low) or deviation)
    return Range(mean, deviation, low - beyond, high + beyond)


class Product(nn.Module):
    """The embeddings, (rows, dim) and (rows, 1) for each side; a call with rows (n,) of each side returns ratings (n,)."""

    def __init__(self, train: Dataset, scale: Line | Range, dim: int, noise: float) -> None:
        """Factors of rows with ratings in `train` start at N(0, `noise`), biases and all other rows at 0."""
        super().__init__()
        self.scale = scale
        self.users, self.items = nn.Embedding(train.user_count, dim), nn.Embedding(train.item_count, dim)
        self.user_biases, self.item_biases = nn.Embedding(train.user_count, 1), nn.Embedding(train.item_count, 1)
        for biases in (self.user_biases, self.item_biases):
            nn.init.zeros_(biases.weight)
        for factors in (self.users, self.items):
            nn.init.normal_(factors.weight, 0.0, noise)
        self.to(fitting.device())
        for factors, seen in ((self.users, train.users), (self.items, train.items)):
            fitting.clear_unseen(factors, seen)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Ratings (n,)."""
        biases = (self.user_biases(users) + self.item_biases(items)).squeeze(1)
        return self.scale.ratings(biases + (self.users(users) * self.items(items)).sum(1))

    def factors(self) -> Factors:
        """The rows in ratings, each side multiplied by the root of the deviation.

        With a range they are the tangent at the mean.
        """
        deviation = np.float32(self.scale.deviation)

        def rows(embedding: nn.Embedding, times: np.float32) -> Array:
            return fitting.array(embedding.weight) * times

        return Factors(
            rows(self.users, np.sqrt(deviation)), rows(self.items, np.sqrt(deviation)),
            rows(self.user_biases, deviation).ravel(), rows(self.item_biases, deviation).ravel(), self.scale.mean,
        )  # fmt: skip


def penalised_loss(
    network: Product, train: Dataset, l2: float, bias_l2: float, targets: Tensor | None = None
) -> Callable[[Tensor], Tensor]:
    """A loss for `descend`, of indices of ratings (batch,): squared errors in deviations, and a penalty per occurrence.

    A row with n ratings pays n^-.5 (l2 |factors|^2 + bias_l2 bias^2) for each of them: rows with many ratings are shrunk less,
    and rows without a rating in the batch are not changed. `targets` (n,) replaces the ratings.
    """
    users, items, values = fitting.rated(train)
    values = values if targets is None else targets
    user_shares, item_shares = (
        torch.bincount(rows, minlength=count).clamp_(min=1).to(torch.float32).rsqrt_()
        for rows, count in ((users, train.user_count), (items, train.item_count))
    )
    scale = network.scale

    def loss(rows: Tensor) -> Tensor:
        u, i = users[rows], items[rows]
        a, b, c, d = network.users(u), network.items(i), network.user_biases(u), network.item_biases(i)
        errors = (scale.ratings((c + d).squeeze(1) + (a * b).sum(1)) - values[rows]) / scale.deviation
        of_user = l2 * a.square().sum(1) + bias_l2 * c.square().squeeze(1)
        of_item = l2 * b.square().sum(1) + bias_l2 * d.square().squeeze(1)
        return torch.mean(errors.square() + of_user * user_shares[u] + of_item * item_shares[i])

    return loss
