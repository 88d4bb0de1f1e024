"""Events that are learned although something about them is odd: counted, and said once in the log.

Times that nobody can have meant: before 1990, or more than a day after the event was appended, which then counts as its time.
Producers that send them have their clock or their unit wrong, and the order in which users did things is lost.
When nearly all of the newest events are like that, the log warns once, and again only after fewer than half were.

Cost: O(events). Nothing of this is state: the counts start at 0 with the process.
"""

import logging

import numpy as np

from streamer.core.arrays import I64, Bool
from streamer.monitoring.repeated_input import Share

_log = logging.getLogger(__name__)


class UnlikelyTimes:
    """Counts unlikely times; the engine's thread writes, `events` may be read from any thread."""

    def __init__(self) -> None:
        self.events = 0  # since the process started
        self.silent = False  # True: count, and write no warning
        self._share = Share()

    def observe(self, unlikely: Bool, times_ms: I64) -> None:
        """Add the marks of a batch and the times as they are learned, (n,), in order."""
        count = int(np.count_nonzero(unlikely))
        self.events += count
        if self._share.exceeded(unlikely) and not self.silent and count:
            _log.warning(
                "%.0f%% of the newest %s events have times before 1990 or in the future, such as %s: is their unit right? "
                "`timestamp_ms` is in milliseconds since 1970, `timestamp` may have any unit or be a date. Future times count "
                "as the time of arrival. To undo it, mend the producer and learn again from the start",
                100 * self._share.share, f"{self._share.window:,}", np.datetime64(int(times_ms[unlikely][-1]), "ms"),
            )  # fmt: skip
