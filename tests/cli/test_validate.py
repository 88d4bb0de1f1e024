"""`streamer validate`: what is understood, what is rejected, what looks odd."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import invoke, run

README = (Path(__file__).parents[2] / "README.md").read_text()
HEAD = "visitor id,user,movie,score,time\n"


def written(folder: Path, rows: list[str], head: str = "user,item,rating,timestamp\n") -> Path:
    path = folder / "ratings.csv"
    path.write_text(head + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def found(path: Path, *more: str, code: int = 0) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(invoke("validate", path, "--json", *more, code=code).stdout)
    return said


def ratings(count: int) -> list[str]:
    return [f"u{n % 7},i{n % 11},{1 + n % 5},{1_600_000_000 + n}" for n in range(count)]


def test_counts_columns_times_and_scale_are_shown(tmp_path: Path) -> None:
    said = found(written(tmp_path, [f"x,{row}" for row in ratings(100)], HEAD))
    assert said["columns"] == {"user": "user", "item": "movie", "rating": "score", "time": "time"}
    assert said["unread"] == ["visitor id"]
    assert (said["events"], said["ratings"], said["clicks"], said["users"], said["items"]) == (100, 100, 0, 7, 11)
    assert (said["rating_min"], said["rating_max"], said["rating_values"]) == (1.0, 5.0, 5)
    assert (said["scale_min"], said["scale_max"], said["likes"]) == (1.0, 5.0, 43)
    assert said["like"] == "one of 4 or more is a like"
    assert (said["time_unit"], said["earliest"]) == ("seconds", "2020-09-13T12:26:40+00:00")
    assert json.loads(said["first"][0]) == {
        "user_id": "u0",
        "item_id": "i0",
        "rating": 1.0,
        "timestamp_ms": 1_600_000_000_000,
    }
    assert (said["rejected"], said["warnings"], said["repeated"]) == ([], [], 0)
    shown = run("validate", tmp_path / "ratings.csv")
    assert "user is user, item is movie, rating is score, time is time\nnot read       visitor id\n" in shown
    assert "2020-09-13T12:26:40+00:00 to 2020-09-13T12:28:19+00:00" in shown


def test_sessions_are_counted_by_their_ids_and_by_pauses(tmp_path: Path) -> None:
    lines = [
        '{"user_id":"u","item_id":"a","kind":"click","timestamp_ms":1600000000000}',
        '{"user_id":"u","item_id":"b","kind":"click","timestamp_ms":1600000060000}',
        '{"user_id":"u","item_id":"c","kind":"click","timestamp_ms":1600009000000}',
        '{"user_id":"v","item_id":"a","kind":"click","timestamp_ms":1600000000000,"session_id":"s"}',
        '{"user_id":"v","item_id":"b","kind":"click","timestamp_ms":1600009000000,"session_id":"s"}',
    ]
    path = tmp_path / "clicks.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    said = found(path)
    assert (said["sessions"], said["session_gap_s"]) == (3, 1800.0)
    assert "sessions     3; a session begins after a pause of 30 minutes (no clear valley" in run("validate", path)
    assert found(path, "--session-gap-s", "30")["sessions"] == 4


def test_what_would_be_rejected_is_shown_and_a_mostly_bad_file_fails(tmp_path: Path) -> None:
    path = written(tmp_path, [*ratings(10), "u1,i1,x,1", "u1,i1,y,2"])
    said = found(path)
    assert said["rejected"] == [
        "2 of 12 events cannot be used (not_json), such as line 12, 'u1,i1,x,1': the rating 'x' is no number"
    ]
    path = written(tmp_path, ["u1,i1,x,1"] * 9)
    assert found(path, code=1)["events"] == 9
    assert "none of the 9 events" in invoke("validate", path, code=1).stderr


@pytest.mark.parametrize(
    ("rows", "warning"),
    [
        ([*ratings(200), "u1,i1,100,1600000000"], "1 of 201 ratings is far outside the scale, which is 1 to 5, such as 100"),
        (
            [*ratings(200), *(f"u{n % 7},i{n % 11},{10 + 20 * (n % 5)},{1_600_000_200 + n}" for n in range(200))],
            "the scale of ratings changes 1 time, and is 10 to 90 at the end",
        ),
        ([f"u{n % 7},i{n % 5},{2 * (n % 11) - 10},{1_600_000_000 + n}" for n in range(99)], "ratings are below and above 0"),
        (
            [f"u{n % 7},i{n % 5},{1 + (1 if n % 9 else n % 70)},{1_600_000_000 + n}" for n in range(400)],
            "ratings are counts, such as plays",
        ),
        ([f"u{n},i{n % 5},4,{1_600_000_000 + n}" for n in range(9)], "all ratings are 4"),
        ([*ratings(50), *ratings(50)], "50 of 100 events repeat one before: is the data in the file twice?"),
        ([f"u{n % 7},i{n % 5},{1 + n % 5},1600000000" for n in range(9)], "all times are the same, 2020-09-13T12:26:40"),
        ([f"u{n % 7},i{n % 5},{1 + n % 5},{n}" for n in range(9)], "9 of 9 times are before 1990 or in the future"),
        (["1.5E+09,i1,4,1600000000", *ratings(9)], "1 user id is in scientific notation, such as '1.5E+09'"),
        (["U1,i1,4,1600000000", *ratings(9)], "1 user id differs from another one only in case, such as 'u1' and 'U1'"),
        (["u1,e\u0301,4,1600000000", "u1,\u00e9,4,1600000001"], "1 item id differs from another one only in their Unicode form"),
        (["NA,i1,4,1600000000", "NA,i2,4,1600000000", *ratings(9)], "2 events are of the user 'NA', which may stand for none"),
        (["userId,itemId,4,1600000000", *ratings(9)], "1 event is of the user 'userId', which is the name of a column"),
        (["5,i1,4,1600000000", "5.0,i2,4,1600000001", "u,i3,4,1600000002"], "1 user id differs from another one only by a fraction of 0, such as '5.0' and '5'"),
        ([*ratings(90), *(f"u{n},i1,0,1600000000" for n in range(10))], "10 of 100 ratings are 0 and the others are 1 to 5: if 0 means that nothing was rated, --rating-min 1"),
        ([f"u{n},i{n % 5},{1 + n % 5},{1_600_000_000 + n}" for n in range(9)], "100% of the users have one event"),
        ([f"u,i{n},{1 + n % 5},{1_600_000_000 + n}" for n in range(9)], "all events are of one user"),
    ],
)  # fmt: skip
def test_what_looks_odd_is_a_warning(tmp_path: Path, rows: list[str], warning: str) -> None:
    warnings = found(written(tmp_path, rows))["warnings"]
    assert any(warning in one for one in warnings), warnings


def test_the_readme_shows_what_is_printed_of_a_file_from_a_spreadsheet(tmp_path: Path) -> None:
    rows = "Gast;Hotel;Sterne;Tag\n7;Café Zürich;4,5;2022-06-24\n7;Gasthaus Löwe;3;2022-06-25\n8;Café Zürich;5;2022-06-25\n"
    (tmp_path / "stays.csv").write_text(rows, encoding="cp1252")
    command, _, shown = README.partition("$ streamer validate stays.csv ")[2].partition("```")[0].partition("\n")
    assert run("validate", "stays.csv", *command.split(), cwd=tmp_path).strip() == shown.strip()


def test_kinds_are_counted_and_unknown_ones_are_a_warning(tmp_path: Path) -> None:
    rows = [f"u{n},i{n},{kind},{1_600_000_000 + n}" for n, kind in enumerate(("View", "wink", "wink", "purchase"))]
    said = found(written(tmp_path, rows, "user,item,event,timestamp\n"))
    assert (said["clicks"], said["kinds"]) == (4, {"wink": 2, "View": 1, "purchase": 1})
    assert any("kinds without a weight are learned with weight 1: 'wink' (2);" in one for one in said["warnings"])
    path = tmp_path / "ratings.csv"
    assert "2 of 4 events cannot be used (unknown_kind)" in found(path, "--unknown-kinds", "reject")["rejected"][0]
    assert not any("weight" in one for one in found(path, "--kinds", "wink=2,view=1,purchase=4")["warnings"])


def test_items_that_the_catalogue_lacks_are_counted(tmp_path: Path) -> None:
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n1,Heat (1995),Crime\n")
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n7,1,4,1656105611\n7,2,2.5,1656105671\n")
    said = found(tmp_path)
    assert said["unknown_to_catalogue"] == 1
    assert [one for one in said["warnings"] if "catalogue" in one] == [
        "the catalogue knows 1 of the 2 items with events; the others, such as '2', have no title and no categories"
    ]
    told = invoke("evaluate", tmp_path, "--learner", "bias", "--no-ranking").stderr
    assert "the catalogue knows 1 of the 2 items with events" in told
