"""What the first lines of delimited text say: its delimiter, its header, and which column is what.

A file without a header is understood where its content leaves no doubt, or as `--columns user,item,rating,time` says.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice

from streamer.consumers.delimited.catalogue import catalogue_of, columns_read
from streamer.consumers.delimited.content import columns_by_content, likely_columns
from streamer.consumers.delimited.fields import BLANKS, Layout
from streamer.consumers.delimited.header import (
    ReadOptions,
    columns_of,
    find_columns,
    has_all,
    listed,
    since_of,
    understood_of,
)
from streamer.consumers.delimited.rows import time_unit
from streamer.core.errors import BadSettings
from streamer.core.protocols import Understood

_DELIMITERS = (",", ";", "\t", "|", "::", BLANKS)
_SEP = re.compile(r'"?sep=(.)"?', re.IGNORECASE)  # a first line that spreadsheets write
_EXPECTED = (
    "wanted a header with a user column (such as userId, user_id, user), an item column (itemId, movieId, product_id, ...) and, "
    "where the file has them, columns for rating, kind of click and time"
)


@dataclass(frozen=True, slots=True)
class Head:
    """How a file is understood."""

    layout: Layout
    first_line: int  # of the rows, from 1
    notes: Sequence[str]  # sentences about what was guessed
    understood: Understood = field(default_factory=Understood)  # columns have numbers where there is no header
    catalogue: str = ""  # items or users, where it is a table of these
    read: Mapping[str, int] = field(default_factory=dict)  # what is read of such a table -> its column


def understand(lines: Sequence[str], name: str, options: ReadOptions) -> Head:
    """How a file that begins with these lines is understood. Raises BadSettings."""
    given = options.columns
    at, delimiters = _header_line(lines)
    first = _header_text(lines[at]) if at < len(lines) else ""
    if not first.strip():
        raise BadSettings(f"{name} has no rows: {_EXPECTED}")
    delimiter = max(delimiters, key=lambda one: _likeness(lines[at:], one))
    header, rows = _fields(first, delimiter), [_fields(line, delimiter) for line in lines[at + 1 :] if line.strip()]
    if _are_numbered(header, rows):
        header = ["", *header]
    of = catalogue_of(header, rows)
    if of and (given is None or given.ordered or not has_all(header, given)):  # in a folder of events and catalogue
        return _catalogue(header, rows, of, Layout(delimiter, _width(header, rows), 0, 0), at + 2, name)
    if given and given.ordered:
        after = (
            at + 1 if {"user", "item"} <= set(columns_of(header)) else at
        )  # a header says no more than what is given
        return _without_header(lines, after, delimiter, given.ordered, ())
    found, notes = find_columns(header, rows, given, name)
    if "user" in found and "item" in found:
        width = _width(header, rows)
        layout = replace(_layout(found, delimiter, width), since=since_of(header) if "time" in found else None)
        return Head(layout, at + 2, notes, understood_of(header, rows, found, _time_unit(rows, layout)))
    if not given and (ordered := columns_by_content([header, *rows])):
        shown = ",".join(what or "-" for what in ordered)
        note = f"{name} has no header, and is read as --columns {shown}: give another --columns if that is wrong"
        return _without_header(lines, at, delimiter, ordered, (note,))
    raise BadSettings(_refusal(header, rows, name))


def _header_line(lines: Sequence[str]) -> tuple[int, Sequence[str]]:
    """The number of the first line that is neither blank, a comment nor `sep=;`, from 0, and the delimiters that may be meant."""
    delimiters: Sequence[str] = _DELIMITERS
    for number, line in enumerate(lines):
        text = line.strip()
        if number == 0 and (found := _SEP.fullmatch(line.strip("\r\n "))):
            delimiters = (found[1],)
        elif text.startswith("#") and not _names_in(text.lstrip("#"), delimiters):
            continue
        elif text:
            return number, delimiters
    return len(lines), delimiters


def _names_in(text: str, delimiters: Sequence[str]) -> bool:
    return any({"user", "item"} <= set(columns_of(_fields(text.strip(), one))) for one in delimiters)


def _likeness(lines: Sequence[str], delimiter: str) -> tuple[int, bool, int]:
    """How much the lines look like columns with this delimiter, the more the greater."""
    header = _fields(_header_text(lines[0]), delimiter)
    widths = {len(_fields(line, delimiter)) for line in islice(filter(str.strip, lines), 1, 20)}
    even = len(header) > 1 and len(widths) <= 1 and all(abs(width - len(header)) <= 1 for width in widths)
    return len(columns_of(header)), even, len(header) if delimiter != BLANKS else 1


def _header_text(line: str) -> str:
    return line.strip(" \r\n").lstrip("#").lstrip(" ")


def _are_numbered(header: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether each row begins with its number, which the header does not name, as R writes tables."""
    return all(len(row) == len(header) + 1 and row[0] == str(number) for number, row in enumerate(rows, 1)) and bool(
        rows
    )


def _fields(line: str, delimiter: str) -> list[str]:
    text = line.strip("\r\n")
    if len(delimiter) > 1:
        return text.split(delimiter)
    with suppress(csv.Error):  # a text that is too long
        return next(
            csv.reader(
                [" ".join(text.split()) if delimiter == BLANKS else text], delimiter=delimiter, skipinitialspace=True
            ),
            [],
        )
    return [text]


def _width(header: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """The number of columns, with or without a separator at the end of every row that the header does not have, or has alone."""
    widths = {len(row) for row in rows}
    if widths == {len(header) + 1} and all(not row[-1].strip() for row in rows):
        return len(header) + 1
    if widths == {len(header) - 1} and not header[-1].strip():
        return len(header) - 1
    return len(header)


def _without_header(
    lines: Sequence[str], at: int, delimiter: str, ordered: Sequence[str], notes: Sequence[str]
) -> Head:
    rows = [_fields(line, delimiter) for line in lines[at:] if line.strip()]
    width = max(len(ordered), len(rows[0]) if rows else 0)
    found = {what: column for column, what in enumerate(ordered) if what}
    layout = _layout(found, delimiter, width)
    return Head(layout, at + 1, notes, understood_of([""] * width, rows, found, _time_unit(rows, layout)))


def _catalogue(
    header: Sequence[str], rows: Sequence[Sequence[str]], of: str, layout: Layout, first_line: int, name: str
) -> Head:
    read, said = columns_read(header, of)
    layout = replace(layout, user=read["id"], item=read["id"])
    return Head(layout, first_line, (f"{name} {said}",), catalogue=of, read=read)


def _layout(found: Mapping[str, int], delimiter: str, width: int) -> Layout:
    return Layout(
        delimiter, width, found["user"], found["item"], found.get("rating"), found.get("kind"), found.get("time")
    )


def _time_unit(rows: Sequence[Sequence[str]], layout: Layout) -> str:
    """The unit of the first row's time, "" without one."""
    times = (row[layout.time].strip() for row in rows if layout.time is not None and len(row) == layout.width)
    return time_unit(next(times, ""))


def _refusal(header: Sequence[str], rows: Sequence[Sequence[str]], name: str) -> str:
    """Why a file is refused, and what to do."""
    found = f"{_EXPECTED}; found {listed(header)} on the first line of {name}"
    if not any(any(letter.isdigit() for letter in name) for name in header):
        return f"{found}: say which is which with --columns user=NAME,item=NAME,rating=NAME,time=NAME"
    if len(header) < 2:
        return f"{found}: separate its columns by commas, semicolons, tabs, bars or blanks"
    return (
        f"{name} seems to have no header, its first line being {listed(header)}, and its content does not say which column is "
        "which: give them in their order, with - for one that is not read, such as --columns "
        f"{','.join(likely_columns([header, *rows]))}"
    )
