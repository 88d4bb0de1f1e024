"""The stack: learners of ratings, its experts, blended by weights that are learned online.

    y = p_0 + sigma w.x + noise,   x = [d_1, .., d_k, (p_0 - mu) / sigma, 1],   d_j = (p_j - p_0) / sigma

p_j is the prediction of expert j before it learned the event, mu and sigma are the running mean and deviation of all
ratings, so y is linear in 1, p_0, .., p_k, on any scale. With e = (y - prediction) / sigma and the forgetting factor lambda,

    S = lambda R + x'Px,   w <- w + P x e / S,   P <- (P - P x x'P / S) / lambda

w starts at 0 with a small P: the stack starts as its first expert and departs from it as evidence comes. P never exceeds its
initial value, since forgetting would make it grow without bound in directions without events. An expert without a finite
prediction counts as agreeing with the first. The experts keep their own states; the stack itself keeps one row.
Cost: O(k^2) an event, .1 us with five experts, plus theirs. State: 4 + n + n (n + 1) / 2 float64, n = k + 2.

Haykin (2002), Adaptive filter theory, ch. 9: recursive least squares with exponential forgetting. Breiman (1996), Stacked
regressions, Machine Learning 24. Deviations: the inputs are differences from the first expert, so that the prior is
that expert; d and e are clipped; P is bounded.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from streamer.core.arrays import F32, F64, I32, U8
from streamer.core.batch import RATING, REPLACED, Batch, UserView
from streamer.core.kernel import kernel
from streamer.core.protocols import Kind, OnlineLearner
from streamer.core.tables import Table
from streamer.models.evidence import take_from_moments

EVENTS, MU, SQUARES, REFUSED, WEIGHTS = range(5)  # columns of the stream; WEIGHTS: where w begins, followed by P
SMALLEST = 1e-12  # the smallest variance of a weight, whatever the rounding


class StackParameters(msgspec.Struct, frozen=True):
    """Experts and constants, for ratings of deviation 1.

    They were chosen because they gained both on halves of MovieLens and on simulated worlds.
    """

    experts: tuple[str, ...] = (
        "bayesian-hybrid",
        "bayesian-hybrid-latent",
        "bayesian-hybrid-categories",
        "bayesian-hybrid-plain",
        "bias",
    )
    """Learners of ratings. Before any evidence the stack predicts what the first one does."""
    forgetting: float = 0.9999
    """lambda: the factor by which each event reduces the weight of earlier events: to 1/e after 10,000. The design's value."""
    noise: float = 0.7
    """R: variance of a rating around the blend. About that of the hybrid around its own prediction."""
    weight_prior: float = 0.01
    """Initial and largest variance of a weight. .02 gains as much; with less the first events change nothing."""
    constant_prior: float = 0.001
    """Variance of the constant, in ratings of deviation 1; small, as the experts already know the mean."""
    clip: float = 4.0
    """Larger differences and errors are clipped to this, in deviations of the ratings. No rating of a five-star scale
    is further off."""


@kernel
def differences(opinions: F32, stream: F64, clip: float, x: F64) -> tuple[float, float]:
    """Write x (k + 1,) for one event from the experts' predictions (k,).

    Return p_0 and sigma, which is 0 while all ratings are equal.
    """
    mu, last = stream[0, MU], len(opinions)
    sigma = np.sqrt(stream[0, SQUARES] / max(stream[0, EVENTS], 1.0))
    base = np.float64(opinions[0]) if np.isfinite(opinions[0]) else mu
    x[:] = 0.0
    if sigma > 0.0:
        for j in range(1, last):
            if np.isfinite(opinions[j]):
                x[j - 1] = min(max((np.float64(opinions[j]) - base) / sigma, -clip), clip)
        x[last - 1] = min(max((base - mu) / sigma, -clip), clip)
        x[last] = 1.0
    return base, float(sigma)


@kernel
def weighted_sum(stream: F64, x: F64) -> float:
    """w.x"""
    z = 0.0
    for j in range(len(x)):
        z += stream[0, WEIGHTS + j] * x[j]
    return z


@kernel
def add_to_moments(stream: F64, y: float) -> None:
    """Add a rating to the running mean and deviation."""
    mu = stream[0, MU]
    stream[0, EVENTS] += 1.0
    stream[0, MU] += (y - mu) / stream[0, EVENTS]
    stream[0, SQUARES] += (y - mu) * (y - stream[0, MU])


@kernel
def learn_stack(
    stream: F64, touched: U8, opinions: F32, kinds: U8, values: F32, earlier: F32, priors: F64,
    model: tuple[float, float, float], out: F32,
) -> None:  # fmt: skip
    """Learn from the predictions `opinions` (n, k); `priors` (k + 1,) are the initial variances in P; `model` is
    forgetting, noise, clip; `earlier` from batch.TakenBack."""
    forgetting, noise, clip = model
    n, p = len(priors), WEIGHTS + len(priors)  # p: where P begins, its lower triangle row by row
    x, px, shrink = np.empty(n), np.empty(n), np.empty(n)
    for k in range(len(kinds)):
        out[k] = np.nan
        if k < len(earlier) and not np.isnan(earlier[k]):
            take_from_moments(stream, EVENTS, MU, SQUARES, np.float64(earlier[k]))
            if kinds[k] == REPLACED:  # nobody has predicted it
                add_to_moments(stream, np.float64(values[k]))
            touched[0] = 1
        if kinds[k] != RATING:
            continue
        y = np.float64(values[k])
        base, sigma = differences(opinions[k], stream, clip, x)
        z = weighted_sum(stream, x)
        out[k] = base + sigma * z
        touched[0] = 1
        if not np.isfinite(y):
            stream[0, REFUSED] += 1.0
            continue
        if sigma > 0.0:
            s = forgetting * noise
            for i in range(n):
                px[i] = 0.0
                for j in range(n):
                    at = p + (i * (i + 1) // 2 + j if j <= i else j * (j + 1) // 2 + i)
                    px[i] += stream[0, at] * x[j]
                s += px[i] * x[i]
            e = min(max((y - base) / sigma - z, -clip), clip)
            for i in range(n):
                stream[0, WEIGHTS + i] += px[i] * e / s
                at = p + i * (i + 3) // 2
                grown = max((stream[0, at] - px[i] * px[i] / s) / forgetting, SMALLEST)
                shrink[i] = np.sqrt(min(1.0, priors[i] / grown))
            for i in range(n):
                for j in range(i + 1):
                    at = p + i * (i + 1) // 2 + j
                    moved = (stream[0, at] - px[i] * px[j] / s) / forgetting
                    stream[0, at] = shrink[i] * shrink[j] * (max(moved, SMALLEST) if i == j else moved)
        add_to_moments(stream, y)


@kernel
def predict_stack(stream: F64, opinions: F32, clip: float, out: F32) -> None:
    """The blend of `opinions` (n, k) into `out` (n,)."""
    x = np.empty(opinions.shape[1] + 1)
    for k in range(len(out)):
        base, sigma = differences(opinions[k], stream, clip, x)
        out[k] = base + sigma * weighted_sum(stream, x)


class Stack:
    """More accurate than any of its experts, at the cost of all of them."""

    kind: Kind = "ratings"
    Parameters = StackParameters

    def __init__(self, name: str, parameters: StackParameters, *, seed: int) -> None:
        """The seed is unused: only the experts are random."""
        self.name, self.parameters = name, parameters
        p, differences = parameters, len(parameters.experts)  # k - 1 from the first expert, and its own from the mean
        self.priors = np.array([p.weight_prior] * differences + [p.constant_prior])
        n = len(self.priors)
        covariance = np.diag(self.priors)[np.tril_indices(n)]
        self.stream = Table("stream", [0.0] * (WEIGHTS + n) + covariance.tolist(), dtype=np.float64)
        self.model = (p.forgetting, p.noise, p.clip)
        self._experts: Sequence[OnlineLearner] = ()

    @property
    def experts(self) -> Sequence[str]:
        """See Composed."""
        return self.parameters.experts

    def compose(self, experts: Mapping[str, OnlineLearner]) -> None:
        """See Composed."""
        self._experts = [experts[name] for name in self.experts]

    def probes(self, batch: Batch) -> I32:
        """See Composed; none."""
        return np.empty((len(batch), 0), dtype=np.int32)

    def tables(self) -> Mapping[str, Table]:
        """See Stateful."""
        return {"stream": self.stream}

    def rescale(self, factor: float, shift: float) -> None:
        """See Rescaled: weights are of deviations, so only mu and sigma change."""
        row = self.stream.values[0]
        row[MU], row[SQUARES] = factor * row[MU] + shift, factor * factor * row[SQUARES]
        self.stream.touched[0] = 1

    @property
    def refused(self) -> int:
        """See Guarded."""
        return int(self.stream.values[0, REFUSED])

    def learn(self, batch: Batch) -> F32:
        """See OnlineLearner; predictions are not clipped."""
        out = np.empty(len(batch), dtype=np.float32)
        opinions = _as_columns([batch.opinions[name].predicted for name in self.experts])
        learn_stack(
            self.stream.values, self.stream.touched, opinions, batch.kinds, batch.values, batch.taken_back.earlier,
            self.priors, self.model, out,
        )  # fmt: skip
        return out

    def predict(self, batch: Batch) -> F32:
        """See OnlineLearner; predictions are not clipped."""
        out = self._blend([expert.predict(batch) for expert in self._experts])
        out[batch.kinds != RATING] = np.nan
        return out

    def score(self, user: UserView, items: I32) -> F32:
        """The predicted ratings, (len(items),), not clipped. Cost: the experts', plus 20 ns an item."""
        return self._blend([expert.score(user, items) for expert in self._experts])

    def _blend(self, predictions: Sequence[F32]) -> F32:
        out = np.empty(len(predictions[0]), dtype=np.float32)
        predict_stack(self.stream.values, _as_columns(predictions), self.parameters.clip, out)
        return out


def _as_columns(predictions: Sequence[F32]) -> F32:
    """(n, k)"""
    return np.ascontiguousarray(np.array(predictions, dtype=np.float32).T)
