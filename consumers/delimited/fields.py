"""Splits text to fields, a block of lines at a time.

A block is split at once if it has no quotes and all its lines have the right width; the csv module splits any other.
"""

import csv
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import StringIO
from typing import TextIO

import numpy as np

from streamer.core.arrays import F64, I64, U8, U64
from streamer.core.events import CLICKS, RATINGS

BLOCK_CHARACTERS = 1 << 20
_BLOCK_MAX_CHARACTERS = 1 << 22  # how far a block may grow because of a quote that is never closed
_TEXT_BYTES, _TIME_DIGITS = 8, 15  # most bytes of a text that fits a uint64, and of a time that a float64 holds exactly

BLANKS = " "  # as a delimiter: a run of blanks or tabs
UNIT = "\x1f"  # stands for a delimiter of more than one character while a block is split
_RUN = re.compile(r'("(?:[^"\n]|"")*")|[ \t]+')
_EDGE = re.compile(f"(?m)^{UNIT}|{UNIT}$")


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout of a row: column numbers, None for a missing column."""

    delimiter: str
    width: int  # columns in a row
    user: int
    item: int
    rating: int | None = None
    kind: int | None = None  # of click; where there is a rating as well, it counts for rows without one
    time: int | None = None
    since: int | None = None  # milliseconds after `time`, where that is a day
    quoted: bool = True

    @property
    def topic(self) -> str:
        """That of a row of which neither rating nor kind is known."""
        return CLICKS if self.rating is None or self.kind is not None else RATINGS

    @property
    def separator(self) -> str:
        """The one character between the fields of a block."""
        return UNIT if len(self.delimiter) > 1 or self.delimiter == BLANKS else self.delimiter


def blocks(text: TextIO, layout: Layout) -> Iterator[str]:
    """Whole lines, some 1 MiB at a time, or more if a quoted text is longer."""
    while block := text.read(BLOCK_CHARACTERS):
        block += text.readline()
        if layout.quoted and block.count('"') % 2:
            block += _read_to_quote(text)
        yield _with_separators(block if block.endswith("\n") else block + "\n", layout.delimiter)


def _with_separators(block: str, delimiter: str) -> str:
    """The block with one character between fields."""
    if delimiter == BLANKS:
        return _EDGE.sub("", _RUN.sub(lambda found: found[1] or UNIT, block))
    return block if len(delimiter) == 1 else block.replace(delimiter, UNIT)


def _read_to_quote(text: TextIO) -> str:
    lines, size = [], 0
    while size < _BLOCK_MAX_CHARACTERS and (line := text.readline()):
        lines.append(line)
        size += len(line)
        if line.count('"') % 2:
            break
    return "".join(lines)


def positions(block: str, layout: Layout) -> tuple[U8, I64, I64] | None:
    """The block's bytes, and the starts and sizes of all fields, (lines, width); None as for `split`."""
    if (layout.quoted and '"' in block) or "\0" in block or _has_blanks(block, layout.separator):
        return None
    data = np.frombuffer(block.encode("utf-8", "surrogateescape") + bytes(_TEXT_BYTES + _TIME_DIGITS), np.uint8)
    ends: I64 = np.flatnonzero((data == ord(layout.separator)) | (data == ord("\n")))
    if len(ends) % layout.width:
        return None
    starts = np.concatenate([[0], ends[:-1] + 1]).reshape(-1, layout.width)
    ends = ends.reshape(-1, layout.width)
    newlines = data[ends] == ord("\n")
    if not newlines[:, -1].all() or newlines[:, :-1].any():
        return None
    return data, starts, ends - starts


def _has_blanks(block: str, separator: str) -> bool:
    """Whether a field may begin or end with a blank."""
    ends = (f"{separator} ", f" {separator}", " \n", "\n ")
    return " " in block and (block.startswith(" ") or any(end in block for end in ends))


def pack_texts(data: U8, starts: I64, sizes: I64) -> U64 | None:
    """Texts of at most 8 bytes as numbers, little-endian; None if one is longer."""
    if sizes.max() > _TEXT_BYTES:
        return None
    packed = np.zeros(len(starts), np.uint64)
    for k in range(int(sizes.max())):
        packed |= np.where(sizes > k, data[starts + k], 0).astype(np.uint64) << np.uint64(8 * k)
    return packed


def whole_numbers(data: U8, starts: I64, sizes: I64) -> F64 | None:
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


def split(block: str, layout: Layout) -> list[list[str]] | None:
    """The columns of a block without quotes and with lines of the right width, None for any other: 5 times as fast as csv."""
    if layout.quoted and '"' in block:
        return None
    d, step, lines = layout.separator, layout.width + 1, block.count("\n")
    fields = block.replace("\n", f"{d}\n{d}").split(d)  # each newline becomes a field of its own
    if len(fields) != lines * step + 1 or fields[layout.width :: step].count("\n") != lines:
        return None
    del fields[-1]
    return [fields[column::step] for column in range(layout.width)]


def rows(block: str, layout: Layout, line: int) -> tuple[list[list[str]], list[int]]:
    """The block's rows, without blank lines, and the line of the file on which each ends.

    A row over several lines has a stray quote if its width is wrong, or if it has a newline in a column that is read (ids
    cannot have one). Then its first line is a bad row, as one text, and parsing continues with the next line.
    """
    parsed = given = list(StringIO(block))
    begin = 0
    if layout.quoted and '\\"' in block:  # a quote in a quoted text; at its end a backslash and the closing quote
        parsed = list(StringIO(re.sub(rf'\\"(?![{re.escape(layout.separator)}\n])', '""', block)))
    found: list[list[str]] = []
    lines: list[int] = []
    columns = (layout.user, layout.item, layout.rating, layout.kind, layout.time)
    read = [column for column in columns if column is not None]
    while begin < len(given):
        first = begin
        rest = (parsed[n] for n in range(first, len(given)))
        reader = csv.reader(
            rest,
            delimiter=layout.separator,
            quoting=csv.QUOTE_MINIMAL if layout.quoted else csv.QUOTE_NONE,
            skipinitialspace=True,
        )
        with suppress(csv.Error):  # a quote that is never closed
            for row in reader:
                end = first + reader.line_num
                if len(row) == layout.width + 1 and not row[-1].strip():
                    row.pop()  # a separator at the end of the line
                over = end > begin + 1 or end == len(given)  # the last newline may be inside a quote
                odd = len(row) != layout.width or (over and any("\n" in row[column] for column in read))
                if odd and row and '"' in given[begin]:
                    break
                if row:
                    found.append(row)
                    lines.append(line - 1 + end)
                begin = end
            else:
                return found, lines
        found.append(_unescaped(given[begin], layout) or [given[begin].rstrip("\r\n")])
        lines.append(line + begin)
        begin += 1
    return found, lines


def _unescaped(line: str, layout: Layout) -> list[str]:
    """The fields of a line with quotes after backslashes, empty if it has not the right width."""
    with suppress(csv.Error):
        row = next(csv.reader([line], delimiter=layout.separator, escapechar="\\", skipinitialspace=True), [])
        return row if '\\"' in line and len(row) == layout.width and "\n" not in row[-1] else []
    return []
