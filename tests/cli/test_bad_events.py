"""Events of a file that cannot be used: nothing is left out without a word, and a file of them is refused."""

import json
from pathlib import Path

import pytest
from commands import invoke, run
from process import streamer

from streamer.cli import bad_events

HEADER = "user,item,rating,timestamp\n"
READERS = [
    ("evaluate", "--learner", "bias", "--no-ranking"),
    ("train", "--model", "bias"),
    ("report", "--models", "bias"),
]


def ratings(bad: int, good: int) -> str:
    """A file with so many rows whose time no one can read, and so many good ones."""
    rows = [f"u{n % 7},i{n % 11},{1 + n % 5},yesterday\n" for n in range(bad)]
    rows += [f"u{n % 7},i{n % 11},{1 + n % 5},{1_600_000_000 + n}\n" for n in range(good)]
    return HEADER + "".join(rows)


@pytest.mark.parametrize("asked", READERS, ids=lambda asked: asked[0])
def test_a_file_without_a_usable_event_is_refused(tmp_path: Path, asked: tuple[str, ...]) -> None:
    (tmp_path / "odd.csv").write_text(ratings(bad=90, good=0))
    done = invoke(asked[0], "odd.csv", *asked[1:], code=1, cwd=tmp_path)
    assert "none of the 90 events of odd.csv can be used: mend it" in done.stderr
    assert "90 of 90 events cannot be used (not_json), such as line 2, 'u0,i0,1,yesterday'" in done.stderr
    assert "the time 'yesterday' is neither a number nor a date" in done.stderr
    assert done.stdout == ""
    invoke(asked[0], "odd.csv", *asked[1:], "--allow-bad", "1", code=1, cwd=tmp_path)


@pytest.mark.parametrize("asked", READERS, ids=lambda asked: asked[0])
def test_a_file_that_is_mostly_unusable_is_refused_unless_it_is_allowed(tmp_path: Path, asked: tuple[str, ...]) -> None:
    (tmp_path / "odd.csv").write_text(ratings(bad=101, good=100))
    done = invoke(asked[0], "odd.csv", *asked[1:], code=1, cwd=tmp_path)
    assert (
        "only 100 of the 201 events of odd.csv can be used: mend it, or go on without them with --allow-bad 0.51"
        in done.stderr
    )
    done = invoke(asked[0], "odd.csv", *asked[1:], "--allow-bad", "0.51", cwd=tmp_path)
    assert "101 of 201 events cannot be used (not_json), such as line 2" in done.stderr


def test_a_catalogue_alone_is_nothing_to_learn(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title\n1,Heat\n2,Alien\n")
    done = invoke("evaluate", "items.csv", "--learner", "bias", "--no-ranking", code=1, cwd=tmp_path)
    assert "items.csv is a table of items, with their title from 'title'" in done.stderr
    assert "there is nothing to learn in items.csv: it has 2 items and users, and no rating or click" in done.stderr


def test_each_reason_is_counted_with_an_example(tmp_path: Path) -> None:
    lines = ['{"user_id":"u1","item_id":"i1","rating":4}'] * 9
    lines[2:2] = [
        '{"user_id":"u1","item_id":',
        '{"user_id":"","item_id":"i1","rating":4}',
        '{"user_id":"u2","item_id":',
    ]
    (tmp_path / "odd.jsonl").write_text("\n".join(lines) + "\n")
    said = invoke("evaluate", "odd.jsonl", "--learner", "bias", "--no-ranking", cwd=tmp_path).stderr.splitlines()
    assert said[0].startswith(
        '2 of 12 events cannot be used (not_json), such as line 3, \'{"user_id":"u1","item_id":\''
    )
    assert said[1].startswith("1 of 12 events cannot be used (bad_id), such as line 4, ")
    assert said[1].endswith("user_id is empty; an id has 1 to 256 bytes")


def test_of_very_many_users_the_ids_of_the_first_are_compared_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bad_events, "COMPARED_USERS", 3)
    (tmp_path / "r.csv").write_text(
        HEADER + "".join(f"{user},i1,4,1600000000\n" for user in ("ann", "Ann", "bo", "Bo"))
    )
    said = invoke("evaluate", "r.csv", "--learner", "bias", "--no-ranking", cwd=tmp_path).stderr
    assert "more than 3 users, and only the ids of the first ones were compared" in said
    assert "1 user id differs from another one only in case" in said
    said = invoke("validate", "r.csv", cwd=tmp_path).stdout
    assert "2 user ids differ from another one only in case" in said


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("u1,i1,4", "it has 3 columns, and 4 are wanted"),
        ("u1,i1,four,1600000000", "the rating 'four' is no number"),
        ("u1,i1,inf,1600000000", "the rating 'inf' is no number"),
        ("u1,i1,4,2022-06-24x", "the time '2022-06-24x' is neither a number nor a date"),
        ("u1,i1,4,1e300", "the time '1e300' is out of range"),
    ],
)
def test_the_reason_is_in_the_words_of_the_file(tmp_path: Path, row: str, why: str) -> None:
    (tmp_path / "odd.csv").write_text(f"{ratings(bad=0, good=5)}{row}\n{ratings(bad=0, good=4).removeprefix(HEADER)}")
    said = invoke("evaluate", "odd.csv", "--learner", "bias", "--no-ranking", cwd=tmp_path).stderr
    assert f"such as line 7, '{row}': {why}" in said


def test_a_replay_of_a_mostly_unusable_file_is_refused_before_anything_is_stored(tmp_path: Path) -> None:
    (tmp_path / "odd.csv").write_text(ratings(bad=101, good=100))
    replay = ("serve", "--replay", "odd.csv", "--data", "d", "--port", "0", "--until-drained")
    assert "only 100 of the 201 events" in invoke(*replay, code=1, cwd=tmp_path).stderr
    assert not (tmp_path / "d").exists()


@pytest.mark.process
def test_publishing_sends_no_unreadable_event_and_fails_where_most_are(tmp_path: Path) -> None:
    (tmp_path / "some.csv").write_text(ratings(bad=3, good=9))
    (tmp_path / "most.csv").write_text(ratings(bad=9, good=3))
    with streamer(tmp_path / "data") as process:
        found = json.loads(run("publish", tmp_path / "some.csv", "--url", process.url, "--json"))
        assert (found["published"], len(found["rejected"])) == (9, 3)
        assert (
            "only 3 of the 12 events" in invoke("publish", tmp_path / "most.csv", "--url", process.url, code=1).stderr
        )
        process.wait_for('streamer_events_total{outcome="learned",topic="ratings"}', 9)
        lines = "".join(f'{{"user_id":{n},"item_id":{n % 3},"rating":4}}\n' for n in range(6))
        (tmp_path / "numbers.jsonl").write_text(lines)
        found = json.loads(run("publish", tmp_path / "numbers.jsonl", "--url", process.url, "--json"))
        assert (found["published"], found["rejected"]) == (6, [])
        process.wait_for('streamer_events_total{outcome="learned",topic="ratings"}', 15)
        dead = [name for name, value in process.metrics().items() if "dead_letters_total" in name and value]
        assert dead == []
