"""The manifest of the archive: its files and the offsets that they reach, in a small file that is replaced as a whole.

    data/archive/_archive.json
    data/archive/topic=ratings/day=2026-11-21/00000012.parquet

Only files that the manifest lists belong to the archive; all others were left by a crash.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from streamer.core.errors import BadState
from streamer.storage.files import sync_folder

MANIFEST = "_archive.json"  # Parquet tools ignore names that begin with "_"
FORMAT = 1
SUFFIX = ".parquet"


class File(msgspec.Struct, frozen=True):
    """A file of the archive."""

    number: int  # files are numbered in the order of writing, and no number is used twice
    topic: str
    day: str  # 2026-11-21
    rows: int
    bytes: int
    newest_ms: int  # when the newest of its rows was appended
    named: int  # rows with an event_id

    @property
    def path(self) -> str:
        """Its path relative to the archive's folder."""
        return f"topic={self.topic}/day={self.day}/{self.number:08d}{SUFFIX}"


class Manifest(msgspec.Struct, frozen=True):
    """The content of the archive. It is replaced as a whole, so that files and offsets change together."""

    format: int = FORMAT
    next_number: int = 0
    offsets: dict[str, int] = {}  # "topic/partition" -> the next offset that is not in the files
    files: tuple[File, ...] = ()
    forgetting: dict[
        str, int
    ] = {}  # user id -> a file number: this user's rows in files with lower numbers are forgotten

    def forgotten_in(self, file: File) -> list[str]:
        """Users whose rows in `file` are forgotten: readers skip them, and they are removed when the file is rewritten."""
        return [user_id for user_id, below in self.forgetting.items() if file.number < below]


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`, an empty one where there is none; raises BadState."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError:
        return Manifest()
    except (OSError, msgspec.DecodeError) as error:
        raise BadState(f"cannot read the archive's {folder / MANIFEST}: {error}; restore a backup") from None
    if manifest.format != FORMAT:
        raise BadState(
            f"the archive in {folder} has format {manifest.format}, this streamer writes format {FORMAT}: "
            "use the version that made it, or move it away to archive again from the log"
        )
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest: this one step makes a change of the archive visible. Durable when it returns. Raises OSError."""
    new = folder / f"{MANIFEST}.tmp"
    with new.open("wb") as out:
        out.write(msgspec.json.encode(manifest))
        out.flush()
        os.fsync(out.fileno())
    new.replace(folder / MANIFEST)
    sync_folder(folder)


def remove_unlisted(folder: Path, manifest: Manifest) -> int:
    """Delete files that the manifest does not list, which a crash left; returns how many."""
    listed = {file.path for file in manifest.files}
    removed = 0
    for place in folder.glob("topic=*/day=*"):
        for path in (*place.glob(f"*{SUFFIX}"), *place.glob(".*.tmp")):
            if path.relative_to(folder).as_posix() not in listed:
                path.unlink()
                removed += 1
        _remove_empty(place)
    (folder / f"{MANIFEST}.tmp").unlink(missing_ok=True)
    return removed


def remove(folder: Path, files: Iterable[File]) -> None:
    """Delete files that the manifest no longer lists."""
    for file in files:
        (folder / file.path).unlink(missing_ok=True)
        _remove_empty((folder / file.path).parent)


def _remove_empty(place: Path) -> None:
    with suppress(OSError):
        place.rmdir()
