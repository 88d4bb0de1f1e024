"""Backups: a copy of a data directory that can be learned on from, taken under load, and put back.

A backup is a folder laid out as a data directory, and `backup.json`, which is written last: what stands there, with sizes and
SHA-256 of all files, and the digest of the state as it was read back from the copy, every block checked. Without it a backup is
not complete, and nothing is restored from it. States are copied before the log, so that none covers what the log has not.

Tables of RocksDB and Parquet files never change once they are written: they are linked where the disk is the same, so a
backup against the loss of a disk belongs on another one.
"""

import fcntl
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath

import msgspec

from streamer import __version__
from streamer.core.answers import BackupMade, NextOffset
from streamer.core.errors import BadState, StoreUnavailable, StreamerError
from streamer.storage import generations
from streamer.storage.files import link_or_copy, sync_folder
from streamer.storage.log import EmbeddedLog
from streamer.storage.state import Digest, RocksStore

FORMAT = 1
MANIFEST = "backup.json"
_UNCHANGING = (".sst", ".parquet", ".safetensors")
_NOT_COPIED = ("LOCK", "LOG")  # of RocksDB: who has it open, and its diary
_CHUNK_BYTES = 1 << 20

Checkpoint = Callable[[Path], None]


class File(msgspec.Struct, frozen=True):
    """One file of a backup."""

    path: str  # within the backup, with slashes
    size_bytes: int
    sha256: str


class Backup(msgspec.Struct, frozen=True):
    """`backup.json`."""

    format: int
    version: str  # of the streamer that made it
    made_ms: int  # since 1970
    state: Digest
    log_end: int | None  # the next offset of the embedded log; None: there is none, events come from Kafka
    files: tuple[File, ...]

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(file.size_bytes for file in self.files)

    def said(self, directory: str) -> BackupMade:
        """In the words of the endpoint."""
        places = [(at.rpartition("/"), offset) for at, offset in self.state.offsets.items()]
        offsets = tuple(NextOffset(topic, int(partition), offset) for (topic, _, partition), offset in places)
        return BackupMade(directory, len(self.files), self.size_bytes, self.state.digest, offsets)


def back_up(data: Path, destination: Path, opened: Mapping[str, Checkpoint]) -> Backup:
    """Copy a data directory into `destination`, which is absent or empty, while it is learned into.

    `opened`: how each database under `data` that is open in this process is copied, by its folder, in the order in which they are:
    states first, the log last. Nothing else of `data` may be open for writing, and the log must not be trimmed meanwhile.
    Raises StreamerError, BadState for damage, StoreUnavailable; then nothing is left in `destination`.
    Cost: hashing every byte and reading every row once.
    """
    data, destination = data.resolve(), destination.resolve()
    if destination == data or data in destination.parents:
        raise StreamerError(f"a backup of {data} cannot lie inside it: {destination} goes with it; name another folder")
    _make_empty(destination, "a backup")
    try:
        made_again = tuple(f"{folder}/" for folder in _under_way(data))
        for folder, checkpoint in opened.items():
            if not folder.startswith(made_again):
                checkpoint(destination / folder)
        others = (*made_again, *(f"{folder}/" for folder in opened))
        for path in _files(data):
            if not path.startswith(others):
                _copy(data / path, destination / path)
        return _completed(destination)
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
    """The same of a data directory that no process has open; raises BadState when one has."""
    if not (data / "state").is_dir():
        raise BadState(f"no state in {data}: give the --data directory of a streamer that has run")
    with ExitStack() as held:
        for current in sorted(data.resolve().rglob("CURRENT")):
            held.enter_context(_locked(current.parent))
        return back_up(data, destination, {})


def _under_way(data: Path) -> list[str]:
    """Folders of generations that are being made: they are made again."""
    found = [
        generation.id for generation in generations.read_records(data) if generation.stage in generations.UNDER_WAY
    ]
    return [
        generations.generation_folder(data, name).relative_to(data).as_posix()
        for name in found
        if name != generations.live(data)
    ]


def _completed(destination: Path) -> Backup:
    """Read the copy back, and write what it holds beside it."""
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
                f"the state covers the log up to offset {covered}, the log holds {begin} to {end}: not backed up"
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
    """What a backup holds, by its own word; raises BadState for one that is not complete or not ours."""
    try:
        content = (source / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise BadState(
            f"{source} is no complete backup: it has no {MANIFEST}, which is written last; use another backup, and make "
            "this one again into an empty folder"
        ) from None
    except OSError as error:
        raise BadState(f"cannot read {source / MANIFEST}: {error}") from None
    try:
        found = msgspec.json.decode(content, type=Backup)
    except msgspec.DecodeError as error:
        raise BadState(
            f"the backup in {source} is damaged: {MANIFEST} cannot be read ({error}); use another one"
        ) from None
    if found.format != FORMAT:
        raise BadState(
            f"the backup in {source} has format {found.format}, this streamer reads {FORMAT}: use the one that made it"
        )
    for file in found.files:
        parts = PurePosixPath(file.path)
        if parts.is_absolute() or ".." in parts.parts or not parts.parts:
            raise BadState(f"the backup in {source} is damaged: {MANIFEST} names {file.path!r}; use another one")
    return found


def restore(source: Path, data: Path, moved: Callable[[int, int], None]) -> Backup:
    """Put a backup into `data`, which is absent or empty; `moved` hears how many bytes of how many are done.

    Raises BadState for a backup that is damaged or not complete, before anything is written, and StreamerError, StoreUnavailable. Broken
    off, it leaves a folder that no streamer opens: empty it and restore again. Cost: the files are read three times.
    """
    found, done, total = read(source), 0, 0
    total = 2 * found.size_bytes
    for file in found.files:
        _check(source, file)
        done += file.size_bytes
        moved(done, total)
    _make_empty(data, "a restored backup")
    try:
        for file in sorted(found.files, key=_last_what_opens):
            target = data / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file.path, target)
            sync_folder(target)
            done += file.size_bytes
            moved(done, total)
        for folder in [data, *(path for path in data.rglob("*") if path.is_dir())]:
            sync_folder(folder)
    except OSError as error:
        raise StoreUnavailable(f"cannot write to {data}: {error}; empty it, and restore again") from None
    store = RocksStore(data, read_only=True)
    try:
        digest = store.digest().digest
    finally:
        store.close()
    if digest != found.state.digest:
        raise BadState(
            f"what was restored has digest {digest}, the backup in {source} says {found.state.digest}: do not use it"
        )
    return found


def _last_what_opens(file: File) -> tuple[int, str]:
    """Tables first and CURRENT last: RocksDB refuses tables without it."""
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
            f"should have {file.size_bytes:,} and {file.sha256[:12]}...; use another one"
        )


def _make_empty(folder: Path, what: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if next(folder.iterdir(), None) is None:
            return
    except OSError as error:
        raise StreamerError(
            f"cannot use {folder}: {error}; {what} goes into a folder that is not there, or empty"
        ) from None
    raise StreamerError(
        f"{folder} is not empty: {what} goes into a folder that is not there, or empty; name another one"
    )


def _files(folder: Path) -> Iterator[str]:
    """Paths of all files under `folder` that are copied, ascending."""
    for path in sorted(folder.rglob("*")):
        diary = (path.parent / "CURRENT").exists() and path.name.partition(".")[0] in _NOT_COPIED
        if path.is_file() and not diary:
            yield path.relative_to(folder).as_posix()


def _file(folder: Path, path: str) -> File:
    hashed, size = hashlib.sha256(), 0
    with (folder / path).open("rb") as found:
        while chunk := found.read(_CHUNK_BYTES):
            hashed.update(chunk)
            size += len(chunk)
    return File(path, size, hashed.hexdigest())


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix in _UNCHANGING:
        link_or_copy(source, target)
        return
    shutil.copyfile(source, target)
    sync_folder(target)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """RocksDB's own lock, as another process would hold it; never of a database that this process has open."""
    with (folder / "LOCK").open("ab") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BadState(
                f"{folder} is in use by another process: back up what runs there with --url, without --data, or stop it"
            ) from None
        yield
