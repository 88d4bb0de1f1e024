"""The mark of the embedded log: what was acknowledged, in a file of its own beside the database.

RocksDB cannot tell a tail that a crash tore from acknowledged records that were damaged later: both are a write-ahead log
that ends early. The mark can. It is written after the fsync of the records and before their acknowledgement, into one of two
slots in turn, each with a checksum, so that a torn write leaves the other one. It is not synced for each group of records,
which would halve the rate: a killed process loses nothing of it, and `sync` is called about once a second.
"""

import logging
import os
import re
import struct
import threading
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from streamer.core.errors import BadState

NAME = "ACKNOWLEDGED"  # not a name that RocksDB gives to a file
_SLOT_BYTES = 512  # a disk writes as much as a whole
_SLOT = struct.Struct(">8sQQQQ32sQI")
_MAGIC = b"streamer"
_LOGGER = logging.getLogger("streamer.log")
_SHA256 = re.compile("[0-9a-f]{64}")


class Mark(NamedTuple):
    """What an intact log holds at least."""

    number: int = 0  # how often it was written
    begin: int = 0  # earlier records may be trimmed
    end: int = 0  # the next offset after the last acknowledged record
    erasures: int = 0  # how often records were rewritten
    replayed: bytes = bytes(32)  # the SHA-256 of the file that was replayed last, zeros: none
    next_row: int = 0  # of this file


def read(folder: Path) -> Mark | None:
    """The mark of the log in `folder`; None if it is missing or unreadable. Cost: some 20 us."""
    try:
        content = (folder / NAME).read_bytes()
    except OSError:
        return None
    slots = [_decoded(content[at : at + _SLOT.size]) for at in (0, _SLOT_BYTES)]
    return max((slot for slot in slots if slot is not None), default=None)


def _decoded(slot: bytes) -> Mark | None:
    if len(slot) < _SLOT.size:
        return None
    magic, *fields, checksum = _SLOT.unpack(slot)
    return Mark(*fields) if magic == _MAGIC and checksum == zlib.crc32(slot[:-4]) else None


def loss(known: Mark, end: int, erasures: int, dropped_batches: int) -> str:
    """What a log has lost of what was acknowledged, in words; empty if it has everything.

    The log ends at `end` and was rewritten `erasures` times; behind the place up to which its write-ahead log can be read,
    that holds `dropped_batches` whole writes. A tail that a crash tore has none: a write begins after the fsync of the one before.
    """
    if dropped_batches:
        return f"{dropped_batches:,} whole writes are behind a damaged part of its write-ahead log"
    if end < known.end:
        return f"events up to offset {known.end - 1} were acknowledged"
    if erasures < known.erasures:
        return "events of forgotten users, which were erased, are in it again"
    return ""


def replayed(sha256: str, next_row: int) -> dict[str, Any]:
    """The fields of a mark that say how far a file was replayed; none for a name that is not 64 hexadecimal digits."""
    return {"replayed": bytes.fromhex(sha256), "next_row": next_row} if _SHA256.fullmatch(sha256) else {}


def write(folder: Path, mark: Mark) -> None:
    """Write the mark of a copy of the log in `folder`; durable when it returns. Raises BadState."""
    file = MarkFile(folder, mark)
    file.put()
    file.sync()
    file.close()


class MarkFile:
    """The mark of a log that is open for writing. Safe from several threads.

    What cannot be written is a warning and no error: the records themselves are durable, and only damage that comes later
    may not be noticed.
    """

    def __init__(self, folder: Path, mark: Mark) -> None:
        """Open or create the file, and continue from `mark`. Raises BadState."""
        self._path, self._mark, self._lock = folder / NAME, mark, threading.Lock()
        self._synced = -1  # the number of the last mark that was synced
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise BadState(
                f"cannot write {self._path}: {error.strerror}; make it writable, or free some space"
            ) from None

    @property
    def mark(self) -> Mark:
        """The newest mark."""
        return self._mark

    def put(self, **changes: Any) -> None:
        """Write the mark with these fields changed. Cost: 10 us, up to 100 us after an fsync."""
        with self._lock:
            mark = self._mark._replace(number=self._mark.number + 1, **changes)
            slot = _SLOT.pack(_MAGIC, *mark, 0)[:-4]
            try:
                os.pwrite(self._file, slot + zlib.crc32(slot).to_bytes(4, "big"), mark.number % 2 * _SLOT_BYTES)
            except OSError as error:
                self._warn(error)
            self._mark = mark

    def sync(self) -> None:
        """Make the newest mark survive a power cut. Cost: an fsync, if there is a new one."""
        number = self._mark.number
        if number != self._synced:
            try:
                os.fsync(self._file)
            except OSError as error:
                self._warn(error)
                return
            self._synced = number

    def _warn(self, error: OSError) -> None:
        _LOGGER.warning("cannot write %s, which says what the log acknowledged: %s", self._path, error)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
