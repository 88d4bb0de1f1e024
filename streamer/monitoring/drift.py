"""ADWIN, river's drift detector, over the squared errors of one learner.

ADWIN keeps a window that it shortens when the means of two parts of it differ by more than chance allows: a detection.
It is fed error by error, so that nothing depends on the cut into batches. Cost: 0.1 us an error.

`river.drift.ADWIN` wraps the class imported here, and importing `river.drift` takes 2 s and 100 MB (scipy); this takes 30 ms.
A test holds it against `river.drift.ADWIN`, and its row names river's version.

Bifet, Gavalda (2007), Learning from time-changing data with adaptive windowing, SIAM SDM.
"""

import logging
import zlib
from importlib.metadata import version
from typing import Protocol, cast

import msgspec

from streamer.core.arrays import F64
from streamer.core.errors import BadState

DETECTOR = "adwin"

_log = logging.getLogger(__name__)


class _Window(Protocol):
    def update(self, error: float) -> bool: ...
    def __getstate__(self) -> bytes: ...
    def __setstate__(self, state: bytes) -> None: ...


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    """The row: river's bytes can only be read by the version that wrote them, and only unharmed (it panics otherwise)."""

    river: str
    detections: int
    crc32: int
    window: bytes


class Drift:
    """Counts the drifts in a sequence of errors. One thread writes; `detections` may be read from any."""

    def __init__(self) -> None:
        self.detections = 0
        self._window: _Window | None = None

    def update(self, errors: F64) -> None:
        """Take up `errors` (n,), finite, in order."""
        window = self._window or _new()
        remaining = iter(errors.tolist())
        while any(
            map(window.update, remaining)
        ):  # any() stops at a detection; ADWIN then starts anew, at the next error
            self.detections += 1
            window = _new()
        self._window = window

    def to_bytes(self) -> bytes:
        """All of it, as a row."""
        window = (self._window or _new()).__getstate__()
        return msgspec.msgpack.encode(_Stored(version("river"), self.detections, zlib.crc32(window), window))

    def load(self, row: bytes, where: str) -> None:
        """Go on from a row of `to_bytes`; raises BadState when it is damaged.

        A row of another version of river keeps its count, and its window starts anew, which the log says.
        """
        try:
            stored = msgspec.msgpack.decode(row, type=_Stored)
        except msgspec.DecodeError as error:
            raise BadState(f"{where} cannot be read ({error}): restore a backup, or learn again from the log") from None
        if zlib.crc32(stored.window) != stored.crc32:
            raise BadState(f"{where} is damaged (its checksum differs): restore a backup, or learn again from the log")
        self.detections, self._window = stored.detections, None
        if stored.river == version("river"):
            self._window = _new()
            self._window.__setstate__(stored.window)
        else:
            _log.warning(
                "%s was written by river %s, this is river %s: the detector starts with an empty window, its count is kept",
                where, stored.river, version("river"),
            )  # fmt: skip


def _new() -> _Window:
    from river._river_rust.drift import AdaptiveWindowing  # late: a process that only asks never needs it

    return cast(_Window, AdaptiveWindowing(delta=0.002, clock=32, max_buckets=5, min_window_length=5, grace_period=10))
