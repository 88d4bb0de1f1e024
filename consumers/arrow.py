"""Reads Parquet and Arrow IPC as columns of numbers, a batch of rows at a time, and unpacks what Arrow can unpack.

Columns are found by their names like those of delimited text. Ids are texts, whole numbers, or numbers with a fraction of 0 (what
pandas makes of whole numbers where one is missing). Ratings are numbers or texts, times are timestamps of any unit and zone, dates,
numbers or texts. Dictionaries stay what they are. Cost: about .6 us an event.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import IO, Any, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # ships no types
import pyarrow.compute as pc  # type: ignore[import-untyped]  # ships no types
import pyarrow.ipc as ipc  # type: ignore[import-untyped]  # ships no types
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # ships no types

from streamer.consumers.columns import BadRow, Columns, Part, catalogue_columns, event_columns, milliseconds_of
from streamer.consumers.delimited.catalogue import catalogue_of, columns_read, item_of, user_of
from streamer.consumers.delimited.header import GivenColumns, find_columns, has_all, listed, understood_of
from streamer.consumers.delimited.numerals import MISSING, number
from streamer.consumers.delimited.rows import time_unit, without_decimals
from streamer.consumers.opening import ARROW_FILE, ARROW_STREAM, PARQUET
from streamer.core.arrays import I32, I64, Bool
from streamer.core.errors import BadSettings, StreamerError
from streamer.core.events import CLICKS, ITEMS, RATINGS, message
from streamer.core.protocols import Understood
from streamer.core.times import LATEST, milliseconds

_END = ARROW_STREAM + bytes(4)  # of a stream
_BATCH_ROWS, _HEAD_ROWS = 1 << 18, 1000
_PER_MS = {"ms": 1, "us": 1000, "ns": 1_000_000}
_NONE, _NO_NUMBER = -1, -2  # in place of the number of a rating
_EXACT = 2**53  # whole numbers below it are exact in a float64

Rows: TypeAlias = Any  # a pyarrow.RecordBatch
Array: TypeAlias = Any  # a pyarrow.Array


def decompressed(file: IO[bytes], codec: str) -> IO[bytes]:
    """What a file compressed by `zstd`, `lz4` or `bz2` holds; reading raises OSError where it is damaged or cut off."""
    opened: IO[bytes] = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), codec)
    return opened


def read_arrow(path: Path, given: GivenColumns | None = None) -> Columns:
    """The ratings and clicks of `path` in file order or, if it is a table of items or users, the catalogue in it.

    Raises BadSettings for a file of which the user and the item are not known, StreamerError for a damaged one, OSError.
    """
    with _opened(path) as (schema, batches):
        every = batches()
        first = next(every, None)
        rows = [] if first is None else _fields(first.slice(0, _HEAD_ROWS))
        of = catalogue_of(schema.names, rows)
        if of and (given is None or not has_all(schema.names, given)):  # in a folder of events and catalogue
            return _catalogue(of, schema.names, _with(first, every), path)
        found, notes = _columns(schema.names, rows, given, path)
        reader = _Reader({what: schema.names[column] for what, column in found.items()})
        for batch in _with(first, every):
            reader.read(batch.select(list(found.values())))
        return reader.columns(notes, understood_of(schema.names, rows, found, reader.time_unit))


def _with(first: Rows | None, rest: Iterator[Rows]) -> Iterator[Rows]:
    """The first batch again, and the rest: a stream can be read once only."""
    return chain([] if first is None else [first], rest)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Callable[[], Iterator[Rows]]]]:
    """The schema of a file, and a function that begins to read it."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
            file.seek(0)
            if head.startswith(PARQUET):
                parquet = pq.ParquetFile(file, page_checksum_verification=True)
                yield parquet.schema_arrow, lambda: parquet.iter_batches(_BATCH_ROWS, use_threads=False)
            elif head.startswith(ARROW_FILE):
                whole = ipc.open_file(file)
                yield whole.schema, lambda: map(whole.get_batch, range(whole.num_record_batches))
            else:
                stream = ipc.open_stream(file)
                yield stream.schema, lambda: _to_the_end(stream, file, path)
    except pa.ArrowNotImplementedError as error:
        raise BadSettings(f"{path} has a column that is not read ({error}): make it texts, numbers or times") from None
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise StreamerError(
            f"{path} is damaged or cut off and cannot be read ({str(error).splitlines()[0]}): get it again; nothing of it was used"
        ) from None


def _to_the_end(stream: Any, file: IO[bytes], path: Path) -> Iterator[Rows]:
    """The batches of a stream, which must end with its mark: a stream that is cut off between batches has no other sign of it."""
    yield from stream
    file.seek(-len(_END), 2)
    if file.read() != _END:
        raise StreamerError(
            f"{path} has no end mark, so it may be cut off: write it again to its end; nothing of it was used"
        )


def _columns(
    names: Sequence[str], rows: Sequence[Sequence[str]], given: GivenColumns | None, path: Path
) -> tuple[dict[str, int], Sequence[str]]:
    """What is known -> its column, and notes about what was guessed."""
    if given and given.ordered:
        raise BadSettings(
            f"--columns: {path} names its columns: say which is which with user=NAME,item=NAME, of {listed(names)}"
        )
    found, notes = find_columns(names, rows, given, path.name)
    if "user" not in found or "item" not in found:
        raise BadSettings(
            f"{path} has no columns that are known as the user and the item; its columns are {listed(names)}: say which is which "
            "with --columns user=NAME,item=NAME, or give the file that says which user rated or clicked which item"
        )
    return found, notes


def _catalogue(of: str, names: Sequence[str], batches: Iterator[Rows], path: Path) -> Columns:
    """The items or users of a table. Cost: some 10 us a row."""
    read, said = columns_read(names, of)
    rows = [row for batch in batches for row in _fields(batch)]
    for row, known in zip(rows, without_decimals([row[read["id"]] for row in rows]), strict=True):
        row[read["id"]] = known
    event_of = item_of if of == ITEMS else user_of
    return catalogue_columns(of, [message(event_of(row, read)) for row in rows], [f"{path.name} {said}"])


def _fields(batch: Rows) -> list[list[str]]:
    """Rows as delimited text would have them."""
    return [list(map(_field, row)) for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)]


def _field(value: Any) -> str:
    return "" if value is None else json.dumps(value, default=str) if isinstance(value, list) else _text(value)


def _time_unit(array: Array) -> str:
    """The unit of the first time, the type of a column of times; "" without any."""
    if pa.types.is_temporal(array.type):
        return str(array.type)
    units = (time_unit(_text(one)) for one in array.drop_null().slice(0, _HEAD_ROWS).to_pylist() if one == one)
    return next(filter(None, units), "")


class _Texts(dict[str, int]):
    """Distinct texts of a column over all batches, numbered by first appearance."""

    def numbers(self, array: Array) -> I32:
        """The number of each text, (n,), -1 for null."""
        codes, distinct = _encoded(array)
        known = np.array([self.setdefault(_text(one), len(self)) for one in distinct] + [-1], np.int32)
        return known[codes]


@dataclass(slots=True)
class _Reader:
    """Gathers the columns of batches."""

    names: Mapping[str, str]  # what each column of a batch is -> its name
    users: _Texts = field(default_factory=_Texts)
    items: _Texts = field(default_factory=_Texts)
    kinds: _Texts = field(default_factory=_Texts)
    ratings: dict[float, int] = field(default_factory=dict)
    bad: list[BadRow] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    rows: int = 0
    time_unit: str = ""

    def read(self, batch: Rows) -> None:
        """Add the rows of a batch."""
        n, columns = len(batch), dict(zip(self.names, batch.columns, strict=True))
        users, items = self.users.numbers(columns["user"]), self.items.numbers(columns["item"])
        values, numeric = np.full(n, -1, np.int32), np.ones(n, np.bool_)
        if "kind" in columns:
            kinds = self.kinds.numbers(columns["kind"])
            values = np.where(kinds < 0, -1, -2 - kinds).astype(np.int32)
        if "rating" in columns:
            ratings = self._rated(columns["rating"])
            values = np.where(ratings == _NONE, values, ratings).astype(np.int32)
            numeric = ratings != _NO_NUMBER
        times, timed = np.zeros(n, np.int64), np.ones(n, np.bool_)
        if "time" in columns:
            times, timed = _times(columns["time"])
            self.time_unit = self.time_unit or _time_unit(columns["time"])
        valued = values != -1 if {"rating", "kind"} & self.names.keys() else np.ones(n, np.bool_)
        good = (users >= 0) & (items >= 0) & valued & numeric & timed
        for row in np.flatnonzero(~good).tolist():
            users[row], items[row], values[row] = -1, len(self.bad), -1
            times[row] = (
                times[row - 1] if row else (self.parts[-1][3][-1] if self.parts and len(self.parts[-1][3]) else 0)
            )
            self._keep_bad({what: column[row].as_py() for what, column in columns.items()}, row, timed[row])
        self.parts.append((users, items, values, times))
        self.rows += n

    def _rated(self, array: Array) -> I32:
        """The number of each rating, (n,), or _NONE, or _NO_NUMBER."""
        codes, distinct = _encoded(array)
        known = [self._rating(one) for one in distinct]
        return np.array([*known, _NONE], np.int32)[codes]

    def _rating(self, value: Any) -> int:
        if isinstance(value, str) and value.strip().lower() in MISSING:
            return _NONE
        try:
            rating = number(value.strip()) if isinstance(value, str) else float(value)
        except (ValueError, TypeError):
            return _NO_NUMBER
        return self.ratings.setdefault(rating, len(self.ratings)) if isfinite(rating) else _NO_NUMBER

    def _keep_bad(self, found: Mapping[str, Any], row: int, timed: bool) -> None:
        missing = [what for what in ("user", "item") if found[what] is None]
        why = f"it has no {' and no '.join(missing)}"
        if not missing:
            what = "time" if not timed else "rating" if "rating" in self.names else "kind"
            value = found[what]
            no = "neither a number nor a date" if what == "time" else "no number"
            why = f"it has no {what}" if value is None or value != value else f"the {what} {str(value)[:100]!r} is {no}"
        text = msgspec.json.encode({self.names[what]: _shown(value) for what, value in found.items()})
        self.bad.append(BadRow(self.rows + row + 1, text, why))

    def columns(self, notes: Sequence[str], understood: Understood) -> Columns:
        """All that was read."""
        end = b',"timestamp_ms":' if "time" in self.names else b""
        ratings = [b',"rating":' + msgspec.json.encode(rating) + end for rating in self.ratings]
        kinds = [b',"kind":' + msgspec.json.encode(kind) + end for kind in self.kinds]
        topic = RATINGS if "rating" in self.names and "kind" not in self.names else CLICKS
        found = event_columns(
            topic, "time" in self.names, self.parts, without_decimals(self.users), without_decimals(self.items), ratings, kinds,
            self.bad, notes,
        )  # fmt: skip
        return replace(found, understood=understood)


def _encoded(array: Array) -> tuple[I64, list[Any]]:
    """The index of each value among the distinct ones, (n,), -1 for null, and these."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_float16(array.type):
        array = array.cast(pa.float32())
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    codes = np.array(array.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False))  # a copy, to write
    distinct = array.dictionary.to_pylist()
    if pa.types.is_float32(array.dictionary.type):
        distinct = [None if one is None else float(str(np.float32(one))) for one in distinct]
    missing = [place for place, one in enumerate(distinct) if one is None or one != one]  # nulls there, and NaN
    codes[np.isin(codes, missing)] = -1
    for place in missing:
        distinct[place] = 0
    return codes, distinct


def _text(value: Any) -> str:
    """An id or a kind as a text."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return f"{value:.1f}"
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _shown(value: Any) -> str | int | float | None:
    return value if value is None or (isinstance(value, str | int | float) and value == value) else _text(value)


def _times(array: Array) -> tuple[I64, Bool]:
    """Times in milliseconds, (n,), and where there is one."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    kind = array.type
    if pa.types.is_timestamp(kind):
        found = _whole(array)
        return found * 1000 if kind.unit == "s" else np.floor_divide(found, _PER_MS[kind.unit]), _valid(array)
    if pa.types.is_date(kind):
        return _whole(array.cast(pa.timestamp("ms"))), _valid(array)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = np.asarray(array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
        valid = np.abs(numbers) < LATEST  # not for NaN, which stands for null
        return milliseconds_of(np.where(valid, numbers, 0)), valid
    codes, distinct = _encoded(array)
    times, valid = np.zeros(len(distinct) + 1, np.int64), np.zeros(len(distinct) + 1, np.bool_)
    for place, one in enumerate(distinct):
        try:
            times[place], valid[place] = milliseconds(_text(one)), True
        except ValueError:
            valid[place] = False
    return times[codes], valid[codes]


def _whole(array: Array) -> I64:
    return np.array(
        pc.fill_null(array.cast(pa.int64()), 0).to_numpy(zero_copy_only=False), np.int64
    )  # a copy, to write


def _valid(array: Array) -> Bool:
    return np.asarray(array.is_valid().to_numpy(zero_copy_only=False), np.bool_)
