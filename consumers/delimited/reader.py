"""Reads ratings and clicks from delimited text: CSV, TSV and their kin."""

from pathlib import Path
from typing import TextIO

from streamer.consumers.columns import Columns
from streamer.consumers.delimited.head import Head, understand
from streamer.consumers.delimited.header import ReadOptions
from streamer.consumers.delimited.rows import read_columns

_HEAD_LINES, _HEAD_CHARACTERS = 1000, 1 << 20  # how much of a file is looked at before it is read


def read_delimited(path: Path, options: ReadOptions | None = None) -> Columns:
    """The events of `path` in file order: ratings where a row has one, otherwise clicks.

    Raises BadSettings for a file of which the user and the item are not known, OSError.
    """
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as text:
        head = understand(_first_lines(text), path.name, options or ReadOptions())
        text.seek(0)
        for _ in range(head.first_line - 1):
            text.readline()
        return read_columns(text, head.layout, head.first_line, head.notes)


def head_of(path: Path, options: ReadOptions | None = None) -> Head:
    """How `read_delimited` understands a file. Raises like it."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as text:
        return understand(_first_lines(text), path.name, options or ReadOptions())


def _first_lines(text: TextIO) -> list[str]:
    lines, size = list[str](), 0
    while len(lines) < _HEAD_LINES and size < _HEAD_CHARACTERS and (line := text.readline()):
        lines.append(line)
        size += len(line)
    return lines
