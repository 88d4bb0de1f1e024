"""A ranker over click learners: a conditional logit whose weights are learned click by click.

    P(i) = (1 - u) exp(z_i) / sum_j exp(z_j) + u s_i            s_i: the item's share of the last 4,096 clicks
    z_i  = w . f(i), or v . (1, r_i, w . f(i)) for an item on the user's list         r_i: the score of `repeats`, its log odds
    f(i): the scores of the n experts, ln sum_e a_e P_e(i), the mixture of those that say a probability, and 1 if the user knows i
    a click on i, which is not on the list, against c candidates j that are not either:
    e_j = exp(z_j - z_i) / q_j,   pi = 1 / (1 + sum_j e_j),   r = pi / (pi + .005)
    h = (f, w_mixture a_e P_e / sum_e a_e P_e), what z changes by with w and with ln a
    g = pi sum_j e_j (h(j) - h(i)),   H <- l H + (1 - l) H_0 + r (the covariance of h under pi, pi e_j),   (w, ln a) -= r H^-1 g
    any click, against all candidates: the same step for v

The list holds the last items that the user clicked. What makes one of them likely again differs from what makes a new item likely, so
they have weights of their own; w is learned from clicks on new items alone. A product of experts, as the logit over
their scores is, ranks low what one of them has never seen after the last clicks, however sure the others are. A mixture does
not: on shop sessions it ranks better, and on films the product does. So both are features.
The candidates are the items that the first expert proposes (q = 1: all of them are counted), 8 of those that the user knows
(q = 8 / their number) and m new ones drawn from the last 4,096 clicks to stand for all others (q_j: m times the item's share of
these clicks). Drawn ones alone would not do: the few items that compete with the clicked one are rarely among them.
r discounts clicks that nothing could have predicted: pure likelihood would fit the weights to them, and ranks worse.
Such clicks have a part of their own in the probabilities, with u learned by expectation maximisation, so that they are calibrated.
H_0 is in units of each feature's own variance among the candidates, so that the scale of an expert's scores does not matter.
The scores are those just before the click (protocols.Probed); an expert that cannot report them keeps its initial weight.
Cost: c + 1 scores of each expert for one click in `every`. State: a row of some 250 numbers and one of 4,096 items.

McFadden (1974), Conditional logit analysis of qualitative choice behavior; Bengio, Senecal (2008), Adaptive importance sampling
to accelerate training of a neural probabilistic language model, IEEE Trans. Neural Networks 19. Deviations: a Newton step with
forgetting instead of a gradient step, so that there is no rate to tune; the most likely candidates are all counted, not drawn.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from streamer.core.arrays import F32, I32, Array, Bool
from streamer.core.batch import Batch, UserView
from streamer.core.protocols import ItemVectors, Kind, OnlineLearner
from streamer.core.tables import Table
from streamer.models.click_blend.kernel import (
    AS_IT_IS,
    COUNT,
    LISTED_FEATURES,
    OWN,
    PROBABILITY,
    RANGE,
    RATING,
    REFUSED,
    REPEAT,
    RING,
    UNFORESEEN,
    draw_probes,
    learn_click_blend,
    score_click_blend,
    share_of,
    share_probabilities,
)

RATINGS = "ratings"  # the expert whose scores are ratings
COUNTS = ("popularity", "popularity-recent", "popularity-now")  # experts whose scores are numbers of clicks
PROBABILITIES = ("transitions", "neighbours")  # experts whose scores are logs of P(i | u)
REPEATS = "repeats"  # the expert that knows the items on the user's list, and is used for nothing else


class ClickBlendParameters(msgspec.Struct, frozen=True):
    """The experts, and how their weights move."""

    experts: tuple[str, ...] = (
        "transitions", "neighbours", "skip-gram", "popularity-now", "popularity-recent", "popularity", RATINGS, REPEATS
    )  # fmt: skip
    """Names of learners; `ratings` is the champion for ratings. The first one proposes candidates."""
    weights: tuple[float, ...] = (0.0, 0.0, 0.05, 0.0, 0.0, -0.05, 0.4, 0.0)
    """Initial weights of the experts. That of `repeats` stays 0."""
    mixture: float = 1.0
    """Initial weight of the mixture."""
    known: float = -1.0
    """Initial weight of an item that the user knows and that is not on the list, such as one rated low."""
    proposed: int = 48
    """Candidates that the first expert proposes. 64 rank alike."""
    drawn: int = 32
    """m: candidates that are drawn to stand for all others."""
    every: int = 16
    """One click in this many is learned from, chosen by the event's key; of the first 2,048 each one. 8 gain .5%, and cost more."""
    prior: float = 30.0
    """Diagonal of H_0: the initial weights count as much as the evidence of some 30 clicks that are learned from.

    300 lose 1% to 4%: where one expert suffices, the blend is to end there within some thousand clicks.
    """
    forgetting: float = 0.999
    """l: the factor by which H is multiplied at each click that is learned from."""


class ClickBlend:
    """The default learner of clicks."""

    kind: Kind = "clicks"
    Parameters = ClickBlendParameters

    def __init__(self, name: str, parameters: ClickBlendParameters, *, seed: int) -> None:
        """The seed acts through the events' keys only."""
        self.name, self.parameters = name, parameters
        shares = [0.0 for one in parameters.experts if one in PROBABILITIES]
        weights = [*parameters.weights, parameters.mixture, parameters.known, *shares]
        n = len(weights)
        h, h_listed = ((parameters.prior * np.eye(size)).ravel().tolist() for size in (n, LISTED_FEATURES))
        start = [0.0, 0.0, 0.0, 0.5, 0.0, 1.0, 0.0, *h_listed, *weights, *[1.0] * n, *h]
        self.stream = Table("stream", start, dtype=np.float64)
        self.ring = Table("stream", [-1] * RING, dtype=np.int32)
        self._in_ring: I32 = np.zeros(0, dtype=np.int32)
        self._experts: list[OnlineLearner] = []
        special = {
            RATINGS: RATING, REPEATS: REPEAT, **dict.fromkeys(COUNTS, COUNT), **dict.fromkeys(PROBABILITIES, PROBABILITY),
        }  # fmt: skip
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
        probes = np.empty((len(batch), 1 + p.proposed + OWN + p.drawn), dtype=np.int32)
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
        scores = np.zeros((len(rows), probes.shape[1], len(opinions)), dtype=np.float32)
        for e, probed in enumerate(opinions):
            if probed.shape == probes.shape:
                scores[:, :, e] = probed[rows]
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
        """z of items, (len(items),). Cost: that of the experts' scores."""
        scores, rated = np.zeros((len(self._experts), len(items)), dtype=np.float32), self.stream.values[0, RANGE] > 0.0
        for e, expert in enumerate(self._experts):
            if rated or self._kinds[e] != RATING:
                scores[e] = expert.score(user, items)
        out = np.empty(len(items), dtype=np.float32)
        score_click_blend(self.stream.values, scores, self._kinds, _known(user, items), out)
        return out

    def probabilities(self, user: UserView, items: I32) -> F32:
        """P(i), (len(items),), if the user's next click is on one of these items; they sum up to 1."""
        shares = np.array([share_of(self._in_ring, self.stream.values, i) for i in items.tolist()])
        out, unforeseen = np.empty(len(items), dtype=np.float32), float(self.stream.values[0, UNFORESEEN])
        share_probabilities(self.score(user, items), shares, unforeseen, out)
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


def _known(user: UserView, items: I32) -> Bool:
    """Whether the user has seen each item, (len(items),)."""
    known = np.zeros(int(max(items.max(initial=0), user.seen.max(initial=0))) + 1, dtype=np.bool_)
    known[user.seen] = True
    found: Bool = (items >= 0) & known[items]
    return found
