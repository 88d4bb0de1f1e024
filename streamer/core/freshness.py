"""Freshness tokens: they say which events an answer must include.

A token names the next offset of each sequence in ascending order, as in `log/0:1234` or `clicks/0:5,ratings/3:17`.
An empty token asks for nothing.
"""

import asyncio
import re
import threading
from contextlib import suppress

from streamer.core.events import Offsets, TopicPartition

_PART = re.compile(r"([A-Za-z0-9._-]{1,249})/([0-9]{1,9}):([0-9]{1,18})")


def token(offsets: Offsets) -> str:
    """The token of `offsets`; equal offsets give equal tokens."""
    return ",".join(f"{topic}/{partition}:{offset}" for (topic, partition), offset in sorted(offsets.items()))


def parse(text: str) -> Offsets:
    """The offsets of a token; raises ValueError, with a sentence, for anything that `token` does not write."""
    offsets: dict[TopicPartition, int] = {}
    for part in text.split(",") if text else ():
        found = _PART.fullmatch(part)
        if found is None:
            shown = part if len(part) <= 60 else part[:60] + "..."
            raise ValueError(
                f"{shown!r} is not part of a freshness token, which looks like log/0:1234: "
                "pass on the token that Publish answered, unchanged"
            )
        sequence = TopicPartition(found[1], int(found[2]))
        offsets[sequence] = max(int(found[3]), offsets.get(sequence, 0))
    return offsets


class Freshness:
    """The offsets that the newest view includes, and the requests that wait for later ones.

    The engine's thread calls `advance`; requests in the endpoint's event loop call `wait`.
    """

    def __init__(self) -> None:
        self.offsets: Offsets = {}
        self._lock = threading.Lock()
        self._waiting: list[tuple[Offsets, asyncio.AbstractEventLoop, asyncio.Event]] = []

    def advance(self, offsets: Offsets) -> None:
        """Say that the view includes everything before `offsets`, a mapping that must not be changed afterwards."""
        with self._lock:
            self.offsets = offsets
            if not self._waiting:
                return
            ready = [entry for entry in self._waiting if self._includes(entry[0])]
            self._waiting = [entry for entry in self._waiting if entry not in ready]
        for _, loop, event in ready:
            with suppress(RuntimeError):  # the event loop is closed: the request is gone
                loop.call_soon_threadsafe(event.set)

    def _includes(self, wanted: Offsets) -> bool:
        return all(self.offsets.get(sequence, 0) >= offset for sequence, offset in wanted.items())

    async def wait(self, wanted: Offsets, timeout_s: float) -> bool:
        """Whether the view includes everything before `wanted`, waiting for it up to `timeout_s`."""
        event = asyncio.Event()
        entry = (wanted, asyncio.get_running_loop(), event)
        with self._lock:
            if self._includes(wanted):
                return True
            self._waiting.append(entry)
        try:
            await asyncio.wait_for(event.wait(), timeout_s)
        except TimeoutError:
            return False
        finally:
            with self._lock:
                self._waiting = [other for other in self._waiting if other is not entry]
        return True
