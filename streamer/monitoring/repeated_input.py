"""Notices when the same events are fed again, without ids: each repeat counts as new evidence, and twenty of them cost 3%.

An event came before, as far as its user's history tells, when the user had seen its item (the last 4,096 count) and it is
older than the user's latest event, or is in every field one of the newest. Rewatching moves time on, a late event is of
an item not seen yet: neither looks like that. `History.remember` marks such events; here they are counted, and when
nearly all of the newest are, the log says so, once until it is over. Events without times of their own are never older.
Cost: O(events). State: the count, kept by the monitor; the window is advice and starts anew with the process.
"""

import logging

import numpy as np

from streamer.core.arrays import Bool

WINDOW_EVENTS = 1000
LOUD, OVER = 0.9, 0.5  # shares of the window: where the log speaks, and where it may speak again

_log = logging.getLogger(__name__)


class RepeatedInput:
    """Counts events that came before; the engine's thread writes, `events` may be read from any."""

    def __init__(self) -> None:
        self.events = 0  # ever
        self.silent = False  # True: count, and leave the log alone
        self._newest: Bool = np.zeros(0, dtype=np.bool_)
        self._said = False

    @property
    def share(self) -> float:
        """Of the newest 1,000 events, those that came before; 0 until there are so many."""
        return float(self._newest.mean()) if len(self._newest) == WINDOW_EVENTS else 0.0

    def observe(self, again: Bool) -> None:
        """Take up the marks of a batch, (n,), in order."""
        self.events += int(np.count_nonzero(again))
        self._newest = np.concatenate([self._newest, again])[-WINDOW_EVENTS:]
        if self.share > LOUD and not self._said:
            self._said = True
            if not self.silent:
                _log.warning(
                    "the same events are being fed again: %.0f%% of the newest %s were in their users' histories already, with "
                    "items seen and times gone by; each repeat counts as new evidence, so stop whoever sends them, and to "
                    "learn anew move `state`, `generations` and `generation` away and learn from the log; events with an event_id count once",
                    100 * self.share, f"{WINDOW_EVENTS:,}",
                )  # fmt: skip
        elif self.share < OVER:
            self._said = False
