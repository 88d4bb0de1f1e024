"""Regret over the oracle: how much lower a learner's RMSE could be, where a simulated world says what was to be expected.

    oracle = sqrt(mean (y - E)^2)        regret = sqrt(oracle^2 + mean (prediction - E)^2) - oracle

E is the field `expected` of a rating, its expectation given the truth: the oracle predicts it. This is the learner's RMSE
less the oracle's, without the term whose expectation is 0 (twice the mean of (prediction - E)(E - y): a rating's noise has
nothing to do with what was predicted before it). So regret is in units of RMSE, is never below 0, is 0 for who predicts
E, and does not tremble with the noise of the ratings.

Learners never see E: it stands in no Batch. It is read from the record by the encoder, and kept in memory alone.
Cost: a look at one rating a batch where nothing is simulated, about .7 us a rating where it is.
"""

from collections.abc import Mapping, Sequence
from math import nan, sqrt

import msgspec
import numpy as np

from streamer.core.arrays import F64
from streamer.core.events import Event, Rating, Record
from streamer.core.settings import NUMBER_MAX

FIELD = b'"expected"'
_RING = 10_000  # the longest window


class _Truth(msgspec.Struct, gc=False):
    expected: float | None = None


_DECODER = msgspec.json.Decoder(_Truth)


class _Squares:
    """The mean of squares, of the last ones and of all."""

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
    """Sees what was to be expected of each rating, and what was predicted. One thread writes; reading is safe from any."""

    def __init__(self) -> None:
        self.watching = False  # whether ratings say what was to be expected; True: look at every one
        self._expected: F64 = np.empty(0)
        self._noise = _Squares()
        self._misses: dict[str, _Squares] = {}

    def expect(self, records: Sequence[Record], events: Sequence[Event]) -> None:
        """Note what is said of the ratings among `events`, in order, each from its record; `observe` comes next.

        Looks at every rating from the first batch on whose first rating says what was to be expected.
        """
        self._expected = np.empty(0)
        if not self.watching:
            spot = next((k for k, event in enumerate(events) if type(event) is Rating), None)
            self.watching = spot is not None and FIELD in (records[spot].value or b"")
        if self.watching:
            rated = [
                record.value or b"" for record, event in zip(records, events, strict=True) if type(event) is Rating
            ]
            self._expected = np.fromiter(map(expected, rated), np.float64, len(rated))

    def observe(self, values: F64, predictions: Mapping[str, F64]) -> None:
        """Take up ratings (n,) and what each learner predicted for them, (n,) each; those without an expectation count nowhere."""
        expected, self._expected = self._expected, np.empty(0)
        if len(expected) != len(values):
            return
        self._noise.add(_finite(values - expected))
        for name, predicted in predictions.items():
            self._misses.setdefault(name, _Squares()).add(_finite(predicted - expected))

    @property
    def noted(self) -> F64:
        """What was to be expected of the ratings that `observe` sees next, (n,); (0,) where nothing is said."""
        return self._expected

    @property
    def ratings(self) -> int:
        """Ratings that said what was to be expected."""
        return self._noise.count

    def oracle_rmse(self, window: int | None = None) -> float:
        """The oracle's RMSE over the last `window` of them (at most 10,000), or over all; NaN before the first."""
        return sqrt(self._noise.mean(window))

    def of(self, learner: str, window: int | None = None) -> float:
        """The learner's regret over the same; NaN before its first prediction."""
        missed = self._misses.get(learner)
        oracle = self._noise.mean(window)
        return sqrt(oracle + missed.mean(window)) - sqrt(oracle) if missed is not None else nan


def expected(value: bytes) -> float:
    """What a rating says was to be expected, NaN where it says nothing."""
    if FIELD not in value:
        return nan
    try:
        found = _DECODER.decode(value).expected
    except (msgspec.DecodeError, UnicodeDecodeError):  # anything may stand there: the field is none of an event's
        return nan
    return found if found is not None and abs(found) <= NUMBER_MAX else nan


def _finite(errors: F64) -> F64:
    return np.square(errors[np.isfinite(errors)])
