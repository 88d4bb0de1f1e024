"""Rows of text, a million a second, to columns of numbers.

A block of whole lines is cut in one go where it has no quotes and every line is as wide as it should be; any other goes
through the csv module, and its bad rows are found by halving.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import StringIO
from math import isfinite
from typing import TextIO, TypeAlias

import msgspec
import numpy as np

from streamer.consumers.columns import Bad, Columns
from streamer.core.arrays import F64, I32, I64, U8, U64
from streamer.core.events import RATINGS

BLOCK_CHARACTERS = 1 << 20
_LONGEST = 1 << 22  # of a block: a quote that nothing closes lets it grow to no more than this
SECONDS_BELOW = 10**11  # a time below this is in seconds: as milliseconds it would be before March 1973
_LATEST = 2**53  # beyond it a time is not exact, nor one

_SHORT, _DIGITS = 8, 15  # bytes of a text that is read as a number, and of a time

Part: TypeAlias = tuple[I32, I32, I32, I64]  # users, items, values, times of some events


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a row has what: numbers of columns, None for a column that is not there."""

    topic: str  # ratings or clicks
    delimiter: str
    width: int  # columns a row
    user: int
    item: int
    value: int | None  # the rating, or the kind of click
    time: int | None
    quoted: bool = True


class _Texts(dict[str, int]):
    """Distinct texts numbered in order of first sight, and each as it stands in an event; a text that `write` refuses raises ValueError."""

    def __init__(self, write: Callable[[str], bytes]) -> None:
        super().__init__()
        self.json: list[bytes] = []
        self._write = write

    def __missing__(self, text: str) -> int:
        self.json.append(self._write(text))
        number = self[text] = len(self.json) - 1
        return number

    def numbers(self, packed: U64) -> I32:
        """Of texts as `_packed` packs them, (n,)."""
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
    """Text to columns, block by block."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.users, self.items, self.values = _Texts(_user), _Texts(msgspec.json.encode), _Texts(self._value)
        self.bad: list[Bad] = []
        self._last_ms = 0

    def _value(self, text: str) -> bytes:
        rated, time = self.layout.topic == RATINGS, b"" if self.layout.time is None else b',"timestamp_ms":'
        return (b',"rating":' + _number(text) if rated else b',"kind":' + msgspec.json.encode(text)) + time

    def read(self, block: str, line: int) -> Iterator[Part]:
        """The events of `block`, whose first line is number `line` of the file."""
        with suppress(ValueError):  # a text that cannot be what it should be
            part = self._short(block)
            if part is not None:
                yield part
                return
        columns = _split(block, self.layout)
        if columns is not None:
            with suppress(ValueError):
                yield self._parse(columns)
                return
        yield from self._read_rows(*_rows(block, self.layout, line))

    def _short(self, block: str) -> Part | None:
        """All of a block as `_parse` reads it, without an object a field: where texts are short and times whole numbers."""
        layout, fields = self.layout, _fields(block, self.layout)
        if fields is None:
            return None
        data, starts, sizes = fields
        n, times, values = len(starts), None, None
        users = _packed(data, starts[:, layout.user], sizes[:, layout.user])
        items = _packed(data, starts[:, layout.item], sizes[:, layout.item])
        if layout.value is not None:
            values = _packed(data, starts[:, layout.value], sizes[:, layout.value])
        if layout.time is not None:
            times = _whole(data, starts[:, layout.time], sizes[:, layout.time])
        if users is None or items is None or (values is None) != (layout.value is None):
            return None
        if (times is None) != (layout.time is None):
            return None
        numbers = np.full(n, -1, np.int32) if values is None else self.values.numbers(values)
        times_ms = np.zeros(n, np.int64) if times is None else _milliseconds(times)
        self._last_ms = int(times_ms[-1])
        return self.users.numbers(users), self.items.numbers(items), numbers, times_ms

    def _read_rows(self, rows: list[list[str]], lines: list[int]) -> Iterator[Part]:
        """All rows in one go; where one of them is bad, in halves down to that one."""
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
        users = np.fromiter(map(self.users.__getitem__, columns[layout.user]), np.int32, n)
        items = np.fromiter(map(self.items.__getitem__, columns[layout.item]), np.int32, n)
        values = np.full(n, -1, np.int32)
        if layout.value is not None:
            values = np.fromiter(map(self.values.__getitem__, columns[layout.value]), np.int32, n)
        times = np.zeros(n, np.int64)
        if layout.time is not None:
            times = _milliseconds(np.fromiter(map(float, columns[layout.time]), np.float64, n))
        self._last_ms = int(times[-1])
        return users, items, values, times

    def _keep_bad(self, row: list[str], line: int) -> Part:
        self.bad.append(Bad(line, self.layout.delimiter.join(row).encode("utf-8", "surrogateescape")))
        users, items, values = (np.array([n], np.int32) for n in (-1, len(self.bad) - 1, -1))
        return users, items, values, np.array([self._last_ms], np.int64)


def _milliseconds(times: F64) -> I64:
    if not (np.abs(times) < _LATEST).all():  # NaN too
        raise ValueError("a time is out of range")
    return np.rint(np.where(np.abs(times) < SECONDS_BELOW, times * 1000, times)).astype(np.int64)


def _fields(block: str, layout: Layout) -> tuple[U8, I64, I64] | None:
    """The block's bytes, and of each line's fields, (lines, width), where they start and their sizes; None as for `_split`."""
    if (layout.quoted and '"' in block) or "\0" in block:
        return None
    data = np.frombuffer(block.encode("utf-8", "surrogateescape") + bytes(_SHORT + _DIGITS), np.uint8)
    ends: I64 = np.flatnonzero((data == ord(layout.delimiter)) | (data == ord("\n")))
    if len(ends) % layout.width:
        return None
    starts = np.concatenate([[0], ends[:-1] + 1]).reshape(-1, layout.width)
    ends = ends.reshape(-1, layout.width)
    newlines = data[ends] == ord("\n")
    if not newlines[:, -1].all() or newlines[:, :-1].any():
        return None
    return data, starts, ends - starts


def _packed(data: U8, starts: I64, sizes: I64) -> U64 | None:
    """Texts of at most 8 bytes as numbers, the first byte the lowest; None where one is longer."""
    if sizes.max() > _SHORT:
        return None
    packed = np.zeros(len(starts), np.uint64)
    for k in range(int(sizes.max())):
        packed |= np.where(sizes > k, data[starts + k], 0).astype(np.uint64) << np.uint64(8 * k)
    return packed


def _whole(data: U8, starts: I64, sizes: I64) -> F64 | None:
    """Texts that are digits as numbers; None where one is not, or is too long to be exact."""
    if sizes.min() < 1 or sizes.max() > _DIGITS:
        return None
    numbers = np.zeros(len(starts))
    for k in range(int(sizes.max())):
        digits, there = data[starts + k] - np.uint8(ord("0")), sizes > k  # what is none is above 9: it wraps
        if (digits[there] > 9).any():
            return None
        numbers = np.where(there, 10 * numbers + digits, numbers)
    return numbers


def _split(block: str, layout: Layout) -> list[list[str]] | None:
    """The columns of a block without quotes whose lines all have the right width, None of any other: 5 times as fast as csv."""
    if layout.quoted and '"' in block:
        return None
    d, step, lines = layout.delimiter, layout.width + 1, block.count("\n")
    fields = block.replace("\n", f"{d}\n{d}").split(d)  # each line's end is a field of its own
    if len(fields) != lines * step + 1 or fields[layout.width :: step].count("\n") != lines:
        return None
    del fields[-1]
    return [fields[column::step] for column in range(layout.width)]


def _rows(block: str, layout: Layout, line: int) -> tuple[list[list[str]], list[int]]:
    """The block's rows and the line of the file that each ends on; blank lines are none.

    A row over several lines that is not as wide as it should be, or has a line's end in a column that is read (no id may
    hold one), has a stray quote: its first line is bad by itself, as one text, and the next line is read as any other.
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
        with suppress(csv.Error):  # a quote that nothing closes
            for row in reader:
                end = first + reader.line_num
                over = end > begin + 1 or end == len(given)  # the end of the last line may be in an open quote
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
    """Whole lines, some 1 MiB at a time; more where a quoted text goes over the end."""
    while block := text.read(BLOCK_CHARACTERS):
        block += text.readline()
        if quoted and block.count('"') % 2:
            block += _to_quote(text)
        yield block if block.endswith("\n") else block + "\n"


def _to_quote(text: TextIO) -> str:
    lines, size = [], 0
    while size < _LONGEST and (line := text.readline()):
        lines.append(line)
        size += len(line)
        if line.count('"') % 2:
            break
    return "".join(lines)


def read_columns(text: TextIO, layout: Layout, first_line: int = 1) -> Columns:
    """All events from here to the end of `text`, which stands at line `first_line`. Cost: about 1 us an event."""
    reader, line = _Reader(layout), first_line
    parts: list[Part] = []
    for block in _blocks(text, layout.quoted):
        parts.extend(reader.read(block, line))
        line += block.count("\n")
    if not parts:
        parts = [(np.empty(0, np.int32),) * 3 + (np.empty(0, np.int64),)]
    users, items, values, times = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Columns(
        layout.topic, layout.time is not None, users, items, values, times,
        reader.users.json, reader.items.json, reader.values.json, [user.encode() for user in reader.users], reader.bad,
    )  # fmt: skip
