"""The scale of ratings: the range that most ratings keep to, learned from the stream and robust against wild ones.

The range begins as that of the ratings so far. Which ratings widen it, in widths of the range beyond its end:

    n-th rating of the scale       up to 16 / n, its square for the first ones, as a new extreme is the less likely the more ratings
                                   there were (at most 4 a user count); below, always up to 1/2
    1.5% of the newest ratings     up to 1/4
    5% of the newest ratings       any distance

All others are wild: learners get them clipped to the range, in errors too, while the archive and histories have them as they
were given. An end of the range that less than 1% of the ratings reach, with a gap of 1/8 of the width of the others (below, of
the whole width) between, is withdrawn. A rating weighs 1 / sqrt(j), where it is its user's j-th among the newest 256, so that
no single user sets the scale, and a quarter of that if one of the 3 before it was of the same item.

The scale has *changed* when most of the newest ratings lie outside (1 to 5 becomes 1 to 100), or when all of them keep to a
lower part of the range that was rare before (1 to 100 becomes 1 to 5), of so many users and of so many items that neither odd
users nor odd items explain it (scale_change.py). What learners know is then converted by the line that maps the old range to
the new one, and follows its ends for the first thousand ratings.

A rating is judged by the scale before it. Cost: about .15 us a rating. State: 12 KB, a function of the ratings and their order.
"""

import logging
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from streamer.core.arrays import F32, F64, I32, U8, U32, U64, Bool
from streamer.core.batch import Change
from streamer.core.errors import BadState
from streamer.core.protocols import Row, StateStore
from streamer.monitoring.scale_change import EPISODES, RING, SAMPLE
from streamer.monitoring.scale_kernel import WITNESSES, follow
from streamer.monitoring.scale_range import (
    BINS,
    CHANGES,
    CONVERSIONS,
    COUNTS,
    HEAD,
    HIGH,
    LOGS,
    LOW,
    OUTSIDE,
    RATINGS,
    TOTAL,
    WILD,
    WINDOW,
)

SCALE = "scale"  # the name by which changes of scale are counted among the drifts
RATINGS_OF_STARS, AROUND_ZERO, COUNTS_OF_PLAYS = "ratings", "below and above 0", "counts, such as plays"
_KEY, _OLD_KEY = b"scale", b"range"
_log = logging.getLogger(__name__)


class Followed(NamedTuple):
    """What the scale says of n events."""

    lows: F32  # (n,) the range before each event, -inf and inf where there was none
    highs: F32
    learned: F32  # (n,) values for learners: ratings clipped to the range
    likes: U8  # (n,) whether a rating is a like; 0 for clicks
    changes: tuple[Change, ...]


class Scale:
    """The scale of ratings. The engine's thread writes; any thread may read."""

    def __init__(self) -> None:
        self.silent = False  # True: write no lines to the log
        self._head = np.zeros(HEAD)
        self._head[LOW], self._head[HIGH], self._head[OUTSIDE:] = np.inf, -np.inf, np.nan
        self._bins, self._keys = np.zeros((4, BINS)), np.zeros(WITNESSES, dtype=np.uint64)
        self._witnesses = np.zeros((WITNESSES, 2))
        self._newest, self._groups = np.full(RING, np.nan, dtype=np.float32), np.zeros((2, RING), dtype=np.uint32)
        self._episodes = np.full((2, EPISODES), np.nan, dtype=np.float32)
        self._sample = np.full(SAMPLE, np.nan, dtype=np.float32)
        # the ratings of the row on the disk, and of the one that `changed` returned last; whether a user was forgotten since
        self._committed, self._given, self._forgotten = 0.0, 0.0, False
        self._said = self.kind()

    @property
    def low(self) -> float:
        """The lower end of the range; inf before the first rating."""
        return float(self._head[LOW])

    @property
    def high(self) -> float:
        """The upper end of the range; -inf before the first rating."""
        return float(self._head[HIGH])

    @property
    def changes(self) -> int:
        """Changes of scale, ever."""
        return int(self._head[CHANGES])

    @property
    def conversions(self) -> int:
        """How often learners were told to convert what they know, ever."""
        return int(self._head[CONVERSIONS])

    @property
    def wild(self) -> int:
        """Ratings outside the scale of their time, ever."""
        return int(self._head[WILD])

    def like(self, like_share: float) -> str:
        """Which ratings are likes now, in words."""
        head, low = self._head, min(self.low, 0.0)
        if not head[RATINGS] or self.high <= 0.0:
            return "none is a like"
        if head[COUNTS]:
            return f"one above {np.expm1(head[LOGS]):.3g}, the mean in logarithms, is a like"
        return f"one of {max(low + like_share * (self.high - low), 0.0):.3g} or more is a like"

    def kind(self) -> str:
        """What the values are taken for."""
        if self._head[COUNTS]:
            return COUNTS_OF_PLAYS
        return AROUND_ZERO if self.low < 0.0 < self.high else RATINGS_OF_STARS

    def follow(self, rated: Bool, values: F32, users: U64, items: I32, like_share: float) -> Followed:
        """Follow n events in order; `users` (n,) are the `user_key`s of their users, `items` (n,) the rows of their items."""
        n = len(values)
        lows, highs, learned = np.empty((3, n), dtype=np.float32)
        likes, changes = np.empty(n, dtype=np.uint8), np.empty((n, 3))
        before = Scale._Before(self.low, self.high, self.changes, self.wild)
        count = follow(
            self._head, self._bins, self._keys, self._witnesses, self._newest, self._groups, self._episodes, self._sample, rated, values,
            users, items, like_share, lows, highs, learned, likes, changes,
        )  # fmt: skip
        if not self.silent:
            self._say(before, values, learned, like_share)
        return Followed(
            lows, highs, learned, likes, tuple(Change(int(at), *line) for at, *line in changes[:count].tolist())
        )

    class _Before(NamedTuple):
        low: float
        high: float
        changes: int
        wild: int

    def _say(self, before: _Before, values: F32, learned: F32, like_share: float) -> None:
        """Tell of what has changed in a batch."""
        if self.changes > before.changes:
            _log.warning(
                "the scale of ratings has changed: it was %g to %g and is %g to %g now, after %s ratings. What was learned is converted; "
                "histories and the archive keep ratings as they were given",
                before.low, before.high, self.low, self.high, f"{int(self._head[TOTAL]):,}",
            )  # fmt: skip
        elif len(str(self.wild)) > len(str(before.wild)) or self.wild > before.wild == 0:  # the first, 10th, 100th, ...
            odd = values[np.flatnonzero(values != learned)[-1:]].tolist()
            _log.warning(
                "%s far outside the scale so far, which is %g to %g, such as %s: they are learned as its nearest "
                "end, in the errors too; rating_min and rating_max reject such ratings",
                "1 rating was" if self.wild == 1 else f"{self.wild:,} ratings were", self.low, self.high, ", ".join(f"{one:g}" for one in odd) or "an earlier one",
            )  # fmt: skip
        if self.kind() != self._said and self._head[RATINGS] >= WINDOW:
            self._said = self.kind()
            if self._said != RATINGS_OF_STARS:
                _log.warning("ratings are %s: %s", self._said, self.like(like_share))

    def forget(self, user: int) -> None:
        """Forget the newest ratings of a user who is removed, given the `user_key`."""
        witness, given = self._keys == user, self._groups[0] == user
        self._witnesses[witness], self._keys[witness] = 0.0, 0
        self._newest[given], self._groups[0, given] = np.nan, 0
        self._forgotten |= bool(witness.any() or given.any())

    def restore(self, store: StateStore) -> None:
        """Continue from the committed row. A state made before there was one begins with the range of all its ratings."""
        row, old = store.read("stream", [_KEY, _OLD_KEY])
        parts = self._parts()
        if row is not None:
            if len(row) != sum(part.nbytes for part in parts):
                raise BadState(
                    f"the row of the scale of ratings has {len(row)} bytes, this streamer writes "
                    f"{sum(part.nbytes for part in parts)}: restore a backup, or learn again from the log"
                )
            start = 0
            for part in parts:
                part[...] = np.frombuffer(row, part.dtype, part.size, start).reshape(part.shape)
                start += part.nbytes
        elif old is not None:
            self._head[LOW], self._head[HIGH] = np.frombuffer(old, dtype="<f8", count=2)
            self._head[RATINGS] = WINDOW if self.low <= self.high else 0.0
        self._said, self._committed = self.kind(), float(self._head[TOTAL])

    def changed(self) -> Sequence[Row]:
        """The row, if it changed since `committed`."""
        self._given = float(self._head[TOTAL])
        if self._given == self._committed and not self._forgotten:
            return []
        return [Row("stream", _KEY, b"".join(part.tobytes() for part in self._parts()))]

    def committed(self) -> None:
        """The row that `changed` returned last is on disk."""
        self._committed, self._forgotten = self._given, False

    def _parts(self) -> tuple[F64, F64, F64, U64, F32, U32, F32, F32]:
        return self._head, self._bins, self._witnesses, self._keys, self._newest, self._groups, self._episodes, self._sample  # fmt: skip


def on_latest_scale(values: F32, rated: Bool, changes: Sequence[Change]) -> F32:
    """The values (n,) of those events that are ratings converted to the scale after all `changes`; the others as they are."""
    found = values.astype(np.float64)
    for one in changes:
        before = rated[: one.at]
        found[: one.at][before] = one.factor * found[: one.at][before] + one.shift
    return found.astype(np.float32)


def user_key(user_id: str) -> int:
    """By which the scale tells users apart."""
    return zlib.crc32(user_id.encode())
