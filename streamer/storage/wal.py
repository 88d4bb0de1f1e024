"""RocksDB's write-ahead log, read without RocksDB: every batch of writes that is whole, also those behind damage.

RocksDB stops at the first damage without an error, or (in another mode) goes on at its next block of 32 KiB; and where damage
makes a kind of 5 to 8, it never ends. So this reader looks first: `survey` says what of the files is sound, RocksDB sees
nothing else, and `batches` finds the next whole fragment at any byte.

A file is a sequence of blocks of 32 KiB. A fragment is a masked CRC-32C, its length, its kind, and a part of a batch; no
fragment crosses the end of a block, and where only 7 bytes are left there, the first part of a batch is empty. A batch is the
number of its first change, the number of changes, and the changes.
"""

import re
import struct
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from crc32c import crc32c

SUFFIX = ".log"
BLOCK_BYTES = 1 << 15
_HEADER = struct.Struct("<IHB")  # checksum, length, kind
_BATCH = struct.Struct("<QI")  # number of the first change, how many
_MASK = 0xA282EAD8
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_KINDS = re.compile(rb"[\x01-\x04]")
_PUT, _DELETE, _SINGLE_DELETE, _RANGE_DELETE, _NOTE = 1, 0, 7, 15, 3  # how changes of a batch begin
HEAD_BATCHES = 8


class Batch(NamedTuple):
    """One write."""

    content: bytes
    end: int  # where it ends in its file
    sound: bool  # whether everything before it in the file is whole
    whole: bool = True  # false: only its beginning


class Survey(NamedTuple):
    """What the write-ahead logs of a database hold."""

    sound_bytes: dict[Path, int]  # of each file: how much from its beginning on can be applied
    unsound: bool  # whether there is more in the files: a tail that a crash tore, or damage
    dropped_batches: int  # how many whole batches are behind that; none behind a torn tail
    head: list[bytes]  # the first batches, at most HEAD_BATCHES


def files(folder: Path) -> list[Path]:
    """The write-ahead logs of the database in `folder`, the oldest first."""
    return sorted(folder.glob(f"[0-9]*{SUFFIX}"))


def survey(folder: Path) -> Survey:
    """Read all write-ahead logs of a database, which another process may be writing. Raises OSError.

    Batches can be applied as long as they follow on each other: each begins with the number after the last one of the batch before.
    Cost: about 2 us a batch, 1 ms for 4 MiB, and some 10 ms a block that is damaged.
    """
    sound_bytes, head = dict[Path, int](), list[bytes]()
    reached, broken, unsound, dropped = None, False, False, 0
    for file in files(folder):
        try:
            content = file.read_bytes()
        except FileNotFoundError:  # its owner deleted it since it was listed
            continue
        sound_bytes[file] = 0
        for batch in batches(content):
            broken = broken or not batch.sound or reached not in (None, first_of(batch.content) - 1)
            if broken:
                dropped += 1
                continue
            reached, sound_bytes[file] = end_of(batch.content), batch.end
            head += [batch.content][: HEAD_BATCHES - len(head)]
        unsound = unsound or sound_bytes[file] < len(content)
        broken = broken or unsound
    return Survey(sound_bytes, unsound, dropped, head)


def batches(content: bytes, *, partial: bool = False) -> Iterator[Batch]:
    """Every whole batch in a file's content, in order; if `partial`, also the beginnings of those of which only that is left."""
    parts, sound = list[bytes](), True
    for kind, part, end in chain(_fragments(content), [(0, b"", len(content))]):
        sound = sound and kind != 0 and (kind in (_FULL, _FIRST)) == (not parts)
        if parts and partial and kind not in (_MIDDLE, _LAST):
            yield Batch(b"".join(parts), end, sound, whole=False)
        if kind in (_FULL, _FIRST, 0):
            parts = []
        if kind == _FIRST or (kind in (_MIDDLE, _LAST) and parts):
            parts.append(part)
        if kind == _FULL or (kind == _LAST and parts):
            batch = part if kind == _FULL else b"".join(parts)
            parts = []
            if len(batch) >= _BATCH.size:
                yield Batch(batch, end, sound)


def first_of(batch: bytes) -> int:
    """The number of the batch's first change."""
    return int(_BATCH.unpack_from(batch)[0])


def end_of(batch: bytes) -> int:
    """The number of the batch's last change."""
    first, count = _BATCH.unpack_from(batch)
    return int(first + count - 1)


def puts(batch: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values that a batch writes, without deletions. Raises ValueError where only its beginning is left."""
    at = _BATCH.size
    while at < len(batch):
        tag = batch[at]
        first, at = _text(batch, at + 1)
        if tag in (_PUT, _RANGE_DELETE):
            second, at = _text(batch, at)
            if tag == _PUT:
                yield first, second
        elif tag not in (_DELETE, _SINGLE_DELETE, _NOTE):
            raise ValueError(f"a change of the unknown kind {tag}")


def _text(batch: bytes, at: int) -> tuple[bytes, int]:
    """The text with its length before it (7 bits a byte, the lowest first) at a place, and the place behind it."""
    length = shift = 0
    while True:
        if at >= len(batch) or shift > 28:
            raise ValueError("a batch that ends too early")
        byte = batch[at]
        length |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    if at + length > len(batch):
        raise ValueError("a batch that ends too early")
    return batch[at : at + length], at + length


def _fragments(content: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Kind, content and end of each whole fragment; the kind 0 where something before the next one cannot be read."""
    for start in range(0, len(content), BLOCK_BYTES):
        block, at = content[start : start + BLOCK_BYTES], 0
        while at + _HEADER.size <= len(block):
            if not _is_whole(block, at):
                yield 0, b"", start + at
                at = _next_whole(block, at + 1)
                continue
            _, length, kind = _HEADER.unpack_from(block, at)
            at += _HEADER.size + length
            yield kind, block[at - length : at], start + at


def _is_whole(block: bytes, at: int) -> bool:
    checksum, length, kind = _HEADER.unpack_from(block, at)
    end = at + _HEADER.size + length
    if not (_FULL <= kind <= _LAST and end <= len(block)):
        return False
    found = crc32c(block[at + 6 : end])  # of the kind and the content
    return bool(checksum == ((found >> 15 | found << 17 & 0xFFFFFFFF) + _MASK) & 0xFFFFFFFF)


def _next_whole(block: bytes, at: int) -> int:
    """The place of the next whole fragment, the end of the block if there is none."""
    for found in _KINDS.finditer(block, at + 6):
        if _is_whole(block, found.start() - 6):
            return found.start() - 6
    return len(block)
