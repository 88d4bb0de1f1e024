"""Item vectors in word2vec's two formats, which gensim, fastText and the original tool read and write. Nothing is unpickled.

    text:    a line `COUNT DIM`, then lines of     WORD v_1 v_2 ... v_DIM
    binary:  a line `COUNT DIM`, then records of   WORD, a space, DIM little-endian float32, a line feed (gensim omits it)

A word is an item's id. Both formats end a word at a space, so white space and % in an id are percent-encoded
(`%20`, `%25`) and decoded again. A word that this module would not have written is taken literally.
"""

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np

from streamer.core.arrays import F32, Array
from streamer.core.errors import BadSettings

HEADER_BYTES, WORD_BYTES = (
    64,
    1024,
)  # upper limits; an id has up to 256 bytes, three times as many where all are escaped
DIM_LARGEST = 4096
_ADVICE = "give a file in word2vec's text or binary format, as gensim's save_word2vec_format writes it"


def write(file: Path, item_ids: Sequence[str], vectors: Array, *, binary: bool) -> None:
    """Write vectors (items, dim), replacing a whole file atomically; raises BadSettings where it cannot be written.

    Text has nine digits a number, which represents every float32 exactly.
    """
    new = file.with_name(f".{file.name}.new")
    try:
        with new.open("wb") as out:
            out.write(f"{len(item_ids)} {vectors.shape[1]}\n".encode())
            for item_id, vector in zip(item_ids, vectors.astype("<f4"), strict=True):
                numbers = vector.tobytes() if binary else " ".join(f"{x:.9g}" for x in vector.tolist()).encode()
                out.write(b"%b %b\n" % (_word(item_id).encode(), numbers))
        new.replace(file)
    except OSError as error:
        raise BadSettings(f"cannot write vectors to {file}: {error.strerror}") from None


def read(file: Path) -> tuple[list[str], F32]:
    """Distinct ids (items,) and their vectors (items, dim); raises BadSettings for anything that is not such a file.

    The header is not trusted: memory is a few times the file's size, whatever its first line says.
    """
    try:
        content = file.read_bytes() if file.is_file() else None
    except OSError as error:
        raise BadSettings(f"cannot read vectors from {file}: {error.strerror}") from None
    if content is None:
        raise BadSettings(f"no file of vectors {file}: {_ADVICE}")
    count, dim, start = _header(file, content)
    vectors: F32 = np.empty((count, dim), dtype=np.float32)
    rows = (_text if _is_text(content, start, dim) else _binary)(file, content, start, vectors)
    item_ids: dict[str, None] = {}
    for n, word in enumerate(rows):
        try:
            item_id = _item_id(word.decode())
        except UnicodeDecodeError:
            raise BadSettings(f"word {n + 1} of {file} is not UTF-8: {_ADVICE}") from None
        if not item_id or item_id in item_ids:
            found = f"comes twice, again as number {n + 1}" if item_id else f"is empty, number {n + 1}"
            raise BadSettings(f"the word {item_id[:40]!r} of {file} {found}: give each item one vector")
        item_ids[item_id] = None
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise BadSettings(
            f"the vector of {list(item_ids)[bad[0]][:40]!r} in {file} has a number that is not finite in 32 bits: train again"
        )
    return list(item_ids), vectors


def _header(file: Path, content: bytes) -> tuple[int, int, int]:
    """The number of words, the dimension, and the offset of the first word."""
    end = content.find(b"\n", 0, HEADER_BYTES)
    parts = content[: max(end, 0)].split()
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise BadSettings(f"{file} begins with {content[:20]!r}, not with a line of two numbers: {_ADVICE}")
    count, dim = map(int, parts)
    if not 0 < dim <= DIM_LARGEST:
        raise BadSettings(f"vectors in {file} have {dim} numbers each: from 1 to {DIM_LARGEST} can be read")
    if count > (len(content) - end) // (2 * dim + 1):  # a word, and a digit and a space a number
        raise BadSettings(
            f"the first line of {file} announces {count} vectors of {dim} numbers, but the file has {len(content)} bytes: "
            "it was cut off or is damaged; write it again"
        )
    return count, dim, end + 1


def _is_text(content: bytes, start: int, dim: int) -> bool:
    """Whether the first line is a word and `dim` readable numbers."""
    line = content[start : start + WORD_BYTES + 64 * dim].partition(b"\n")[0].split()
    try:
        return len(line) == dim + 1 and all(np.isfinite(float(number)) or True for number in line[1:])
    except ValueError:
        return False


def _text(file: Path, content: bytes, start: int, vectors: F32) -> Iterator[bytes]:
    """Yields the words, filling the row of `vectors` for each."""
    lines = BytesIO(content)
    lines.seek(start)
    for n in range(len(vectors)):
        word, *numbers = lines.readline().rstrip().split(b" ")
        try:
            if len(numbers) != vectors.shape[1]:
                raise ValueError
            with np.errstate(over="ignore"):  # becomes infinite, which is refused later
                vectors[n] = [float(number) for number in numbers]
        except ValueError:
            raise BadSettings(
                f"line {n + 2} of {file} is not a word followed by {vectors.shape[1]} numbers: {_ADVICE}"
            ) from None
        yield word
    if lines.read().strip():
        raise BadSettings(
            f"{file} continues after the {len(vectors)} vectors that its first line announces: write it again"
        )


def _binary(file: Path, content: bytes, start: int, vectors: F32) -> Iterator[bytes]:
    """Yields the words, filling the row of `vectors` for each."""
    size = 4 * vectors.shape[1]
    for n in range(len(vectors)):
        end = content.find(b" ", start, start + WORD_BYTES)
        if end < 0 or len(content) < end + 1 + size:
            raise BadSettings(f"word {n + 1} of {len(vectors)} in {file} is cut off: {_ADVICE}")
        vectors[n] = np.frombuffer(content, dtype="<f4", count=vectors.shape[1], offset=end + 1)
        yield content[start:end].lstrip(b"\n")
        start = end + 1 + size
    if content[start:].strip():
        raise BadSettings(
            f"{file} continues after the {len(vectors)} vectors that its first line announces: write it again"
        )


def _word(item_id: str) -> str:
    return "".join(quote(c) if c.isspace() or c == "%" else c for c in item_id)


def _item_id(word: str) -> str:
    item_id = unquote(word)
    return item_id if _word(item_id) == word else word
