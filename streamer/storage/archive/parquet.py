"""Events as Parquet files; no other module of the archive imports pyarrow.

    data/archive/topic=ratings/day=2026-11-21/00000012.parquet

All topics have the same columns, so that any tool can read the folder as one table with the Hive columns `topic` and `day`.
The day is the day on which a record was appended, so late or replayed events never change the files of a past day. The
event's own time is in the column `timestamp_ms`.

Parquet notices little damage by itself. So pages have checksums, and the manifest has the SHA-256 of each file, which is compared
each time that a file is read: page checksums cover neither the footer nor the headers of pages.
"""

import errno
import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # ships no types
import pyarrow.compute as pc  # type: ignore[import-untyped]  # ships no types
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # ships no types

from streamer.core.arrays import I32, I64, Array
from streamer.core.errors import BadState, DamagedFile
from streamer.core.events import LOG, TOPICS, Offsets, TopicPartition, id_text
from streamer.storage.archive.manifest import REPAIR, File, missing, read_manifest
from streamer.storage.files import sync_folder

GROUP_ROWS = 1 << 17  # rows in a row group, which is what a merge holds in memory
READ_TRIES = 5
DAY_MS = 86_400_000

Rows: TypeAlias = pa.Table

SCHEMA = pa.schema(
    [
        pa.field("partition", pa.int32(), nullable=False),  # -1: the embedded log, one sequence for all topics
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("event_id", pa.string()),
        pa.field("user_id", pa.string()),
        pa.field("item_id", pa.string()),
        pa.field("kind", pa.string()),  # of clicks
        pa.field("rating", pa.float64()),  # of ratings; null on the topic ratings: a rating withdrawn
        pa.field(
            "timestamp_ms", pa.int64(), nullable=False
        ),  # when it happened, never over a day after it was appended
        pa.field(
            "appended_ms", pa.int64(), nullable=False
        ),  # when it was appended, by the clock of the log or the broker
        pa.field("session_id", pa.string()),
        pa.field("recommendation_id", pa.string()),
        pa.field("expected", pa.float64()),  # of simulated ratings: the rating's expectation
        pa.field("value", pa.string()),  # of catalogue records: their JSON; null: a removal
    ]
)
_DICTIONARIES = ["user_id", "item_id", "kind"]
_COUNTED = [
    "offset",
    "timestamp_ms",
    "appended_ms",
]  # numbers that mostly ascend: delta encoding halves bytes and CPU
_WRITTEN = {
    "compression": "zstd",
    "use_dictionary": [*_DICTIONARIES, "rating", "partition"],
    "column_encoding": dict.fromkeys(_COUNTED, "DELTA_BINARY_PACKED"),
    "write_statistics": _COUNTED,
    "write_page_checksum": True,
}
_EMPTY = pa.schema(
    [f.with_type(pa.dictionary(pa.int32(), f.type)) if f.name in _DICTIONARIES else f for f in SCHEMA]
).empty_table()


def rows_of(columns: Mapping[str, Any]) -> Rows:
    """A table of these columns, lists or arrays of equal length; columns not given are null. Cost: about .3 us a row."""
    length = len(columns["offset"])
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(length, field.type)
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def concatenate(parts: Sequence[Rows]) -> Rows:
    """All rows of `parts`, in order."""
    return pa.concat_tables(parts)


def between(rows: Rows, partition: int, first: int, stop: int) -> Rows:
    """The rows of a partition, -1 for the embedded log, with first <= offset < stop."""
    partitions, offsets = numbers(rows, "partition"), numbers(rows, "offset")
    return masked(rows, (partitions == partition) & (offsets >= first) & (offsets < stop))


def masked(rows: Rows, mask: Array) -> Rows:
    """The rows where `mask`, (rows,) bool, is true."""
    return rows.filter(pa.array(mask))


def of_users(rows: Rows, user_ids: Collection[str]) -> Array:
    """(rows,) bool: whether a row is of one of these users."""
    found: Array = pc.is_in(rows["user_id"], value_set=pa.array(list(user_ids), pa.string())).to_numpy()
    return found


def by_day(rows: Rows) -> Iterator[tuple[str, Rows]]:
    """For each day on which rows were appended, the day (as 2026-11-21) and its rows."""
    appended = rows["appended_ms"].to_numpy()
    times = np.where(
        appended >= 0, appended, rows["timestamp_ms"].to_numpy()
    )  # Kafka says -1 for a record without a time
    days = np.clip(times, 0, 253_402_300_799_999) // DAY_MS  # 1970 to 9999
    for day in np.unique(days).tolist():
        then = days == day
        yield str(np.datetime64(day, "D")), rows if then.all() else masked(rows, then)


def without_users(rows: Rows, user_ids: Collection[str]) -> Rows:
    """All rows but those of `user_ids`; profiles of other users lose a `same_as` that names one of them."""
    if not user_ids or not rows.num_rows:
        return rows
    left = masked(rows, ~of_users(rows, user_ids))
    return without_aliases_to(left, user_ids) if "value" in left.column_names else left


def naming_others(rows: Rows) -> Array:
    """(rows,) bool: whether a profile has a `same_as`."""
    found: Array = pc.fill_null(pc.match_substring(rows["value"], '"same_as"'), False).to_numpy()
    return found


def without_aliases_to(rows: Rows, user_ids: Collection[str]) -> Rows:
    """The same rows, but without `same_as` in profiles that name one of `user_ids`."""
    naming = naming_others(rows)
    if not naming.any():
        return rows
    values = rows["value"].to_pylist()
    for n in np.flatnonzero(naming).tolist():
        profile = msgspec.json.decode(values[n])
        same_as = profile.get("same_as")
        if same_as is not None and id_text(same_as, values[n].encode()) in user_ids:  # it may be a number
            del profile["same_as"]
            values[n] = msgspec.json.encode(profile).decode()
    field = SCHEMA.field("value")
    return rows.set_column(rows.column_names.index("value"), field, pa.array(values, field.type))


def write(folder: Path, number: int, topic: str, day: str, parts: Iterable[Rows]) -> File | None:
    """Write a file, durable when this returns; None and no file if there are no rows. Raises OSError."""
    place = folder / f"topic={topic}" / f"day={day}"
    _make_folder_durably(place)
    new = place / f".{number:08d}.tmp"
    count = named = 0
    newest_ms = -1
    spans: dict[int, tuple[int, int]] = {}
    with pq.ParquetWriter(new, SCHEMA, **_WRITTEN) as writer:
        for part in parts:
            if part.num_rows:
                writer.write_table(part, row_group_size=GROUP_ROWS)
                count += part.num_rows
                named += part.num_rows - part["event_id"].null_count
                newest_ms = max(newest_ms, pc.max(part["appended_ms"]).as_py())
                _extend(spans, part)
    if not count:
        new.unlink()
        return None
    with new.open("rb") as written:
        os.fsync(written.fileno())
        sha256 = hashlib.file_digest(written, "sha256").hexdigest()
    file = File(number, topic, day, count, new.stat().st_size, newest_ms, named, sha256, spans)
    new.rename(folder / file.path)
    sync_folder(place)
    return file


def _extend(spans: dict[int, tuple[int, int]], rows: Rows) -> None:
    """Extend the first and last offset of each partition by these rows."""
    grouped = rows.select(["partition", "offset"]).group_by("partition", use_threads=False)
    for found in grouped.aggregate([("offset", "min"), ("offset", "max")]).to_pylist():
        first, last = spans.get(found["partition"], (found["offset_min"], found["offset_max"]))
        spans[found["partition"]] = min(first, found["offset_min"]), max(last, found["offset_max"])


def described(folder: Path, file: File) -> File:
    """The file with the digest and the spans of what it holds, for one that was written before there were any.

    Raises BadState for a file that cannot be read whole. Cost: reading the file.
    """
    spans: dict[int, tuple[int, int]] = {}
    for part in parts(folder, file):
        _extend(spans, part)
    with (folder / file.path).open("rb") as written:
        sha256 = hashlib.file_digest(written, "sha256").hexdigest()
    return msgspec.structs.replace(file, sha256=sha256, spans=spans)


def verify(folder: Path, file: File) -> None:
    """Read a file whole; raises BadState for a damaged one. Cost: hashing it, 1 s for some 1 GB."""
    with _OpenFile(folder, file, []):
        pass


def _make_folder_durably(place: Path) -> None:
    """Make a folder so that it survives a power cut."""
    for folder in (place.parent, place):
        if not folder.exists():
            folder.mkdir(parents=True, exist_ok=True)
            sync_folder(folder.parent)


def parts(folder: Path, file: File, excluded: Collection[str] = ()) -> Iterator[Rows]:
    """The rows of a file but those of the users `excluded`, one row group at a time. Raises BadState."""
    with _OpenFile(folder, file, []) as source:
        for group in range(source.num_row_groups):
            yield without_users(source.read_row_group(group, use_threads=False), excluded)


def read(folder: Path, file: File, columns: Sequence[str], excluded: Collection[str] = ()) -> Rows:
    """These columns of a file, without rows of the users `excluded`; ids and kinds are dictionary-encoded.

    Raises BadState.
    """
    wanted = [*columns, "user_id"] if excluded and "user_id" not in columns else list(columns)
    with _OpenFile(folder, file, _DICTIONARIES) as source:
        rows = without_users(source.read(columns=wanted, use_threads=False), excluded)
    return rows.select(list(columns))


class _MissingFile(DamagedFile):
    """A file of the archive that is not there: damage, or another process has merged it."""


class _OpenFile:
    """An open Parquet file; damage is raised as BadState."""

    def __init__(self, folder: Path, file: File, dictionaries: Sequence[str]) -> None:
        self._path = folder / file.path
        self._file, self._dictionaries = file, list(dictionaries)
        self._source: Any = None

    def __enter__(self) -> Any:
        try:
            self._check_content()
            self._source = pq.ParquetFile(
                self._path, read_dictionary=self._dictionaries, page_checksum_verification=True
            )
        except FileNotFoundError:
            raise _MissingFile(missing(self._path)) from None
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from None
        if self._source.metadata.num_rows != self._file.rows:
            raise self._damaged(f"{self._source.metadata.num_rows} rows, not {self._file.rows}")
        return self._source

    def _check_content(self) -> None:
        with self._path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != self._file.bytes:
                raise self._damaged(f"{size:,} bytes, not {self._file.bytes:,}")
            if self._file.sha256 and hashlib.file_digest(file, "sha256").hexdigest() != self._file.sha256:
                raise self._damaged("it does not have the SHA-256 that it was written with")

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._source is not None:
            self._source.close()
        if isinstance(error, pa.ArrowException | OSError):
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> BadState:
        """The error for what the disk or pyarrow says; a lack of permission or of memory is no damage."""
        if isinstance(error, OSError) and error.errno not in (None, errno.EIO):
            return BadState(f"cannot read the archive's file {self._path}: {error.strerror}")
        return self._damaged(error)

    def _damaged(self, error: object) -> DamagedFile:
        return DamagedFile(f"the archive's file {self._path} is damaged: {error}; {REPAIR}")


def encode_texts(rows: Rows, name: str, order: I64) -> tuple[list[str], I32]:
    """A dictionary-encoded column at `order`: its distinct texts by first appearance, and for each row the index of its text.

    The index is -1 for null. The same rows in the same order give the same result, whichever files they are in.
    """
    found = rows[name].unify_dictionaries().combine_chunks()
    chosen = np.asarray(found.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)[order]
    count = len(found.dictionary)
    first = np.full(count + 1, len(chosen), np.int64)  # the last entry is for null
    first[chosen[::-1]] = np.arange(len(chosen))[::-1]  # reversed, because the last assignment wins
    occurring = np.flatnonzero(first[:count] < len(chosen))
    ranked = occurring[np.argsort(first[occurring])]
    renumbered = np.full(count + 1, -1, np.int32)
    renumbered[ranked] = np.arange(len(ranked), dtype=np.int32)
    return found.dictionary.take(pa.array(ranked)).to_pylist(), renumbered[chosen]


def select(rows: Rows, name: str, order: I64) -> Any:
    """A column at `order`, as an Arrow array."""
    return rows[name].take(pa.array(order)).combine_chunks()


def numbers(rows: Rows, name: str) -> Array:
    """A column of numbers; NaN for null."""
    found: Array = rows[name].to_numpy()
    return found


class Order(NamedTuple):
    """Rows of several files in the order in which they were learned."""

    rows: Rows  # as they are in the files
    order: I64  # (n,) indices of the wanted rows, in order
    topics: I32  # (all rows,) indices into TOPICS


def in_order(folder: Path, topics: Collection[str], columns: Sequence[str], until: Offsets | None) -> Order:
    """Rows of `topics` before `until` in the order in which they were learned. Raises BadState.

    None means all rows; if `until` does not name a sequence, none of its rows. The embedded log is ordered by offset; Kafka's
    partitions each by offset, and merged by the time at which records were appended.
    """
    wanted = list(dict.fromkeys([*columns, "partition", "offset", "appended_ms"]))
    for _ in range(READ_TRIES - 1):
        with suppress(_MissingFile):  # merged into another file since the manifest was read
            return _in_order(folder, topics, wanted, until)
    return _in_order(folder, topics, wanted, until)


def _in_order(folder: Path, topics: Collection[str], columns: list[str], until: Offsets | None) -> Order:
    manifest = read_manifest(folder)
    files = [file for file in manifest.files if file.topic in topics]
    read_rows = [read(folder, file, columns, manifest.forgotten_in(file)) for file in files]
    rows = pa.concat_tables([_EMPTY.select(columns), *read_rows])
    codes = [TOPICS.index(file.topic) for file in files]
    topic_of = np.repeat(np.array(codes, np.int32), [part.num_rows for part in read_rows])
    partitions, offsets = numbers(rows, "partition"), numbers(rows, "offset")
    if not len(offsets):
        return Order(rows, np.empty(0, np.int64), topic_of)
    if int(partitions.max()) < 0:  # the embedded log: one sequence
        order = np.arange(len(offsets)) if (np.diff(offsets) > 0).all() else np.argsort(offsets, kind="stable")
        if until is not None:
            order = order[: np.searchsorted(offsets[order], until.get(LOG, 0))]
        return Order(rows, order, topic_of)
    ranks = np.argsort(np.argsort(TOPICS))  # by name
    sequences = ranks[topic_of].astype(np.int64) << 32 | partitions
    order = np.lexsort((offsets, sequences))
    came = numbers(rows, "appended_ms").astype(np.int64)[order]
    starts = np.flatnonzero(np.diff(sequences[order], prepend=-1))
    kept = np.ones(len(order), np.bool_)
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(order)], strict=True):
        first = order[start]
        at = TopicPartition(TOPICS[topic_of[first]], int(partitions[first]))
        came[start:stop] = np.maximum.accumulate(came[start:stop])  # so a clock set back does not change the order
        if until is not None:
            kept[start:stop] = offsets[order[start:stop]] < until.get(at, 0)
    order, came = order[kept], came[kept]
    return Order(rows, order[np.lexsort((np.arange(len(order)), came))], topic_of)
