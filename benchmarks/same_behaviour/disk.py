"""Reads the files that a streamer left on the disk.

Compared byte by byte: every (table, key, value) of each RocksDB, except the time at which the log appended a record; the files of
generations; and the archive, if both sides read the same log. The files of RocksDB and the Parquet files of two different logs are compared
by their rows, because their bytes differ between two runs of one commit: RocksDB's hold times, names of sessions, and whatever rows one
commit wrote; Parquet's hold times of appending, and begin at different rows.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow as pa  # type: ignore[import-untyped]  # ships no types
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from rocksdict import AccessType, Options, Rdict

from benchmarks.same_behaviour.facts import Facts, masked

_TIME = 3  # of a record of the log: topic, partition, offset, time, key, value


def rows(database: Path) -> Iterator[tuple[bytes, bytes]]:
    """All rows of a RocksDB that no process has open, ordered by key."""
    opened = Rdict(str(database), options=Options(raw_mode=True), access_type=AccessType.read_only())
    row = opened.iter()
    row.seek_to_first()
    while row.valid():
        yield row.key(), row.value()
        row.next()
    row.status()  # raises the error, if one ended the iteration early
    opened.close()


def tables(database: Path) -> str:
    """A line for each table: its number of rows, and the SHA-256 of its keys and values."""
    counts, digests = dict[str, int](), dict[str, "hashlib._Hash"]()
    for key, value in rows(database):
        table, separator, _ = key.partition(b"\0")
        name = table.decode() if separator and database.name != "log" else key[:1].decode()
        counts[name] = counts.get(name, 0) + 1
        digest = digests.setdefault(name, hashlib.sha256())
        for part in (key, without_times(value) if database.name == "log" and name == "r" else value):
            digest.update(len(part).to_bytes(8, "big") + part)
    return "".join(f"{name} {counts[name]} {digests[name].hexdigest()}\n" for name in sorted(counts))


def without_times(run: bytes) -> bytes:
    """A stored run of the log's records, without the times at which they were appended."""
    records = msgspec.msgpack.decode(run)
    return msgspec.msgpack.encode([[*record[:_TIME], None, *record[_TIME + 1 :]] for record in records])


def databases(folder: Path) -> list[Path]:
    """Every RocksDB below a folder."""
    return sorted(current.parent for current in folder.rglob("CURRENT"))


def note_files(facts: Facts, name: str, folder: Path) -> None:
    """Note all files in a data directory, or in a backup of one."""
    inside, archive = databases(folder), folder / "archive"
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.parent not in inside)
    others = [path for path in found if archive not in path.parents]
    names = [path.relative_to(folder).as_posix() for path in others]
    facts.exact[f"{name}: files"] = "\n".join(
        [*names, *(f"{path.relative_to(folder).as_posix()}/ (RocksDB)" for path in inside)]
    )
    for path, relative in zip(others, names, strict=True):
        if path.suffix == ".safetensors":
            facts.exact[f"{name}: {relative}, bytes"] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.suffix == ".json" and path.parent != folder:  # backup.json is noted by itself
            facts.exact[f"{name}: {relative}"] = masked(path.read_text(encoding="utf-8"))
        elif path.name == "generation":
            facts.exact[f"{name}: generation"] = path.read_text(encoding="utf-8")
    for database in inside:
        facts.exact[f"{name}: rows of {database.relative_to(folder).as_posix()}"] = tables(database)
    if archive.exists():
        note_archive(facts, name, archive)


def note_archive_bytes(facts: Facts, name: str, archive: Path) -> None:
    """Note the bytes of every file of an archive. Both sides must have read the same log, which was complete before they began."""
    for path in sorted(path for path in archive.rglob("*") if path.is_file()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        facts.exact[f"{name}: {path.relative_to(archive).as_posix()}, bytes"] = digest


def note_archive(facts: Facts, name: str, archive: Path) -> None:
    """Note the rows of an archive, not its files: at which rows a new file begins depends on how fast the archive was written."""
    listed = json.loads((archive / "_archive.json").read_text(encoding="utf-8"))
    fields = sorted({field for file in listed.pop("files") for field in file})
    listed |= {"next_number": "*", "fields of files": fields}
    facts.exact[f"{name}: archive, its list without files"] = json.dumps(listed)
    parts = [pq.ParquetFile(path) for path in sorted(archive.rglob("*.parquet"))]
    facts.exact[f"{name}: archive, columns and compression"] = "\n".join(
        sorted({f"{part.schema_arrow} {part.metadata.row_group(0).column(0).compression}" for part in parts})
    )
    order = [("partition", "ascending"), ("offset", "ascending")]
    columns = pa.concat_tables([part.read() for part in parts]).sort_by(order).to_pydict()
    appended = columns.pop("appended_ms")  # also the timestamp of events that carry none
    times = zip(columns["timestamp_ms"], appended, strict=True)
    columns["timestamp_ms"] = [None if time == default else time for time, default in times]
    digest = hashlib.sha256(repr(columns).encode()).hexdigest()
    facts.exact[f"{name}: archive, rows without times of appending"] = f"{len(appended)} {digest}"
