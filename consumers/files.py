"""Reads events from a path: a MovieLens folder, delimited text (CSV, TSV and their kin), JSON Lines, or an archive."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from streamer.consumers.columns import ColumnStream
from streamer.consumers.delimited.encoding import is_text
from streamer.consumers.delimited.head import Head
from streamer.consumers.delimited.header import ReadOptions
from streamer.consumers.delimited.reader import head_of as delimited_head
from streamer.consumers.delimited.reader import read_delimited
from streamer.consumers.id_form import ComposedStream
from streamer.consumers.jsonlines import read_json_lines
from streamer.consumers.movielens import find_files, read_movielens
from streamer.consumers.stream import StreamSource
from streamer.core.errors import BadSettings
from streamer.core.events import Offsets, Record
from streamer.core.protocols import Stream
from streamer.storage.archive.manifest import is_listed

_JSON_LINES = {".jsonl", ".ndjson", ".json"}


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
    if not Path(path).exists():
        raise _no_such_path(path)


def _no_such_path(path: str | Path) -> BadSettings:
    return BadSettings(f"there is no {path}: give a MovieLens folder, a CSV or TSV file, or a JSON Lines file")


def _read(path: Path, seed: int, options: ReadOptions) -> Stream:
    stream: Stream
    if is_listed(path):
        from streamer.consumers.archive import read_archive  # imports pyarrow, which only archives need

        _refuse_columns(path, "an archive", options)
        stream = read_archive(path)
    elif path.is_dir():
        files = find_files(path)
        if files[0].suffix != ".csv":
            _refuse_columns(path, "a MovieLens folder whose columns are known", options)
        catalogue, columns = read_movielens(files, options)
        stream = ColumnStream(catalogue, columns.sorted(seed), _sha256(files, seed, options))
        path = files[0]
    elif _is_json_lines(path):
        _refuse_columns(path, "JSON Lines, whose fields have names", options)
        stream = read_json_lines(path, _sha256([path], seed, options))
    else:
        columns = read_delimited(path, options)
        stream = ColumnStream(columns.catalogue, columns.sorted(seed), _sha256([path], seed, options))
    if not len(stream):
        raise BadSettings(f"{path} has no events: give a file with at least one")
    return ComposedStream(stream) if options.id_form == "nfc" else stream


def _refuse_columns(path: Path, what: str, options: ReadOptions) -> None:
    if options.columns:
        raise BadSettings(f"--columns is for delimited text, and {path} is {what}: leave it out")


def head_of(path: Path, options: ReadOptions | None = None) -> Head | None:
    """How the ratings or clicks of a path are understood; None for what is not delimited text with names or an order of columns."""
    file = find_files(path)[0] if path.is_dir() and not is_listed(path) else path
    if file.is_dir() or (path.is_dir() and file.suffix != ".csv") or _is_json_lines(file):
        return None
    return delimited_head(file, options)


def _is_json_lines(path: Path) -> bool:
    """Whether a file is JSON Lines, by its name or first character; raises BadSettings for an empty or binary file or a JSON array."""
    with path.open("rb") as file:
        head = file.read(4096)
    if not head.strip():
        raise BadSettings(f"{path} is empty: give a file with at least one event")
    if not is_text(head) or head.startswith(b"PAR1"):
        raise BadSettings(f"{path} is not text: give a CSV or TSV file, or a JSON Lines file")
    first = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if first == b"[":
        raise BadSettings(f"{path} is one JSON array: give JSON Lines, one event a line (jq -c '.[]' makes them)")
    return first == b"{" or path.suffix.lower() in _JSON_LINES


def _sha256(files: Sequence[Path], seed: int, options: ReadOptions) -> str:
    said = "" if options == ReadOptions() else f", {options}"  # the same file, read otherwise, has other events
    digest = hashlib.sha256(f"order 1, seed {seed}{said}".encode())
    for path in files:
        with path.open("rb") as file:
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
