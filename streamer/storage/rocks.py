"""RocksDB, by way of rocksdict; only streamer.storage.salvage imports it too, to read what is damaged.

Always in raw mode: otherwise rocksdict unpickles values, which can run code. Scans check the iterator's status, because
rocksdict's own iterators end silently at a damaged block. Its bare `Exception`s are turned into streamer's errors.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import rocksdict
from rocksdict import (
    AccessType,
    BlockBasedOptions,
    BottommostLevelCompaction,
    Cache,
    Checkpoint,
    CompactOptions,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteOptions,
)

from streamer.core.errors import BadState, StoreUnavailable
from streamer.storage import mark, wal

BLOCK_CACHE_BYTES = 32 << 20
READ_ONLY_TRIES = 10
WRITE_BUFFER_BYTES = 8 << 20  # after a full disk, RocksDB resumes once a buffer fits again


def _options(compress: bool, create: bool) -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(create)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_background_jobs(2)
    options.set_level_zero_file_num_compaction_trigger(8)  # with 4, rows of users never seen before cost a quarter more
    options.set_keep_log_file_num(2)
    options.set_max_manifest_file_size(1)  # a new manifest at each change of files, without keys of deleted files
    options.set_max_open_files(-1)  # a read-only process keeps files open that this one deletes
    options.set_compression_type(
        rocksdict.DBCompressionType.lz4() if compress else rocksdict.DBCompressionType.none()  # floats do not compress
    )
    blocks = BlockBasedOptions()
    options.set_memtable_whole_key_filtering(True)
    options.set_memtable_prefix_bloom_ratio(0.1)  # most look-ups of new users find nothing, here and in the tables
    blocks.set_bloom_filter(10, False)
    blocks.set_block_cache(Cache(BLOCK_CACHE_BYTES))
    options.set_block_based_table_factory(blocks)
    return options


class Rocks:
    """One database. Safe from several threads."""

    def __init__(self, path: Path, *, compress: bool = False, read_only: bool = False) -> None:
        """Open or create it; raises BadState when it is locked by another process, damaged, or (read-only) missing."""
        self.path = path
        if not (path / "CURRENT").exists():
            # RocksDB would create a new database, and delete these files
            if any(path.glob("*.sst")) or wal.files(path) or (path / mark.NAME).exists():
                raise BadState(f"the {_what(path)} in {path} has lost its file CURRENT: {_advice(path)}")
            if read_only:
                raise BadState(f"no {_what(path)} in {path}: give the --data directory of a streamer that has run")
        self._view: tempfile.TemporaryDirectory[str] | None = None
        try:
            if read_only:
                self._open_beside_an_owner(compress)
            else:
                path.mkdir(parents=True, exist_ok=True)
                self._open(compress, read_only=False)
        except Exception as error:  # rocksdict raises nothing narrower
            if isinstance(error, BadState):
                raise
            if isinstance(error, OSError):
                raise BadState(f"cannot open the {_what(path)} in {path}: {error}") from None
            raise _open_error(path, str(error)) from None
        self._sync = WriteOptions()
        self._sync.sync = True
        self._closed = False

    def _open_beside_an_owner(self, compress: bool) -> None:
        """Open for reading a database that another process may be writing.

        It deletes files that we have listed. A write-ahead log that is gone, and whose tables our list does not have yet, is a gap
        without an error; one of two that are no longer needed, the other of which is gone, looks like damage. So we open again
        if the lists have changed meanwhile.
        """
        for left in reversed(range(READ_ONLY_TRIES)):
            before = self._listed()
            try:
                self._open(compress, read_only=True)
            except Exception:  # rocksdict raises nothing narrower
                if not left:
                    raise
                continue
            if not left or self._listed() == before:
                return
            self._db.close()
            self._drop_view()

    def _listed(self) -> tuple[bytes, list[Path]]:
        """The list of tables, of which each change begins a new one, and the write-ahead logs."""
        return (self.path / "CURRENT").read_bytes(), wal.files(self.path)

    def _open(self, compress: bool, *, read_only: bool) -> None:
        access = AccessType.read_only(False) if read_only else AccessType.read_write()
        try:
            self.found = wal.survey(self.path)
            if self.found.unsound:
                self._set_unsound_aside(read_only)
            opened = self._view.name if self._view else str(self.path)
            self._db = Rdict(opened, _options(compress, create=not read_only), access_type=access)
        except BaseException:
            self._drop_view()
            raise

    def _set_unsound_aside(self, read_only: bool) -> None:
        """Keep from RocksDB what cannot be applied of the write-ahead logs, a torn tail or damage: on some of it it never ends.

        For writing the files are cut; for reading, RocksDB gets a folder with links to the files, and copies of the sound parts.
        """
        if not read_only:
            with locked(self.path, in_use(self.path)):
                for file, size in self.found.sound_bytes.items():
                    os.truncate(file, size)
            return
        self._view = tempfile.TemporaryDirectory(prefix="streamer-")
        for file in self.path.iterdir():
            place = Path(self._view.name) / file.name
            if file in self.found.sound_bytes:
                place.write_bytes(file.read_bytes()[: self.found.sound_bytes[file]])
            elif file.name not in ("LOCK", "LOG") and file.suffix != wal.SUFFIX:  # a newer one would follow on a gap
                place.symlink_to(file.absolute())

    def _drop_view(self) -> None:
        if self._view is not None:
            self._view.cleanup()
            self._view = None

    def get(self, key: bytes) -> bytes | None:
        """The value, None where there is none; raises BadState when it cannot be read."""
        with _reading(self.path):
            value: bytes | None = self._db.get(key)
        return value

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """The values of `keys`, in order, None where there is none; raises BadState."""
        with _reading(self.path):
            values: list[bytes | None] = self._db.get([*keys]) or []
        return values

    def write(
        self,
        rows: Iterable[tuple[bytes, bytes | None]],
        *,
        sync: bool = False,
        delete_ranges: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        """Write all rows in one atomic batch; a value of None deletes. Ranges lower <= key < upper are deleted first.

        Raises StoreUnavailable when nothing was written.
        """
        batch = WriteBatch(raw_mode=True)
        for lower, upper in delete_ranges:
            batch.delete_range(lower, upper)
        for key, value in rows:
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        try:
            self._db.write(batch, self._sync if sync else None)
        except Exception as error:  # rocksdict raises nothing narrower
            damaged = str(error).startswith("Corruption")  # a compaction has read a damaged block
            otherwise = "free some space or make it writable: streamer tries again by itself"
            raise StoreUnavailable(
                f"cannot write to {self.path}: {error}; {_advice(self.path) if damaged else otherwise}"
            ) from None

    def scan(self, lower: bytes, upper: bytes, start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Rows with lower <= key < upper in order, from key `start` on; raises BadState at a damaged block."""
        options = ReadOptions()
        options.set_iterate_lower_bound(lower)
        options.set_iterate_upper_bound(upper)
        options.set_verify_checksums(True)
        with _reading(self.path):
            row = self._db.iter(options)
            row.seek(start if start is not None else lower)
            while row.valid():
                yield row.key(), row.value()
                row.next()
            row.status()  # raises the error that ended the scan early, if there was one

    def last(self, lower: bytes, upper: bytes) -> tuple[bytes, bytes] | None:
        """The last row with lower <= key < upper, None if there is none."""
        with _reading(self.path):
            row = self._db.iter(ReadOptions())
            row.seek_for_prev(upper)
            if row.valid() and row.key() == upper:
                row.prev()
            row.status()
            return (row.key(), row.value()) if row.valid() and row.key() >= lower else None

    def floor(self, key: bytes, lower: bytes) -> bytes | None:
        """The greatest stored key between `lower` and `key`, both inclusive; None if there is none."""
        with _reading(self.path):
            row = self._db.iter(ReadOptions())
            row.seek_for_prev(key)
            row.status()
            return row.key() if row.valid() and row.key() >= lower else None

    def delete_range(self, lower: bytes, upper: bytes) -> None:
        """Delete all rows with lower <= key < upper, and free their disk space. Raises StoreUnavailable. Cost: some 50 ms."""
        try:
            self._db.delete_range(lower, upper)
            self._db.compact_range(lower, upper)
        except Exception as error:  # rocksdict raises nothing narrower
            raise StoreUnavailable(f"cannot write to {self.path}: {error}") from None

    def checkpoint(self, path: Path) -> None:
        """Copy everything written so far to `path`, by hard links: it must be on the same disk and not exist. Raises StoreUnavailable."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            Checkpoint(self._db).create_checkpoint(str(path))
        except Exception as error:  # rocksdict raises nothing narrower
            raise StoreUnavailable(f"cannot copy {self.path} to {path}: {error}") from None

    def sweep(self, lower: bytes | None = None, upper: bytes | None = None) -> None:
        """Rewrite the tables of this range (by default of all) without deleted and replaced values.

        The old files may stay until `has_only_live_files`. Raises StoreUnavailable. Cost: reading and writing the range.
        """
        options = CompactOptions()
        options.set_bottommost_level_compaction(BottommostLevelCompaction.force())
        options.set_exclusive_manual_compaction(False)  # commits need not wait meanwhile
        try:
            self._db.flush()
            self._db.compact_range(lower, upper, options)
            self._db.delete(b"\xff")  # a key that does not exist, only to make RocksDB write its manifest once more:
            self._db.flush()  # the manifest of the compaction still has first and last keys of the deleted files
        except Exception as error:  # rocksdict raises nothing narrower
            raise StoreUnavailable(f"cannot write to {self.path}: {error}") from None

    @property
    def has_only_live_files(self) -> bool:
        """Whether all tables on disk are in use. A deleted table's file stays until its last reader is done."""
        with _reading(self.path):
            live = {str(file["name"]).lstrip("/") for file in self._db.live_files()}
        return {path.name for path in self.path.glob("*.sst")} <= live

    def sync(self) -> None:
        """Make everything written so far survive a power cut; raises StoreUnavailable."""
        try:
            self._db.flush_wal(True)
        except Exception as error:  # rocksdict raises nothing narrower
            raise StoreUnavailable(f"cannot write to {self.path}: {error}") from None

    def flush(self) -> None:
        """Move the write-ahead log's content to tables, so that `size_bytes` counts tables only; raises StoreUnavailable."""
        try:
            self._db.flush()
        except Exception as error:  # rocksdict raises nothing narrower
            raise StoreUnavailable(f"cannot write to {self.path}: {error}") from None

    @property
    def size_bytes(self) -> int:
        """Approximate bytes on disk: tables and write-ahead log."""
        return 0 if self._closed else sum(map(_size, self.path.glob("*.[sl][so][tg]")))

    def close(self) -> None:
        """Flush and release the lock; safe to call twice. What cannot be flushed (a full disk) stays in the write-ahead log."""
        if not self._closed:
            self._closed = True
            with suppress(Exception):  # rocksdict raises nothing narrower
                self._db.close()
            self._drop_view()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (BadState, StoreUnavailable, GeneratorExit):
        raise
    except Exception as error:  # rocksdict raises nothing narrower
        raise BadState(f"the {_what(path)} in {path} is damaged: {error}; {_advice(path)}") from None


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # deleted by a compaction since it was listed
        return 0


def _open_error(path: Path, error: str) -> BadState:
    if "lock file" in error.lower() or "lock hold by" in error.lower():  # must not match "block"
        return in_use(path)
    if "no space left" in error.lower():  # RocksDB writes while it opens; the state is intact
        return BadState(
            f"cannot open the {_what(path)} in {path}: {error}; free some space and start again: nothing is lost"
        )
    return BadState(f"cannot open the {_what(path)} in {path}: {error}; {_advice(path)}")


def _what(path: Path) -> str:
    return "log" if path.name == "log" else "state"


def _advice(path: Path) -> str:
    """What to do about a damaged database. A state can be learned again from the log."""
    if path.name == "log":
        return recover_advice(path.parent)
    if path.name != "state":
        return "restore a backup"
    later = path.parent.parent.name == "generations"  # not g0: it is not enough to move its own state away
    what = "`state`, `generations` and `generation` in the data directory" if later else "it"
    return f"restore a backup, or move {what} away to learn again from the log"


def recover_advice(data: Path) -> str:
    """What to do about a damaged log in the data directory `data`."""
    return (
        f"`streamer recover --data {data}` keeps what is whole, takes what is missing from the archive and says which events "
        "are gone; or restore a backup"
    )


def in_use(state: Path) -> BadState:
    """The error for a state that another process has open."""
    return BadState(
        f"the {_what(state)} in {state} is in use by another process: stop it, or use another --data directory"
    )


@contextmanager
def locked(folder: Path, error: BadState) -> Iterator[None]:
    """Hold the lock of the database in `folder`, as another process would; raises `error` if another process holds it.

    Never use it on a database that this process has open.
    """
    with (folder / "LOCK").open("ab") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise error from None
        yield


@contextmanager
def all_locked(folders: Iterable[Path]) -> Iterator[None]:
    """Hold the lock of every database that is in one of these folders, as `locked`."""
    with ExitStack() as held:
        for folder in folders:
            if (folder / "LOCK").is_file():
                held.enter_context(locked(folder, in_use(folder)))
        yield


def refuse_in_use(folders: Iterable[Path]) -> None:
    """Raise BadState if another process has a database in one of these folders open. Not for a process that has one open."""
    with suppress(OSError), all_locked(folders):  # what cannot be read is reported when it is opened
        pass
