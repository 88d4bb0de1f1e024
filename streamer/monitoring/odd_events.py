"""Events that are learned although something about them is odd: counted, and said once in the log.

Times that nobody can have meant: before 1990, or more than a day after the event was appended, which then counts as its time.
Producers that send them have their clock or their unit wrong, and the order in which users did things is lost.
When nearly all of the newest events are like that, the log warns once, and again only after fewer than half were.

Kinds of clicks that have no weight are learned with weight 1 and named once: a name that is spelled wrong, or one that deserves
another weight. The number of names is bounded, because producers choose them.

Cost: O(events). Nothing of this is state: the counts start at 0 with the process.
"""

import logging
from collections import Counter
from collections.abc import Iterable

import numpy as np

from streamer.core.arrays import I64, Bool
from streamer.monitoring.repeated_input import Share

KINDS_NAMED = 20  # how many unknown kinds are told apart
OTHER_KINDS = "other"  # the name of all further ones
_NAME_CHARACTERS = 40

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


class UnknownKinds:
    """Counts clicks of unknown kinds by name; the engine's thread writes, `events` may be copied in any thread."""

    def __init__(self) -> None:
        self.events: dict[str, int] = {}  # since the process started
        self.silent = False  # True: count, and write no warning

    def observe(self, kinds: Iterable[str]) -> None:
        """Add the kinds of some clicks, as they were sent."""
        for kind, count in Counter(kinds).items():
            name = kind.casefold()[:_NAME_CHARACTERS]
            if name not in self.events and len(self.events) >= KINDS_NAMED:
                name = OTHER_KINDS
            if name not in self.events and not self.silent:
                _log.warning(
                    "%s no weight in the setting `kinds` and are learned with weight 1: give one with "
                    "--kinds name=weight,... and learn again from the start, or refuse them with --unknown-kinds reject",
                    "further kinds of clicks have" if name == OTHER_KINDS else f"clicks of the kind {name!r} have",
                )  # fmt: skip
            self.events = {**self.events, name: self.events.get(name, 0) + count}
