"""Reads events from a path: a MovieLens folder, a CSV or TSV file with a header, JSON Lines, or an archive."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from streamer.consumers.columns import ColumnStream
from streamer.consumers.delimited import Shape, read_delimited
from streamer.consumers.delimited import shape_of as delimited_shape
from streamer.consumers.jsonlines import read_json_lines
from streamer.consumers.movielens import find_files, read_movielens
from streamer.consumers.stream import StreamSource
from streamer.core.errors import BadSettings
from streamer.core.events import Offsets, Record
from streamer.core.protocols import Stream
from streamer.storage.archive.manifest import is_listed

_JSON_LINES = {".jsonl", ".ndjson", ".json"}


def read(path: str | Path, seed: int = 1) -> Stream:
    """The events of `path` in the order in which they are learned.

    All catalogue records come first, then the events in order of time, with ties shuffled by `seed`; JSON Lines, archives and
    files without times keep their order. Bad rows stay in their place and become dead letters.
    Raises BadSettings for a path that cannot be read as any of these, BadState for a damaged archive.
    """
    path = Path(path)
    try:
        return _read(path, seed)
    except FileNotFoundError as error:
        raise _no_such_path(error.filename or path) from None
    except OSError as error:
        raise BadSettings(f"cannot read {error.filename or path}: {error.strerror or error}") from None


def check_path(path: str | Path) -> None:
    """Raise BadSettings for a path that does not exist. Its content is only checked by `read`."""
    if not Path(path).exists():
        raise _no_such_path(path)


def _no_such_path(path: str | Path) -> BadSettings:
    return BadSettings(
        f"there is no {path}: give a MovieLens folder, a CSV or TSV file with a header, or a JSON Lines file"
    )


def _read(path: Path, seed: int) -> Stream:
    stream: Stream
    if is_listed(path):
        from streamer.consumers.archive import read_archive  # imports pyarrow, which only archives need

        stream = read_archive(path)
    elif path.is_dir():
        files = find_files(path)
        catalogue, columns = read_movielens(files)
        stream = ColumnStream(catalogue, columns.sorted(seed), _sha256(files, seed))
        path = files[0]
    elif _is_json_lines(path):
        stream = read_json_lines(path, _sha256([path], seed))
    else:
        stream = ColumnStream([], read_delimited(path).sorted(seed), _sha256([path], seed))
    if not len(stream):
        raise BadSettings(f"{path} has no events: give a file with at least one")
    return stream


def shape_of(path: Path) -> Shape | None:
    """How the ratings or clicks of a path are understood; None for what is not a delimited file with a header."""
    file = find_files(path)[0] if path.is_dir() and not is_listed(path) else path
    if file.is_dir() or file.suffix in (".dat", ".data") or _is_json_lines(file):
        return None
    return delimited_shape(file)


def _is_json_lines(path: Path) -> bool:
    """Whether a file is JSON Lines, by its name or first character; raises BadSettings for an empty or binary file or a JSON array."""
    with path.open("rb") as file:
        head = file.read(4096)
    if not head.strip():
        raise BadSettings(f"{path} is empty: give a file with at least one event")
    if b"\0" in head or head.startswith(b"PAR1"):
        raise BadSettings(f"{path} is not text: give a CSV or TSV file with a header, or a JSON Lines file")
    first = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if first == b"[":
        raise BadSettings(f"{path} is one JSON array: give JSON Lines, one event a line (jq -c '.[]' makes them)")
    return first == b"{" or path.suffix.lower() in _JSON_LINES


def _sha256(files: Sequence[Path], seed: int) -> str:
    digest = hashlib.sha256(f"order 1, seed {seed}".encode())
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


class FileSource:
    """protocols.Source over `read(path, seed)`; see StreamSource."""

    def __init__(self, path: str | Path, seed: int = 1) -> None:
        """Raises like `read`."""
        self.stream = read(path, seed)
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
