"""Files as streams: every edition of MovieLens, CSV and TSV, and JSON Lines, in the order that `evaluate` promises."""

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamer.consumers.delimited import fields
from streamer.consumers.files import FileSource, read
from streamer.core.errors import BadSettings, StreamerError
from streamer.core.events import LOG, ItemUpdate, Rating, UserUpdate, message
from streamer.core.protocols import Stream


def values(stream: Stream) -> list[Any]:
    return [json.loads(sent.value or b"null") for sent in stream.messages(0, len(stream))]


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


def latest(folder: Path) -> Path:
    write(
        folder / "movies.csv",
        "movieId,title,genres\n"
        '1,"American President, The (1995)",Comedy|Drama\n'
        '2,"The ""Quoted"" One (2001) ",(no genres listed)\n'
        "3,Café Noir (1975-1979),Drama\n"
        "4,No Year Here,Drama\n",
    )
    write(
        folder / "ratings.csv",
        "userId,movieId,rating,timestamp\n7,1,4.5,1000000030\n8,2,3.0,1000000010\n7,3,0.5,1000000020\n",
    )
    return folder


def test_a_latest_folder_gives_films_then_ratings_in_order_of_time(tmp_path: Path) -> None:
    stream = read(latest(tmp_path))
    assert values(stream) == [
        {"item_id": "1", "title": "American President, The (1995)", "categories": ["Comedy", "Drama"], "attributes": {"year": 1995}},
        {"item_id": "2", "title": 'The "Quoted" One (2001)', "attributes": {"year": 2001}},
        {"item_id": "3", "title": "Café Noir (1975-1979)", "categories": ["Drama"], "attributes": {"year": 1975}},
        {"item_id": "4", "title": "No Year Here", "categories": ["Drama"]},
        {"user_id": "8", "item_id": "2", "rating": 3.0, "timestamp_ms": 1000000010000},
        {"user_id": "7", "item_id": "3", "rating": 0.5, "timestamp_ms": 1000000020000},
        {"user_id": "7", "item_id": "1", "rating": 4.5, "timestamp_ms": 1000000030000},
    ]  # fmt: skip
    assert [sent.topic for sent in stream.messages(3, 5)] == ["items", "ratings"]
    assert stream.messages(4, 5) == [message(Rating("8", "2", 3.0, 1000000010000))]
    assert stream.times_ms(0, 7) == [1000000010000] * 5 + [1000000020000, 1000000030000]


def test_ml_100k_has_genre_flags_latin_1_and_people(tmp_path: Path) -> None:
    genres = ["unknown", "Action", "Comedy", "Drama"]
    write(tmp_path / "u.genre", "".join(f"{name}|{k}\n" for k, name in enumerate(genres)) + "\n")
    write(
        tmp_path / "u.item",
        "1|Misérables, Les (1995)|01-Jan-1996||http://x|0|0|1|1\n2|Untold|02-Feb-1994||http://y|1|0|0|0\n",
        "latin-1",
    )
    write(tmp_path / "u.user", "5|24|M|technician|85711\n")
    write(tmp_path / "u.data", "5\t1\t3\t881250949\n5\t2\t4\t881250900\n")
    assert values(read(tmp_path)) == [
        {"item_id": "1", "title": "Misérables, Les (1995)", "categories": ["Comedy", "Drama"], "attributes": {"year": 1995}},
        {"item_id": "2", "title": "Untold", "attributes": {"year": 1994}},
        {"user_id": "5", "attributes": {"age": 24, "gender": "M", "occupation": "technician", "zip": "85711"}},
        {"user_id": "5", "item_id": "2", "rating": 4.0, "timestamp_ms": 881250900000},
        {"user_id": "5", "item_id": "1", "rating": 3.0, "timestamp_ms": 881250949000},
    ]  # fmt: skip


def test_ml_100k_without_its_genre_file_knows_the_nineteen(tmp_path: Path) -> None:
    flags = ["0"] * 19
    flags[4], flags[18] = "1", "1"
    write(tmp_path / "u.item", f"1|Toy Town (1995)|||x|{'|'.join(flags)}\n")
    write(tmp_path / "u.data", "5\t1\t3\t881250949\n")
    assert values(read(tmp_path))[0]["categories"] == ["Children's", "Western"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])  # ml-1m, ml-10m
def test_editions_with_double_colons_are_read(tmp_path: Path, encoding: str) -> None:
    write(tmp_path / "movies.dat", "1::Cité: des enfants (1995)::Adventure|Sci-Fi\n", encoding)
    write(tmp_path / "users.dat", "3::F::25::20::55117\n")
    write(tmp_path / "ratings.dat", "3::1::4.5::978300760\n")
    assert values(read(tmp_path)) == [
        {"item_id": "1", "title": "Cité: des enfants (1995)", "categories": ["Adventure", "Sci-Fi"], "attributes": {"year": 1995}},
        {"user_id": "3", "attributes": {"gender": "F", "age": 25, "occupation": "writer", "zip": "55117"}},
        {"user_id": "3", "item_id": "1", "rating": 4.5, "timestamp_ms": 978300760000},
    ]  # fmt: skip


def test_values_are_the_bytes_that_events_encode_to(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", 'user,item,rating,time\n"a ""b"" / \\",é世,5,1e9\n')
    user_id, item_id = 'a "b" / \\', "é世"
    assert read(path).messages(0, 1) == [message(Rating(user_id, item_id, 5.0, 1_000_000_000_000))]


@pytest.mark.parametrize(
    ("text", "event"),
    [
        ("userId,movieId,rating,timestamp\nu,i,4,5\n", {"rating": 4.0, "timestamp_ms": 5000}),
        ("user_id\titem_id\tscore\ttimestamp_ms\nu\ti\t4\t1700000000000\n", {"rating": 4.0, "timestamp_ms": 1700000000000}),
        ("When; Time;USER;Item;Value\nx;5;u;i;4\n", {"rating": 4.0, "timestamp_ms": 5000}),
        ("user,item,event,time\nu,i,purchase,5\n", {"kind": "purchase", "timestamp_ms": 5000}),
        ("user,item,rating,kind\nu,i,4,view\n", {"rating": 4.0}),
        ("user,item,rating,kind\nu,i,,view\n", {"kind": "view"}),
        ("\ufeffuser,item\nu,i\n", {}),
    ],
)  # fmt: skip
def test_common_headers_and_delimiters_are_recognised(tmp_path: Path, text: str, event: dict[str, Any]) -> None:
    stream = read(write(tmp_path / "events.csv", text))
    assert values(stream) == [{"user_id": "u", "item_id": "i", **event}]
    assert stream.messages(0, 1)[0].topic == ("ratings" if "rating" in event else "clicks")
    assert stream.messages(0, 1)[0].key == b"u"


def test_ties_are_shuffled_by_the_seed_and_by_nothing_else(tmp_path: Path) -> None:
    lines = "".join(f"u{k},i,3,{100 + k // 50}\n" for k in range(100))
    path = write(tmp_path / "r.csv", "user,item,rating,timestamp\n" + lines)
    one, again, two = (read(path, seed) for seed in (1, 1, 2))
    assert one.messages(0, 100) == again.messages(0, 100)
    assert one.sha256 == again.sha256 != two.sha256
    users = [[value["user_id"] for value in values(stream)] for stream in (one, two)]
    assert users[0] != users[1]
    for order in users:
        assert order != [f"u{k}" for k in range(100)]
        assert set(order[:50]) == {f"u{k}" for k in range(50)}


def test_files_without_times_keep_their_order(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "user,item,rating\n" + "".join(f"u{k},i,3\n" for k in range(100)))
    stream = read(path)
    assert [value["user_id"] for value in values(stream)] == [f"u{k}" for k in range(100)]
    assert stream.times_ms(0, 2) == [0, 0]


def test_another_file_has_another_sha256(tmp_path: Path) -> None:
    latest(tmp_path)
    first = read(tmp_path).sha256
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n1,A,B\n")
    assert read(tmp_path).sha256 != first


def test_any_slice_has_the_same_rows(tmp_path: Path) -> None:
    stream = read(latest(tmp_path))
    all_rows = stream.messages(0, 7)
    for start in range(8):
        for stop in range(start, 9):
            assert stream.messages(start, stop) == all_rows[start:stop]
            assert len(stream.times_ms(start, stop)) == len(all_rows[start:stop])


BAD_ROWS = (
    "user,item,rating,timestamp\n"
    "u1,é,3,10\n"
    "u2,i,good,11\n"  # line 3
    "u3,i,3\n"  # line 4
    "\n"
    'u4,"i, with\nnewline",3,20\n'
    "u5,i,nan,21\n"  # line 8
    "u6,i,3,never,5\n"  # line 9
    "u7,i,1e999,20\n"  # line 10
    "u8,i,3,inf\n"  # line 11
    "u\udcff,i,3,12\n"  # line 12: not UTF-8
    "u9,i,3,5\n"
)


@pytest.mark.parametrize("block", [1, 40, 1 << 20])
def test_bad_rows_become_records_and_the_stream_goes_on(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fields, "BLOCK_CHARACTERS", block)
    path = tmp_path / "r.csv"
    path.write_bytes(BAD_ROWS.encode("utf-8", "surrogateescape"))
    sent = read(path).messages(0, 100)
    bad = {(m.key, m.value) for m in sent if (m.key or b"").startswith(b"line")}
    assert bad == {
        (b"line 3", b"u2,i,good,11"),
        (b"line 4", b"u3,i,3"),
        (b"line 6", b'u4,"i, with'),  # no id may hold a line's end
        (b"line 7", b'newline",3,20'),
        (b"line 8", b"u5,i,nan,21"),
        (b"line 9", b"u6,i,3,never,5"),
        (b"line 10", b"u7,i,1e999,20"),
        (b"line 11", b"u8,i,3,inf"),
        (b"line 12", b"u\xff,i,3,12"),
    }
    good = [json.loads(m.value or b"") for m in sent if (m.key, m.value) not in bad]
    assert [(g["user_id"], g["item_id"]) for g in good] == [("u9", "i"), ("u1", "é")]
    assert {m.topic for m in sent} == {"ratings"}


@pytest.mark.parametrize("block", [1, 300, 1 << 20])
def test_a_stray_quote_makes_only_its_own_line_bad(tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "BLOCK_CHARACTERS", block)
    lines = [f"u{k},i,3,{k}" for k in range(500)]
    stray = {
        20: 'u,"i,3,20',
        60: '"u,i,3,60',
        61: 'u,"i,3,61',
        300: 'u,i,"3,300',
        301: 'u,i,3,"301',
    }  # some meet, the last has no end
    for number, line in stray.items():
        lines[number] = line
    path = write(tmp_path / "r.csv", "user,item,rating,timestamp\n" + "\n".join(lines) + "\n")
    sent = read(path).messages(0, 600)
    bad = {m.key: m.value for m in sent if (m.key or b"").startswith(b"line")}
    assert bad == {f"line {number + 2}".encode(): line.encode() for number, line in stray.items()}
    good = [json.loads(m.value or b"")["user_id"] for m in sent if m.key not in bad]
    assert good == [f"u{k}" for k in range(500) if k not in stray]


def test_text_over_several_lines_is_accepted_in_unused_columns(tmp_path: Path) -> None:
    text = 'user,item,rating,note\nu1,i,3,"two\nlines, and ""more"""\nu2,i,4,"three\n\nlines"\nu3,i,5,\n'
    assert [m.key for m in read(write(tmp_path / "r.csv", text)).messages(0, 9)] == [b"u1", b"u2", b"u3"]


def test_an_unclosed_quote_in_a_long_file_makes_only_its_own_line_bad(tmp_path: Path) -> None:
    swallowed = "".join(f"u{k},i,3,{k}\n" for k in range(20_000))  # more than a field may hold
    stream = read(write(tmp_path / "r.csv", f'user,item,rating,timestamp\nu,"i,3,5\n{swallowed}'))
    (bad,) = [m for m in stream.messages(0, len(stream)) if (m.key or b"").startswith(b"line")]
    assert (bad.key, bad.value) == (b"line 2", b'u,"i,3,5')
    assert len(stream) == 20_001


def test_a_line_too_wide_does_not_compensate_for_one_too_narrow(tmp_path: Path) -> None:
    stream = read(write(tmp_path / "r.csv", "user,item,rating\nu1,i,3\nu2,i,3,4\ni,5\nu3,i,4\n"))
    assert [sent.key for sent in stream.messages(0, 9)] == [b"u1", b"line 3", b"line 4", b"u3"]


def test_large_files_are_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "".join(
        f'"u{k}",i{k % 7},{k % 5},{k}\n' if k % 10 == 0 else f"u{k},i{k % 7},{k % 5},{k}\n" for k in range(500)
    )
    path = write(tmp_path / "r.csv", "user,item,rating,timestamp\n" + lines.rstrip("\n"))
    whole = read(path).messages(0, 500)
    monkeypatch.setattr(fields, "BLOCK_CHARACTERS", 100)
    assert read(path).messages(0, 501) == whole
    assert [json.loads(m.value or b"")["user_id"] for m in whole] == [f"u{k}" for k in range(500)]


@pytest.mark.parametrize(
    "row", ["ann,i1,3,5", "12345678,i,.5,5", "123456789,i,4,5", "zoë,é,4,0005", "u,i,4,-5", "u,i,4,5.5", "u,i,4,9e2", ",i,4,5"]
)  # fmt: skip
def test_texts_of_any_length_are_read_as_the_csv_module_reads_them(tmp_path: Path, row: str) -> None:
    header, others = "user,item,rating,timestamp\n", "u1,i1,4,7\nu1,i2,4.0,0\n"
    plain = read(write(tmp_path / "plain.csv", f"{header}{others}{row}\n"))
    quoted = ",".join(f'"{text}"' for text in row.split(","))
    by_csv = read(write(tmp_path / "quoted.csv", f"{header}{others}{quoted}\n"))
    assert plain.messages(0, 9) == by_csv.messages(0, 9)
    assert plain.times_ms(0, 9) == by_csv.times_ms(0, 9)


def test_json_lines_keep_file_order_after_the_catalogue(tmp_path: Path) -> None:
    lines = [
        b'{"user_id":"u2","item_id":"i1","rating":4,"timestamp_ms":2000}',
        b'{"user_id":"u1","item_id":"i1","kind":"view","timestamp_ms":1000}',
        b"not json",
        b'{"item_id":"i1","title":"One","categories":[]}',
        b'{"user_id":"u1","preferences":{"Drama":5}}',
        b'{"user_id":"u3","item_id":"i1","session_id":"s"}',
        b'{"user_id":"u3","item_id":"i1"}',
        b'{"user_id":"u3","attributes":{"age":3}}',
        b'{"item_id":"i2","attributes":{"year":3}}',
        b'{"topic":"items","item_id":"i3","rating":3}',
        b'{"topic":"impressions","user_id":"u4"}',
        b'{"user_id":7,"rating":"x","timestamp_ms":"soon"}',
        b"[1,2]",
    ]
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n\r\n".join(lines))
    stream = read(path)
    assert [(sent.topic, sent.key, lines.index(sent.value or b"")) for sent in stream.messages(0, 99)] == [
        ("items", b"i1", 3),
        ("users", b"u1", 4),
        ("users", b"u3", 7),
        ("items", b"i2", 8),
        ("items", b"i3", 9),
        ("ratings", b"u2", 0),
        ("clicks", b"u1", 1),
        ("ratings", b"line 5", 2),
        ("clicks", b"u3", 5),
        ("clicks", b"u3", 6),
        ("impressions", b"u4", 10),
        ("ratings", b"7", 11),
        ("ratings", b"line 25", 12),
    ]
    assert stream.times_ms(5, 8) == [2000, 1000, 1000]


def test_json_lines_are_also_recognised_by_their_first_character(tmp_path: Path) -> None:
    path = write(tmp_path / "events.log", '\n {"user_id":"u","item_id":"i","rating":1}\n')
    assert values(read(path)) == [{"user_id": "u", "item_id": "i", "rating": 1}]


def test_a_file_source_numbers_rows_and_never_reads_the_clock(tmp_path: Path) -> None:
    source = FileSource(latest(tmp_path))
    source.seek({LOG: 3})
    records = source.poll(2, 0)
    assert [(r.topic, r.partition, r.offset, r.timestamp_ms) for r in records] == [
        ("items", -1, 3, 1000000010000),
        ("ratings", -1, 4, 1000000010000),
    ]
    assert source.lag() == {"log": {0: 2}}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.csv", None, r"there is no .*none\.csv: give a MovieLens folder, a CSV or TSV file, JSON Lines,"),
        ("empty.csv", b"", r"empty\.csv is empty: give a file with at least one event"),
        ("blank.jsonl", b" \n\n", r"blank\.jsonl is empty"),
        ("head.csv", b"user,item,rating\n", r"head\.csv has no events"),
        ("bare.csv", b"1,2,3,4\n1,2,3,4\n", r"bare\.csv seems to have no header, its first line being '1', '2', '3', '4', .* --columns user,item,rating,-"),
        ("half.csv", b"user,rating\nu,3\n", r"wanted a header .*; found 'user', 'rating' on the first line of half\.csv"),
        ("late.csv", b"\nuser,item\n", r"late\.csv has no events"),
        ("array.json", b'[{"user_id":"u"},', r"array\.json begins as a JSON array and cannot be read as one \(Input data was truncated\): mend it"),
        ("none.json", b"[]", r"none\.json has no events"),
        ("events.parquet", b"PAR1\x15\x04", r"events\.parquet is damaged or cut off and cannot be read \(.*\): get it again; nothing of it was used"),
        ("binary.csv", b"user,item\n\x00\x01", r"binary\.csv is not text"),
    ],
)  # fmt: skip
def test_an_unsupported_file_is_refused_with_a_sentence(
    tmp_path: Path, name: str, content: bytes | None, sentence: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StreamerError, match=sentence):
        read(path)


def test_a_folder_that_is_not_movielens_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"neither a MovieLens folder .* nor files of one kind.*; found nothing"):
        read(tmp_path)
    write(tmp_path / "notes.txt", "")
    with pytest.raises(BadSettings, match=r"notes\.txt is empty"):
        read(tmp_path)
    write(tmp_path / "a.csv", "user,item\n1,1\n")
    with pytest.raises(BadSettings, match=r"found a\.csv, notes\.txt: give the file, or a folder of such files alone"):
        read(tmp_path)


@pytest.mark.parametrize("films", ["movies.csv", "items.csv"])
def test_a_folder_of_ones_own_may_have_the_names_of_movielens(tmp_path: Path, films: str) -> None:
    write(tmp_path / films, "title;item\nHeat (1995);12\nAlien (1979);9\n")
    write(tmp_path / "ratings.csv", "user,item,rating\n7,12,4\n")
    write(tmp_path / "users.csv", "user,age\n7,30\n")
    assert values(read(tmp_path)) == [
        {"item_id": "12", "title": "Heat (1995)", "attributes": {"year": 1995}}, {"item_id": "9", "title": "Alien (1979)", "attributes": {"year": 1979}},
        {"user_id": "7", "attributes": {"age": 30}}, {"user_id": "7", "item_id": "12", "rating": 4.0},
    ]  # fmt: skip


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser reads everything")
def test_an_unreadable_file_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "user,item\nu,i\n")
    path.chmod(0)
    with pytest.raises(BadSettings, match=r"cannot read .*r\.csv: Permission denied"):
        read(path)


def test_a_path_through_a_file_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "user,item\nu,i\n")
    with pytest.raises(BadSettings, match=r"cannot read .*x\.csv: Not a directory"):
        read(path / "x.csv")


def test_catalogue_records_and_ratings_decode_as_their_own_types(tmp_path: Path) -> None:
    stream = read(latest(tmp_path))
    for sent in stream.messages(0, len(stream)):
        kind = {"items": ItemUpdate, "users": UserUpdate, "ratings": Rating}[sent.topic]
        assert message(msgspec.json.decode(sent.value or b"", type=kind)).key == sent.key


def test_ml_latest_small_is_complete_and_in_order_of_time(movielens: Path) -> None:
    stream = read(movielens)
    topics = [sent.topic for sent in stream.messages(0, len(stream))]
    assert topics == ["items"] * 9125 + ["ratings"] * 100_004
    times = stream.times_ms(9125, len(stream))
    assert times == sorted(times)
    assert times[0] == 789652009000
    assert not any((sent.key or b"").startswith(b"line") for sent in stream.messages(0, len(stream)))
    titled = [value for value in values(stream)[:9125] if "year" in value.get("attributes", {})]
    assert len(titled) > 9100
