"""Opens what a path names: compressed files, standard input, and folders of parts. The content of a file decides, not its name.

A compressed file is unpacked as a whole into a temporary folder before anything of it is read: all that is damaged or cut off
is found before an event is used, and readers get a file with all that files can do. Standard input is kept like that too, for
as long as the process runs.
"""

import gzip
import re
import shutil
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TypeAlias

from streamer.core.errors import BadSettings, StreamerError

Unpacker: TypeAlias = Callable[[IO[bytes]], IO[bytes]]

STANDARD_INPUT = Path("-")
PARQUET, ARROW_FILE, ARROW_STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"  # the first bytes
NESTED_MOST = 3  # a zip of a gzip: more is a mistake, or malice
_COPIED_BYTES = 1 << 20
_TAR = b"ustar"  # at byte 257
_DIGITS = re.compile(r"([0-9]+)")


def _gzip(file: IO[bytes]) -> IO[bytes]:
    return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]  # reads bytes, and is no IO by name only


def _arrow(codec: str) -> Unpacker:
    def unpacker(file: IO[bytes]) -> IO[bytes]:
        from streamer.consumers.arrow import decompressed  # imports pyarrow, which few files need

        return decompressed(file, codec)

    return unpacker


def _member(file: IO[bytes]) -> IO[bytes]:
    """The one file in a zip archive."""
    archive = zipfile.ZipFile(file)
    found = [one for one in archive.infolist() if not one.is_dir() and not _is_hidden(Path(one.filename))]
    if len(found) != 1:
        names = ", ".join(one.filename for one in found[:8]) + (", ..." if len(found) > 8 else "")
        raise BadSettings(
            f"a zip of one file is wanted, and there are {len(found)}{': ' * bool(found)}{names}: unpack it"
        )
    return archive.open(found[0])


# The first bytes of a compressed file, and how it is unpacked.
_PACKED: Sequence[tuple[bytes, Unpacker]] = (
    (b"\x1f\x8b", _gzip),
    (b"\x28\xb5\x2f\xfd", _arrow("zstd")),
    (b"PK\x03\x04", _member),
    (b"PK\x05\x06", _member),  # an empty one
    (b"BZh", _arrow("bz2")),
    (b"\x04\x22\x4d\x18", _arrow("lz4")),
)
_DAMAGE = (EOFError, OSError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError)
PACKED_SUFFIXES = {".gz", ".zst", ".zip", ".bz2", ".lz4"}


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """The file itself, or, for a compressed one and for standard input, a copy that is unpacked and lasts as long as the context.

    Errors name the path that was given. Raises BadSettings for what holds no file or several, StreamerError for a damaged file.
    """
    path = source_of(path)
    if _unpacker(path) is None:
        with _named(path, path):
            yield path
        return
    with TemporaryDirectory(prefix="streamer-") as folder:
        found = path
        for _ in range(NESTED_MOST):
            unpacker = _unpacker(found)
            if unpacker is not None:
                found = _unpack(path, found, unpacker, Path(folder))
        if _unpacker(found) is not None:
            raise BadSettings(f"{shown(path)} is compressed more than {NESTED_MOST} times: unpack it")
        _refuse_tar(path, found)
        with _named(found, path):
            yield found


def is_arrow(head: bytes) -> bool:
    """Whether a file that begins with these bytes is Parquet or Arrow IPC."""
    return head.startswith((PARQUET, ARROW_FILE, ARROW_STREAM))


def source_of(path: Path) -> Path:
    """The file that has the bytes: a copy of standard input, or the path itself."""
    return _standard_input() if path == STANDARD_INPUT else path


def shown(path: Path) -> str:
    """The path as a person gave it."""
    return "standard input" if path == STANDARD_INPUT or path.parent.name.startswith("streamer-input-") else str(path)


@contextmanager
def _named(copy: Path, path: Path) -> Iterator[None]:
    """Errors about the copy are about the path."""
    try:
        yield
    except StreamerError as error:
        sentence = str(error).replace(str(copy), shown(path))
        raise (error if sentence == str(error) else type(error)(sentence)) from None


def _unpacker(path: Path) -> Unpacker | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(8)
    return next((unpack for magic, unpack in _PACKED if head.startswith(magic)), None)


def _unpack(path: Path, packed: Path, unpacker: Unpacker, folder: Path) -> Path:
    name = packed.name.removesuffix(packed.suffix) if packed.suffix.lower() in PACKED_SUFFIXES else packed.name
    unpacked = folder / f"{len(list(folder.iterdir()))}" / name
    unpacked.parent.mkdir()
    with packed.open("rb") as file, unpacked.open("wb") as copy:
        try:
            with unpacker(file) as content:
                while block := content.read(_COPIED_BYTES):
                    _write(copy, block, path)
        except StreamerError as error:
            raise type(error)(f"{shown(path)}: {error}") from None
        except _DAMAGE as error:
            raise StreamerError(
                f"{shown(path)} is damaged or cut off and cannot be unpacked ({error or type(error).__name__}): get it again; "
                "nothing of it was used"
            ) from None
    return unpacked


def _write(copy: IO[bytes], block: bytes, path: Path) -> None:
    try:
        copy.write(block)
    except OSError as error:
        raise StreamerError(
            f"cannot unpack into {Path(copy.name).parent.parent}: {error.strerror or error}: make room there, or name another "
            "folder with the variable TMPDIR"
        ) from None


def _refuse_tar(path: Path, unpacked: Path) -> None:
    with unpacked.open("rb") as file:
        if file.read(512)[257:262] == _TAR:
            raise BadSettings(f"{shown(path)} is a tar archive: unpack it, and give the file or the folder in it")


def parts_of(folder: Path) -> list[Path]:
    """The files of a data set in parts, in order of their names: numbers in names count as numbers. Hidden files are none.

    Names that begin with "_" or "." are hidden, as for Spark and Hive (_SUCCESS, .crc).
    """
    files = [path for path in folder.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(folder))]
    return sorted(files, key=lambda path: _natural(path.relative_to(folder).as_posix()))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(("_", ".")) for part in path.parts)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _DIGITS.split(name)]


@cache
def _input_folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="streamer-input-")


@cache
def _standard_input() -> Path:
    """A copy of standard input, which is read once."""
    path = Path(_input_folder().name) / "standard input"
    with path.open("wb") as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy, _COPIED_BYTES)
    return path
