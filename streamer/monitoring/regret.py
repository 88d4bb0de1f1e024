"""Regret: how far a learner's RMSE is above that of an oracle, on ratings of a simulated world that carry their expectation.

    oracle = sqrt(mean (y - E)^2)        regret = sqrt(oracle^2 + mean (prediction - E)^2) - oracle

E is the field `expected` of a rating, its expectation given the truth; the oracle predicts E. Regret is the learner's RMSE
minus the oracle's, without the cross term, whose expectation is 0 (twice the mean of (prediction - E)(E - y): the noise of a
rating is independent of a prediction made before it). So regret is in units of RMSE, is never below 0, is 0 for a learner
that predicts E, and does not vary with the noise of the ratings.

Learners never see E: no Batch holds it. The encoder reads it from the record, and it is kept in memory only.
Cost: one rating of each batch is inspected where nothing is simulated; about .7 us a rating where the world is simulated.
"""

from collections.abc import Mapping, Sequence
from math import nan, sqrt

import msgspec
import numpy as np

from streamer.core.arrays import F64, U8
from streamer.core.batch import RATING
from streamer.core.events import Record, payload
from streamer.core.settings import NUMBER_MAX

FIELD = b'"expected"'
_RING = 10_000  # the longest window


class _Truth(msgspec.Struct, gc=False):
    expected: float | None = None


_DECODER = msgspec.json.Decoder(_Truth)


class _Squares:
    """The mean of squares, over the newest ones and over all."""

    def __init__(self) -> None:
        self.count, self._total = 0, 0.0
        self._ring: F64 = np.zeros(_RING)

    def add(self, squares: F64) -> None:
        kept = squares[-_RING:]
        count = self.count + len(squares)
        self._ring[np.arange(count - len(kept), count) % _RING] = kept
        self._total += float(squares.sum())
        self.count = count

    def mean(self, window: int | None) -> float:
        if not self.count:
            return nan
        if window is None:
            return self._total / self.count
        return float(self._ring[np.arange(max(0, self.count - min(window, _RING)), self.count) % _RING].mean())


class Regret:
    """Compares predictions with the expectations of simulated ratings. One thread writes; any thread may read."""

    def __init__(self) -> None:
        self.watching = False  # True: ratings carry their expectation, so every one is inspected
        self._expected: F64 = np.empty(0)
        self._noise = _Squares()
        self._misses: dict[str, _Squares] = {}

    def note_expected(self, records: Sequence[Record], kinds: U8) -> None:
        """Read the expectations of the events that are RATING from their records, in order; call `observe` next.

        Until a batch's first rating carries an expectation, only the first rating of each batch is inspected.
        """
        self._expected = np.empty(0)
        rated = np.flatnonzero(kinds == RATING)
        if not self.watching and len(rated):
            self.watching = FIELD in (records[rated[0]].value or b"")
        if self.watching:
            values = [expected(records[k].value or b"") for k in rated.tolist()]
            self._expected = np.array(values, dtype=np.float64)

    def observe(self, values: F64, predictions: Mapping[str, F64]) -> None:
        """Add ratings (n,) and each learner's predictions for them, (n,); ratings without an expectation are left out."""
        expected, self._expected = self._expected, np.empty(0)
        if len(expected) != len(values):
            return
        self._noise.add(_finite(values - expected))
        for name, predicted in predictions.items():
            self._misses.setdefault(name, _Squares()).add(_finite(predicted - expected))

    @property
    def latest_expected(self) -> F64:
        """The expectations of the ratings that `observe` gets next, (n,); (0,) where ratings carry none."""
        return self._expected

    @property
    def ratings(self) -> int:
        """Ratings so far that carried an expectation."""
        return self._noise.count

    def oracle_rmse(self, window: int | None = None) -> float:
        """The oracle's RMSE over the last `window` ratings (at most 10,000), or over all; NaN before the first."""
        return sqrt(self._noise.mean(window))

    def above_oracle(self, learner: str, window: int | None = None) -> float:
        """The learner's regret over the same ratings; NaN before its first prediction."""
        missed = self._misses.get(learner)
        oracle = self._noise.mean(window)
        return sqrt(oracle + missed.mean(window)) - sqrt(oracle) if missed is not None else nan


def expected(value: bytes) -> float:
    """The expectation that a rating's record carries; NaN where it carries none."""
    if FIELD not in value:
        return nan
    try:
        found = _DECODER.decode(payload(value)).expected
    except (msgspec.DecodeError, UnicodeDecodeError):  # the decoder does not check this field, so it may hold anything
        return nan
    return found if found is not None and abs(found) <= NUMBER_MAX else nan


def _finite(errors: F64) -> F64:
    return np.square(errors[np.isfinite(errors)])
