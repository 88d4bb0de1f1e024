"""How models of what is clicked next are fitted: items as places, clicks cut into sessions, the softmax over all items or some.

    loss(h, y) = ln sum_j exp s_j - s_y,    s_j = h . w_j + b_j

With many items the sum is estimated from m shared negatives drawn from q, a power of popularity: each counts exp(s_j) / (m q_j),
so that the estimate is right on average, and y itself counts as it is (the "log Q correction").

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

NOBODY = -1  # where there is no item
SLICE = 256  # histories scored at once

Net = TypeVar("Net", bound=nn.Module)
Scores = Callable[[Sequence[I32]], Tensor]  # histories of places to (n, places)


class Places:
    """The items that somebody clicked in the training part, numbered from 0 without gaps: what is scored."""

    def __init__(self, clicks: Dataset) -> None:
        """Of `clicks`, every one counts."""
        counts = np.bincount(clicks.items, minlength=clicks.item_count)
        self.items: I64 = np.flatnonzero(counts)  # (places,) their numbers
        self.counts: I64 = counts[self.items]  # (places,) clicks, 1 or more
        self._of: I32 = np.full(clicks.item_count, NOBODY, dtype=np.int32)
        self._of[self.items] = np.arange(len(self.items))

    def __len__(self) -> int:
        return len(self.items)

    def of(self, items: I32) -> I32:
        """The places of items, (n,), NOBODY for those that were not trained on."""
        found: I32 = self._of[items]
        return found

    def known(self, history: I32) -> I32:
        """The places of a history, without what was not trained on."""
        found = self.of(history)
        return found[found >= 0]

    def ranked(self, scores: Scores, histories: Sequence[I32]) -> F32:
        """`scores` of histories of items as protocols.NextItem wants them: (n, items), NaN for what was not trained on."""
        known = [self.known(history) for history in histories]
        out: F32 = np.full((len(histories), len(self._of)), np.nan, dtype=np.float32)
        with torch.no_grad():
            for start in range(0, len(known), SLICE):
                out[start : start + SLICE, self.items] = fitting.array(scores(known[start : start + SLICE]))
        return out

    def loss(self, scores: Scores, train: Dataset, validation: Dataset) -> Callable[[], float]:
        """What `fitting.descend` validates with: the mean over validation clicks of the full softmax's loss, each after its user's
        training clicks. Clicks on what was not trained on are left out; NaN where there is no other."""
        clicks, starts = in_order(train)
        part = validation.select(self.of(validation.items) >= 0)
        histories = [self.of(clicks.items[starts[user] : starts[user + 1]]) for user in part.users.tolist()]
        wanted = fitting.tensor(self.of(part.items))

        def measured() -> float:
            total = 0.0
            for start in range(0, len(histories), SLICE):
                cut = slice(start, start + SLICE)
                total += float(cross_entropy(scores(histories[cut]), wanted[cut], reduction="sum"))
            return total / len(histories) if histories else nan

        return measured


def in_order(clicks: Dataset) -> tuple[Dataset, I64]:
    """The clicks with each user's together, in time, and where each of `user_count` users begins, (users + 1,)."""
    by_time = clicks.select(np.argsort(clicks.times_ms, kind="stable"))
    order, starts = group_rows(by_time.users, by_time.user_count)
    return by_time.select(order), starts


def sessions(clicks: Dataset, gap_s: float, longest: int) -> tuple[I32, I64]:
    """Items of sessions, (sessions, longest + 1), oldest first, and how many each has, (sessions,); NOBODY fills up.

    A session ends where its user's next click is more than `gap_s` later. One of more than `longest` + 1 clicks goes on in
    the next row, which begins with the last click of the row before: every step from a click to the next stands in one row.
    A session of one click teaches nothing and is left out.
    """
    clicks, _ = in_order(clicks)
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
    there: Bool = spots < lengths[:, None]
    items: I32 = np.full(there.shape, NOBODY, dtype=np.int32)
    items[there] = clicks.items[(firsts[:, None] + spots)[there]]
    return items, lengths


def windows(clicks: Dataset, longest: int) -> tuple[I32, I64, I64]:
    """What each click came after: the last `longest` items of its user, (n, longest), oldest first, NOBODY filling up; which
    click it is, (n,), a number into `clicks`; and how many of its user's come after it, (n,). First clicks came after nothing.
    """
    order, starts = group_rows(clicks.users[by_time := np.argsort(clicks.times_ms, kind="stable")], clicks.user_count)
    order = by_time[order]
    users = clicks.users[order]
    place = np.arange(len(order)) - starts[users]
    spots = np.flatnonzero(place > 0)
    lengths = np.minimum(place[spots], longest)
    there: Bool = np.arange(longest) < lengths[:, None]
    items: I32 = np.full(there.shape, NOBODY, dtype=np.int32)
    items[there] = clicks.items[order][((spots - lengths)[:, None] + np.arange(longest))[there]]
    return items, order[spots], (np.diff(starts)[users] - place - 1)[spots]


def joined(first: Dataset, then: Dataset) -> Dataset:
    """The events of one part, and behind them those of another of the same history."""
    names = ("kinds", "users", "items", "values", "clicks", "times_ms")
    return Dataset(first.side, *(np.concatenate([getattr(first, name), getattr(then, name)]) for name in names))


def backwards(rows: Tensor, lengths: Tensor) -> Tensor:
    """Rows of sessions as if each had been clicked in the other direction; what fills up stays at the end."""
    spots = lengths[:, None] - 1 - torch.arange(rows.shape[1], device=rows.device)
    return torch.where(spots >= 0, rows.gather(1, spots.clamp(min=0)), NOBODY)


def latest(histories: Sequence[I32], longest: int) -> tuple[I32, I64]:
    """The last `longest` clicks of each history, (n, longest), oldest first, and how many those are, (n,); NOBODY fills up."""
    out: I32 = np.full((len(histories), longest), NOBODY, dtype=np.int32)
    lengths = np.minimum([len(history) for history in histories], longest).astype(np.int64)
    for row, (history, length) in enumerate(zip(histories, lengths.tolist(), strict=True)):
        out[row, :length] = history[len(history) - length :]
    return out, lengths


class Averaged(nn.Module, Generic[Net]):
    """A network and the running mean of its weights, `mean <- d mean + (1 - d) live` at step t, d being (1 + t) / (10 + t)
    until that is `decay`: the mean is what is used.

    Weights that jump about a good place are on average nearer to it: it is worth .04 to .1 of GRU4Rec's loss on ml-latest-small.
    Polyak, Juditsky (1992), Acceleration of stochastic approximation by averaging, SIAM J. Control and Optimization 30(4).
    """

    def __init__(self, live: Net, decay: float) -> None:
        """`live` is what is descended; weights of `mean` have no gradient."""
        super().__init__()
        self.live, self.mean, self._decay, self._steps = live, deepcopy(live), decay, 0
        self.mean.requires_grad_(False)

    @torch.no_grad()
    def after_step(self) -> None:
        """One step of the mean."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        for mean, live in zip(self.mean.parameters(), self.live.parameters(), strict=True):
            mean.lerp_(live, 1 - decay)


class Noise:
    """What negatives are drawn from: popularity to a power."""

    def __init__(self, counts: Array, exponent: float) -> None:
        """`counts` (items,): clicks on each, 0 for those that are never drawn."""
        weights = np.where(counts > 0, np.power(np.maximum(counts, 1), exponent), 0.0)
        self._weights = fitting.tensor(weights)
        self.log_q = torch.log(self._weights / self._weights.sum()).float()

    def draw(self, count: int) -> Tensor:
        """Items, (count,), from torch's generator, some of them perhaps more than once."""
        return torch.multinomial(self._weights, count, replacement=True)


def sampled_softmax(own: Tensor, wanted: Tensor, others: Tensor, negatives: Tensor, noise: Noise) -> Tensor:
    """The loss of each example, (n,): `own` (n,) are scores of the items `wanted`, `others` (n, m) those of `negatives` (m,)."""
    corrected = others - noise.log_q[negatives] - log(len(negatives))
    corrected = corrected.masked_fill(negatives == wanted[:, None], -torch.inf)  # it counts as it is, and once
    return torch.logsumexp(torch.cat([own[:, None], corrected], 1), 1) - own
