"""Files of vectors: word2vec's formats bit by bit, exchanged with gensim both ways, and safe against hostile files."""

import os
from pathlib import Path

import numpy as np
import pytest

from streamer.core.errors import StreamerError
from streamer.models.offline.clicks.vector_file import read, write

IDS = ["318", "Ünïcödé", "a b", "50%", "50%25", "tab-\u3000-wide", "x/y,z"]
VECTORS = np.array(
    [[1.0, -0.1], [1e-45, 3.4e38], [0.0, -0.0], [1 / 3, 2 / 3], [1e-7, 123456.79], [7.0, 8.0], [0.5, 0.25]],
    dtype=np.float32,
)


@pytest.mark.parametrize("binary", [False, True])
def test_vectors_are_read_back_exactly_whatever_the_ids(tmp_path: Path, binary: bool) -> None:
    write(tmp_path / "v", IDS, VECTORS, binary=binary)
    ids, vectors = read(tmp_path / "v")
    assert ids == IDS
    assert vectors.tobytes() == VECTORS.tobytes()
    assert os.listdir(tmp_path) == ["v"]


def test_the_text_format_can_be_written_by_hand(tmp_path: Path) -> None:
    write(tmp_path / "ours", ["318", "a b"], np.array([[1.5, -2.0], [0.1, 0.0]], np.float32), binary=False)
    assert (tmp_path / "ours").read_text() == "2 2\n318 1.5 -2\na%20b 0.100000001 0\n"
    (tmp_path / "theirs").write_text(
        "2 2\n318 1.5 -2 \r\nnot%escaped 1e3 .1"
    )  # the original tool ends lines with a space
    ids, vectors = read(tmp_path / "theirs")
    assert ids == ["318", "not%escaped"]
    assert vectors.tolist() == [[1.5, -2.0], [1000.0, pytest.approx(0.1)]]


@pytest.mark.parametrize("binary", [False, True])
def test_gensim_reads_ours_and_we_read_gensims(tmp_path: Path, binary: bool) -> None:
    from gensim.models import KeyedVectors

    write(tmp_path / "ours", IDS, VECTORS, binary=binary)
    found = KeyedVectors.load_word2vec_format(str(tmp_path / "ours"), binary=binary)
    assert found.vectors.tobytes() == VECTORS.tobytes()
    assert found.index_to_key[:2] == IDS[:2]
    found.save_word2vec_format(str(tmp_path / "theirs"), binary=binary)
    ids, vectors = read(tmp_path / "theirs")
    assert ids == IDS
    assert vectors.tobytes() == VECTORS.tobytes()


WRONG = {
    "no header": (b"a 1 2\n", "not with a line of two numbers"),
    "nothing": (b"", "not with a line of two numbers"),
    "a pickle": (b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix", "not with a line of two numbers"),
    "a first line without end": (b"1" * 500, "not with a line of two numbers"),
    "a huge count": (b"99999999999999 300\na 1\n", "has 23 bytes"),
    "a huge length": (b"1 99999999999\na 1\n", "from 1 to 4096"),
    "no length": (b"1 0\na\n", "from 1 to 4096"),
    "a negative count": (b"-1 2\na 1 2\n", "not with a line of two numbers"),
    "a number too few": (b"2 2\nabcd 1 2\nb 1\n", "line 3 of"),
    "a number too many": (b"2 2\nabcd 1 2\nb 1 2 3\n", "line 3 of"),
    "a word as a number": (b"2 2\nabcd 1 2\nb 1 x\n", "line 3 of"),
    "too few lines": (b"2 2\nabcdefgh 1 2\n", "line 3 of"),
    "too many lines": (b"1 2\na 1 2\nb 1 2\n", "continues after the 1 vectors"),
    "not a number": (b"2 2\nok 1 2\nbad nan 1\n", "'bad' in .* a number that is not finite"),
    "too large a number": (b"1 2\nbad 1 1e39\n", "'bad' in .* a number that is not finite"),
    "a word twice": (b"2 2\na 1 2\na 3 4\n", "'a' of .* comes twice"),
    "an empty word": (b"2 2\nabcd 1 2\n 1 2\n", "is empty"),
    "no UTF-8": (b"1 2\n\xff 1 2\n", "word 1 of .* not UTF-8"),
    "binary cut off": (b"2 2\na \0\0\0\0\0\0\0\0\nb \0\0\0\0\0\0", "word 2 of 2 in .* cut off"),
    "binary of one endless word": (b"1 2\n" + b"\1" * 5000, "word 1 of 1 in .* cut off"),
    "binary that goes on": (b"1 2\na \0\0\0\0\0\0\0\0\nb \0\0\0\0\0\0\0\0", "continues after the 1 vectors"),
    "binary not a number": (b"1 2\na \0\0\xc0\x7f\0\0\0\0", "'a' in .* a number that is not finite"),
}


@pytest.mark.parametrize("what", WRONG)
def test_other_contents_are_refused_with_a_sentence(tmp_path: Path, what: str) -> None:
    content, said = WRONG[what]
    (tmp_path / "v").write_bytes(content)
    with pytest.raises(StreamerError, match=said):
        read(tmp_path / "v")


def test_a_path_that_is_not_a_file_is_refused(tmp_path: Path) -> None:
    for place in (tmp_path / "gone", tmp_path, Path("/dev/zero")):
        with pytest.raises(StreamerError, match="no file of vectors"):
            read(place)
    with pytest.raises(StreamerError, match="cannot write vectors to"):
        write(tmp_path / "gone" / "v", IDS, VECTORS, binary=True)


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(tmp_path: Path) -> None:
    write(tmp_path / "v", IDS, VECTORS, binary=True)
    with pytest.raises(ValueError, match="zip"):
        write(tmp_path / "v", IDS[:2], VECTORS, binary=True)
    assert read(tmp_path / "v")[0] == IDS
