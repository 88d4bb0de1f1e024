"""Reads ratings and clicks from delimited text: CSV, TSV and their kin."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from streamer.consumers.columns import BadRow, Columns, catalogue_columns
from streamer.consumers.delimited.catalogue import item_of, user_of
from streamer.consumers.delimited.encoding import open_text
from streamer.consumers.delimited.fields import UNIT, blocks, rows
from streamer.consumers.delimited.head import Head, understand
from streamer.consumers.delimited.header import ReadOptions
from streamer.consumers.delimited.rows import read_columns, without_decimals
from streamer.core.errors import BadSettings
from streamer.core.events import ITEMS, message

_HEAD_LINES, _HEAD_CHARACTERS = 200, 1 << 20  # how much of a file is looked at before it is read


def read_delimited(path: Path, options: ReadOptions | None = None) -> Columns:
    """The ratings and clicks of `path` in file order or, if it is a table of items or users, the catalogue in it.

    Raises BadSettings for a file of which the user and the item are not known, or that is not in the encoding that is given;
    OSError.
    """
    with _opened(path, options) as (text, head):
        text.seek(0)
        for _ in range(head.first_line - 1):
            text.readline()
        if head.catalogue:
            return _read_catalogue(text, head)
        return replace(read_columns(text, head.layout, head.first_line, head.notes), understood=head.understood)


def _read_catalogue(text: TextIO, head: Head) -> Columns:
    """The items or users in the rows that follow. Cost: some 10 us a row."""
    layout, made, bad, line = head.layout, list[list[str]](), list[BadRow](), head.first_line
    for block in blocks(text, layout):
        for row, at in zip(*rows(block, layout, line), strict=True):
            text_of_row = UNIT.join(row)
            if len(row) != layout.width:
                why = f"it has {len(row)} columns, and {layout.width} are wanted"
            elif any("\ud800" <= letter <= "\udfff" for letter in text_of_row):
                why = "it has bytes that are not UTF-8"
            else:
                made.append(row)
                continue
            said = text_of_row.replace(UNIT, layout.delimiter).encode("utf-8", "surrogateescape")
            bad.append(BadRow(at, said, why))
        line += block.count("\n")
    for row, known in zip(made, without_decimals([row[layout.user].strip() for row in made]), strict=True):
        row[layout.user] = known
    event_of = item_of if head.catalogue == ITEMS else user_of
    return catalogue_columns(head.catalogue, [message(event_of(row, head.read)) for row in made], head.notes, bad)


@contextmanager
def _opened(path: Path, options: ReadOptions | None) -> Iterator[tuple[TextIO, Head]]:
    options = options or ReadOptions()
    with path.open("rb") as file:
        text, notes = open_text(file, path.name, options.encoding)
        try:
            head = understand(_first_lines(text), path.name, options)
            yield text, replace(head, notes=[*notes, *head.notes])
        except UnicodeError as error:
            raise BadSettings(
                f"{path} is not in the encoding {text.encoding}: {error}; give another --encoding"
            ) from None


def _first_lines(text: TextIO) -> list[str]:
    lines, size = list[str](), 0
    while len(lines) < _HEAD_LINES and size < _HEAD_CHARACTERS and (line := text.readline()):
        lines.append(line)
        size += len(line)
    return lines
