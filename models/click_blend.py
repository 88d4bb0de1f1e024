"""A blend of click learners with the predicted rating, whose weights are learned from the clicks.

    score of i = w . f(i)                       f_e: the score of expert e, without the popularity that it may contain
    a click on i, against m items j drawn from the last 4,096 clicks, each with its share q_j of them:
    e_j = exp(w . (f(j) - f(i))) / (m q_j),   pi = 1 / (1 + sum_j e_j),   r = pi / (pi + .001)
    g = pi sum_j e_j (f(j) - f(i)),   H <- l H + (1 - l) H_0 + r (the covariance of f under pi, pi e_j),   w <- w - r H^-1 g

pi estimates the probability of the click among all items by importance sampling. r discounts clicks that nothing could have
predicted: pure likelihood would fit the weights to them, and ranks 10% worse. f are the experts' scores just before the
click (protocols.Probed); an expert that cannot report them keeps its initial weight. Items that the user has already
seen are left out. Cost: m + 1 scores of each expert for one click in `every`, which is 2 scores a click. State: a row of 15
numbers and one of 4,096 items.

Bengio, Senecal (2003), Quick training of probabilistic neural nets by importance sampling, AISTATS. Deviation: a Newton
step with forgetting instead of a gradient step, so that there is no rate to tune and the experts' scales do not matter.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from streamer.core.arrays import F32, F64, I32, I64, U8, U64, Array
from streamer.core.batch import Batch, UserView
from streamer.core.kernel import kernel
from streamer.core.protocols import ItemVectors, Kind, OnlineLearner
from streamer.core.seed import mix64
from streamer.core.tables import Table
from streamer.models.skip_gram import has_seen

RING = 4096  # number of last clicks from which the items to compare with are drawn
RATINGS = "ratings"  # the expert whose scores are ratings
CLICKED, RANGE, REFUSED, WEIGHTS = range(4)  # columns of the stream; WEIGHTS: where w begins
FEATURE_CLIP = 20.0  # differences from the clicked item's features are clipped to this
HALF_COUNTED = 1e-3  # a click with this probability counts half


class ClickBlendParameters(msgspec.Struct, frozen=True):
    """The experts, and how their weights move."""

    experts: tuple[str, ...] = ("transitions", "skip-gram", RATINGS)
    """Names of learners; `ratings` is the champion for ratings."""
    weights: tuple[float, ...] = (1.0, 0.3, 0.5)
    """Initial weights of the experts. The design's measurement."""
    popularity: tuple[float, ...] = (0.0, 0.75, 0.0)
    """The factor of log popularity in each expert's scores, which is subtracted. The scores of transitions keep theirs:
    they bring enough popularity into the blend."""
    probes: int = 64
    """m: items that a click is compared with. 16 are too few: the rarest of them dominate the estimate of pi."""
    every: int = 32
    """One click in this many is learned from, chosen by the event's key."""
    prior: float = 3000.0
    """Diagonal of H_0: the initial weights count as much as the evidence of some 300,000 clicks. 1,000 loses 1% on
    ml-latest-small."""
    forgetting: float = 0.9999
    """l: the factor by which H is multiplied at each click that is learned from."""


@kernel
def draw_probes(
    ring: I32, stream: F64, users: I32, items: I32, clicks: F32, keys: U64, every: int, seen_counts: I64, pages: I32,
    page_of: I32, window: int, probes: I32,
) -> None:  # fmt: skip
    """Write to `probes` (n, 1 + m) the clicked item, if it is new to the user, then other new items from the ring; -1 elsewhere.

    `ring` is a copy, (RING,), and is advanced.
    """
    clicked = int(stream[0, CLICKED])
    for k in range(len(clicks)):
        probes[k, :] = -1
        if not (clicks[k] > 0 and np.isfinite(clicks[k])):
            continue
        u, i = users[k], items[k]
        drawn = mix64(keys[k], 1 << 20) % np.uint64(every) == np.uint64(0)
        if drawn and clicked > 0 and not has_seen(pages, page_of, u, seen_counts[k], window, i):
            probes[k, 0] = i
            for m in range(1, probes.shape[1]):
                j = ring[mix64(keys[k], (1 << 20) + m) % np.uint64(min(clicked, len(ring)))]
                if j != i and not has_seen(pages, page_of, u, seen_counts[k], window, j):
                    probes[k, m] = j
        ring[clicked % len(ring)] = i
        clicked += 1


@kernel
def share_of(in_ring: I32, stream: F64, i: int) -> float:
    """q_i; an item that is not in the ring counts as half a click. `in_ring` (item rows,): how often an item is in the ring."""
    count = float(in_ring[i]) if 0 <= i < len(in_ring) else 0.0
    return float((count + 0.5) / (min(stream[0, CLICKED], float(RING)) + 1.0))


@kernel
def solve(h: F64, g: F64) -> F64:
    """H^-1 g for a symmetric positive definite H, (n, n), by elimination; overwrites both."""
    n = len(g)
    for a in range(n):
        for b in range(a + 1, n):
            share = h[b, a] / h[a, a]
            for c in range(a, n):
                h[b, c] -= share * h[a, c]
            g[b] -= share * g[a]
    for a in range(n - 1, -1, -1):
        for c in range(a + 1, n):
            g[a] -= h[a, c] * g[c]
        g[a] /= h[a, a]
    return g


@kernel
def feature(score: float, e: int, share: float, ratings: I32, popularity: F64, stream: F64) -> float:
    """f_e of an item; ratings are divided by a quarter of their range, about a deviation."""
    if ratings[e] == 1:
        return score * 4.0 / stream[0, RANGE] if stream[0, RANGE] > 0.0 else 0.0
    return score - popularity[e] * np.log(share) if popularity[e] != 0.0 else score


@kernel
def move_weights(stream: F64, d: F64, e: F64, count: int, prior: float, forgetting: float) -> None:
    """One Newton step: `d` (count, n) are f(j) - f(i), with a first row of zeros; `e` (count,) are their weights, the first 1."""
    n = d.shape[1]
    w, h = stream[0, WEIGHTS : WEIGHTS + n], stream[0, WEIGHTS + n :].reshape(n, n)
    total = e[:count].sum()
    pi = 1.0 / total
    reliability = pi / (pi + HALF_COUNTED)
    g = np.zeros(n)
    for m in range(count):
        for a in range(n):
            g[a] += e[m] / total * d[m, a]
    for a in range(n):
        for b in range(n):
            second = 0.0
            for m in range(count):
                second += e[m] / total * d[m, a] * d[m, b]
            h[a, b] = forgetting * h[a, b] + reliability * (second - g[a] * g[b])
        h[a, a] += (1.0 - forgetting) * prior
    move = solve(h.copy(), g)
    if np.isfinite(move.sum()):
        for a in range(n):
            w[a] -= reliability * move[a]
    else:
        stream[0, REFUSED] += 1.0


@kernel
def learn_click_blend(
    stream: F64, stream_touched: U8, ring: I32, ring_touched: U8, in_ring: I32, items: I32, clicks: F32, lows: F32,
    highs: F32, probes: I32, scores: F32, ratings: I32, popularity: F64, prior: float, forgetting: float,
) -> None:  # fmt: skip
    """The stream's row is [clicks, range of ratings, refused, w (n,), H (n, n)]; scores (n, events with probes, 1 + m)."""
    n, asked = len(scores), -1
    d, e = np.empty((probes.shape[1], n)), np.empty(probes.shape[1])
    for k in range(len(clicks)):
        if not np.isfinite(clicks[k]):
            stream[0, REFUSED] += 1.0
            stream_touched[0] = 1
        if not (clicks[k] > 0 and np.isfinite(clicks[k])):
            continue
        width = np.float64(highs[k]) - np.float64(lows[k])
        if np.isfinite(width):
            stream[0, RANGE] = width
        count, own = 0, share_of(in_ring, stream, items[k])
        asked += probes[k, 0] >= 0
        for m in range(probes.shape[1] if probes[k, 0] >= 0 and in_ring[items[k]] > 0 else 0):
            j = probes[k, m]
            if j < 0:
                continue
            share, z = share_of(in_ring, stream, j), 0.0
            for a in range(n):
                there = feature(np.float64(scores[a, asked, m]), a, share, ratings, popularity, stream)
                here = feature(np.float64(scores[a, asked, 0]), a, own, ratings, popularity, stream)
                d[count, a] = min(max(there - here, -FEATURE_CLIP), FEATURE_CLIP)
                z += stream[0, WEIGHTS + a] * d[count, a]
            e[count] = np.exp(min(max(z, -50.0), 50.0)) / ((probes.shape[1] - 1) * share) if m > 0 else 1.0
            count += np.isfinite(z)
        if count > 1:
            move_weights(stream, d, e, count, prior, forgetting)
        place = int(stream[0, CLICKED]) % ring.shape[1]
        if ring[0, place] >= 0:
            in_ring[ring[0, place]] -= 1
        ring[0, place] = items[k]
        in_ring[items[k]] += 1
        stream[0, CLICKED] += 1.0
        stream_touched[0] = ring_touched[0] = 1


@kernel
def score_click_blend(
    stream: F64, in_ring: I32, items: I32, scores: F32, ratings: I32, popularity: F64, out: F32
) -> None:
    """w . f of `items` (n,) from the experts' `scores` (experts, n) into `out` (n,); features that are not finite count 0."""
    for k in range(len(items)):
        share, total = share_of(in_ring, stream, items[k]), 0.0
        for e in range(len(scores)):
            f = feature(np.float64(scores[e, k]), e, share, ratings, popularity, stream)
            total += stream[0, WEIGHTS + e] * f if np.isfinite(f) else 0.0
        out[k] = total


class ClickBlend:
    """The default learner of clicks."""

    kind: Kind = "clicks"
    Parameters = ClickBlendParameters

    def __init__(self, name: str, parameters: ClickBlendParameters, *, seed: int) -> None:
        """The seed acts through the events' keys only."""
        self.name, self.parameters = name, parameters
        n = len(parameters.weights)
        start = [0.0, 0.0, 0.0, *parameters.weights, *(parameters.prior * np.eye(n)).ravel().tolist()]
        self.stream = Table("stream", start, dtype=np.float64)
        self.ring = Table("stream", [-1] * RING, dtype=np.int32)
        self._in_ring: I32 = np.zeros(0, dtype=np.int32)
        self._experts: list[OnlineLearner] = []
        self._popularity: F64 = np.array(parameters.popularity)
        self._ratings: I32 = np.array([name == RATINGS for name in parameters.experts], dtype=np.int32)

    @property
    def experts(self) -> Sequence[str]:
        """See Composed."""
        return self.parameters.experts

    def compose(self, experts: Mapping[str, OnlineLearner]) -> None:
        """See Composed."""
        self._experts = [experts[name] for name in self.parameters.experts]

    def tables(self) -> Mapping[str, Table]:
        """See Stateful."""
        return {"stream": self.stream, "ring": self.ring}

    def restored(self) -> None:
        """See Rebuilt: counts how often each item is in the ring."""
        ring = self.ring.values[0]
        self._in_ring = np.bincount(ring[ring >= 0]).astype(np.int32)

    @property
    def refused(self) -> int:
        """See Guarded."""
        return int(self.stream.values[0, REFUSED])

    def probes(self, batch: Batch) -> I32:
        """See Composed: (n, 1 + m).

        For a click that is learned from, its item and the items that it is compared with; -1 for all other events.
        """
        probes = np.empty((len(batch), 1 + self.parameters.probes), dtype=np.int32)
        seen = batch.seen
        draw_probes(
            self.ring.values[0].copy(), self.stream.values, batch.users, batch.items, batch.clicks, batch.keys,
            self.parameters.every, batch.seen_counts, seen.pages, seen.page_of, seen.window, probes,
        )  # fmt: skip
        return probes

    def learn(self, batch: Batch) -> F32:
        """See OnlineLearner and Composed."""
        self._reserve(int(batch.items.max(initial=-1)) + 1)
        probes = batch.probes
        opinions = [batch.opinions[name].scores for name in self.parameters.experts]
        rows = np.flatnonzero(probes[:, 0] >= 0)  # few
        scores = np.zeros((len(opinions), len(rows), probes.shape[1]), dtype=np.float32)
        for e, probed in enumerate(opinions):
            if probed.shape == probes.shape:
                scores[e] = probed[rows]
        learn_click_blend(
            self.stream.values, self.stream.touched, self.ring.values, self.ring.touched, self._in_ring, batch.items,
            batch.clicks, batch.lows, batch.highs, probes, scores, self._ratings, self._popularity,
            self.parameters.prior, self.parameters.forgetting,
        )  # fmt: skip
        return self._pooled({name: batch.opinions[name].predicted for name in self.parameters.experts})

    def predict(self, batch: Batch) -> F32:
        """See OnlineLearner; the experts' pooled prediction."""
        return self._pooled({n: e.predict(batch) for n, e in zip(self.experts, self._experts, strict=True)})

    def score(self, user: UserView, items: I32) -> F32:
        """The weighted scores, (len(items),). Cost: that of the experts' scores."""
        scores = np.stack([expert.score(user, items) for expert in self._experts])
        out = np.empty(len(items), dtype=np.float32)
        score_click_blend(self.stream.values, self._in_ring, items, scores, self._ratings, self._popularity, out)
        return out

    def vectors(self) -> Array:
        """See ItemVectors: those of the first expert that has vectors, else (rows, 0)."""
        found = [expert.vectors() for expert in self._experts if isinstance(expert, ItemVectors)]
        return found[0] if found else np.empty((len(self._in_ring), 0), dtype=np.float32)

    def _pooled(self, predicted: Mapping[str, F32]) -> F32:
        """The click experts' predictions in a logarithmic opinion pool with equal shares, (n,)."""
        kinds = [expert.kind for expert in self._experts]
        chosen = [p.astype(np.float64) for p, kind in zip(predicted.values(), kinds, strict=True) if kind == "clicks"]
        odds = [np.log(p / (1.0 - p)) for p in (np.clip(one, 1e-9, 1.0 - 1e-9) for one in chosen)]
        pooled: F32 = (1.0 / (1.0 + np.exp(-np.mean(odds, axis=0)))).astype(np.float32)
        return pooled

    def _reserve(self, rows: int) -> None:
        if rows > len(self._in_ring):
            grown = np.zeros(max(rows, 2 * len(self._in_ring)), dtype=np.int32)
            grown[: len(self._in_ring)] = self._in_ring
            self._in_ring = grown
