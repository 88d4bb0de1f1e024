"""Where sessions begin: at another `session_id`, or after a pause that is longer than the gap learned from the stream.

The gap is the valley in the histogram of the logarithms of the pauses between a user's consecutive events: pauses within a
session are on its left, those between sessions on its right. With h the smoothed histogram, its depth at b is

    h(b) / min(max h left of b, max h right of b)

The valley is the middle of where the depth is near its least, between 1 minute and 16 hours. Where the least is above 0.7 there
is no clear valley, nor before 1,000 pauses: the gap is 30 minutes then. Pauses below 1 s are not counted, as whole lists are
imported at one time; older ones are forgotten, over some 50,000.

A step backwards in time counts as no pause. The user's first event begins a session; one that says nothing new begins none.
Cost: .04 us an event. State: 1 KB, a function of the events and their order; of each user the last `session_id`, hashed.

Halfaker et al. (2015), User session identification based on strong regularities in inter-activity time, WWW.
Deviation: they fit a mixture of log-normal distributions by EM; the valley needs no shapes and is the same at every run.
"""

import zlib
from collections.abc import Sequence

import numpy as np

from streamer.core.arrays import F64, I32, I64, U8
from streamer.core.batch import REPEATED
from streamer.core.errors import BadState
from streamer.core.kernel import kernel
from streamer.core.protocols import Row, StateStore

OCTAVE_BINS, OCTAVES = 4, 26  # from 1 s to 2 years
BINS = OCTAVE_BINS * OCTAVES
SHORTEST_MS = 1000  # pauses below are not counted
FIRST_BIN, LAST_BIN = 24, 63  # where the valley may be: 1 minute to 16 hours
DEFAULT_GAP_S = 1800.0  # the usual one of web analytics
LEAST_PAUSES, LEAST_SHARE = (
    1000.0,
    0.02,
)  # pauses before a valley is looked for, and the share of them on either side of it
CLEAR = 0.7  # a deeper valley than this is clear
ESTIMATED_EACH, REMEMBERED = (
    256,
    50_000.0,
)  # pauses from one estimate to the next, and pauses until 1/e of the weight is left
GAP_MS, DEPTH, PAUSES = BINS, BINS + 1, BINS + 2  # places in the state, behind the bins
EDGES_MS: I64 = np.array(
    [round(SHORTEST_MS * 2.0 ** (b / OCTAVE_BINS)) for b in range(BINS)], dtype=np.int64
)  # lower ends
LAST_SESSION = 5  # the column of the users' heads
_KEY = b"sessions"


@kernel
def _smoothed(bins: F64, smooth: F64) -> None:
    """The histogram, smoothed by the binomial weights of 8 (a standard deviation of 1.4 bins)."""
    for b in range(BINS):
        total, weight = 0.0, 1.0
        for j in range(9):
            if 0 <= b + j - 4 < BINS:
                total += weight * bins[b + j - 4]
            weight *= (8 - j) / (j + 1)
        smooth[b] = total / 256.0


@kernel
def _estimate(state: F64, edges_ms: I64, smooth: F64, depths: F64) -> None:
    """Find the valley, and write the gap and the depth to `state`; both are of no valley if none is clear."""
    _smoothed(state, smooth)
    total = state[:BINS].sum()
    highest, before, best = 0.0, 0.0, -1
    for b in range(BINS):  # depths is the highest to the right first
        depths[BINS - 1 - b] = highest = max(highest, smooth[BINS - 1 - b])
    highest = 0.0
    for b in range(LAST_BIN + 1):
        highest, before = max(highest, smooth[b]), before + state[b]
        lower = min(highest, depths[b])
        depths[b] = smooth[b] / lower if lower > 0.0 else 1.0
        if (
            b >= FIRST_BIN
            and LEAST_SHARE * total <= before <= (1.0 - LEAST_SHARE) * total
            and (best < 0 or depths[b] < depths[best])
        ):
            best = b
    state[GAP_MS], state[DEPTH] = 0.0, 1.0
    if best < 0 or total < LEAST_PAUSES or depths[best] > CLEAR:
        return
    near, first, last = depths[best] + 0.1 * (1.0 - depths[best]), best, best
    while first > FIRST_BIN and depths[first - 1] <= near:
        first -= 1
    while last < LAST_BIN and depths[last + 1] <= near:
        last += 1
    state[GAP_MS] = edges_ms[(first + last + 1) // 2]
    state[DEPTH] = depths[best]


@kernel
def follow_sessions(
    users: I32,
    kinds: U8,
    pauses_ms: I64,
    names: I64,
    given_ms: float,
    heads: I64,
    edges_ms: I64,
    state: F64,
    begins: U8,
) -> None:
    """Write to `begins` (n,) which events begin a session, and learn from the pauses; `given_ms` above 0 is a gap not learned."""
    smooth, depths = np.empty(BINS), np.empty(BINS)
    for k in range(users.shape[0]):
        begins[k] = 0
        if kinds[k] == REPEATED:
            continue
        u, pause_ms = users[k], pauses_ms[k]
        gap_ms = given_ms if given_ms > 0.0 else state[GAP_MS] if state[GAP_MS] > 0.0 else 1000.0 * DEFAULT_GAP_S
        if pause_ms < 0:
            begins[k] = 1
        elif names[k] != 0 and heads[u, LAST_SESSION] != 0:
            begins[k] = names[k] != heads[u, LAST_SESSION]
        else:
            begins[k] = pause_ms > gap_ms
        if names[k] != 0 or begins[k]:
            heads[u, LAST_SESSION] = names[k]
        if pause_ms >= SHORTEST_MS:
            state[np.searchsorted(edges_ms, pause_ms, side="right") - 1] += 1.0
            state[PAUSES] += 1.0
            if state[PAUSES] % ESTIMATED_EACH == 0.0:
                _estimate(state, edges_ms, smooth, depths)
                state[:BINS] *= 1.0 - ESTIMATED_EACH / REMEMBERED


def session_key(session_id: str | None) -> int:
    """A hash of a `session_id`, 0 for none; an empty one counts as none."""
    return 1 + zlib.crc32(session_id.encode()) if session_id else 0


class Sessions:
    """Tells where sessions begin, and learns the gap; protocols.Persistent. The engine's thread writes, any thread may read."""

    def __init__(self, gap_s: float = 0.0) -> None:
        """`gap_s`: the gap; 0: it is learned."""
        self._given_ms = 1000.0 * gap_s
        self._state: F64 = np.zeros(BINS + 3)
        self._state[DEPTH] = 1.0
        self._given = self._committed = (
            0.0  # the pauses of the row that `changed` returned last, and of the one on the disk
        )

    @property
    def gap_s(self) -> float:
        """The pause after which a session begins."""
        return (self._given_ms or float(self._state[GAP_MS])) / 1000.0 or DEFAULT_GAP_S

    @property
    def learned(self) -> bool:
        """Whether the gap is a valley of the stream."""
        return not self._given_ms and self._state[GAP_MS] > 0.0

    def in_words(self) -> str:
        """The gap, and where it comes from."""
        whence = (
            "as set"
            if self._given_ms
            else "the valley of the stream's pauses"
            if self.learned
            else "no clear valley of pauses so far"
        )
        return f"a session begins after a pause of {self.gap_s / 60.0:.3g} minutes ({whence})"

    def follow(self, users: I32, kinds: U8, pauses_ms: I64, names: I64, heads: I64) -> U8:
        """Which of n events begin a session, (n,). `pauses_ms` are since the user's latest event, -1 at the first.

        `names` are hashes of session ids, 0 for none; `heads` (rows, 6) are the users' heads, where the last one is kept.
        """
        begins = np.empty(len(users), dtype=np.uint8)
        follow_sessions(users, kinds, pauses_ms, names, self._given_ms, heads, EDGES_MS, self._state, begins)
        return begins

    def restore(self, store: StateStore) -> None:
        """See protocols.Persistent. A state made before there was a row begins without pauses."""
        (row,) = store.read("stream", [_KEY])
        if row is not None:
            if len(row) != self._state.nbytes:
                raise BadState(
                    f"the row of sessions has {len(row)} bytes, this streamer writes {self._state.nbytes}: restore a backup, or "
                    "learn again from the log"
                )
            self._state = np.frombuffer(row, dtype=np.float64).copy()
        self._given = self._committed = float(self._state[PAUSES])

    def changed(self) -> Sequence[Row]:
        """See protocols.Persistent."""
        self._given = float(self._state[PAUSES])
        return [] if self._given == self._committed else [Row("stream", _KEY, self._state.tobytes())]

    def committed(self) -> None:
        """See protocols.Persistent."""
        self._committed = self._given
