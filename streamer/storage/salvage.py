"""What a damaged log still holds whole, read past every damage: from its write-ahead log, and from its tables.

Nothing of the log is changed. The write-ahead log is read by streamer.storage.wal. Tables are read by RocksDB block by block,
in a folder of links to them: a damaged block loses its own rows (some 4 KiB), a table whose end is damaged is lost as a
whole, and where the list of tables is damaged, RocksDB makes a new one of those tables that are whole.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from heapq import merge
from itertools import groupby
from pathlib import Path

import msgspec
from rocksdict import AccessType, Options, Rdict, RdictIter, ReadOptions

from streamer.core.events import BLANK, Record
from streamer.storage import mark, runs, wal

_NOT_TABLES = ("LOCK", "LOG", mark.NAME)
_STEPS = 5000  # offsets tried behind a damaged block, before the rest of its table is given up


class Salvage:
    """Reads a log that no process has open."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        """The database in `folder`, which may be missing; `scratch` is an empty folder to work in."""
        self._folder, self._scratch = folder, scratch
        self.mark = mark.read(folder)
        self._begin = self.mark.begin if self.mark else 0
        self.damage = list[str]()  # what was found damaged
        self.replays = dict[str, int]()  # SHA-256 of a replayed file -> its next row, once `records` has ended
        self.erasures = 0

    def records(self) -> Iterator[Sequence[Record]]:
        """Every whole record once, in order of offsets, in runs of consecutive ones; none before the log's beginning.

        Of a write of which only a beginning is left, they are those that were acknowledged. Where versions of a record differ, one that was erased counts, or else the one written last.
        """
        end = self._begin
        rows = merge(self._table_rows(), self._written_rows(), key=lambda row: row[0])  # equal keys: tables first
        for key, versions in groupby(rows, key=lambda row: row[0]):
            if not key.startswith(runs.RUNS):
                self._note(key, [value for _, value in versions])
                continue
            found = [record for record in _newest([self._decoded(*row) for row in versions]) if record.offset >= end]
            if found:
                end = found[-1].offset + 1
                yield found

    def _note(self, key: bytes, values: Sequence[bytes]) -> None:
        numbers = [int.from_bytes(value, "big") for value in values]
        if key.startswith(runs.REPLAYS):
            with suppress(UnicodeDecodeError):
                name = key[len(runs.REPLAYS) :].decode()
                self.replays[name] = max([self.replays.get(name, 0), *numbers])
        elif key == runs.ERASURES:
            self.erasures = max([self.erasures, *numbers])

    def _decoded(self, key: bytes, value: bytes) -> list[Record]:
        first = runs.offset_of(key)
        try:
            records = runs.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            records = []
        if records and all(record.offset == n for n, record in enumerate(records, first)):
            return records
        self.damage.append(f"the records from offset {first} on cannot be decoded")
        return []

    def _written_rows(self) -> list[tuple[bytes, bytes]]:
        """The rows of the write-ahead log, by key, those of the same key as they were written."""
        rows = list[tuple[bytes, bytes]]()
        for file in wal.files(self._folder):
            lost = False
            for batch in wal.batches(file.read_bytes(), partial=True):
                lost = lost or not batch.sound
                with suppress(ValueError):  # only its beginning is left
                    rows.extend(row for row in wal.puts(batch.content) if batch.whole or self._acknowledged(row[0]))
            if lost:
                self.damage.append(f"{file.name} is damaged")
        return sorted(rows, key=lambda row: row[0])

    def _acknowledged(self, key: bytes) -> bool:
        return key.startswith(runs.RUNS) and (self.mark is None or runs.offset_of(key) < self.mark.end)

    def _table_rows(self) -> Iterator[tuple[bytes, bytes]]:
        database = self._opened()
        if database is None:
            return
        tables = sorted(
            (bytes(table["end_key"] or b""), str(table["name"]).lstrip("/")) for table in database.live_files()
        )
        seek = b""
        while True:
            key = seek
            row = _at(database, seek)
            while row.valid():
                key = row.key()
                yield key, row.value()
                row.next()
            if _is_sound(row):
                break
            seek, name = self._behind(database, key, tables)
            self.damage.append(f"{name} is {'damaged' if (self._folder / name).exists() else 'missing'}")
            if not seek:
                break
        database.close()

    def _behind(self, database: Rdict, key: bytes, tables: Sequence[tuple[bytes, str]]) -> tuple[bytes, str]:
        """The first key behind a damaged block that comes after `key`, or nothing; and the table with the block."""
        first = max(runs.offset_of(key) + 1 if key.startswith(runs.RUNS) else 0, self._begin)
        name = next((name for last, name in tables if last >= runs.key_of(first)), tables[-1][1])
        for offset in range(first, first + _STEPS):
            if _is_sound(_at(database, runs.key_of(offset))):
                return runs.key_of(offset), name
        for last, _ in tables:
            if last >= runs.key_of(first):
                behind = runs.key_of(runs.offset_of(last) + 1) if last.startswith(runs.RUNS) else last + b"\0"
                if _is_sound(_at(database, behind)):
                    return behind, name
        return b"", name

    def _opened(self) -> Rdict | None:
        """RocksDB on links to the tables; None if there are none."""
        if not any(self._folder.glob("*.sst")) and not any(self._folder.glob("MANIFEST-*")):
            return None
        options = Options(raw_mode=True)
        options.set_paranoid_checks(False)  # a table that cannot be opened is an error when it is read
        written = {file.name for file in wal.files(self._folder)}
        listed = self._linked("listed", [f for f in self._folder.iterdir() if f.name not in (*_NOT_TABLES, *written)])
        with suppress(Exception):  # rocksdict raises nothing narrower
            return Rdict(str(listed), options, access_type=AccessType.read_only(False))
        self.damage.append("the list of its tables is damaged")
        tables = list(self._folder.glob("*.sst"))
        found = self._linked("found", tables)
        try:
            Rdict.repair(str(found), options)
            opened = Rdict(str(found), options, access_type=AccessType.read_only(False))
        except Exception:  # rocksdict raises nothing narrower
            return None
        kept = {str(table["name"]).lstrip("/") for table in opened.live_files()}
        self.damage += [f"{table.name} is damaged" for table in tables if table.name not in kept]
        return opened

    def _linked(self, name: str, files: Sequence[Path]) -> Path:
        place = self._scratch / name
        place.mkdir(parents=True)
        for file in files:
            if file.is_file():
                (place / file.name).symlink_to(file.absolute())
        return place


def _at(database: Rdict, key: bytes) -> RdictIter:
    options = ReadOptions()
    options.set_verify_checksums(True)
    row = database.iter(options)
    row.seek(key)
    return row


def _is_sound(row: RdictIter) -> bool:
    try:
        row.status()
    except Exception:  # rocksdict raises nothing narrower
        return False
    return True


def _newest(versions: Sequence[Sequence[Record]]) -> list[Record]:
    """The records of a run that was written several times."""
    found = dict[int, Record]()
    for version in versions:
        for record in version:
            before = found.get(record.offset)
            if before is None or before.topic != BLANK:
                found[record.offset] = record
    return list(found.values())
