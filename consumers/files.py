"""Reads events from a path: a MovieLens folder, delimited text (CSV, TSV and their kin), JSON, Parquet, Arrow IPC, or an archive.

Files may be compressed or standard input (`opening`), and a folder of files of one kind is read as one.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from streamer.consumers.columns import Columns, ColumnStream, concatenated
from streamer.consumers.delimited.encoding import first_letter, in_utf_8, is_text
from streamer.consumers.delimited.header import ReadOptions
from streamer.consumers.delimited.reader import read_delimited
from streamer.consumers.id_form import ComposedStream
from streamer.consumers.jsonlines import JsonLines, joined, read_json
from streamer.consumers.movielens import find_files, read_movielens
from streamer.consumers.opening import PACKED_SUFFIXES, STANDARD_INPUT, is_arrow, opened, parts_of, shown, source_of
from streamer.consumers.stream import StreamSource
from streamer.core.errors import BadSettings
from streamer.core.events import Offsets, Record
from streamer.core.protocols import Stream
from streamer.storage.archive.manifest import is_listed

_JSON = {".jsonl", ".ndjson", ".json"}
_WANTED = "a MovieLens folder, a CSV or TSV file, JSON Lines, a JSON array, Parquet or Arrow IPC, compressed or not, or a folder of parts"


def read(path: str | Path, seed: int = 1, options: ReadOptions | None = None) -> Stream:
    """The events of `path` in the order in which they are learned.

    All catalogue records come first, then the events in order of time, with ties shuffled by `seed`; JSON Lines, archives and
    files without times keep their order. Bad rows stay in their place and become dead letters. `options` says what is known of
    the file.
    Raises BadSettings for a path that cannot be read as any of these, BadState for a damaged archive.
    """
    path = Path(path)
    try:
        return _read(path, seed, options or ReadOptions())
    except FileNotFoundError as error:
        raise _no_such_path(error.filename or path) from None
    except OSError as error:
        raise BadSettings(f"cannot read {error.filename or path}: {error.strerror or error}") from None


def check_path(path: str | Path) -> None:
    """Raise BadSettings for a path that does not exist. Its content is only checked by `read`."""
    if Path(path) != STANDARD_INPUT and not Path(path).exists():
        raise _no_such_path(path)


def _no_such_path(path: str | Path) -> BadSettings:
    return BadSettings(f"there is no {path}: give {_WANTED}")


def _read(path: Path, seed: int, options: ReadOptions) -> Stream:
    stream: Stream
    if is_listed(path):
        from streamer.consumers.archive import read_archive  # imports pyarrow, which few files need

        _refuse_columns(path, "an archive", options)
        stream = read_archive(path)
    elif path.is_dir() and (files := find_files(path)):
        if files[0].suffix != ".csv":
            _refuse_columns(path, "a MovieLens folder whose columns and encoding are known", options)
        catalogue, columns = read_movielens(files, options)
        stream = ColumnStream(catalogue, columns.sorted(seed), _sha256(files, seed, options))
        path = files[0]
    else:
        files = _files(path)
        stream = _joined(path, [_read_file(file, options) for file in files], files, seed, options)
    if not len(stream):
        raise BadSettings(f"{shown(path)} has no events: give a file with at least one")
    return ComposedStream(stream) if options.id_form == "nfc" else stream


def _files(path: Path) -> list[Path]:
    """The file, or the parts in a folder. Raises BadSettings for a folder of files of several kinds."""
    if not path.is_dir():
        return [path]
    files = parts_of(path)
    kinds = {_kind_by_name(file): file for file in files}
    if len(kinds) != 1:
        found = ", ".join(file.relative_to(path).as_posix() for file in kinds.values()) or "nothing"
        raise BadSettings(
            f"{path} is neither a MovieLens folder (ratings.csv and movies.csv, u.data and u.item, or ratings.dat and movies.dat) nor "
            f"files of one kind, of which all are read; found {found}: give the file, or a folder of such files alone"
        )
    return files


def _kind_by_name(file: Path) -> str:
    """The end of a part's name that says what it is, without that of a compressed file."""
    suffixes = [one.lower() for one in file.suffixes if one.lower() not in PACKED_SUFFIXES]
    return suffixes[-1] if suffixes and not suffixes[-1][1:].isdecimal() else ""


def _read_file(path: Path, options: ReadOptions) -> Columns | JsonLines:
    with opened(path) as file:
        match _format(file):
            case "arrow":
                from streamer.consumers.arrow import read_arrow  # imports pyarrow, which few files need

                if options.encoding:
                    raise BadSettings(f"--encoding is for text, and {path} is Parquet or Arrow IPC: leave it out")
                return read_arrow(file, options.columns)
            case "json":
                with in_utf_8(file, options.encoding) as (text, notes):
                    return replace(read_json(text, options.columns), notes=notes)
        return read_delimited(file, options)


def _joined(
    path: Path, parts: Sequence[Columns | JsonLines], files: Sequence[Path], seed: int, options: ReadOptions
) -> Stream:
    """The events of all files as one stream."""
    sha256 = _sha256(files, seed, options)
    columns = [part for part in parts if isinstance(part, Columns)]
    if not columns:
        return joined([part for part in parts if isinstance(part, JsonLines)], sha256)
    if len(columns) < len(parts):
        raise BadSettings(f"{path} has files of JSON and tables: give a folder of one kind alone")
    try:
        whole = concatenated(
            columns, [file.name if file == path else file.relative_to(path).as_posix() for file in files]
        )
    except ValueError as error:
        raise BadSettings(f"{path}: {error}") from None
    return ColumnStream(whole.catalogue, whole.sorted(seed), sha256)


def _refuse_columns(path: Path, what: str, options: ReadOptions) -> None:
    if options.columns or options.encoding:
        said = "--columns" if options.columns else "--encoding"
        raise BadSettings(f"{said} is for files of your own, and {path} is {what}: leave it out")


def _format(path: Path) -> Literal["arrow", "json", "delimited"]:
    """What a file is by its content, or by its name where JSON is broken; raises BadSettings for an empty or binary file."""
    with path.open("rb") as file:
        head = file.read(4096)
    if not head.strip():
        raise BadSettings(f"{path} is empty: give a file with at least one event")
    if is_arrow(head):
        return "arrow"
    if not is_text(head):
        raise BadSettings(f"{path} is not text: give {_WANTED}")
    return "json" if first_letter(head) in ("{", "[") or path.suffix.lower() in _JSON else "delimited"


def _sha256(files: Sequence[Path], seed: int, options: ReadOptions) -> str:
    said = "" if options == ReadOptions() else f", {options}"  # the same file, read otherwise, has other events
    digest = hashlib.sha256(f"order 1, seed {seed}{said}".encode())
    for path in files:
        with source_of(path).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


class FileSource:
    """protocols.Source over `read(path, seed, options)`; see StreamSource."""

    def __init__(self, path: str | Path, seed: int = 1, options: ReadOptions | None = None) -> None:
        """Raises like `read`."""
        self.stream = read(path, seed, options)
        self._rows = StreamSource(self.stream)

    def seek(self, offsets: Offsets) -> None:
        """See protocols.Source."""
        self._rows.seek(offsets)

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """See protocols.Source."""
        return self._rows.poll(max_records, timeout_s)

    def lag(self) -> Mapping[str, Mapping[int, int]]:
        """See protocols.Source."""
        return self._rows.lag()

    def close(self) -> None:
        """See protocols.Source."""
        self._rows.close()
