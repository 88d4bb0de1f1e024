"""File operations that leave no half-written file after a crash, and small files that notice when they are damaged.

A sealed file is a JSON object whose first member, `sha256`, is the digest of all bytes behind that member. Files written
before there were seals have none; they are read as they are, and get one when they are written next.
"""

import errno
import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import TypeVar

import msgspec

_SEAL = re.compile(rb'\{"sha256":"([0-9a-f]{64})",')
_T = TypeVar("_T", bound=msgspec.Struct)


def sync_folder(folder: Path) -> None:
    """Make a folder's entries, or a file's content, survive a power cut. Raises OSError."""
    at = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(at)
    finally:
        os.close(at)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file; on another disk, make a durable copy. Raises OSError."""
    try:
        os.link(source, target)
        return
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
    shutil.copyfile(source, target)
    sync_folder(target)


def write_atomically(file: Path, content: bytes) -> None:
    """Replace a file as a whole: after a crash it has either the old content or the new."""
    new = file.with_name(f".{file.name}.new")
    with new.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    new.replace(file)
    sync_folder(file.parent)


def sealed(content: bytes) -> bytes:
    """The JSON object `content`, which is not empty, with its seal."""
    return b'{"sha256":"%s",' % hashlib.sha256(content[1:]).hexdigest().encode() + content[1:]


def read_sealed(file: Path, kind: type[_T]) -> _T:
    """Read a file that has `sealed(...)` of a `kind`, or such an object without a seal.

    Raises OSError, and msgspec.DecodeError for a damaged one.
    """
    content = file.read_bytes()
    seal = _SEAL.match(content)
    if seal and hashlib.sha256(content[seal.end() :]).hexdigest().encode() != seal[1]:
        raise msgspec.DecodeError("it does not have the SHA-256 that it was written with")
    first = kind.__struct_fields__[0].encode()
    if not seal and not re.match(rb'\s*\{\s*"%s"' % first, content):  # so that a damaged seal is not taken for none
        raise msgspec.DecodeError(f'it begins with neither "sha256" nor "{first.decode()}"')
    return msgspec.json.decode(content, type=kind)
