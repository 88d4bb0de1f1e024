"""The monitor: how well each ratings learner predicts, and what became of every event.

    rolling RMSE over w = sqrt(mean of the squared errors of the last w ratings)

Errors are prequential: an event is predicted before it is learned. The last 10,000 squared errors of each learner are kept
in a ring of blocks, so that a commit writes only the few blocks that changed; means are computed when they are read.
All of it is state: it is committed with the learners' rows and restored exactly, and does not depend on batch sizes.
Cost: about 0.1 us a rating and learner, most of it for the drift detector. State: 80 KiB a learner.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import nan, sqrt
from typing import TypeVar

import msgspec
import numpy as np

from streamer.core.arrays import F32, F64, U8
from streamer.core.batch import CLICK, RATING, REPEATED, REPLACED, RETRACTED, Batch
from streamer.core.errors import BadState, Reason
from streamer.core.events import CLICKS, RATINGS, TOPICS
from streamer.core.protocols import Kind, Row, StateStore
from streamer.monitoring.drift import Drift
from streamer.monitoring.odd_events import UnknownKinds, UnlikelyTimes
from streamer.monitoring.regret import Regret
from streamer.monitoring.repeated_input import RepeatedInput
from streamer.monitoring.scale import Scale
from streamer.monitoring.sessions import Sessions

TABLE = "monitor"
WINDOWS = (1_000, 10_000)  # ratings
LEARNED, DUPLICATE, DEAD_LETTER = "learned", "duplicate", "dead_letter"
CHANGED, WITHDRAWN, NOT_RATED, SAID_BEFORE = "replaced", "retracted", "not_rated", "repeated"
RESTATED = (CHANGED, WITHDRAWN, NOT_RATED, SAID_BEFORE)  # of learned events: what they change of earlier ones
OUTCOMES = (LEARNED, DUPLICATE, DEAD_LETTER, *RESTATED)
OTHER_TOPIC = "other"  # the label of every unknown topic, so that producers cannot create new labels

_BLOCK = 256  # errors a row
_RING = -(-max(WINDOWS) // _BLOCK) * _BLOCK
_COUNTS = b"counts"
# Reasons that came after states were made: left out of what is stored while they are 0, so that digests stay what they were.
_LATER_REASONS = {str(Reason.NO_SCHEMA)}


_T = TypeVar("_T")


class _Totals(msgspec.Struct, array_like=True):
    ratings: int = 0  # predicted, ever
    squared: float = 0.0  # sum of their squared errors, added one by one
    unpredicted: int = 0  # ratings for which no finite prediction was given


class _Counts(msgspec.Struct, array_like=True):
    events: dict[str, dict[str, int]]
    dead_letters: dict[str, int]
    refed: int = 0


class Errors:
    """The squared errors of one ratings learner, and the drifts in them."""

    def __init__(self, learner: str) -> None:
        self.learner = learner
        self.drift = Drift()
        self._totals = _Totals()
        self._ring: F64 = np.zeros(_RING)
        self._given = self._committed = (0, 0)  # (ratings, unpredicted) as `changed` returned them last, and as on disk

    @property
    def ratings(self) -> int:
        """Ratings predicted so far."""
        return self._totals.ratings

    @property
    def squared(self) -> float:
        """Sum of all squared errors so far."""
        return self._totals.squared

    @property
    def unpredicted(self) -> int:
        """Ratings without a finite prediction; they count in no error."""
        return self._totals.unpredicted

    def rmse(self, window: int | None = None) -> float:
        """RMSE over the last `window` ratings (fewer if there are fewer), or over all; NaN before the first. Cost: O(window)."""
        ratings = self._totals.ratings
        if not ratings:
            return nan
        if window is None:
            return sqrt(self._totals.squared / ratings)
        last = np.arange(max(0, ratings - min(window, _RING)), ratings) % _RING
        return sqrt(float(self._ring[last].mean()))

    def squares(self, first: int, end: int) -> F64:
        """Squared errors of the predicted ratings numbered first to end - 1, (end - first,).

        Raises ValueError for numbers that the ring does not hold any more, or not yet.
        """
        if not self.ratings - _RING <= first <= end <= self.ratings:
            raise ValueError(f"errors {first} to {end} of {self.ratings} are not all kept: only the newest {_RING} are")
        found: F64 = self._ring[np.arange(first, end) % _RING]
        return found

    def observe(self, squared: F64) -> None:
        """Add squared errors (n,), in order; one that is not finite counts as unpredicted."""
        finite = squared[np.isfinite(squared)]
        self._totals.unpredicted += len(squared) - len(finite)
        if not len(finite):
            return
        kept = finite[-_RING:]
        ratings = self._totals.ratings + len(finite)
        self._ring[np.arange(ratings - len(kept), ratings) % _RING] = kept
        # accumulate adds from left to right, so that the sum does not depend on batch sizes; sum() adds in pairs
        self._totals.squared = float(np.add.accumulate(np.append(self._totals.squared, finite))[-1])
        self._totals.ratings = ratings
        self.drift.update(finite)

    def changed(self) -> Iterator[Row]:
        """The rows that changed since `committed`."""
        self._given = (self.ratings, self.unpredicted)
        if self._given == self._committed:
            return
        yield Row(TABLE, self._key("totals"), msgspec.msgpack.encode(self._totals))
        yield Row(TABLE, self._key("drift"), self.drift.to_bytes())
        first = max(self._committed[0], self.ratings - _RING) // _BLOCK
        last = -(-self.ratings // _BLOCK)
        for block in sorted({number % (_RING // _BLOCK) for number in range(first, last)}):
            values = self._ring[block * _BLOCK : (block + 1) * _BLOCK]
            yield Row(TABLE, self._key(f"errors/{block:05d}"), values.astype("<f8").tobytes())

    def committed(self) -> None:
        """The rows that `changed` returned last are on disk."""
        self._committed = self._given

    def restore(self, store: StateStore) -> None:
        """Continue from the committed rows; raises BadState."""
        totals = store.read(TABLE, [self._key("totals")])[0]
        if totals is None:
            return
        self._totals = _decode(totals, _Totals, self._where("totals"))
        blocks = [f"errors/{block:05d}" for block in range(-(-min(self.ratings, _RING) // _BLOCK))]
        drift, *values = store.read(TABLE, [self._key("drift"), *map(self._key, blocks)])
        self.drift.load(drift or b"", self._where("drift"))
        for number, (block, value) in enumerate(zip(blocks, values, strict=True)):
            if value is None or len(value) != 8 * _BLOCK:
                found = "missing" if value is None else f"{len(value)} bytes long"
                raise BadState(
                    f"{self._where(block)} should hold {8 * _BLOCK} bytes and is {found}: "
                    "restore a backup, or learn again from the log"
                )
            self._ring[number * _BLOCK : (number + 1) * _BLOCK] = np.frombuffer(value, dtype="<f8")
        self._given = self._committed = (self.ratings, self.unpredicted)

    def _key(self, name: str) -> bytes:
        return f"{self.learner}/{name}".encode()

    def _where(self, name: str) -> str:
        return f"row {TABLE}/{self.learner}/{name} of the state"


class Monitor:
    """Counts events and keeps the errors of all ratings learners. The engine's thread writes; any thread may read."""

    def __init__(self, learners: Sequence[tuple[str, Kind]], session_gap_s: float = 0.0) -> None:
        """`learners`: names and kinds; ratings learners get errors, a rolling RMSE and a drift detector.

        `session_gap_s`: see Sessions.
        """
        self.errors = {name: Errors(name) for name, kind in learners if kind == "ratings"}
        self.events = {topic: dict.fromkeys(OUTCOMES, 0) for topic in (*TOPICS, OTHER_TOPIC)}
        self.dead_letters = {str(reason): 0 for reason in Reason}
        self.regret = Regret()  # in memory only: it starts empty with the process
        self.repeated_input = RepeatedInput()
        self.unlikely_times, self.unknown_kinds = UnlikelyTimes(), UnknownKinds()
        self.scale, self.sessions = Scale(), Sessions(session_gap_s)  # followed by the encoder; stored by themselves
        self._given = self._committed = self._counts()

    def observe(self, batch: Batch, predictions: Mapping[str, F32]) -> None:
        """Add a batch that was learned, with each learner's clipped predictions (n,) by name.

        Its ratings and clicks are counted as learned; only ratings have squared errors. A rating that replaces another one
        has none: what its user said of the item before would predict it. A wild rating counts as learners get it, as the
        nearest end of the scale: one that nobody could foresee would outweigh all others in the RMSE.
        """
        rated = batch.kinds == RATING
        ratings = int(np.count_nonzero(rated))
        self.count(RATINGS, LEARNED, ratings)
        self.count(CLICKS, LEARNED, int(np.count_nonzero(batch.kinds == CLICK)))
        if not ratings:
            return
        values = batch.values[rated].astype(np.float64)
        predicted = {name: predictions[name][rated].astype(np.float64) for name in self.errors}
        for name, errors in self.errors.items():
            errors.observe(np.square(predicted[name] - values))
        self.regret.observe(values, predicted)

    @property
    def learned(self) -> int:
        """Ratings and clicks learned so far, ever."""
        return self.events[RATINGS][LEARNED] + self.events[CLICKS][LEARNED]

    def count(self, topic: str, outcome: str, events: int = 1) -> None:
        """Count events that `observe` does not see: duplicates, dead letters, and updates of the catalogue."""
        if events:
            self.events[topic if topic in self.events else OTHER_TOPIC][outcome] += events

    def count_changes(self, kinds: U8, asked: U8) -> None:
        """Count the events (n,) that take something back or say nothing new, also as learned; `asked` are RATING, CLICK or RETRACTED."""
        counts = np.bincount(kinds, minlength=REPEATED + 1).tolist()
        self._count_restated(RATINGS, CHANGED, counts[REPLACED])
        self._count_restated(RATINGS, WITHDRAWN, counts[RETRACTED])
        if counts[REPEATED]:
            repeated = asked[kinds == REPEATED]
            self._count_restated(RATINGS, SAID_BEFORE, int(np.count_nonzero(repeated == RATING)))
            self._count_restated(RATINGS, NOT_RATED, int(np.count_nonzero(repeated == RETRACTED)))
            self._count_restated(CLICKS, SAID_BEFORE, int(np.count_nonzero(repeated == CLICK)))

    def _count_restated(self, topic: str, what: str, events: int) -> None:
        self.count(topic, LEARNED, events)
        self.count(topic, what, events)

    def dead_letter(self, topic: str, reason: Reason) -> None:
        """Count one bad event."""
        self.count(topic, DEAD_LETTER)
        self.dead_letters[str(reason)] += 1

    def silence(self) -> None:
        """Write no warnings about events: another monitor sees the same ones."""
        self.repeated_input.silent = self.unlikely_times.silent = self.unknown_kinds.silent = self.scale.silent = True

    def restore(self, store: StateStore) -> None:
        """See Persistent."""
        for errors in self.errors.values():
            errors.restore(store)
        row = store.read(TABLE, [_COUNTS])[0]
        if row is None:
            return
        counts = _decode(row, _Counts, f"row {TABLE}/counts of the state")
        for topic, outcomes in counts.events.items():
            self.events.setdefault(topic, {}).update(outcomes)
        self.dead_letters.update(counts.dead_letters)
        self.repeated_input.events = counts.refed
        self._given = self._committed = self._counts()

    def changed(self) -> Sequence[Row]:
        """See Persistent."""
        rows = [row for errors in self.errors.values() for row in errors.changed()]
        self._given = self._counts()
        if self._given != self._committed:
            rows.append(Row(TABLE, _COUNTS, self._given))
        return rows

    def committed(self) -> None:
        """See Persistent."""
        for errors in self.errors.values():
            errors.committed()
        self._committed = self._given

    def _counts(self) -> bytes:
        letters = {reason: n for reason, n in self.dead_letters.items() if n or reason not in _LATER_REASONS}
        return msgspec.msgpack.encode(_Counts(self.events, letters, self.repeated_input.events))


def _decode(row: bytes, kind: type[_T], where: str) -> _T:
    try:
        return msgspec.msgpack.decode(row, type=kind)
    except msgspec.DecodeError as error:
        raise BadState(f"{where} cannot be read ({error}): restore a backup, or learn again from the log") from None
