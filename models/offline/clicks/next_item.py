"""What fits of next-click models share: a vocabulary of items, sessions of clicks, and the full or sampled softmax.

    loss(h, y) = ln sum_j exp s_j - s_y,    s_j = h . w_j + b_j

With many items the sum is estimated from m negatives, shared by a batch and sampled from q, a power of popularity. Each counts
exp(s_j) / (m q_j), so that the estimate is unbiased, and y itself counts exactly (the "log Q correction").

Bengio, Senecal (2008), Adaptive importance sampling to accelerate training of a neural probabilistic language model, IEEE
Transactions on Neural Networks 19(4); Jean, Cho, Memisevic, Bengio (2015), On using very large target vocabulary, ACL.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from math import log, nan
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from streamer.core.arrays import F32, I32, I64, Array, Bool
from streamer.core.dataset import Dataset, group_rows
from streamer.models.offline import fitting

PADDING = -1  # in the place of an item where a row has no more
SLICE = 256  # number of histories scored at once

Net = TypeVar("Net", bound=nn.Module)
Scores = Callable[[Sequence[I32]], Tensor]  # from histories of words to (n, words)


class Vocabulary:
    """The items that were clicked in the training part, numbered from 0 without gaps ("words"). Only they get scores."""

    def __init__(self, clicks: Dataset) -> None:
        """The items of all of `clicks`."""
        counts = np.bincount(clicks.items, minlength=clicks.item_count)
        self.items: I64 = np.flatnonzero(counts)  # (words,) their item rows
        self.counts: I64 = counts[self.items]  # (words,) clicks on each, 1 or more
        self._of: I32 = np.full(clicks.item_count, PADDING, dtype=np.int32)
        self._of[self.items] = np.arange(len(self.items))

    def __len__(self) -> int:
        return len(self.items)

    def of(self, items: I32) -> I32:
        """The words of items, (n,); PADDING for items that are not in the vocabulary."""
        found: I32 = self._of[items]
        return found

    def known(self, history: I32) -> I32:
        """The words of a history, without items that are not in the vocabulary."""
        found = self.of(history)
        return found[found >= 0]

    def score_histories(self, scores: Scores, histories: Sequence[I32]) -> F32:
        """The `scores` of histories of items, (n, items), as protocols.NextItem returns them: NaN for items outside the vocabulary."""
        known = [self.known(history) for history in histories]
        out: F32 = np.full((len(histories), len(self._of)), np.nan, dtype=np.float32)
        with torch.no_grad():
            for start in range(0, len(known), SLICE):
                out[start : start + SLICE, self.items] = fitting.array(scores(known[start : start + SLICE]))
        return out

    def loss(self, scores: Scores, train: Dataset, validation: Dataset) -> Callable[[], float]:
        """A `validate` for `fitting.descend`: the mean loss of the full softmax over validation clicks, each after its user's training clicks.

        Clicks on items outside the vocabulary are left out; NaN if there are no others.
        """
        clicks, starts = by_user_in_time(train)
        part = validation.select(self.of(validation.items) >= 0)
        histories = [self.of(clicks.items[starts[user] : starts[user + 1]]) for user in part.users.tolist()]
        targets = fitting.tensor(self.of(part.items))

        def measured() -> float:
            total = 0.0
            for start in range(0, len(histories), SLICE):
                cut = slice(start, start + SLICE)
                total += float(cross_entropy(scores(histories[cut]), targets[cut], reduction="sum"))
            return total / len(histories) if histories else nan

        return measured


def by_user_in_time(clicks: Dataset) -> tuple[Dataset, I64]:
    """The clicks ordered by user and then by time, and where each user's begin, (users + 1,)."""
    by_time = clicks.select(np.argsort(clicks.times_ms, kind="stable"))
    order, starts = group_rows(by_time.users, by_time.user_count)
    return by_time.select(order), starts


def sessions(clicks: Dataset, gap_s: float, longest: int) -> tuple[I32, I64]:
    """Items of sessions, (sessions, longest + 1), oldest first, padded, and the length of each, (sessions,).

    A session ends where its user's next click is more than `gap_s` later. One of more than `longest` + 1 clicks continues in
    the next row, which begins with the last click of the row before, so that every pair of successive clicks is in one row.
    Sessions of one click teach nothing and are left out.
    """
    clicks, _ = by_user_in_time(clicks)
    count = len(clicks)
    begins: Bool = np.ones(count, dtype=np.bool_)
    begins[1:] = (np.diff(clicks.users) != 0) | (np.diff(clicks.times_ms) > 1000 * gap_s)
    starts = np.flatnonzero(begins)
    stops = np.append(starts[1:], count)
    session = np.cumsum(begins) - 1
    firsts = np.flatnonzero((np.arange(count) - starts[session]) % longest == 0)
    lengths = np.minimum(firsts + longest + 1, stops[session[firsts]]) - firsts
    firsts, lengths = firsts[lengths > 1], lengths[lengths > 1]
    spots = np.arange(longest + 1)
    present: Bool = spots < lengths[:, None]
    items: I32 = np.full(present.shape, PADDING, dtype=np.int32)
    items[present] = clicks.items[(firsts[:, None] + spots)[present]]
    return items, lengths


def windows(clicks: Dataset, longest: int) -> tuple[I32, I64, I64]:
    """For every click but each user's first: the user's last `longest` items before it, (n, longest), oldest first, padded; its index in `clicks`,
    (n,); and the number of the user's later clicks, (n,).
    """
    order, starts = group_rows(clicks.users[by_time := np.argsort(clicks.times_ms, kind="stable")], clicks.user_count)
    order = by_time[order]
    users = clicks.users[order]
    place = np.arange(len(order)) - starts[users]
    spots = np.flatnonzero(place > 0)
    lengths = np.minimum(place[spots], longest)
    present: Bool = np.arange(longest) < lengths[:, None]
    items: I32 = np.full(present.shape, PADDING, dtype=np.int32)
    items[present] = clicks.items[order][((spots - lengths)[:, None] + np.arange(longest))[present]]
    return items, order[spots], (np.diff(starts)[users] - place - 1)[spots]


def concatenate(first: Dataset, then: Dataset) -> Dataset:
    """The events of two parts of the same history, one after the other."""
    names = ("kinds", "users", "items", "values", "clicks", "times_ms")
    return Dataset(first.side, *(np.concatenate([getattr(first, name), getattr(then, name)]) for name in names))


def reverse_sessions(rows: Tensor, lengths: Tensor) -> Tensor:
    """Rows of sessions in reverse order; padding stays at the end."""
    spots = lengths[:, None] - 1 - torch.arange(rows.shape[1], device=rows.device)
    return torch.where(spots >= 0, rows.gather(1, spots.clamp(min=0)), PADDING)


def last_clicks(histories: Sequence[I32], longest: int) -> tuple[I32, I64]:
    """The last `longest` clicks of each history, (n, longest), oldest first, padded, and their number, (n,)."""
    out: I32 = np.full((len(histories), longest), PADDING, dtype=np.int32)
    lengths = np.minimum([len(history) for history in histories], longest).astype(np.int64)
    for row, (history, length) in enumerate(zip(histories, lengths.tolist(), strict=True)):
        out[row, :length] = history[len(history) - length :]
    return out, lengths


class AveragedWeights(nn.Module, Generic[Net]):
    """A network and the running mean of its weights: `mean <- d mean + (1 - d) live` at step t, with d = min(decay, (1 + t) / (10 + t)).

    The mean is the result. Weights oscillate around an optimum and are nearer to it on average: GRU4Rec's loss on ml-latest-small
    is .04 to .1 lower.
    Polyak, Juditsky (1992), Acceleration of stochastic approximation by averaging, SIAM J. Control and Optimization 30(4).
    """

    def __init__(self, live: Net, decay: float) -> None:
        """`live` is the network that is fitted; weights of `mean` have no gradient."""
        super().__init__()
        self.live, self.mean, self._decay, self._steps = live, deepcopy(live), decay, 0
        self.mean.requires_grad_(False)

    @torch.no_grad()
    def after_step(self) -> None:
        """Update the mean; call it after each step of the optimiser."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        for mean, live in zip(self.mean.parameters(), self.live.parameters(), strict=True):
            mean.lerp_(live, 1 - decay)


class Noise:
    """The distribution from which negatives are sampled: popularity to a power."""

    def __init__(self, counts: Array, exponent: float) -> None:
        """`counts` (items,): clicks on each; those with 0 are never sampled."""
        weights = np.where(counts > 0, np.power(np.maximum(counts, 1), exponent), 0.0)
        self._weights = fitting.tensor(weights)
        self.log_q = torch.log(self._weights / self._weights.sum()).float()

    def draw(self, count: int) -> Tensor:
        """Sample items with replacement, (count,), with torch's generator."""
        return torch.multinomial(self._weights, count, replacement=True)


def sampled_softmax(own: Tensor, targets: Tensor, others: Tensor, negatives: Tensor, noise: Noise) -> Tensor:
    """The loss of each example, (n,).

    `own` (n,) are the scores of the items `targets` (n,), `others` (n, m) those of `negatives` (m,).
    """
    corrected = others - noise.log_q[negatives] - log(len(negatives))
    corrected = corrected.masked_fill(
        negatives == targets[:, None], -torch.inf
    )  # the target counts exactly, and only once
    return torch.logsumexp(torch.cat([own[:, None], corrected], 1), 1) - own
