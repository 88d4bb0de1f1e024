"""Backups: copies of a data directory, taken while streamer runs, and restored.

A backup is a folder laid out like a data directory, plus `backup.json`, which is written last. It lists all files with size and
SHA-256, and the digest of the state as read back from the copy with every block checked. A backup without it is incomplete and
cannot be restored. States are copied before the log, so that no state covers events that the copied log does not have.

RocksDB tables and Parquet files never change once written, so on the same disk they are hard-linked. To survive the
loss of a disk, a backup must therefore be on another disk.
"""

import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

import msgspec

from streamer import __version__
from streamer.core.answers import BackupMade, NextOffset
from streamer.core.errors import BadState, StoreUnavailable, StreamerError
from streamer.storage import generations
from streamer.storage.files import link_or_copy, sync_folder
from streamer.storage.log import EmbeddedLog
from streamer.storage.rocks import locked
from streamer.storage.state import Digest, RocksStore

FORMAT = 1
MANIFEST = "backup.json"
_IMMUTABLE = (".sst", ".parquet", ".safetensors")
_NOT_COPIED = ("LOCK", "LOG")  # RocksDB's lock file and its diagnostic log
_ASIDE = re.compile(r".+\.damaged-[0-9]+|log\.recovering")  # what `streamer recover` renamed, and its work
_CHUNK_BYTES = 1 << 20

Checkpoint = Callable[[Path], None]


class File(msgspec.Struct, frozen=True):
    """One file of a backup."""

    path: str  # within the backup, with slashes
    size_bytes: int
    sha256: str


class Backup(msgspec.Struct, frozen=True):
    """The content of `backup.json`."""

    format: int
    version: str  # of the streamer that made it
    made_ms: int  # since 1970
    state: Digest
    log_end: int | None  # the next offset of the embedded log; None: there is no log, events come from Kafka
    files: tuple[File, ...]

    @property
    def size_bytes(self) -> int:
        """The size of all files together."""
        return sum(file.size_bytes for file in self.files)

    def to_answer(self, directory: str) -> BackupMade:
        """The answer of the endpoint for this backup in `directory`."""
        places = [(at.rpartition("/"), offset) for at, offset in self.state.offsets.items()]
        offsets = tuple(NextOffset(topic, int(partition), offset) for (topic, _, partition), offset in places)
        return BackupMade(directory, len(self.files), self.size_bytes, self.state.digest, offsets)


def back_up(data: Path, destination: Path, opened: Mapping[str, Checkpoint]) -> Backup:
    """Copy a data directory, also while streamer learns, to `destination`, which must be absent or empty.

    `opened` maps the folder of each database that this process has open to the function that copies it, in the order of
    copying: states first, the log last. No other file of `data` may be open for writing, and the log must not be trimmed
    meanwhile. Raises StreamerError, BadState for damage, StoreUnavailable; then `destination` is empty again.
    Cost: hashing every byte and reading every row once.
    """
    data, destination = data.resolve(), destination.resolve()
    if destination == data or data in destination.parents:
        raise StreamerError(f"a backup of {data} cannot lie inside it, as {destination} does: give another folder")
    _make_empty(destination, "a backup")
    try:
        unfinished = tuple(f"{folder}/" for folder in _unfinished_generations(data))
        for folder, checkpoint in opened.items():
            if not folder.startswith(unfinished):
                checkpoint(destination / folder)
        others = (*unfinished, *(f"{folder}/" for folder in opened))
        for path in _files(data):
            if not path.startswith(others):
                _copy(data / path, destination / path)
        return _verified(destination)
    except BaseException as error:
        for left in list(destination.iterdir()):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink()
        if isinstance(error, OSError):
            raise StoreUnavailable(f"cannot write the backup to {destination}: {error}") from None
        raise


def back_up_closed(data: Path, destination: Path) -> Backup:
    """Back up a data directory that no process has open; raises BadState when one has."""
    if not (data / "state").is_dir():
        raise BadState(f"no state in {data}: give the --data directory of a streamer that has run")
    otherwise = "back up a running streamer with --url instead of --data, or stop it"
    with ExitStack() as held:
        for current in sorted(data.resolve().rglob("CURRENT")):
            folder = current.parent
            held.enter_context(locked(folder, BadState(f"{folder} is in use by another process: {otherwise}")))
        return back_up(data, destination, {})


def _unfinished_generations(data: Path) -> list[str]:
    """Folders of generations whose training is not finished. They are not copied, because training starts again."""
    names = [
        generation.id for generation in generations.read_records(data) if generation.stage in generations.UNDER_WAY
    ]
    return [
        generations.generation_folder(data, name).relative_to(data).as_posix()
        for name in names
        if name != generations.live(data)
    ]


def _verified(destination: Path) -> Backup:
    """Read the copy back, and write its `backup.json`."""
    store = RocksStore(destination, read_only=True)
    try:
        state = store.digest()
    finally:
        store.close()
    end = None
    if (destination / "log").is_dir():
        log = EmbeddedLog(destination, read_only=True)
        try:
            log.verify()
            end, begin, covered = log.end, log.begin(), state.offsets.get("log/0", 0)
        finally:
            log.close()
        if not begin <= covered <= end:
            raise BadState(
                f"the state covers the log up to offset {covered}, but the log holds {begin} to {end}: not backed up"
            )
    for folder in [destination, *(path for path in destination.rglob("*") if path.is_dir())]:
        sync_folder(folder)
    files = tuple(_file(destination, path) for path in _files(destination))
    made = Backup(FORMAT, __version__, time.time_ns() // 1_000_000, state, end, files)
    new = destination / f".{MANIFEST}.new"
    new.write_bytes(msgspec.json.format(msgspec.json.encode(made)))
    sync_folder(new)
    new.replace(destination / MANIFEST)
    sync_folder(destination)
    return made


def read(source: Path) -> Backup:
    """Read `backup.json`; raises BadState for a backup that is incomplete, damaged or of another format."""
    try:
        content = (source / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise BadState(
            f"{source} is not a complete backup: it has no {MANIFEST}, which is written last; use another backup, or make "
            "a new one in an empty folder"
        ) from None
    except OSError as error:
        raise BadState(f"cannot read {source / MANIFEST}: {error}") from None
    try:
        backup = msgspec.json.decode(content, type=Backup)
    except msgspec.DecodeError as error:
        raise BadState(
            f"the backup in {source} is damaged: {MANIFEST} cannot be read ({error}); use another one"
        ) from None
    if backup.format != FORMAT:
        raise BadState(
            f"the backup in {source} has format {backup.format}, this streamer reads {FORMAT}: use the version that made it"
        )
    for file in backup.files:
        parts = PurePosixPath(file.path)
        if parts.is_absolute() or ".." in parts.parts or not parts.parts:
            raise BadState(f"the backup in {source} is damaged: {MANIFEST} names {file.path!r}; use another one")
    return backup


def restore(source: Path, data: Path, on_progress: Callable[[int, int], None]) -> Backup:
    """Restore a backup to `data`, which must be absent or empty; `on_progress` is called with bytes done and bytes in all.

    Raises BadState for a damaged or incomplete backup before anything is written, and StreamerError, StoreUnavailable. If it is
    interrupted, streamer cannot open `data`: empty the folder and restore again. Cost: the files are read three times.
    """
    backup, done, total = read(source), 0, 0
    total = 2 * backup.size_bytes
    for file in backup.files:
        _check(source, file)
        done += file.size_bytes
        on_progress(done, total)
    _make_empty(data, "a restored backup")
    try:
        for file in sorted(backup.files, key=_restore_order):
            target = data / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file.path, target)
            sync_folder(target)
            done += file.size_bytes
            on_progress(done, total)
        for folder in [data, *(path for path in data.rglob("*") if path.is_dir())]:
            sync_folder(folder)
    except OSError as error:
        raise StoreUnavailable(f"cannot write to {data}: {error}; empty it, and restore again") from None
    store = RocksStore(data, read_only=True)
    try:
        digest = store.digest().digest
    finally:
        store.close()
    if digest != backup.state.digest:
        raise BadState(
            f"the restored state in {data} has digest {digest}, the backup in {source} says {backup.state.digest}: do not use it"
        )
    return backup


def _restore_order(file: File) -> tuple[int, str]:
    """Tables first and CURRENT last: without CURRENT, RocksDB refuses to open an interrupted restore."""
    return (0 if file.path.endswith(".sst") else 2 if file.path.endswith("/CURRENT") else 1, file.path)


def _check(source: Path, file: File) -> None:
    try:
        found = _file(source, file.path)
    except OSError as error:
        raise BadState(
            f"the backup in {source} is damaged: {file.path} cannot be read ({error}); use another one"
        ) from None
    if found != file:
        raise BadState(
            f"the backup in {source} is damaged: {file.path} has {found.size_bytes:,} bytes and SHA-256 {found.sha256[:12]}..., "
            f"and should have {file.size_bytes:,} and {file.sha256[:12]}...; use another one"
        )


def _make_empty(folder: Path, what: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if next(folder.iterdir(), None) is None:
            return
    except OSError as error:
        raise StreamerError(f"cannot use {folder}: {error}; {what} needs a folder that is absent or empty") from None
    raise StreamerError(f"{folder} is not empty: {what} needs a folder that is absent or empty; give another one")


def _files(folder: Path) -> Iterator[str]:
    """Relative paths of all files under `folder` that belong in a backup, ascending."""
    for path in sorted(folder.rglob("*")):
        if _ASIDE.fullmatch(path.relative_to(folder).parts[0]):
            continue
        rocksdb_internal = (path.parent / "CURRENT").exists() and path.name.partition(".")[0] in _NOT_COPIED
        if path.is_file() and not rocksdb_internal:
            yield path.relative_to(folder).as_posix()


def _file(folder: Path, path: str) -> File:
    hashed, size = hashlib.sha256(), 0
    with (folder / path).open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            hashed.update(chunk)
            size += len(chunk)
    return File(path, size, hashed.hexdigest())


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix in _IMMUTABLE:
        link_or_copy(source, target)
        return
    shutil.copyfile(source, target)
    sync_folder(target)
