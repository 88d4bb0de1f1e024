"""The same three ratings in the containers that people have. To add one, add a line."""

import bz2
import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import lz4.frame
import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # ships no types
import pyarrow.ipc as ipc  # type: ignore[import-untyped]  # ships no types
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # ships no types
import pytest
import zstandard

from streamer.consumers.delimited.header import ReadOptions, parse_columns
from streamer.consumers.files import read
from streamer.core.errors import BadSettings, StreamerError
from streamer.core.events import Click, ItemUpdate, Rating, Record, UserUpdate
from streamer.core.protocols import Located
from streamer.core.settings import LearningSettings
from streamer.stream.decoder import Decoder

# user, item, rating, milliseconds since 1970
WANTED = [("7", "12", 4.0, 1656105611000), ("7", "9", 2.5, 1656105671000), ("8", "12", 5.0, 1656105672000)]
SECONDS = [time // 1000 for *_, time in WANTED]
CSV = b"user,item,rating,timestamp\n7,12,4,1656105611\n7,9,2.5,1656105671\n8,12,5,1656105672\n"
FIRST, REST = CSV[:44], CSV[:27] + CSV[44:]  # both with the header
LINES = b"".join(
    b'{"user_id":"%b","item_id":"%b","rating":%r,"timestamp":%d}\n' % (user.encode(), item.encode(), rating, time // 1000)
    for user, item, rating, time in WANTED
)  # fmt: skip
PARTLY = {"user_id": [7, None, 8], "item_id": ["12", "9", "12"], "rating": [4, 2.5, 5], "timestamp": SECONDS}

Value = tuple[str, str, float | str, int | None]


def zipped(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def tar_of(name: str, content: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def table(**columns: object) -> pa.Table:
    """The three ratings as integers, floats and seconds, but for the columns given."""
    made: dict[str, object] = {
        "user_id": [7, 7, 8], "item_id": [12, 9, 12], "rating": [4.0, 2.5, 5.0], "timestamp": SECONDS,
    }  # fmt: skip
    return pa.table(made | columns)


def parquet(found: pa.Table, **how: object) -> bytes:
    content = io.BytesIO()
    pq.write_table(found, content, **how)
    return content.getvalue()


def arrow(found: pa.Table, make: Callable[..., object] = ipc.new_file, rows: int = 2, **how: object) -> bytes:
    content = io.BytesIO()
    with make(content, found.schema, **how) as writer:  # type: ignore[attr-defined]
        writer.write_table(found, max_chunksize=rows)
    return content.getvalue()


def moments(unit: str, zone: str | None = None) -> pa.Array:
    return pa.array([time for *_, time in WANTED], pa.timestamp("ms")).cast(pa.timestamp(unit, zone))


# A file's name -> its bytes; the name says nothing that the content does not.
FILES: dict[str, tuple[str, bytes]] = {
    "gzip": ("ratings.csv.gz", gzip.compress(CSV)),
    "gzip of JSON Lines": ("ratings.jsonl.gz", gzip.compress(LINES)),
    "gzip in two members": ("ratings.csv.gz", gzip.compress(CSV[:50]) + gzip.compress(CSV[50:])),
    "gzip without its suffix": ("ratings", gzip.compress(CSV)),
    "gzip under another name": ("ratings.csv", gzip.compress(CSV)),
    "Zstandard": ("ratings.csv.zst", zstandard.compress(CSV)),
    "Zstandard in two frames": ("ratings.zst", zstandard.compress(CSV[:50]) + zstandard.compress(CSV[50:])),
    "zip": ("ratings.zip", zipped({"ratings.csv": CSV})),
    "zip with what macOS adds": ("r.zip", zipped({"a/ratings.csv": CSV, "__MACOSX/a/._ratings.csv": b"x", ".DS_Store": b"x"})),
    "zip of gzip": ("ratings.zip", zipped({"ratings.csv.gz": gzip.compress(CSV)})),
    "bzip2": ("ratings.csv.bz2", bz2.compress(CSV)),
    "LZ4": ("ratings.csv.lz4", lz4.frame.compress(CSV)),
    "gzip of UTF-16": ("ratings.csv.gz", gzip.compress(CSV.decode().encode("utf-16"))),
    "Parquet": ("ratings.parquet", parquet(table())),
    "Parquet without its suffix": ("ratings", parquet(table())),
    "Parquet in row groups": ("ratings.parquet", parquet(table(), row_group_size=1)),
    "Parquet, compressed by gzip": ("ratings.parquet", parquet(table(), compression="gzip")),
    "gzip of Parquet": ("ratings.parquet.gz", gzip.compress(parquet(table()))),
    "Parquet with texts": ("r.parquet", parquet(table(user_id=["7", "7", "8"], item_id=["12", "9", "12"], rating=["4", "2.5", "5"]))),
    "Parquet with categories": ("r.parquet", parquet(table(user_id=pa.array(["7", "7", "8"]).dictionary_encode()))),
    "Arrow IPC with categories of Polars": ("r.arrow", arrow(table(user_id=pa.DictionaryArray.from_arrays(pa.array([0, 0, 1], pa.uint32()), pa.array(["7", "8"]))))),
    "Parquet with ids that are floats": ("r.parquet", parquet(table(user_id=[7.0, 7.0, 8.0], item_id=pa.array([12, 9, 12], pa.float32())))),
    "Parquet with unsigned ids": ("r.parquet", parquet(table(user_id=pa.array([7, 7, 8], pa.uint64())))),
    "Parquet with decimals": ("r.parquet", parquet(table(rating=[Decimal("4.00"), Decimal("2.50"), Decimal("5.00")], user_id=[Decimal("7"), Decimal("7"), Decimal("8")]))),
    "Parquet with binary ids": ("r.parquet", parquet(table(item_id=[b"12", b"9", b"12"]))),
    "Parquet with half floats": ("r.parquet", parquet(table(rating=pa.array([np.float16(x) for x in (4, 2.5, 5)], pa.float16())))),
    **{f"Parquet with times in {unit}": ("r.parquet", parquet(table(timestamp=moments(unit)))) for unit in ("s", "ms", "us", "ns")},
    "Parquet with times in a zone": ("r.parquet", parquet(table(timestamp=moments("us", "America/New_York")))),
    "Parquet with times in UTC": ("r.parquet", parquet(table(timestamp=moments("ns", "UTC")))),
    "Parquet with times as whole microseconds": ("r.parquet", parquet(table(timestamp=[1000000 * time for time in SECONDS]))),
    "Parquet with times as floats": ("r.parquet", parquet(table(timestamp=[float(time) for time in SECONDS]))),
    "Parquet with times as texts": ("r.parquet", parquet(table(timestamp=["2022-06-24 21:20:11", "2022-06-24T21:21:11Z", "1656105672"]))),
    "Parquet with other names": ("r.parquet", parquet(table().rename_columns(["visitorid", "parent_asin", "stars", "ts"]))),
    "Parquet with more columns": ("r.parquet", parquet(table().append_column("text", pa.array(["a", None, "c"])).append_column("n", pa.array([[1], [], None])))),
    "Arrow IPC": ("ratings.arrow", arrow(table())),
    "Arrow IPC, compressed": ("ratings.arrow", arrow(table(), options=ipc.IpcWriteOptions(compression="zstd"))),
    "Feather": ("ratings.feather", arrow(table(), options=ipc.IpcWriteOptions(compression="lz4"))),
    "Arrow IPC with categories that change": ("r.arrow", arrow(table(user_id=pa.chunked_array([pa.array(["7", "7"]).dictionary_encode(), pa.array(["8"]).dictionary_encode()])), ipc.new_stream)),
    "an Arrow stream": ("ratings.arrows", arrow(table(), ipc.new_stream)),
    "gzip of an Arrow stream": ("ratings", gzip.compress(arrow(table(), ipc.new_stream))),
    "a JSON array": ("ratings.json", json.dumps([json.loads(line) for line in LINES.splitlines()]).encode()),
    "a JSON array over many lines": ("ratings.json", json.dumps([json.loads(line) for line in LINES.splitlines()], indent=2).encode()),
    "a JSON array with a byte order mark": ("r.json", b"\xef\xbb\xbf \n[" + b",\n".join(LINES.splitlines()) + b"\n]"),
    "JSON Lines with names of a shop": ("r.jsonl", LINES.replace(b"user_id", b"visitorId").replace(b"item_id", b"sku").replace(b"rating", b"stars").replace(b"timestamp", b"eventTime")),
    "JSON Lines of Amazon": ("r.jsonl", b"".join(
        json.dumps({"rating": rating, "title": "T", "text": "t", "images": [], "asin": "x", "parent_asin": item, "user_id": user, "timestamp": time, "helpful_vote": 0, "verified_purchase": True}).encode() + b"\n"
        for user, item, rating, time in WANTED
    )),
    "JSON Lines of Goodreads": ("r.json", b"".join(
        json.dumps({"user_id": user, "book_id": int(item), "review_id": "z", "is_read": True, "rating": rating, "date_added": datetime.fromtimestamp(time / 1000, timezone(timedelta(hours=-7))).strftime("%a %b %d %H:%M:%S %z %Y")}).encode() + b"\n"
        for user, item, rating, time in WANTED
    )),
}  # fmt: skip

# The parts of a folder.
FOLDERS: dict[str, Mapping[str, bytes]] = {
    "parts": {"part-0.csv": FIRST, "part-1.csv": REST},
    "parts in order of numbers": {"part-10.csv": REST, "part-9.csv": FIRST},
    "parts with what Spark adds": {"part-0.csv": FIRST, "part-1.csv": REST, "_SUCCESS": b"", ".part-0.csv.crc": b"crc"},
    "parts by day": {"dt=2022-06-24/a.csv": FIRST, "dt=2022-06-25/a.csv": REST},
    "compressed parts": {"part-0.csv.gz": gzip.compress(FIRST), "part-1.csv.zst": zstandard.compress(REST)},
    "parts with columns in another order": {"0.csv": FIRST, "1.csv": b"timestamp,item,user,rating\n1656105671,9,7,2.5\n1656105672,12,8,5\n"},
    "Parquet": {"part-0.parquet": parquet(table().slice(0, 1)), "part-1.parquet": parquet(table().slice(1))},
    "Parquet by day": {"dt=2/0.parquet": parquet(table().slice(1)), "dt=1/0.parquet": parquet(table().slice(0, 1))},
    "JSON Lines": {"0.jsonl": LINES[:60], "1.jsonl": LINES[60:]} if LINES[59:60] == b"\n" else {"0.jsonl": LINES.splitlines(True)[0], "1.jsonl": b"".join(LINES.splitlines(True)[1:])},
    "parts without suffixes": {"part-00000": FIRST, "part-00001": REST},
}  # fmt: skip


def events(path: Path, columns: str = "") -> list[Value]:
    """What is learned from a path: its events in order, as the decoder understands them."""
    stream = read(path, options=ReadOptions(columns=parse_columns(columns) if columns else None))
    records = [Record(one.topic, -1, n, 0, one.key, one.value) for n, one in enumerate(stream.messages(0, len(stream)))]
    found: list[Value] = []
    for record, event in zip(records, Decoder(LearningSettings()).decode(records, (), ()), strict=True):
        assert isinstance(event, Rating | Click), (record, event)
        assert record.key == event.user_id.encode()
        value = event.rating if isinstance(event, Rating) else event.kind
        found.append((event.user_id, event.item_id, value, event.timestamp_ms))
    assert stream.times_ms(0, len(stream)) == [event[3] or 0 for event in found]
    return found


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("shape", FILES)
def test_each_container_holds_the_same_events(tmp_path: Path, shape: str) -> None:
    name, content = FILES[shape]
    assert events(written(tmp_path / name, content)) == WANTED


@pytest.mark.parametrize("shape", FOLDERS)
def test_a_folder_of_parts_is_read_as_one_file(tmp_path: Path, shape: str) -> None:
    for name, content in FOLDERS[shape].items():
        written(tmp_path / "d" / name, content)
    assert events(tmp_path / "d") == WANTED
    before = read(tmp_path / "d").sha256
    assert read(tmp_path / "d").sha256 == before
    last = max((path for path in (tmp_path / "d").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    last.unlink()
    assert read(tmp_path / "d").sha256 != before


def test_bad_rows_of_parts_say_where_they_are(tmp_path: Path) -> None:
    written(tmp_path / "a.csv", b"user,item,rating,timestamp\n7,12,x,1656105611\n7,9,2.5,1656105671\n")
    written(tmp_path / "b.csv", b"user,item,rating,timestamp\n8,12,5,1656105672\n8,12,y,1656105673\n")
    stream = read(tmp_path)
    assert isinstance(stream, Located)
    found = {(one.key, one.value): stream.locate(row) for row, one in enumerate(stream.messages(0, 4))}
    assert found[b"line 2", b"7,12,x,1656105611"] == (2, "the rating 'x' is no number, in a.csv")
    assert found[b"line 3", b"8,12,y,1656105673"] == (3, "the rating 'y' is no number, in b.csv")


def test_what_identifies_a_file_is_what_it_holds(tmp_path: Path) -> None:
    """`serve --replay` continues in the file of which it remembers the SHA-256, wherever it lies."""
    for name, content in (("a.csv.gz", gzip.compress(CSV, mtime=0)), ("b.parquet", parquet(table()))):
        first, again = (written(tmp_path / place / name, content) for place in ("x", "y"))
        assert read(first).sha256 == read(again).sha256
    assert read(tmp_path / "x" / "a.csv.gz").sha256 != read(tmp_path / "x" / "b.parquet").sha256


@pytest.mark.parametrize("shape", [name for name in FILES if name not in ("zip of gzip",)])
def test_a_file_that_is_cut_off_is_refused_and_none_of_it_is_used(tmp_path: Path, shape: str) -> None:
    """Text alone has no end that could be missed."""
    name, content = FILES[shape]
    if shape.startswith("JSON Lines"):
        return
    for kept in {len(content) - 1, len(content) - 5, len(content) * 2 // 3, len(content) // 2}:
        with pytest.raises(StreamerError) as raised:
            read(written(tmp_path / name, content[:kept]))
        assert str(tmp_path / name) in str(raised.value)
        assert (raised.value.exit_code, "nothing of it was used" in str(raised.value)) == (1, True)


@pytest.mark.parametrize("shape", ["gzip", "Zstandard", "zip", "bzip2", "LZ4", "Parquet"])
def test_a_flipped_bit_never_changes_an_event(tmp_path: Path, shape: str) -> None:
    """Those that are not in the checksummed part, such as a file's name in a zip, may do no harm."""
    packed = {
        "Zstandard": zstandard.ZstdCompressor(write_checksum=True).compress(CSV),
        "LZ4": lz4.frame.compress(CSV, content_checksum=True),
        "Parquet": parquet(table(), write_page_checksum=True),
    }
    name, content = FILES[shape][0], packed.get(shape, FILES[shape][1])
    end = len(content)
    if shape == "Parquet":  # its footer, with the names of columns, has no checksum of its own
        end -= 8 + int.from_bytes(content[-8:-4], "little")
    for position in range(0, end, max(1, end // 40)):
        damaged = bytearray(content)
        damaged[position] ^= 4
        try:
            found = events(written(tmp_path / name, bytes(damaged)))
        except StreamerError:
            continue
        assert found == WANTED, position


REFUSED: dict[str, tuple[str, bytes, str]] = {
    "several files": ("r.zip", zipped({"a.csv": CSV, "b.csv": CSV}), r"r\.zip: a zip of one file is wanted, and there are 2: a\.csv, b\.csv: unpack it"),
    "no file": ("r.zip", zipped({}), "a zip of one file is wanted, and there are 0: unpack it"),
    "a tar archive": ("r.tar.gz", gzip.compress(tar_of("ratings.csv", CSV)), r"r\.tar\.gz is a tar archive: unpack it"),
    "nothing": ("r.csv.gz", gzip.compress(b""), r"r\.csv\.gz is empty"),
    "compressed again and again": ("r.gz", gzip.compress(gzip.compress(gzip.compress(gzip.compress(CSV)))), "compressed more than 3 times"),
    "something else": ("r.csv.gz", gzip.compress(bytes(range(256))), r"r\.csv\.gz is not text"),
    "no header": ("r.csv.gz", gzip.compress(b"7,1337\n8,1338\n"), r"r\.csv seems to have no header"),
    "Parquet without known names": ("r.parquet", parquet(pa.table({"a": [1], "b": [2]})), r"has no columns that are known .*'a', 'b': say which is which with --columns user=NAME"),
    "lists as items": ("r.parquet", parquet(table(item_id=[[12], [9], []])), r"r\.parquet has a column that is not read \(.*list.*\): make it texts"),
    "an empty Parquet file": ("r.parquet", parquet(table().slice(0, 0)), "r.parquet has no events"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_with_what_to_do(tmp_path: Path, case: str) -> None:
    name, content, said = REFUSED[case]
    with pytest.raises(BadSettings, match=said):
        read(written(tmp_path / name, content))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"a.csv": CSV, "b.parquet": parquet(table())},
            r"files of one kind, of which all are read; found .*a\.csv.*b\.parquet",
        ),
        ({"a.csv": CSV, "b.csv": b"user,item,rating\n1,2,3\n"}, r"b\.csv has no times, and others have"),
        ({"a": CSV, "b": LINES}, "has files of JSON and tables"),
        ({"_SUCCESS": b""}, "found nothing"),
    ],
)
def test_a_folder_of_what_is_not_one_data_set_is_refused(tmp_path: Path, files: Mapping[str, bytes], said: str) -> None:
    for name, content in files.items():
        written(tmp_path / name, content)
    with pytest.raises(BadSettings, match=said):
        read(tmp_path)


def test_rows_that_cannot_be_events_keep_their_place_and_say_why(tmp_path: Path) -> None:
    found = pa.table({
        "user": pa.array([7, None, 8, 9, 9], pa.int64()), "item": ["a", "b", None, "d", "e"],
        "rating": ["4", "2", "3", "four", "1"], "time": pa.array([1656105611, 1656105612, 1656105613, 1656105614, None]),
    })  # fmt: skip
    stream = read(written(tmp_path / "r.parquet", parquet(found, row_group_size=2)))
    assert isinstance(stream, Located)
    keys = [
        one.key for one in stream.messages(0, 5)
    ]  # a bad row has the time of the row before it, and ties are shuffled
    assert set(keys) == {b"7", b"line 2", b"line 3", b"line 4", b"line 5"}
    assert sorted(stream.locate(row) for row in range(5)) == [
        (0, ""), (2, "it has no user"), (3, "it has no item"), (4, "the rating 'four' is no number"), (5, "it has no time"),
    ]  # fmt: skip
    bad = stream.messages(keys.index(b"line 4"), 5)[0]
    assert json.loads(bad.value or b"") == {"user": 9, "item": "d", "rating": "four", "time": 1656105614}


@pytest.mark.parametrize(
    "column",
    [
        pa.array([None, date(2022, 6, 24)]), pa.array([None, datetime(2022, 6, 24)], pa.timestamp("s")), pa.array([None, "2022-06-24"]),
        pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int64()), pa.array([None, "2022-06-24"])),
    ],
    ids=lambda column: str(column.type),
)  # fmt: skip
def test_a_row_without_a_time_cannot_be_used_whatever_the_type(tmp_path: Path, column: pa.Array) -> None:
    found = pa.table({"user": ["u", "u"], "item": ["a", "b"], "time": column})
    stream = read(written(tmp_path / "r.arrow", arrow(found)))
    assert isinstance(stream, Located)
    assert [stream.locate(row) for row in (0, 1)] == [(1, "it has no time"), (0, "")]
    assert json.loads(stream.messages(1, 2)[0].value or b"")["timestamp_ms"] == 1656028800000


def test_a_row_with_a_rating_is_a_rating_and_one_without_is_a_click_of_its_kind(tmp_path: Path) -> None:
    found = pa.table({
        "user_id": ["u", "u", "v"], "item_id": ["a", "b", "c"], "event": ["rate", "view", "purchase"],
        "rating": pa.array([4.0, None, float("nan")]), "date": pa.array([date(2022, 6, 24)] * 3),
    })  # fmt: skip
    assert sorted(events(written(tmp_path / "r.parquet", parquet(found)))) == [
        ("u", "a", 4.0, 1656028800000), ("u", "b", "view", 1656028800000), ("v", "c", "purchase", 1656028800000),
    ]  # fmt: skip


def test_a_rating_that_is_no_number_is_not_a_click_in_its_place(tmp_path: Path) -> None:
    found = pa.table(
        {"user": ["u"] * 3, "item": ["a", "b", "c"], "event": ["view"] * 3, "rating": ["four", "NA", "inf"]}
    )
    for name, content in (
        ("r.parquet", parquet(found)),
        ("r.csv", b"user,item,event,rating\nu,a,view,four\nu,b,view,NA\nu,c,view,inf\n"),
    ):
        stream = read(written(tmp_path / name, content))
        assert isinstance(stream, Located)
        assert [stream.locate(row)[1] for row in range(3)] == [
            "the rating 'four' is no number",
            "",
            "the rating 'inf' is no number",
        ]


def test_float_ratings_of_32_bits_are_those_that_were_written(tmp_path: Path) -> None:
    found = table(rating=pa.array([3.3, 0.1, 4.7], pa.float32()))
    assert [value for _, _, value, _ in events(written(tmp_path / "r.parquet", parquet(found)))] == [3.3, 0.1, 4.7]


def test_ids_that_a_float_cannot_hold_stay_different(tmp_path: Path) -> None:
    found = table(user_id=pa.array([2**63, 2**63 + 1, 2**63 + 2], pa.uint64()), item_id=[-1, 2**53, 2**53 + 1])
    read_back = events(written(tmp_path / "r.parquet", parquet(found)))
    assert [user for user, *_ in read_back] == [str(2**63), str(2**63 + 1), str(2**63 + 2)]
    assert [item for _, item, *_ in read_back] == ["-1", str(2**53), str(2**53 + 1)]


def test_columns_are_what_the_user_says(tmp_path: Path) -> None:
    odd = written(tmp_path / "odd.parquet", parquet(table().rename_columns(["who", "what", "n", "at"])))
    assert events(odd, "user=who,item=what,rating=n,time=at") == WANTED
    with pytest.raises(BadSettings, match=r"names its columns: say which is which with user=NAME"):
        events(odd, "user,item,rating,time")
    lines = LINES.replace(b"user_id", b"who").replace(b"item_id", b"what")
    assert events(written(tmp_path / "r.jsonl", lines), "user=who,item=what") == WANTED
    with pytest.raises(BadSettings, match=r"no object of .*r\.jsonl has 'whom'; they have 'who', 'what'"):
        events(tmp_path / "r.jsonl", "user=whom,item=what")


def test_tables_of_items_and_users_in_parquet_are_the_catalogue(tmp_path: Path) -> None:
    films = pa.table(
        {"movieId": [12, 9], "title": ["Heat (1995)", "Alien (1979)"], "genres": [["Crime", "Drama"], ["Horror"]]}
    )
    written(tmp_path / "movies.parquet", parquet(films))
    written(tmp_path / "ratings.parquet", parquet(table()))
    written(tmp_path / "users.parquet", parquet(pa.table({"user_id": [7, 8], "age": [30, None]})))
    stream = read(tmp_path)
    assert len(stream) == 7
    records = [Record(one.topic, -1, n, 0, one.key, one.value) for n, one in enumerate(stream.messages(0, 4))]
    assert Decoder(LearningSettings()).decode(records, (), ()) == [
        ItemUpdate("12", "Heat (1995)", ("Crime", "Drama"), {"year": 1995.0}), ItemUpdate("9", "Alien (1979)", ("Horror",), {"year": 1979.0}),
        UserUpdate("7", {"age": 30.0}), UserUpdate("8"),
    ]  # fmt: skip
