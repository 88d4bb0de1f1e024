"""What is said of how a file is understood: which column is what, the unit of times, and the columns that are not read."""

import io
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]  # ships no types
import pyarrow.ipc as ipc  # type: ignore[import-untyped]  # ships no types
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # ships no types
import pytest

from streamer.consumers.delimited.header import ReadOptions, parse_columns
from streamer.consumers.files import read
from streamer.core.protocols import Noted, Stream, Understood


def opened(path: Path, columns: str = "") -> Stream:
    return read(path, options=ReadOptions(columns=parse_columns(columns) if columns else None))


def values(path: Path, columns: str = "") -> list[bytes | None]:
    return [one.value for one in opened(path, columns).messages(0, 9)]


def understood(path: Path, columns: str = "") -> Understood:
    stream = opened(path, columns)
    assert isinstance(stream, Noted)
    return stream.understood


def written(path: Path, content: str | pa.Table) -> Path:
    """A file of this text, or a table in the format that the file's name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content)
        return path
    packed = io.BytesIO()
    if path.suffix == ".parquet":
        pq.write_table(content, packed)
    else:
        with ipc.new_file(packed, content.schema) as writer:
            writer.write_table(content)
    path.write_bytes(packed.getvalue())
    return path


# A table of texts, the columns that are known, and those that are not read.
UNREAD: dict[str, tuple[str, str, list[str]]] = {
    "all are read": ("user,item,rating\n7,12,4\n", "user item rating", []),
    "some are not": ("text,user,item,rating,votes\nx,7,12,4,1\ny,8,9,5,2\n", "user item rating", ["text", "votes"]),
    "a session beside a user": ("session_id,user_id,item_id\n1,7,12\n", "user_id item_id", ["session_id"]),
    "a session in place of a user": ("session_id,user_id,item_id\n1,,12\n2,NA,9\n", "session_id item_id", ["user_id"]),
    "the only other id": ("user_id,joke_id,review_id,rating\n7,12,1,4\n", "user_id joke_id rating", ["review_id"]),
}  # fmt: skip


@pytest.mark.parametrize("shape", UNREAD)
@pytest.mark.parametrize("name", ["r.csv", "r.parquet", "r.arrow"])
def test_columns_that_are_not_read_are_named(tmp_path: Path, name: str, shape: str) -> None:
    text, read_columns, unread = UNREAD[shape]
    head, *rows = [line.split(",") for line in text.splitlines()]
    whole = pa.table({column: [row[n] or None for row in rows] for n, column in enumerate(head)})
    written(tmp_path / name, text if name == "r.csv" else whole)
    found = understood(tmp_path / name)
    assert (list(found.columns.values()), found.unread) == (read_columns.split(), unread)
    assert len(values(tmp_path / name)) == len(rows)


def test_what_is_not_read_is_named_where_columns_have_no_names(tmp_path: Path) -> None:
    written(tmp_path / "a.csv", "7,2014-04-07T10:51:09Z,12,0,\n8,2014-04-07T10:54:09Z,9,0,\n")
    assert understood(tmp_path / "a.csv", "user,time,item").unread == ["column 4"]
    written(tmp_path / "b.csv", ",user,item,\n0,7,12,\n1,8,9,\n")
    assert understood(tmp_path / "b.csv").unread == ["column 1"]


def test_what_is_not_read_of_objects_and_of_parts_is_named(tmp_path: Path) -> None:
    written(tmp_path / "c.jsonl", '{"user_id":7,"sku":1,"mood":2,"kind":"view"}\n{"user_id":7,"sku":1,"age":1}\n')
    assert understood(tmp_path / "c.jsonl") == ({"user": "user_id", "item": "sku", "kind": "kind"}, "", ["age", "mood"])
    written(tmp_path / "d/0.csv", "item_id,title,studio\n12,Heat,x\n")
    written(tmp_path / "d/1.csv", "user,item,x\n7,12,1\n")
    written(tmp_path / "d/2.csv", "y,user,item,x\n1,7,12,1\n")
    assert understood(tmp_path / "d") == ({"user": "user", "item": "item"}, "", ["x", "y"])


def test_columns_of_a_table_may_have_odd_names(tmp_path: Path) -> None:
    written(tmp_path / "r.parquet", pa.table([[7, 8], [1, 1], [12, 9], [0, 0]], names=[" user ", "x", "Item", "x"]))
    assert values(tmp_path / "r.parquet") == [b'{"user_id":"7","item_id":"12"}', b'{"user_id":"8","item_id":"9"}']
    assert understood(tmp_path / "r.parquet") == ({"user": "user", "item": "Item"}, "", ["x", "x"])


@pytest.mark.parametrize("name", ["parquet", "arrow"])
def test_columns_that_are_given_are_those_of_the_events_beside_a_catalogue(tmp_path: Path, name: str) -> None:
    written(tmp_path / f"films.{name}", pa.table({"item_id": [12, 9], "title": ["Heat", "Alien"]}))
    written(tmp_path / f"watched.{name}", pa.table({"who": [7], "item_id": [12]}))
    assert values(tmp_path, "user=who,item=item_id") == [
        b'{"item_id":"12","title":"Heat"}', b'{"item_id":"9","title":"Alien"}', b'{"user_id":"7","item_id":"12"}',
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("times", "unit"),
    [
        (["2022-06-24", "2022-06-25"], "ISO 8601"), ([None, "1656105611"], "seconds"), ([1656105611000, 0], "milliseconds"), ([None, None], ""),
        ([datetime(2022, 6, 24, tzinfo=UTC), None], "timestamp[us, tz=UTC]"), ([date(2022, 6, 24), None], "date32[day]"),
    ],
)  # fmt: skip
def test_the_unit_of_times_in_a_table_is_that_of_the_first(tmp_path: Path, times: list[object], unit: str) -> None:
    found = pa.table({"user": [7, 8], "item": [12, 9], "time": times})
    assert understood(written(tmp_path / "r.parquet", found)).time_unit == unit


def test_what_is_not_read_beside_the_files_of_movielens_is_said(tmp_path: Path) -> None:
    written(tmp_path / "movies.csv", "movieId,title,genres\n12,Heat (1995),Crime\n")
    written(tmp_path / "ratings.csv", "userId,movieId,rating,timestamp\n7,12,4,1656105611\n")
    for name in ("links.csv", "tags.csv", "users.csv"):
        written(tmp_path / name, "userId,age\n7,30\n")
    stream = opened(tmp_path)
    assert isinstance(stream, Noted)
    assert stream.notes == ["users.csv beside MovieLens' files: not read; give such a file by itself"]
