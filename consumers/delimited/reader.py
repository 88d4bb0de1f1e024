"""Reads ratings and clicks from delimited text: CSV, TSV and their kin."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from streamer.consumers.columns import Columns
from streamer.consumers.delimited.encoding import open_text
from streamer.consumers.delimited.head import Head, understand
from streamer.consumers.delimited.header import ReadOptions
from streamer.consumers.delimited.rows import read_columns
from streamer.core.errors import BadSettings

_HEAD_LINES, _HEAD_CHARACTERS = 1000, 1 << 20  # how much of a file is looked at before it is read


def read_delimited(path: Path, options: ReadOptions | None = None) -> Columns:
    """The events of `path` in file order: ratings where a row has one, otherwise clicks.

    Raises BadSettings for a file of which the user and the item are not known, or that is not in the encoding that is given;
    OSError.
    """
    with _opened(path, options) as (text, head):
        text.seek(0)
        for _ in range(head.first_line - 1):
            text.readline()
        return read_columns(text, head.layout, head.first_line, head.notes)


def head_of(path: Path, options: ReadOptions | None = None) -> Head:
    """How `read_delimited` understands a file. Raises like it."""
    with _opened(path, options) as (_, head):
        return head


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
