"""Parses rows of text to columns of numbers, a million a second.

A block of whole lines is split at once if it has no quotes and all lines have the right width. Any other block goes
through the csv module, and its bad rows are found by bisection.
"""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import StringIO
from math import isfinite
from typing import TextIO, TypeAlias

import msgspec
import numpy as np

from streamer.consumers.columns import BadRow, Columns
from streamer.core.arrays import F64, I32, I64, U8, U64
from streamer.core.events import RATINGS

BLOCK_CHARACTERS = 1 << 20
_BLOCK_MAX_CHARACTERS = 1 << 22  # how far a block may grow because of a quote that is never closed
# A time below each of these is in seconds, milliseconds, microseconds: in the next smaller unit it would be before March 1973.
SECONDS_BELOW, MILLISECONDS_BELOW, MICROSECONDS_BELOW = 10**11, 10**14, 10**17
_LATEST = 10**20  # beyond it a number is no time in any unit
_WHOLE = re.compile(r"(-?[0-9]+)\.0*")

_TEXT_BYTES, _TIME_DIGITS = 8, 15  # most bytes of a text that fits a uint64, and of a time that a float64 holds exactly

_EPOCH, _MILLISECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)

Part: TypeAlias = tuple[I32, I32, I32, I64]  # users, items, values, times of some events


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout of a row: column numbers, None for a missing column."""

    topic: str  # ratings or clicks
    delimiter: str
    width: int  # columns in a row
    user: int
    item: int
    value: int | None  # the rating, or the kind of click
    time: int | None
    quoted: bool = True


class _Texts(dict[str, int]):
    """Distinct texts, numbered by first appearance, and each as `write` encodes it, which may raise ValueError."""

    def __init__(self, write: Callable[[str], bytes]) -> None:
        super().__init__()
        self.json: list[bytes] = []
        self._write = write

    def __missing__(self, text: str) -> int:
        self.json.append(self._write(text))
        number = self[text] = len(self.json) - 1
        return number

    def numbers(self, packed: U64) -> I32:
        """The numbers (n,) of texts packed by `_pack_texts`."""
        distinct, which = np.unique(packed, return_inverse=True)
        texts = [one.rstrip(b"\0").decode("utf-8", "surrogateescape") for one in distinct.view("V8").tolist()]
        return np.array([self[text] for text in texts], np.int32)[which]


def _user(text: str) -> bytes:
    return b'{"user_id":' + msgspec.json.encode(text) + b',"item_id":'


def _number(text: str) -> bytes:
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return msgspec.json.encode(number)


class _Reader:
    """Parses text to columns, block by block."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.users, self.items, self.values = _Texts(_user), _Texts(msgspec.json.encode), _Texts(self._value)
        self.bad: list[BadRow] = []
        self._last_ms = 0

    def _value(self, text: str) -> bytes:
        rated, time = self.layout.topic == RATINGS, b"" if self.layout.time is None else b',"timestamp_ms":'
        return (b',"rating":' + _number(text) if rated else b',"kind":' + msgspec.json.encode(text)) + time

    def read(self, block: str, line: int) -> Iterator[Part]:
        """The events of `block`, whose first line is number `line` of the file."""
        with suppress(ValueError):  # a text is not valid in its column
            part = self._parse_fast(block)
            if part is not None:
                yield part
                return
        columns = _split(block, self.layout)
        if columns is not None:
            with suppress(ValueError):
                yield self._parse(columns)
                return
        yield from self._read_rows(*_rows(block, self.layout, line))

    def _parse_fast(self, block: str) -> Part | None:
        """Like `_parse`, without a Python object for each field; None unless all texts are short and times whole numbers."""
        layout, fields = self.layout, _field_positions(block, self.layout)
        if fields is None:
            return None
        data, starts, sizes = fields
        n, times, values = len(starts), None, None
        users = _pack_texts(data, starts[:, layout.user], sizes[:, layout.user])
        items = _pack_texts(data, starts[:, layout.item], sizes[:, layout.item])
        if layout.value is not None:
            values = _pack_texts(data, starts[:, layout.value], sizes[:, layout.value])
        if layout.time is not None:
            times = _whole_numbers(data, starts[:, layout.time], sizes[:, layout.time])
        if users is None or items is None or (values is None) != (layout.value is None):
            return None
        if (times is None) != (layout.time is None):
            return None
        numbers = np.full(n, -1, np.int32) if values is None else self.values.numbers(values)
        times_ms = np.zeros(n, np.int64) if times is None else _milliseconds(times)
        self._last_ms = int(times_ms[-1])
        return self.users.numbers(users), self.items.numbers(items), numbers, times_ms

    def _read_rows(self, rows: list[list[str]], lines: list[int]) -> Iterator[Part]:
        """Parse all rows at once; if one of them is bad, bisect down to that one."""
        if not rows:
            return
        try:
            yield self._parse(list(zip(*rows, strict=True)))  # ValueError: rows of different lengths
        except ValueError:
            if len(rows) == 1:
                yield self._keep_bad(rows[0], lines[0])
                return
            half = len(rows) // 2
            yield from self._read_rows(rows[:half], lines[:half])
            yield from self._read_rows(rows[half:], lines[half:])

    def _parse(self, columns: Sequence[Sequence[str]]) -> Part:
        layout, n = self.layout, len(columns[0])
        if len(columns) != layout.width:
            raise ValueError(f"{len(columns)} columns, not {layout.width}")
        users = np.fromiter(map(self.users.__getitem__, map(str.strip, columns[layout.user])), np.int32, n)
        items = np.fromiter(map(self.items.__getitem__, map(str.strip, columns[layout.item])), np.int32, n)
        values = np.full(n, -1, np.int32)
        if layout.value is not None:
            values = np.fromiter(map(self.values.__getitem__, map(str.strip, columns[layout.value])), np.int32, n)
        times = np.zeros(n, np.int64)
        if layout.time is not None:
            times = _times(columns[layout.time])
        self._last_ms = int(times[-1])
        return users, items, values, times

    def _keep_bad(self, row: list[str], line: int) -> Part:
        text = self.layout.delimiter.join(row).encode("utf-8", "surrogateescape")
        self.bad.append(BadRow(line, text, self._why(row)))
        users, items, values = (np.array([n], np.int32) for n in (-1, len(self.bad) - 1, -1))
        return users, items, values, np.array([self._last_ms], np.int64)

    def _why(self, row: list[str]) -> str:
        """What is wrong with a row that cannot be parsed."""
        layout, one = self.layout, len(row) == 1
        if len(row) != layout.width:
            return f"it has {len(row)} column{'' if one else 's'}, and {layout.width} are wanted"
        if layout.value is not None and layout.topic == RATINGS:
            try:
                _number(row[layout.value])
            except ValueError:
                return f"the rating {row[layout.value]!r} is no number"
        if layout.time is not None:
            with suppress(ValueError):
                float(row[layout.time])
                return f"the time {row[layout.time]!r} is out of range"
            with suppress(ValueError):
                _times([row[layout.time]])
                return "it has bytes that are not UTF-8"
            return f"the time {row[layout.time]!r} is neither a number nor a date"
        return "it has bytes that are not UTF-8"


def _milliseconds(times: F64) -> I64:
    """Times in seconds, milli-, micro- or nanoseconds since 1970, told apart by their size, in milliseconds, (n,)."""
    size = np.abs(times)
    if not (size < _LATEST).all():  # also for NaN
        raise ValueError("a time is out of range")
    units = [size < SECONDS_BELOW, size < MILLISECONDS_BELOW, size < MICROSECONDS_BELOW]
    return np.rint(np.select(units, [times * 1000, times, times / 1000], times / 1_000_000)).astype(np.int64)


def _times(texts: Sequence[str]) -> I64:
    """Times as numbers or in ISO 8601, in milliseconds, (n,). A time without a zone is in UTC. Raises ValueError."""
    try:
        return _milliseconds(np.fromiter(map(float, texts), np.float64, len(texts)))
    except ValueError:
        moments = [datetime.fromisoformat(text.strip()) for text in texts]
    zoned = [moment if moment.tzinfo else moment.replace(tzinfo=UTC) for moment in moments]
    return np.array([(moment - _EPOCH) // _MILLISECOND for moment in zoned], np.int64)


def time_unit(text: str) -> str:
    """The unit that a time is understood to be in, "" for a text that is no time."""
    try:
        size = abs(float(text))
    except ValueError:
        try:
            return "ISO 8601" if text and len(_times([text])) else ""
        except ValueError:
            return ""
    for below, unit in (
        (SECONDS_BELOW, "seconds"),
        (MILLISECONDS_BELOW, "milliseconds"),
        (MICROSECONDS_BELOW, "microseconds"),
    ):
        if size < below:
            return unit
    return "nanoseconds"


def _without_decimals(texts: _Texts) -> list[str]:
    """The distinct texts; if all of them are whole numbers with a decimal point (7.0, as pandas writes them), without it."""
    found = [_WHOLE.fullmatch(text) for text in texts]
    if not all(match or not text for match, text in zip(found, texts, strict=True)) or not any(found):
        return list(texts)
    return [match[1] if match else "" for match in found]


def _field_positions(block: str, layout: Layout) -> tuple[U8, I64, I64] | None:
    """The block's bytes, and the starts and sizes of all fields, (lines, width); None as for `_split`."""
    if (layout.quoted and '"' in block) or "\0" in block or _has_blanks(block, layout.delimiter):
        return None
    data = np.frombuffer(block.encode("utf-8", "surrogateescape") + bytes(_TEXT_BYTES + _TIME_DIGITS), np.uint8)
    ends: I64 = np.flatnonzero((data == ord(layout.delimiter)) | (data == ord("\n")))
    if len(ends) % layout.width:
        return None
    starts = np.concatenate([[0], ends[:-1] + 1]).reshape(-1, layout.width)
    ends = ends.reshape(-1, layout.width)
    newlines = data[ends] == ord("\n")
    if not newlines[:, -1].all() or newlines[:, :-1].any():
        return None
    return data, starts, ends - starts


def _has_blanks(block: str, delimiter: str) -> bool:
    """Whether a field may begin or end with a blank."""
    ends = (f"{delimiter} ", f" {delimiter}", " \n", "\n ")
    return " " in block and (block.startswith(" ") or any(end in block for end in ends))


def _pack_texts(data: U8, starts: I64, sizes: I64) -> U64 | None:
    """Texts of at most 8 bytes as numbers, little-endian; None if one is longer."""
    if sizes.max() > _TEXT_BYTES:
        return None
    packed = np.zeros(len(starts), np.uint64)
    for k in range(int(sizes.max())):
        packed |= np.where(sizes > k, data[starts + k], 0).astype(np.uint64) << np.uint64(8 * k)
    return packed


def _whole_numbers(data: U8, starts: I64, sizes: I64) -> F64 | None:
    """Texts of digits as numbers; None if one has other characters, or is too long to be exact."""
    if sizes.min() < 1 or sizes.max() > _TIME_DIGITS:
        return None
    numbers = np.zeros(len(starts))
    for k in range(int(sizes.max())):
        digits, there = data[starts + k] - np.uint8(ord("0")), sizes > k  # other characters wrap to values above 9
        if (digits[there] > 9).any():
            return None
        numbers = np.where(there, 10 * numbers + digits, numbers)
    return numbers


def _split(block: str, layout: Layout) -> list[list[str]] | None:
    """The columns of a block without quotes and with lines of the right width, None for any other: 5 times as fast as csv."""
    if layout.quoted and '"' in block:
        return None
    d, step, lines = layout.delimiter, layout.width + 1, block.count("\n")
    fields = block.replace("\n", f"{d}\n{d}").split(d)  # each newline becomes a field of its own
    if len(fields) != lines * step + 1 or fields[layout.width :: step].count("\n") != lines:
        return None
    del fields[-1]
    return [fields[column::step] for column in range(layout.width)]


def _rows(block: str, layout: Layout, line: int) -> tuple[list[list[str]], list[int]]:
    """The block's rows, without blank lines, and the line of the file on which each ends.

    A row over several lines has a stray quote if its width is wrong, or if it has a newline in a column that is read (ids
    cannot have one). Then its first line is a bad row, as one text, and parsing continues with the next line.
    """
    given, begin = list(StringIO(block)), 0
    rows: list[list[str]] = []
    lines: list[int] = []
    read = [column for column in (layout.user, layout.item, layout.value, layout.time) if column is not None]
    while begin < len(given):
        first = begin
        rest = (given[n] for n in range(first, len(given)))
        reader = csv.reader(
            rest, delimiter=layout.delimiter, quoting=csv.QUOTE_MINIMAL if layout.quoted else csv.QUOTE_NONE
        )
        with suppress(csv.Error):  # a quote that is never closed
            for row in reader:
                end = first + reader.line_num
                over = end > begin + 1 or end == len(given)  # the last newline may be inside a quote
                odd = len(row) != layout.width or (over and any("\n" in row[column] for column in read))
                if odd and row and '"' in given[begin]:
                    break
                if row:
                    rows.append(row)
                    lines.append(line - 1 + end)
                begin = end
            else:
                return rows, lines
        rows.append([given[begin].rstrip("\r\n")])
        lines.append(line + begin)
        begin += 1
    return rows, lines


def _blocks(text: TextIO, quoted: bool) -> Iterator[str]:
    """Whole lines, some 1 MiB at a time, or more if a quoted text is longer."""
    while block := text.read(BLOCK_CHARACTERS):
        block += text.readline()
        if quoted and block.count('"') % 2:
            block += _read_to_quote(text)
        yield block if block.endswith("\n") else block + "\n"


def _read_to_quote(text: TextIO) -> str:
    lines, size = [], 0
    while size < _BLOCK_MAX_CHARACTERS and (line := text.readline()):
        lines.append(line)
        size += len(line)
        if line.count('"') % 2:
            break
    return "".join(lines)


def read_columns(text: TextIO, layout: Layout, first_line: int = 1) -> Columns:
    """All events from the present position, at line `first_line`, to the end of `text`. Cost: about 1 us an event."""
    reader, line = _Reader(layout), first_line
    parts: list[Part] = []
    for block in _blocks(text, layout.quoted):
        parts.extend(reader.read(block, line))
        line += block.count("\n")
    if not parts:
        parts = [(np.empty(0, np.int32),) * 3 + (np.empty(0, np.int64),)]
    users, items, values, times = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    user_ids, item_ids = _without_decimals(reader.users), _without_decimals(reader.items)
    return Columns(
        layout.topic, layout.time is not None, users, items, values, times, [_user(one) for one in user_ids],
        [msgspec.json.encode(one) for one in item_ids], reader.values.json, [one.encode() for one in user_ids], reader.bad,
    )  # fmt: skip
