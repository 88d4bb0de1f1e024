"""A ranker over click learners: a conditional logit whose weights are learned click by click.

    P(i | new) ~ exp(w . f(i))        f_e: the score of expert e
    a click on a new item i, against c candidates j:
    e_j = exp(w . (f(j) - f(i))) / q_j,   pi = 1 / (1 + sum_j e_j),   r = pi / (pi + .001)
    g = pi sum_j e_j (f(j) - f(i)),   H <- l H + (1 - l) H_0 + r (the covariance of f under pi, pi e_j),   w <- w - r H^-1 g
    P(i) = (1 - rho) P(i | new), or rho P(i | known) for an item that the user knows        rho: the share of clicks on such

The candidates are the items that the first expert proposes (q = 1: all of them are counted), and m drawn from the last 4,096
clicks to stand for all others (q_j: m times the item's share of these clicks). Drawn ones alone would not do: the few items that
compete with the clicked one are rarely among them.
r discounts clicks that nothing could have predicted: pure likelihood would fit the weights to them, and ranks worse.
Such clicks have a part of their own in the probabilities,
    P(i | new) = (1 - u) exp(w . f(i)) / sum_j exp(w . f(j)) + u s_i        s_i: the item's share of the last 4,096 clicks
with u learned by expectation maximisation, so that they are calibrated. `repeats` says rho and P(i | known). A score must not
depend on the other items, so that of a known item is c + ln(rho P(i | known) / (1 - rho)), c: the mean of ln sum_j exp(w . f(j)).
H_0 is in units of each expert's own variance among the candidates, so that the scale of its scores does not matter.
f are the experts' scores just before the click (protocols.Probed); an expert that cannot report them keeps its initial weight.
Cost: c + 1 scores of each expert for one click in `every`. State: a row of some 100 numbers and one of 4,096 items.

McFadden (1974), Conditional logit analysis of qualitative choice behavior; Bengio, Senecal (2008), Adaptive importance sampling
to accelerate training of a neural probabilistic language model, IEEE Trans. Neural Networks 19. Deviations: a Newton step with
forgetting instead of a gradient step, so that there is no rate to tune; the most likely candidates are all counted, not drawn.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from streamer.core.arrays import F32, F64, I32, I64, U8, U64, Array, Bool
from streamer.core.batch import PROPOSE, Batch, UserView
from streamer.core.kernel import kernel
from streamer.core.protocols import ItemVectors, Kind, OnlineLearner
from streamer.core.seed import mix64
from streamer.core.tables import Table
from streamer.models.repeats import Repeats
from streamer.models.skip_gram import has_seen
from streamer.models.transitions.lists import position_of

RING = 4096  # number of last clicks from which items are drawn
RATINGS = "ratings"  # the expert whose scores are ratings
COUNTS = ("popularity", "popularity-recent", "popularity-now")  # experts whose scores are numbers of clicks
REPEATS = "repeats"  # the expert that ranks the items which a user knows, and is used for nothing else
AS_IT_IS, RATING, COUNT, REPEAT = range(4)  # what an expert's score is
COUNT_SMALLEST = 1e-3  # an item without clicks is given this many
# Columns of the stream; WEIGHTS: where w begins.
CLICKED, RANGE, REFUSED, UNFORESEEN, LEVEL, KNOWN, NEW, WEIGHTS = range(8)
FEATURE_CLIP = 20.0  # differences from the clicked item's features are clipped to this
RHO_SMALLEST = 1e-6
HALF_COUNTED = 1e-3  # a click with this probability counts half
RATE = 0.01  # of the running means of an expert's variance and of the share of unforeseen clicks
FORGETTING_KNOWN = 0.9999  # of the counts of clicks on known and on new items


class ClickBlendParameters(msgspec.Struct, frozen=True):
    """The experts, and how their weights move."""

    experts: tuple[str, ...] = (
        "transitions", "transitions-last", "transitions-wide", "neighbours", "skip-gram", "popularity-now",
        "popularity-recent", "popularity", RATINGS, REPEATS,
    )  # fmt: skip
    """Names of learners; `ratings` is the champion for ratings. The first one proposes candidates."""
    weights: tuple[float, ...] = (0.4, 0.1, 0.15, 0.7, 0.1, 0.0, 0.0, -0.05, 0.4, 0.0)
    """Initial weights of the experts. That of `repeats` stays 0."""
    proposed: int = 48
    """Candidates that the first expert proposes. 64 rank alike."""
    drawn: int = 32
    """m: candidates that are drawn to stand for all others."""
    every: int = 8
    """One click in this many is learned from, chosen by the event's key."""
    prior: float = 300.0
    """Diagonal of H_0: the initial weights count as much as the evidence of some 300 clicks that are learned from."""
    forgetting: float = 0.999
    """l: the factor by which H is multiplied at each click that is learned from."""


@kernel
def draw_probes(
    ring: I32, stream: F64, users: I32, items: I32, clicks: F32, keys: U64, every: int, seen_counts: I64, pages: I32,
    page_of: I32, window: int, proposed: int, probes: I32,
) -> None:  # fmt: skip
    """Write to `probes` (n, 1 + c) the clicked item, if it is new to the user, places for proposals, and new items from the ring.

    -1 elsewhere. `ring` is a copy, (RING,), and is advanced.
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
            probes[k, 1 : 1 + proposed] = PROPOSE
            for m in range(1 + proposed, probes.shape[1]):
                j = ring[mix64(keys[k], (1 << 20) + m) % np.uint64(min(clicked, len(ring)))]
                if j != i and not has_seen(pages, page_of, u, seen_counts[k], window, j):
                    probes[k, m] = j
        ring[clicked % len(ring)] = i
        clicked += 1


@kernel
def share_of(in_ring: I32, stream: F64, i: int) -> float:
    """An item's share of the ring; one that is not in it counts as half a click. `in_ring` (item rows,): how often each is in it."""
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
def feature(score: float, kind: int, stream: F64) -> float:
    """f_e from a score; ratings are divided by a quarter of their range, about a deviation; of counts it is the log; 0 from repeats."""
    if kind == RATING:
        return score * 4.0 / stream[0, RANGE] if stream[0, RANGE] > 0.0 else 0.0
    if kind == REPEAT:
        return 0.0
    return np.log(max(score, COUNT_SMALLEST)) if kind == COUNT else score


@kernel
def move_weights(
    stream: F64, d: F64, z: F64, q: F64, count: int, own: float, share: float, prior: float, forgetting: float
) -> None:
    """One step: `d` (count, n) are f(j) - f(i), with a first row of zeros, `z` (count,) are w . d, `q` (count,) as above, 1 first.

    `own` is w . f of the clicked item, `share` its share of the last clicks.
    """
    n = d.shape[1]
    w = stream[0, WEIGHTS : WEIGHTS + n]
    variance, h = stream[0, WEIGHTS + n : WEIGHTS + 2 * n], stream[0, WEIGHTS + 2 * n :].reshape(n, n)
    p = np.empty(count)
    for m in range(count):
        p[m] = np.exp(min(max(z[m], -50.0), 50.0)) / q[m]
    stream[0, LEVEL] += RATE * (own + np.log(p.sum()) - stream[0, LEVEL])
    p /= p.sum()
    foreseen, unforeseen = (1.0 - stream[0, UNFORESEEN]) * p[0], stream[0, UNFORESEEN] * share
    stream[0, UNFORESEEN] += RATE * (unforeseen / (foreseen + unforeseen) - stream[0, UNFORESEEN])
    reliability = p[0] / (p[0] + HALF_COUNTED)
    g = np.zeros(n)
    for m in range(count):
        for a in range(n):
            g[a] += p[m] * d[m, a]
    for a in range(n):
        for b in range(a + 1):
            second = 0.0
            for m in range(count):
                second += p[m] * d[m, a] * d[m, b]
            h[a, b] = forgetting * h[a, b] + reliability * (second - g[a] * g[b])
            if a == b:
                variance[a] += RATE * (second - g[a] * g[a] - variance[a])
            h[b, a] = h[a, b]
        h[a, a] += (1.0 - forgetting) * prior * max(variance[a], RATE)
    move = solve(h.copy(), g)
    if np.isfinite(move.sum()):
        for a in range(n):
            w[a] -= reliability * move[a]
    else:
        stream[0, REFUSED] += 1.0


@kernel
def learn_click_blend(
    stream: F64, stream_touched: U8, ring: I32, ring_touched: U8, in_ring: I32, users: I32, items: I32, clicks: F32, lows: F32,
    highs: F32, seen_counts: I64, pages: I32, page_of: I32, window: int, probes: I32, proposed: int, scores: F32, kinds: I32,
    prior: float, forgetting: float,
) -> None:  # fmt: skip
    """The stream's row is [the columns above, w (n,), variances (n,), H (n, n)]; scores (n, events with probes, 1 + c)."""
    n, asked = len(scores), -1
    d, z, q = np.empty((probes.shape[1], n)), np.empty(probes.shape[1]), np.empty(probes.shape[1])
    drawn = max(probes.shape[1] - 1 - proposed, 1)
    for k in range(len(clicks)):
        if not np.isfinite(clicks[k]):
            stream[0, REFUSED] += 1.0
            stream_touched[0] = 1
        if not (clicks[k] > 0 and np.isfinite(clicks[k])):
            continue
        width = np.float64(highs[k]) - np.float64(lows[k])
        if np.isfinite(width):
            stream[0, RANGE] = width
        asked += probes[k, 0] >= 0
        count, own = 0, 0.0
        for m in range(probes.shape[1] if probes[k, 0] >= 0 else 0):
            j, total = probes[k, m], 0.0
            if j < 0 or (m > proposed and position_of(probes[k, 1 : 1 + proposed], j) >= 0):
                continue
            for a in range(n):
                there = feature(np.float64(scores[a, asked, m]), kinds[a], stream)
                here = feature(np.float64(scores[a, asked, 0]), kinds[a], stream)
                own += stream[0, WEIGHTS + a] * here if m == 0 else 0.0
                d[count, a] = min(max(there - here, -FEATURE_CLIP), FEATURE_CLIP)
                total += stream[0, WEIGHTS + a] * d[count, a]
            z[count], q[count] = total, drawn * share_of(in_ring, stream, j) if m > proposed else 1.0
            count += np.isfinite(total)
        # What was never clicked before is no candidate of anybody, and could not be predicted.
        if count > 1 and (in_ring[items[k]] > 0 or np.any((kinds == COUNT) & (scores[:, asked, 0] > 0.0))):
            move_weights(stream, d, z, q, count, own, share_of(in_ring, stream, items[k]), prior, forgetting)
        known = has_seen(pages, page_of, users[k], seen_counts[k], window, items[k])
        for column, is_own in ((KNOWN, known), (NEW, not known)):
            stream[0, column] = FORGETTING_KNOWN * stream[0, column] + is_own
        place = int(stream[0, CLICKED]) % ring.shape[1]
        if ring[0, place] >= 0:
            in_ring[ring[0, place]] -= 1
        ring[0, place] = items[k]
        in_ring[items[k]] += 1
        stream[0, CLICKED] += 1.0
        stream_touched[0] = ring_touched[0] = 1


@kernel
def score_click_blend(stream: F64, scores: F32, kinds: I32, known: Bool, rho: float, out: F32) -> None:
    """Scores of items from the experts' `scores` (experts, n) into `out` (n,); features that are not finite count 0.

    `known` (n,): whether the user knows the item.
    """
    odds, listed = np.log(rho / (1.0 - rho)), -1
    for e in range(len(kinds)):
        if kinds[e] == REPEAT:
            listed = e
    for k in range(len(out)):
        total = 0.0
        for e in range(len(scores)):
            f = feature(np.float64(scores[e, k]), kinds[e], stream)
            total += stream[0, WEIGHTS + e] * f if np.isfinite(f) else 0.0
        if known[k]:
            total = odds + (stream[0, LEVEL] + np.float64(scores[listed, k]) if listed >= 0 else total)
        out[k] = total


@kernel
def share_probabilities(z: F32, known: Bool, shares: F64, unforeseen: float, rho: float, out: F32) -> None:
    """P(i) of items with scores `z` (n,) and `shares` of the last clicks (n,) into `out` (n,)."""
    largest, sums, clicks = np.full(2, -np.inf), np.zeros(2), np.zeros(2)
    for k in range(len(out)):
        nest = int(known[k])
        largest[nest] = max(largest[nest], z[k])
        clicks[nest] += shares[k]
    for k in range(len(out)):
        sums[int(known[k])] += np.exp(np.float64(z[k]) - largest[int(known[k])])
    rest = 1.0 if sums[0] == 0.0 or sums[1] == 0.0 else 0.0  # all are new, or all are known
    for k in range(len(out)):
        nest = int(known[k])
        foreseen = np.exp(np.float64(z[k]) - largest[nest]) / sums[nest]
        mixed = foreseen if nest else (1.0 - unforeseen) * foreseen + unforeseen * shares[k] / clicks[nest]
        out[k] = mixed * max(rho if nest else 1.0 - rho, rest)


class ClickBlend:
    """The default learner of clicks."""

    kind: Kind = "clicks"
    Parameters = ClickBlendParameters

    def __init__(self, name: str, parameters: ClickBlendParameters, *, seed: int) -> None:
        """The seed acts through the events' keys only."""
        self.name, self.parameters = name, parameters
        n = len(parameters.weights)
        start = [0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, *parameters.weights, *[1.0] * n]
        self.stream = Table("stream", [*start, *(parameters.prior * np.eye(n)).ravel().tolist()], dtype=np.float64)
        self.ring = Table("stream", [-1] * RING, dtype=np.int32)
        self._in_ring: I32 = np.zeros(0, dtype=np.int32)
        self._experts: list[OnlineLearner] = []
        special = {RATINGS: RATING, REPEATS: REPEAT, **dict.fromkeys(COUNTS, COUNT)}
        kinds = [special.get(one, AS_IT_IS) for one in parameters.experts]
        self._kinds: I32 = np.array(kinds, dtype=np.int32)

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
        """See Composed: (n, 1 + c).

        For a click that is learned from, its item and the items that it is compared with; -1 for all other events.
        """
        p, seen = self.parameters, batch.seen
        probes = np.empty((len(batch), 1 + p.proposed + p.drawn), dtype=np.int32)
        draw_probes(
            self.ring.values[0].copy(), self.stream.values, batch.users, batch.items, batch.clicks, batch.keys,
            p.every, batch.seen_counts, seen.pages, seen.page_of, seen.window, p.proposed, probes,
        )  # fmt: skip
        return probes

    def learn(self, batch: Batch) -> F32:
        """See OnlineLearner and Composed."""
        self._reserve(int(batch.items.max(initial=-1)) + 1)
        probes, p, seen = batch.probes, self.parameters, batch.seen
        opinions = [batch.opinions[name].scores for name in p.experts]
        rows = np.flatnonzero(probes[:, 0] >= 0)  # few
        scores = np.zeros((len(opinions), len(rows), probes.shape[1]), dtype=np.float32)
        for e, probed in enumerate(opinions):
            if probed.shape == probes.shape:
                scores[e] = probed[rows]
        learn_click_blend(
            self.stream.values, self.stream.touched, self.ring.values, self.ring.touched, self._in_ring, batch.users,
            batch.items, batch.clicks, batch.lows, batch.highs, batch.seen_counts, seen.pages, seen.page_of, seen.window,
            probes, p.proposed, scores, self._kinds, p.prior, p.forgetting,
        )  # fmt: skip
        return self._pooled({name: batch.opinions[name].predicted for name in p.experts})

    def predict(self, batch: Batch) -> F32:
        """See OnlineLearner; the experts' pooled prediction."""
        return self._pooled({n: e.predict(batch) for n, e in zip(self.experts, self._experts, strict=True)})

    def score(self, user: UserView, items: I32) -> F32:
        """w . f of items that are new to the user, (len(items),), and what compares with it for known ones.

        Cost: that of the experts' scores.
        """
        scores, rated = np.zeros((len(self._experts), len(items)), dtype=np.float32), self.stream.values[0, RANGE] > 0.0
        for e, expert in enumerate(self._experts):
            if rated or self._kinds[e] != RATING:
                scores[e] = expert.score(user, items)
        out = np.empty(len(items), dtype=np.float32)
        score_click_blend(self.stream.values, scores, self._kinds, _known(user, items), self._repeat_rate(user), out)
        return out

    def probabilities(self, user: UserView, items: I32) -> F32:
        """P(i), (len(items),), if the user's next click is on one of these items; they sum up to 1."""
        shares = np.array([share_of(self._in_ring, self.stream.values, i) for i in items.tolist()])
        out, unforeseen = np.empty(len(items), dtype=np.float32), float(self.stream.values[0, UNFORESEEN])
        share_probabilities(
            self.score(user, items), _known(user, items), shares, unforeseen, self._repeat_rate(user), out
        )
        return out

    def _repeat_rate(self, user: UserView) -> float:
        """rho, within (0, 1): the user's, if `repeats` is among the experts, otherwise that of all."""
        known, new = self.stream.values[0, [KNOWN, NEW]]
        rho = (known + 0.1) / (known + new + 1.0)
        for name, expert in zip(self.experts, self._experts, strict=True):
            if name == REPEATS and isinstance(expert, Repeats):
                rho = expert.repeat_rate(user)
        return float(min(max(rho, RHO_SMALLEST), 1.0 - RHO_SMALLEST))

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


def _known(user: UserView, items: I32) -> Bool:
    """Whether the user has seen each item, (len(items),)."""
    known = np.zeros(int(max(items.max(initial=0), user.seen.max(initial=0))) + 1, dtype=np.bool_)
    known[user.seen] = True
    found: Bool = (items >= 0) & known[items]
    return found
