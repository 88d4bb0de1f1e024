"""File operations that leave no half-written file after a crash: durable writes, atomic replacement, hard links."""

import errno
import os
import shutil
from pathlib import Path


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
