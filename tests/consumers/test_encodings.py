"""The encoding of a file is found out and said, or given. To add one, add a line."""

import json
from pathlib import Path

import pytest

from streamer.consumers.delimited.header import ReadOptions
from streamer.consumers.files import read
from streamer.core.errors import BadSettings
from streamer.core.protocols import Noted

# Encoding, what it is taken for (empty: nothing to say), and text that is in it.
ENCODINGS: list[tuple[str, str, str]] = [
    ("utf-8", "", "Amélie"),
    ("utf-8-sig", "", "Amélie"),
    ("utf-16", "", "Amélie"),
    ("utf-16-be", "UTF-16", "Amelie"),
    ("utf-16-le", "UTF-16", "Amelie"),
    ("utf-32", "", "Amélie"),
    ("latin-1", "Windows-1252", "Les Misérables"),
    ("cp1252", "Windows-1252", "J’ai demandé “Noir Désir”"),
    ("cp1250", "cp1250", "Příliš žluťoučký kůň"),
    ("cp1251", "cp1251", "Мастер и Маргарита"),
    ("cp932", "cp932", "千と千尋の神隠し"),
    ("gb18030", "gb18030", "北京的上海和霸王别姬"),
    ("cp949", "cp949", "올드보이 서울"),
    ("big5", "big5", "悲情城市 臺北"),
]


@pytest.mark.parametrize(("encoding", "found", "text"), ENCODINGS, ids=[one for one, *_ in ENCODINGS])
def test_the_encoding_is_found_and_said(tmp_path: Path, encoding: str, found: str, text: str) -> None:
    path = tmp_path / "events.csv"
    path.write_bytes(f"user;item;rating\nu;{text};4\nv;{text};3\n".encode(encoding))
    stream = read(path)
    assert [json.loads(one.value or b"")["item_id"] for one in stream.messages(0, 9)] == [text, text]
    assert isinstance(stream, Noted)
    assert [f"read as {found}:" in note for note in stream.notes] == ([True] if found else [])
    given = read(path, options=ReadOptions(encoding=encoding))
    assert [one.value for one in given.messages(0, 9)] == [one.value for one in stream.messages(0, 9)]
    assert isinstance(given, Noted)
    assert not given.notes


@pytest.mark.parametrize(("encoding", "found", "text"), ENCODINGS, ids=[one for one, *_ in ENCODINGS])
@pytest.mark.parametrize("shape", ['{{"user_id":"u","item_id":"{0}"}}\n\n{{"user_id":"v","item_id":"{0}"}}\n', '[{{"user_id":"u","item_id":"{0}"}}]'])  # fmt: skip
def test_json_may_be_in_any_encoding_as_well(tmp_path: Path, shape: str, encoding: str, found: str, text: str) -> None:
    path = tmp_path / "events.log"
    path.write_bytes(shape.format(text).encode(encoding))
    stream = read(path)
    assert {json.loads(one.value or b"")["item_id"] for one in stream.messages(0, 9)} == {text}
    assert isinstance(stream, Noted)
    assert len(stream.notes) == (1 if found else 0)


def test_the_encoding_of_films_is_found_as_well(tmp_path: Path) -> None:
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n12,Amélie (2001),Comedy\n", encoding="cp1252")
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n7,12,4,1656105611\n")
    stream = read(tmp_path)
    assert json.loads(stream.messages(0, 1)[0].value or b"")["title"] == "Amélie (2001)"
    assert isinstance(stream, Noted)
    assert list(stream.notes) == [
        "movies.csv is not UTF-8 and is read as Windows-1252: give --encoding if letters are wrong"
    ]


def test_damaged_films_are_said(tmp_path: Path) -> None:
    (tmp_path / "movies.csv").write_bytes(
        "movieId,title,genres\n12,Amélie (2001),Comedy\n13,Caf".encode() + b"\xe9,Drama\n"
    )
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n7,12,4,1656105611\n")
    stream = read(tmp_path)
    assert json.loads(stream.messages(1, 2)[0].value or b"")["title"] == "Caf\ufffd"
    assert isinstance(stream, Noted)
    assert list(stream.notes) == ["1 letter in movies.csv is not UTF-8 and lost"]


def test_damaged_utf_8_is_still_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_bytes("user,item\nu,Amélie\nv,Café\n".encode() + b"w,Caf\xe9\n")
    assert [one.key for one in read(path).messages(0, 9)] == [b"u", b"v", b"line 4"]


@pytest.mark.parametrize("encoding", ["utf-17", "utf-16"])
def test_an_encoding_that_is_not_the_files_is_refused(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "events.csv").write_text("user,item\nu,i1\n\n")
    with pytest.raises(BadSettings, match="encoding"):
        read(tmp_path / "events.csv", options=ReadOptions(encoding=encoding))
