"""The encoding of text: as a mark at its beginning says, UTF-8, or found by its bytes, with a note that says so."""

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryDirectory
from typing import BinaryIO, TextIO

from streamer.core.errors import BadSettings

# Each with its mark; that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What files are in, the likelier first: of those that give equally plausible text the first counts.
_LIKELY = (
    "cp1252", "cp1251", "cp932", "gb18030", "cp949", "big5", "euc_jp", "cp1250", "cp1253", "cp1254", "cp1255", "cp1256", "koi8_r",
)  # fmt: skip
_SHOWN = {"cp1252": "Windows-1252", "latin-1": "Latin-1", "utf-16-le": "UTF-16", "utf-16-be": "UTF-16"}
_CHUNK_BYTES, _SAMPLE_BYTES, _HEAD_BYTES = 1 << 20, 1 << 16, 4096


def open_text(file: BinaryIO, name: str, given: str = "") -> tuple[TextIO, list[str]]:
    """A seekable file as text from its beginning, and notes. Bytes that are no text become surrogates, as os.fsdecode does it.

    Raises BadSettings for a given encoding that does not exist. Cost: one more pass over the bytes, some ms for a million events.
    """
    if given:
        try:
            encoding, notes = codecs.lookup(given).name, list[str]()
        except LookupError:
            raise BadSettings(
                f"--encoding {given}: there is no such encoding; utf-8, utf-16, latin-1, cp1252 are usual ones"
            ) from None
        encoding = "utf-8-sig" if encoding == "utf-8" else encoding
    else:
        encoding, notes = _encoding(file, name)
    file.seek(0)
    return io.TextIOWrapper(file, encoding, "surrogateescape"), notes


@contextmanager
def in_utf_8(path: Path, given: str = "") -> Iterator[tuple[Path, list[str]]]:
    """The file, or a copy in UTF-8 that lasts as long as the context if it is in another encoding; and notes. Raises BadSettings."""
    with path.open("rb") as file:
        text, notes = open_text(file, path.name, given)
        if text.encoding in ("utf-8", "utf-8-sig"):
            yield path, notes
            return
        with TemporaryDirectory(prefix="streamer-") as folder:
            copy = Path(folder) / path.name
            try:
                with copy.open("w", encoding="utf-8", errors="surrogateescape", newline="") as written:
                    copyfileobj(text, written)
            except UnicodeError as error:
                raise BadSettings(
                    f"{path} is not in the encoding {text.encoding}: {error}; give another --encoding"
                ) from None
            yield copy, notes


def first_letter(head: bytes) -> str:
    """The first letter of a text that begins with these bytes, "" without one."""
    encoding = next((encoding for mark, encoding in _MARKS if head.startswith(mark)), "") or _utf_16(head) or "latin-1"
    return head.decode(encoding, "replace").lstrip()[:1]


def is_text(head: bytes) -> bool:
    """Whether a file that begins with these bytes is text: no NUL, but for UTF-16 and UTF-32."""
    return b"\0" not in head or any(head.startswith(mark) for mark, _ in _MARKS) or bool(_utf_16(head))


def _encoding(file: BinaryIO, name: str) -> tuple[str, list[str]]:
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding, []
    found = _utf_16(head)
    if not found:
        sample = _foreign_lines(file)
        found = _detect(sample) if sample else ""
    if not found:
        return "utf-8", []
    return found, [
        f"{name} is not UTF-8 and is read as {_SHOWN.get(found, found)}: give --encoding if letters are wrong"
    ]


def _utf_16(head: bytes) -> str:
    """The encoding of UTF-16 without a mark: text of the West has a NUL in every other place."""
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if len(head) < 4 or max(even, odd) < len(head) // 4 or min(even, odd) > 0:
        return ""
    return "utf-16-le" if odd else "utf-16-be"


def _foreign_lines(file: BinaryIO) -> bytes:
    """Some lines that are no ASCII, if the file is not UTF-8; nothing if it is, or is UTF-8 with some damage."""
    sample, whole = b"", True
    for chunk in _chunks(file):
        try:
            chunk.decode()
        except UnicodeDecodeError:
            whole = False
        if len(sample) < _SAMPLE_BYTES:
            sample += b"\n".join(line for line in chunk.splitlines() if not line.isascii()) + b"\n"
    if whole:
        return b""
    text = sample.decode(errors="replace")
    good, bad = sum(letter > "\x7f" for letter in text), text.count("\ufffd")
    return b"" if good - bad >= bad else sample[:_SAMPLE_BYTES]


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    """The pieces of the file that are not ASCII, each to the end of its last line."""
    file.seek(0)
    while chunk := file.read(_CHUNK_BYTES):
        if not chunk.isascii():
            yield chunk + file.readline(_CHUNK_BYTES)


def _detect(sample: bytes) -> str:
    """The encoding in which the sample is the least odd text."""
    from charset_normalizer import from_bytes  # only files in an encoding of old need it

    odd = dict[str, float]()
    for encoding in _LIKELY:
        best = from_bytes(sample, cp_isolation=[encoding], threshold=1.0, enable_fallback=False).best()
        if best is not None:  # half-width kana alone are what Shift JIS makes of other texts of the East
            letters = [letter for letter in str(best) if letter > "\x7f"]
            narrow = sum("\uff61" <= letter <= "\uff9f" for letter in letters) / max(1, len(letters))
            odd[encoding] = best.chaos + narrow
    return min(odd, key=odd.__getitem__, default="latin-1")
