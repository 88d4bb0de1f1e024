"""RocksDB through rocksdict: the one file that knows it.

Raw mode always (otherwise values are unpickled, code and all); scans check the iterator's status, because rocksdict's
own iterators end silently at a damaged block; its bare `Exception`s become ours.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
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

BLOCK_CACHE_BYTES = 32 << 20
READ_ONLY_TRIES = 10
WRITE_BUFFER_BYTES = 8 << 20  # after a full disk RocksDB resumes when one would fit again


def _options(compress: bool, create: bool) -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(create)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_background_jobs(2)
    options.set_keep_log_file_num(2)
    options.set_max_manifest_file_size(1)  # a new one at each change of files: no key of a file that went stays in it
    options.set_max_open_files(-1)  # a reader beside us keeps its files although we compact them away
    options.set_compression_type(
        rocksdict.DBCompressionType.lz4() if compress else rocksdict.DBCompressionType.none()  # does nothing for floats
    )
    blocks = BlockBasedOptions()
    blocks.set_bloom_filter(10, False)  # most look-ups of new users find nothing
    blocks.set_block_cache(Cache(BLOCK_CACHE_BYTES))
    options.set_block_based_table_factory(blocks)
    return options


class Rocks:
    """One database. Safe from several threads."""

    def __init__(self, path: Path, *, compress: bool = False, read_only: bool = False) -> None:
        """Open or create it; raises BadState when it is another process's, damaged, or (read-only) not there."""
        self.path = path
        if not (path / "CURRENT").exists():
            if read_only:
                raise BadState(f"no state in {path}: give the --data directory of a streamer that has run")
            if any(path.glob("*.sst")):  # RocksDB would begin anew and delete them
                raise BadState(f"the state in {path} has lost its file CURRENT: restore a backup")
        try:
            if not read_only:
                path.mkdir(parents=True, exist_ok=True)
            self._db = _opened(path, _options(compress, create=not read_only), read_only)
        except OSError as error:
            raise BadState(f"cannot open the state in {path}: {error}") from None
        except Exception as error:  # rocksdict raises nothing narrower
            raise _opening(path, str(error)) from None
        self._sync = WriteOptions()
        self._sync.sync = True
        self._closed = False

    def get(self, key: bytes) -> bytes | None:
        """The value, None where there is none; raises BadState when it cannot be read."""
        with _reading(self.path):
            value: bytes | None = self._db.get(key)
        return value

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """The values of `keys`, in order."""
        with _reading(self.path):
            values: list[bytes | None] = self._db.get([*keys]) or []
        return values

    def write(
        self,
        rows: Iterable[tuple[bytes, bytes | None]],
        *,
        sync: bool = False,
        without: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        """Put (or, None, delete) all rows in one atomic batch, after forgetting those with lower <= key < upper of `without`.

        Raises StoreUnavailable when nothing was written.
        """
        batch = WriteBatch(raw_mode=True)
        for lower, upper in without:
            batch.delete_range(lower, upper)
        for key, value in rows:
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        try:
            self._db.write(batch, self._sync if sync else None)
        except Exception as error:  # rocksdict raises nothing narrower
            raise StoreUnavailable(
                f"cannot write to {self.path}: {error}; free some space or make it writable: it is tried again by itself"
            ) from None

    def scan(self, lower: bytes, upper: bytes, start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Rows with lower <= key < upper, from `start` on; raises BadState at a damaged block."""
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
            row.status()  # raises what ended the scan early

    def last(self, lower: bytes, upper: bytes) -> tuple[bytes, bytes] | None:
        """The last row with lower <= key < upper."""
        with _reading(self.path):
            row = self._db.iter(ReadOptions())
            row.seek_for_prev(upper)
            if row.valid() and row.key() == upper:
                row.prev()
            row.status()
            return (row.key(), row.value()) if row.valid() and row.key() >= lower else None

    def floor(self, key: bytes, lower: bytes) -> bytes | None:
        """The greatest stored key that is at most `key` and at least `lower`."""
        with _reading(self.path):
            row = self._db.iter(ReadOptions())
            row.seek_for_prev(key)
            row.status()
            return row.key() if row.valid() and row.key() >= lower else None

    def delete_range(self, lower: bytes, upper: bytes) -> None:
        """Forget all rows with lower <= key < upper, and give their room on the disk back. Cost: some 50 ms."""
        try:
            self._db.delete_range(lower, upper)
            self._db.compact_range(lower, upper)
        except Exception as error:  # rocksdict raises nothing narrower
            raise StoreUnavailable(f"cannot write to {self.path}: {error}") from None

    def checkpoint(self, path: Path) -> None:
        """A copy that can be opened, of everything written so far: hard links, so `path` must be on the same disk and not be there."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            Checkpoint(self._db).create_checkpoint(str(path))
        except Exception as error:  # rocksdict raises nothing narrower
            raise StoreUnavailable(f"cannot copy {self.path} to {path}: {error}") from None

    def sweep(self, lower: bytes | None = None, upper: bytes | None = None) -> None:
        """Write the tables of this range (all, by default) anew, without what was deleted or replaced in them; then see `lean`.

        Raises StoreUnavailable. Cost: a read and a write of the range.
        """
        options = CompactOptions()
        options.set_bottommost_level_compaction(BottommostLevelCompaction.force())
        options.set_exclusive_manual_compaction(False)  # what is committed meanwhile need not wait
        try:
            self._db.flush()
            self._db.compact_range(lower, upper, options)
            self._db.delete(b"\xff")  # which is not there: the list of files is made anew once more, as the one
            self._db.flush()  # of the last change begins with the keys of what went
        except Exception as error:  # rocksdict raises nothing narrower
            raise StoreUnavailable(f"cannot write to {self.path}: {error}") from None

    @property
    def lean(self) -> bool:
        """Whether there are no tables on the disk but those in use: one that went stays until whoever reads it is done."""
        with _reading(self.path):
            live = {str(file["name"]).lstrip("/") for file in self._db.live_files()}
        return {path.name for path in self.path.glob("*.sst")} <= live

    def sync(self) -> None:
        """Make what was written survive a power cut; raises StoreUnavailable."""
        try:
            self._db.flush_wal(True)
        except Exception as error:  # rocksdict raises nothing narrower
            raise StoreUnavailable(f"cannot write to {self.path}: {error}") from None

    def flush(self) -> None:
        """Empty the write-ahead log into tables, so that `size_bytes` is theirs alone; raises StoreUnavailable."""
        try:
            self._db.flush()
        except Exception as error:  # rocksdict raises nothing narrower
            raise StoreUnavailable(f"cannot write to {self.path}: {error}") from None

    @property
    def size_bytes(self) -> int:
        """Bytes on disk, about: files of the database and its write-ahead log."""
        return 0 if self._closed else sum(map(_size, self.path.glob("*.[sl][so][tg]")))

    def close(self) -> None:
        """Flush and let go of the lock; safe to call twice. What cannot be flushed (a full disk) is in the write-ahead log."""
        if not self._closed:
            self._closed = True
            with suppress(Exception):  # rocksdict raises nothing narrower
                self._db.close()


def _opened(path: Path, options: Options, read_only: bool) -> Rdict:
    access = AccessType.read_only(False) if read_only else AccessType.read_write()
    for _ in range(READ_ONLY_TRIES - 1 if read_only else 0):
        with suppress(Exception):  # its owner compacted a file away since we read their list: the list is new again
            return Rdict(str(path), options, access_type=access)
    return Rdict(str(path), options, access_type=access)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (BadState, StoreUnavailable, GeneratorExit):
        raise
    except Exception as error:  # rocksdict raises nothing narrower
        raise BadState(f"the state in {path} is damaged: {error}; {_mend(path)}") from None


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # compacted away since it was listed
        return 0


def _opening(path: Path, error: str) -> BadState:
    if "lock file" in error.lower() or "lock hold by" in error.lower():  # "block" is another matter
        return BadState(f"the state in {path} is in use by another process: stop it, or use another --data directory")
    if "no space left" in error.lower():  # RocksDB writes while it opens; nothing is wrong with the state
        return BadState(f"cannot open the state in {path}: {error}; free some space and start again: nothing is lost")
    return BadState(f"cannot open the state in {path}: {error}; {_mend(path)}")


def _mend(path: Path) -> str:
    """What to do about a damaged database; a state can be made again from its log, a log from nothing."""
    if path.name != "state":
        return "restore a backup"
    ours = (
        path.parent.parent.name == "generations"
    )  # another one than the first: nothing begins in the place of it alone
    of = "`state`, `generations` and `generation` in the data directory" if ours else "it"
    return f"restore a backup, or move {of} away to learn again from the log"
