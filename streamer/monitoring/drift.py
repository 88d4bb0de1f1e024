"""ADWIN, river's drift detector, over the squared errors of one learner.

ADWIN keeps a window of the newest errors and shortens it when the means of two parts differ by more than chance allows:
that is a detection. It takes one error at a time, so the result does not depend on batch sizes. Cost: 0.1 us an error.

`river.drift.ADWIN` wraps the class that is imported here; importing `river.drift` takes 2 s and 100 MB (scipy), importing
the class alone 30 ms. A test compares the two. The stored row names the version of river that wrote it.

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
    """The stored row. Only the version of river that wrote `window` can read it, and damaged bytes make river panic."""

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
        """Add `errors` (n,), finite, in order."""
        window = self._window or _new()
        remaining = iter(errors.tolist())
        # any() stops at a detection; a new window then starts with the next error
        while any(map(window.update, remaining)):
            self.detections += 1
            window = _new()
        self._window = window

    def to_bytes(self) -> bytes:
        """The detector and its count, as a row for `load`."""
        window = (self._window or _new()).__getstate__()
        return msgspec.msgpack.encode(_Stored(version("river"), self.detections, zlib.crc32(window), window))

    def load(self, row: bytes, where: str) -> None:
        """Continue from a row that `to_bytes` made; raises BadState when it is damaged.

        From a row of another version of river only the count is kept: the window starts empty, with a warning in the log.
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
    from river._river_rust.drift import AdaptiveWindowing  # imported late: a process that only queries does not need it

    return cast(_Window, AdaptiveWindowing(delta=0.002, clock=32, max_buckets=5, min_window_length=5, grace_period=10))
