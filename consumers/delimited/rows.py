"""Parses rows of text to columns of numbers, a million a second.

Texts of up to 8 bytes are numbered without a Python object for each; a block that has others is parsed field by field, and its
bad rows are found by bisection.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import repeat
from math import isfinite
from typing import TextIO

import msgspec
import numpy as np

from streamer.consumers.columns import BadRow, Columns, Part, event_columns, milliseconds_of, user_text
from streamer.consumers.delimited.fields import UNIT, Layout, blocks, pack_texts, positions, rows, split, whole_numbers
from streamer.consumers.delimited.numerals import MISSING, has_decimal_commas, number
from streamer.core.arrays import I32, I64, U64
from streamer.core.times import date_ms, unit_of

_WHOLE = re.compile(r"(-?[0-9]+)[.,]0*")


class _Texts(dict[str, int]):
    """Distinct texts, numbered by first appearance; for few ones also each as `write` encodes it, which may raise ValueError."""

    def __init__(self, write: Callable[[str], bytes], *, few: bool) -> None:
        super().__init__()
        self.json: list[bytes] = []
        self._write, self._few = write, few

    def __missing__(self, text: str) -> int:
        written = self._write(text)
        if self._few:
            self.json.append(written)
        number = self[text] = len(self)
        return number

    def numbers(self, packed: U64) -> I32:
        """The numbers (n,) of texts packed by `_pack_texts`."""
        distinct, which = np.unique(packed, return_inverse=True)
        texts = [one.rstrip(b"\0").decode("utf-8", "surrogateescape") for one in distinct.view("V8").tolist()]
        return np.array([self[text] for text in texts], np.int32)[which]


def _number(text: str, comma: bool = False) -> bytes:
    value = number(text, comma=comma)
    if not isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return msgspec.json.encode(value)


class _Reader:
    """Parses text to columns, block by block. A value is the number of a rating, -2 minus that of a kind, or -1."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._end = b"" if layout.time is None else b',"timestamp_ms":'
        self.users, self.items = _Texts(user_text, few=False), _Texts(msgspec.json.encode, few=False)
        self.ratings, self.kinds = _Texts(self._rating, few=True), _Texts(self._kind, few=True)
        self.bad: list[BadRow] = []
        self._last_ms = 0

    def _rating(self, text: str, comma: bool = False) -> bytes:
        return b',"rating":' + _number(text, comma) + self._end

    def _kind(self, text: str) -> bytes:
        return b',"kind":' + msgspec.json.encode(text) + self._end

    def rating_texts(self) -> tuple[list[bytes], Sequence[str]]:
        """All ratings as JSON, and a note if some are not written as programs write numbers."""
        comma = has_decimal_commas(self.ratings, self.layout.delimiter)
        odd = next((text for text in self.ratings if "," in text), "")
        if not odd:
            return self.ratings.json, ()
        return [self._rating(text, comma) for text in self.ratings], (
            f"ratings have commas: {odd!r} is read as {number(odd, comma=comma):g}",
        )

    def read(self, block: str, line: int) -> Iterator[Part]:
        """The events of `block`, whose first line is number `line` of the file."""
        with suppress(ValueError):  # a text is not valid in its column
            part = self._parse_fast(block)
            if part is not None:
                yield part
                return
        columns = split(block, self.layout)
        if columns is not None:
            with suppress(ValueError):
                yield self._parse(columns)
                return
        yield from self._read_rows(*rows(block, self.layout, line))

    def _parse_fast(self, block: str) -> Part | None:
        """Like `_parse`, without a Python object for each field; None unless all texts are short and times whole numbers."""
        layout, fields = self.layout, positions(block, self.layout)
        if fields is None or layout.since is not None:
            return None
        data, starts, sizes = fields

        def packed(column: int | None) -> U64 | None:
            return None if column is None else pack_texts(data, starts[:, column], sizes[:, column])

        users, items, ratings, kinds = map(packed, (layout.user, layout.item, layout.rating, layout.kind))
        if users is None or items is None or (ratings is None) != (layout.rating is None):
            return None
        times = None if layout.time is None else whole_numbers(data, starts[:, layout.time], sizes[:, layout.time])
        if (kinds is None) != (layout.kind is None) or (times is None) != (layout.time is None):
            return None
        values = self._packed_values(ratings, kinds, len(starts))
        times_ms = np.zeros(len(starts), np.int64) if times is None else milliseconds_of(times)
        self._last_ms = int(times_ms[-1])
        return self.users.numbers(users), self.items.numbers(items), values, times_ms

    def _packed_values(self, ratings: U64 | None, kinds: U64 | None, n: int) -> I32:
        if kinds is None:
            return np.full(n, -1, np.int32) if ratings is None else self.ratings.numbers(ratings)
        if ratings is None:
            return np.int32(-2) - self.kinds.numbers(kinds)
        rated = ratings != 0
        if not kinds[~rated].all():
            raise ValueError("a row has neither a rating nor a kind of click")
        values = np.empty(n, np.int32)
        values[rated] = self.ratings.numbers(ratings[rated])
        values[~rated] = -2 - self.kinds.numbers(kinds[~rated])
        return values

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
        values = np.fromiter(self._values(columns, n), np.int32, n)
        times = np.zeros(n, np.int64)
        if layout.time is not None:
            times = times_of(columns[layout.time])
            if layout.since is not None:
                times += np.fromiter(map(int, columns[layout.since]), np.int64, n)
        self._last_ms = int(times[-1])
        return users, items, values, times

    def _values(self, columns: Sequence[Sequence[str]], n: int) -> Iterable[int]:
        layout = self.layout
        ratings = map(str.strip, () if layout.rating is None else columns[layout.rating])
        kinds = map(str.strip, () if layout.kind is None else columns[layout.kind])
        if layout.kind is None:
            return repeat(-1, n) if layout.rating is None else map(self.ratings.__getitem__, ratings)
        if layout.rating is None:
            return (-2 - self.kinds[kind] for kind in kinds)
        return map(self._either, ratings, kinds)

    def _either(self, rating: str, kind: str) -> int:
        if rating.lower() not in MISSING:
            return self.ratings[rating]
        if not kind:
            raise ValueError("a row has neither a rating nor a kind of click")
        return -2 - self.kinds[kind]

    def _keep_bad(self, row: list[str], line: int) -> Part:
        text = UNIT.join(row).replace(UNIT, self.layout.delimiter).encode("utf-8", "surrogateescape")
        self.bad.append(BadRow(line, text, self._why(row)))
        users, items, values = (np.array([n], np.int32) for n in (-1, len(self.bad) - 1, -1))
        return users, items, values, np.array([self._last_ms], np.int64)

    def _why(self, row: list[str]) -> str:
        """What is wrong with a row that cannot be parsed."""
        layout, one = self.layout, len(row) == 1
        if len(row) != layout.width:
            return f"it has {len(row)} column{'' if one else 's'}, and {layout.width} are wanted"
        rating = "" if layout.rating is None else row[layout.rating].strip()
        if layout.kind is not None and layout.rating is not None and rating.lower() in MISSING:
            if not row[layout.kind].strip():
                return "it has neither a rating nor a kind of click"
        elif layout.rating is not None:
            try:
                _number(rating)
            except ValueError:
                return f"the rating {rating!r} is no number"
        if layout.since is not None and not row[layout.since].strip().isdecimal():
            return f"{row[layout.since]!r} is no number of milliseconds since the time"
        if layout.time is not None:
            with suppress(ValueError):
                float(row[layout.time])
                return f"the time {row[layout.time]!r} is out of range"
            with suppress(ValueError):
                times_of([row[layout.time]])
                return "it has bytes that are not UTF-8"
            return f"the time {row[layout.time]!r} is neither a number nor a date"
        return "it has bytes that are not UTF-8"


def times_of(texts: Sequence[str]) -> I64:
    """Times as numbers or in ISO 8601, in milliseconds, (n,). A time without a zone is in UTC. Raises ValueError."""
    try:
        return milliseconds_of(np.fromiter(map(float, texts), np.float64, len(texts)))
    except ValueError:
        with suppress(ValueError):  # decimal commas
            return milliseconds_of(np.array([float(text.replace(",", ".")) for text in texts]))
        return np.fromiter(map(date_ms, texts), np.int64, len(texts))


def time_unit(text: str) -> str:
    """The unit that a time is understood to be in, "" for a text that is no time."""
    try:
        return unit_of(float(text))
    except ValueError:
        try:
            return "ISO 8601" if text and len(times_of([text])) else ""
        except ValueError:
            return ""


def without_decimals(texts: Collection[str]) -> list[str]:
    """The distinct texts; if all of them are whole numbers with a decimal point (7.0, as pandas writes them), without it."""
    if not any(texts) or not all(_WHOLE.fullmatch(text) for text in texts if text):
        return list(texts)
    return [match[1] if (match := _WHOLE.fullmatch(text)) else "" for text in texts]


def read_columns(text: TextIO, layout: Layout, first_line: int = 1, notes: Sequence[str] = ()) -> Columns:
    """All events from the present position, at line `first_line`, to the end of `text`. Cost: about 1 us an event."""
    reader, line = _Reader(layout), first_line
    parts: list[Part] = []
    for block in blocks(text, layout):
        parts.extend(reader.read(block, line))
        line += block.count("\n")
    user_ids, item_ids = without_decimals(reader.users), without_decimals(reader.items)
    (ratings, more), kinds = reader.rating_texts(), reader.kinds.json
    return event_columns(
        layout.topic, layout.time is not None, parts, user_ids, item_ids, ratings, kinds, reader.bad, [*notes, *more]
    )
