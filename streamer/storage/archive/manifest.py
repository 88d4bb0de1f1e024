"""The manifest of the archive: its files and the offsets that they reach, in a small file that is replaced as a whole.

    data/archive/_archive.json
    data/archive/_archive.copy.json
    data/archive/topic=ratings/day=2026-11-21/00000012.parquet

Only files that the manifest lists belong to the archive; all others were left by a crash. The copy, written after it, is read
when the manifest itself is missing or damaged. It is at most one commit behind, and what that commit added is then archived
again.
"""

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from streamer.core.errors import BadState
from streamer.storage.files import read_sealed, sealed, write_atomically

MANIFEST = "_archive.json"  # Parquet tools ignore names that begin with "_"
COPY = "_archive.copy.json"
FORMAT = 1
SUFFIX = ".parquet"
REPAIR = "run `streamer archive repair`"
_LOGGER = logging.getLogger("streamer.archive")


class File(msgspec.Struct, frozen=True):
    """A file of the archive."""

    number: int  # files are numbered in the order of writing, and no number is used twice
    topic: str
    day: str  # 2026-11-21
    rows: int
    bytes: int
    newest_ms: int  # when the newest of its rows was appended
    named: int  # rows with an event_id
    sha256: str = ""  # of the file; empty if written before there were digests, until `Archive.verify` has read it
    spans: dict[int, tuple[int, int]] = {}  # partition -> first and last offset of its rows; absent like `sha256`

    @property
    def path(self) -> str:
        """Its path relative to the archive's folder."""
        return f"topic={self.topic}/day={self.day}/{self.number:08d}{SUFFIX}"


class Loss(msgspec.Struct, frozen=True):
    """Rows that a repair could not bring back."""

    files: tuple[str, ...]  # paths of the damaged files; empty for what was lost with the whole archive
    rows: int  # how many; -1 if that is unknown
    offsets: dict[int, tuple[tuple[int, int], ...]]  # partition -> first and last of each run that they are among

    def sentence(self) -> str:
        """What is gone."""
        runs = [f"{f'partition {at}: ' if at >= 0 else ''}{_ranges(runs)}" for at, runs in self.offsets.items() if runs]
        rows = f"{self.rows:,} rows" if self.rows >= 0 else "rows"
        among = "; ".join(runs) or "unknown, as nothing that is left says them"
        return f"{rows} of {', '.join(self.files) or 'the archive'} are gone; their offsets are among: {among}"


class Topic(msgspec.Struct, frozen=True):
    """Which topic of Kafka the rows are from: one that is deleted and made anew has another id."""

    id: str
    since: dict[int, int]  # partition -> the next offset when this id was first seen; 0 for others


class Manifest(msgspec.Struct, frozen=True):
    """The content of the archive. It is replaced as a whole, so that files and offsets change together."""

    format: int = FORMAT
    next_number: int = 0
    offsets: dict[str, int] = {}  # "topic/partition" -> the next offset that is not in the files
    files: tuple[File, ...] = ()
    forgetting: dict[
        str, int
    ] = {}  # user id -> a file number: this user's rows in files with lower numbers are forgotten
    lost: tuple[Loss, ...] = ()
    topics: dict[str, Topic] = {}  # absent for the embedded log, and until a version that notes them has read the topic

    def forgotten_in(self, file: File) -> list[str]:
        """Users whose rows in `file` are forgotten: readers skip them, and they are removed when the file is rewritten."""
        return [user_id for user_id, below in self.forgetting.items() if file.number < below]


def _ranges(runs: Sequence[tuple[int, int]]) -> str:
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in runs)


def is_listed(folder: Path) -> bool:
    """Whether there is a manifest in `folder`, or its copy."""
    return (folder / MANIFEST).exists() or (folder / COPY).exists()


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`, or its copy; an empty one where there is neither. Raises BadState."""
    troubles = []
    for name in (MANIFEST, COPY):
        try:
            manifest = read_sealed(folder / name, Manifest)
        except (OSError, msgspec.DecodeError) as error:
            troubles.append(error)
            continue
        if manifest.format != FORMAT:
            raise BadState(
                f"the archive in {folder} has format {manifest.format}, this streamer writes format {FORMAT}: "
                "use the version that made it, or move it away to archive again from the log"
            )
        if troubles:
            _LOGGER.warning("the archive's %s cannot be read (%s): its copy is used", folder / MANIFEST, troubles[0])
        return manifest
    if any(folder.glob(f"topic=*/day=*/*{SUFFIX}")) or not all(isinstance(e, FileNotFoundError) for e in troubles):
        raise BadState(
            f"cannot read the archive's {folder / MANIFEST}: {troubles[0]}; nor its copy: restore a backup, or move {folder} "
            "away to archive again what the log still has"
        )
    return Manifest()


def missing(path: Path | str) -> str:
    """The sentence for a file that the manifest lists and that is not there."""
    return f"the archive's file {path} is missing: {REPAIR}"


def damage_at_a_glance(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Files that are missing or not of their size: their path, and what is wrong. Cost: some 3 us a file."""
    found = {}
    for file in manifest.files:
        try:
            size = (folder / file.path).stat().st_size
        except OSError:
            found[file.path] = missing(folder / file.path)
            continue
        if size != file.bytes:
            what = f"{size:,} bytes, not {file.bytes:,}"
            found[file.path] = f"the archive's file {folder / file.path} is damaged: {what}; {REPAIR}"
    return found


def renew_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest that was read anew where it has no seal, or it and its copy are not alike. Raises OSError."""
    found = [(folder / name).read_bytes() if (folder / name).exists() else b"" for name in (MANIFEST, COPY)]
    if found != [sealed(msgspec.json.encode(manifest))] * 2:
        write_manifest(folder, manifest)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest: this one step makes a change of the archive visible. Durable when it returns. Raises OSError."""
    content = sealed(msgspec.json.encode(manifest))
    write_atomically(folder / MANIFEST, content)
    try:
        write_atomically(folder / COPY, content)
    except OSError:  # the change is made; a copy that does not have it is worse than none
        (folder / COPY).unlink(missing_ok=True)


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
    for left in (f"{MANIFEST}.tmp", f".{MANIFEST}.new", f".{COPY}.new"):
        (folder / left).unlink(missing_ok=True)
    return removed


def remove(folder: Path, files: Iterable[File]) -> None:
    """Delete files that the manifest no longer lists."""
    for file in files:
        (folder / file.path).unlink(missing_ok=True)
        _remove_empty((folder / file.path).parent)


def _remove_empty(place: Path) -> None:
    with suppress(OSError):
        place.rmdir()
