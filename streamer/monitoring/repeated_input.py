"""Detects that the same events are fed again without event ids.

Ratings that are fed again say nothing new, but each click counts as new evidence once `click_window_s` has passed. `History.remember` marks an event as
repeated when its user has seen the item (among the last 4,096) and the event is older than the user's latest one, or equals one of the
newest in every field. Watching an item again has a later time, and a late event is usually of an item not seen yet, so
neither is marked. Events without times of their own are never older. Marked events are counted here. When nearly all of
the newest events are marked, the log warns once, and again only after fewer than half of them were marked.
Cost: O(events). State: the count, kept by the monitor; the window is not stored and starts empty with the process.
"""

import logging

import numpy as np

from streamer.core.arrays import Bool

WINDOW_EVENTS = 1000
WARN_ABOVE, REARM_BELOW = 0.9, 0.5  # shares of the window: warn above the first, and warn again only after the second

_log = logging.getLogger(__name__)


class Share:
    """The share of marked events among the newest `window`, and when to speak of it: once while it is high."""

    window = WINDOW_EVENTS

    def __init__(self) -> None:
        self._newest: Bool = np.zeros(0, dtype=np.bool_)
        self._told = False

    @property
    def share(self) -> float:
        """The share of marked events; 0 until there are `window` events."""
        return float(self._newest.mean()) if len(self._newest) == WINDOW_EVENTS else 0.0

    def exceeded(self, marks: Bool) -> bool:
        """Add the marks of a batch, (n,), in order; return whether the share is high and was not yet told to be."""
        self._newest = np.concatenate([self._newest, marks])[-WINDOW_EVENTS:]
        told, share = self._told, self.share
        self._told = share > WARN_ABOVE or (told and share >= REARM_BELOW)
        return share > WARN_ABOVE and not told


class RepeatedInput:
    """Counts repeated events; the engine's thread writes, `events` may be read from any thread."""

    def __init__(self) -> None:
        self.events = 0  # ever
        self.silent = False  # True: count, and write no warning
        self._share = Share()

    @property
    def share(self) -> float:
        """The share of repeated events among the newest 1,000; 0 until there are 1,000."""
        return self._share.share

    def observe(self, repeated: Bool) -> None:
        """Add the marks of a batch, (n,), in order."""
        self.events += int(np.count_nonzero(repeated))
        if self._share.exceeded(repeated) and not self.silent:
            _log.warning(
                "the same events are being fed again: %.0f%% of the newest %s are in their users' histories already: the "
                "users have seen the items, and the times lie in the past. Ratings count once, but clicks count again, so stop the producer; to undo it, move "
                "`state`, `generations` and `generation` away and learn again from the log. Events with an event_id count only once",
                100 * self.share, f"{WINDOW_EVENTS:,}",
            )  # fmt: skip
