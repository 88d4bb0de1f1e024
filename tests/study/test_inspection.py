"""`streamer inspect` shows the contents of a state to people and programs, and text from events is harmless."""

import json
import shlex
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from learning import digest, learn, records

from streamer.cli import main
from streamer.core.events import Click, Event, ItemRemoval, ItemUpdate, Rating, UserRemoval, UserUpdate
from streamer.storage.state import RocksStore
from streamer.study.inspection import Inspection, answer_from_state

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `streamer ...`; returns exit code, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "160")

    def ran(*arguments: str | Path) -> tuple[int, str, str]:
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = int(ended.code or 0)
        out = capsys.readouterr()
        return code, out.out, out.err

    return ran


HOSTILE = "[/] [red]\x1b]0;owned\x07\x1b[31m\r\n"
STREAM: Sequence[Event | bytes] = [
    ItemUpdate("a", "Alien (1979)", ("Horror", "Sci-Fi"), {"year": 1979.0}),
    ItemUpdate("b/c d", "[REC] (2007)"),
    ItemUpdate("evil", HOSTILE),
    UserUpdate("quiet", preferences={"Drama": 5.0}),
    Rating("u1", "a", 4.5, 1_000_000_000_000),
    Click("u1", "b/c d", "purchase", 1_100_000_000_000),
    Rating("u1", "a", 2.0, 900_000_000_000),  # told late, and so what counts
    Rating("u2", "evil", 3.0, 0),
    UserUpdate("u1", {"age": 42.0}),
    ItemRemoval("b/c d"),
    b'{"user_id": "u1", "item_id": "a", "rating": NaN}',
    b"\x1b[2J not JSON [/x]",
]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("state")
    learn(folder, records(STREAM))
    return folder


def test_a_user_is_shown_with_the_last_events_first(run: Run, state: Path) -> None:
    code, out, err = run("inspect", "user", "u1", "--data", state)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "user 'u1': 3 events, 1 of them clicks or likes, 2 items seen, last 1998-07-09 16:00"
    assert 'profile: {"user_id":"u1","attributes":{"age":42.0}}' in out
    assert "bayesian-hybrid: 1 rating; rates " in out
    assert "bayesian-hybrid/user" in out
    assert [line.split()[:4] for line in lines[-3:]] == [
        ["1998-07-09", "16:00", "rating", "2.0"],
        ["2004-11-09", "11:33", "purchase", "4.0"],
        ["2001-09-09", "01:46", "rating", "4.5"],
    ]
    assert "[REC] (2007)" not in lines[-2]  # removed since, its title with it
    assert "Alien (1979)" in lines[-1]


def test_a_user_for_programs_is_one_object(run: Run, state: Path) -> None:
    _, out, _ = run("inspect", "user", "u1", "--data", state, "--json")
    (line,) = out.splitlines()
    found = json.loads(line)
    assert {key: found[key] for key in ("user_id", "known", "events", "clicks", "seen", "last_ms")} == {
        "user_id": "u1", "known": True, "events": 3, "clicks": 1, "seen": 2, "last_ms": 900_000_000_000,
    }  # fmt: skip
    assert [event["item_id"] for event in found["history"]] == ["a", "b/c d", "a"]
    assert [event["kind"] for event in found["history"]] == ["rating", "purchase", "rating"]
    assert found["profile"]["attributes"] == {"age": 42.0}
    assert (found["posterior"]["learner"], found["posterior"]["ratings"]) == ("bayesian-hybrid", 1)
    assert found["posterior"]["doubt"] > 0
    assert set(found["rows"]) == {
        "bayesian-hybrid/user", "skip-gram/user", "transitions/user", "neighbours/user", "repeats/user",
    }  # fmt: skip


def test_an_unseen_user_gets_an_answer(run: Run, state: Path) -> None:
    assert run("inspect", "user", "nobody", "--data", state)[:2] == (
        0, "user 'nobody' was never seen: recommendations are the popular items\n",
    )  # fmt: skip
    code, out, _ = run("inspect", "user", "quiet", "--data", state, "--json")
    profile = {"user_id": "quiet", "preferences": {"Drama": 5.0}}
    assert (code, json.loads(out)) == (0, {"user_id": "quiet", "known": False, "profile": profile})
    assert run("inspect", "item", "nothing", "--data", state)[1] == "item 'nothing' was never seen\n"


def test_an_item_is_shown_with_its_catalogue_entry(run: Run, state: Path) -> None:
    _, out, _ = run("inspect", "item", "a", "--data", state)
    assert out.splitlines()[:3] == [
        "item 'a', number 1 to arrive", "title: Alien (1979); categories: Horror, Sci-Fi", "available",
    ]  # fmt: skip
    assert "not available: never recommended" in run("inspect", "item", "b/c d", "--data", state)[1]
    found = json.loads(run("inspect", "item", "a", "--data", state, "--json")[1])
    assert found["catalogue"]["attributes"] == {"year": 1979.0}
    assert "skip-gram/noise" in found["rows"]


def test_control_characters_in_events_are_shown_and_not_obeyed(run: Run, state: Path) -> None:
    """Anybody can send titles and bad events: a terminal must not obey them, and markup in them must not fail."""
    for arguments in (["user", "u2"], ["item", "evil"], ["dead-letters"]):
        code, out, err = run("inspect", *arguments, "--data", state)
        assert (code, err) == (0, "")
        assert all(c == "\n" or c.isprintable() for c in out)
    assert "[/] [red]\\x1b]0;owned" in run("inspect", "item", "evil", "--data", state)[1]
    assert "\\x1b[2J not JSON [/x]" in run("inspect", "dead-letters", "--data", state)[1]


def test_control_characters_in_recommendations_are_shown_and_not_obeyed(run: Run, tmp_path: Path) -> None:
    learn(
        tmp_path,
        records([ItemUpdate("a", "[REC] (2007)"), ItemUpdate("evil", HOSTILE), Click("u", "a"), Click("u", "evil")]),
    )
    code, out, err = run("recommend", "nobody", "--data", tmp_path)
    assert (code, err) == (0, "")
    assert "[REC] (2007)" in out
    assert all(c == "\n" or c.isprintable() for c in out)
    found = json.loads(run("recommend", "nobody", "--data", tmp_path, "--json")[1])
    assert {item["title"] for item in found["items"]} == {"[REC] (2007)", HOSTILE}
    assert run("recommend", "\udcff", "--data", tmp_path)[0] == 1


def test_stated_preferences_are_answered_from_a_state(run: Run, tmp_path: Path) -> None:
    films: list[Event | bytes] = [ItemUpdate(f"i{n}", f"Film {n}", (("Drama", "Comedy")[n % 2],)) for n in range(10)]
    rated = [Rating(f"u{n % 20}", f"i{n % 9}", float(1 + n % 5)) for n in range(200)]
    learn(tmp_path, records([*films, *rated]))
    said = ["--preference", "comedy=5", "--rating", "i3=4.5", "--data", str(tmp_path)]
    assert "bayesian-hybrid" in run("recommend", *said)[1]
    found = json.loads(run("recommend", *said, "--limit", "3", "--json")[1])
    assert (found["preferences"], found["ratings"]) == ({"comedy": 5.0}, {"i3": 4.5})
    assert len({int(item["item_id"][1:]) % 2 for item in found["items"]} - {1}) == 0
    for wrong, code, sentence in (
        (["--preference", "Ballet=5"], 1, "no item has the category 'Ballet'; there are: Drama, Comedy"),
        (["--preference", "Comedy=1e9"], 1, "is not within -1e+06 to 1e+06"),
        (["--preference", "Comedy"], 2, "'Comedy' is not NAME=RATING"),
        ([], 2, "give either a USER"),
        (["u1", "--rating", "i3=5"], 2, "give either a USER"),
    ):
        ended, _, err = run("recommend", *wrong, "--data", tmp_path)
        assert ended == code
        assert sentence in err


def test_questions_to_a_user_are_shown_with_a_way_to_answer(run: Run, tmp_path: Path) -> None:
    films: list[Event | bytes] = [ItemUpdate(f"i{n}", HOSTILE if n == 5 else f"Film {n}") for n in range(10)]
    learn(tmp_path, records([*films, *(Rating(f"u{n % 20}", f"i{n % 9}", float(1 + n % 5)) for n in range(200))]))
    arguments = ("inspect", "user", "o'neil \x41", "--questions", "--data", tmp_path)
    code, out, err = run(*arguments, "--limit", "9")
    assert (code, err) == (0, "")
    assert all(c == "\n" or c.isprintable() for c in out)
    (now, then, columns, first, *_) = lines = out.splitlines()
    assert now.startswith(
        'user "o\'neil A", never seen: the ratings of the first 10 recommended items are known to about 0.'
    )
    assert "expected to narrow that to about 0." in then
    assert columns.startswith("item")
    assert (
        len([line for line in lines if line.startswith("i")]) == 10
    )  # the columns' names, and all that anybody has rated
    (command,) = (line for line in lines if line.startswith("curl"))
    words = shlex.split(command.replace("RATING", "4.5"))
    assert "http://127.0.0.1:8080/streamer.v1.EventService/Publish" in words
    (tmp_path / "elsewhere.toml").write_text("[server]\nport = 8123\n")
    assert "http://127.0.0.1:8123/" in run(*arguments, "--config", tmp_path / "elsewhere.toml")[1]
    assert json.loads(words[-1]) == {
        "events": [{"rating": {"userId": "o'neil A", "itemId": first.split()[0], "rating": 4.5}}]
    }
    (line,) = run(*arguments, "--json")[1].splitlines()
    found = json.loads(line)
    assert (found["user_id"], found["known"], found["learner"], found["recommended"]) == (
        "o'neil A",
        False,
        "bayesian-hybrid",
        10,
    )
    assert [set(one) for one in found["questions"]] == [{"item_id", "title", "known_to", "narrows", "deviation"}] * 5
    assert found["questions"][0]["item_id"] == first.split()[0]


def test_questions_without_a_suitable_learner_are_refused_with_a_sentence(run: Run, tmp_path: Path) -> None:
    learn(tmp_path, records([Rating("u1", "a", 4.0), Rating("u2", "a", 2.0)]), rating_learner="bias")
    code, out, err = run("inspect", "user", "u3", "--questions", "--data", tmp_path)
    assert (code, out) == (1, "")
    assert "nothing can be asked: the ratings champion, 'bias', keeps no uncertainty" in err


def test_dead_letters_are_shown_the_newest_first(run: Run, state: Path) -> None:
    _, out, _ = run("inspect", "dead-letters", "--data", state)
    assert out.splitlines()[0] == "2 dead letters, the newest first"
    found = [json.loads(line) for line in run("inspect", "dead-letters", "--data", state, "--json")[1].splitlines()]
    assert [(one["number"], one["reason"], one["topic"], one["offset"]) for one in found] == [
        (1, "not_json", "ratings", 11), (0, "not_json", "ratings", 10),
    ]  # fmt: skip
    assert found[1]["value"] == '{"user_id": "u1", "item_id": "a", "rating": NaN}'


def test_offsets_and_stats(run: Run, state: Path) -> None:
    _, out, _ = run("inspect", "offsets", "--data", state, "--json")
    assert json.loads(out) == {"offsets": {"log/0": 12}, "journal_runs": 1}
    assert run("inspect", "offsets", "--data", state)[1].splitlines()[-1].split() == ["log", "0", "12"]
    found = json.loads(run("inspect", "stats", "--data", state, "--json")[1])
    assert (found["format"], found["generation"]) == (2, "g0")
    assert found["settings"]["seed"] == 1
    assert found["tables"]["items"]["rows"] == 3
    assert found["tables"]["users/head"] == {"rows": 2, "bytes": 2 * (len("users/head") + 1 + 2 + 56) + 4 * 32 + 3 * 9}
    assert "users/head" in run("inspect", "stats", "--data", state)[1]


def test_the_digest_is_the_last_line_alone(run: Run, state: Path) -> None:
    wanted = digest(state)
    assert run("inspect", "--digest", "--data", state)[1].splitlines()[-1] == wanted.digest
    found = json.loads(run("inspect", "--digest", "--json", "--data", state)[1])
    assert found == {"digest": wanted.digest, "learners": wanted.learners, "offsets": {"log/0": 12}}
    assert set(wanted.learners) == {
        "bayesian-hybrid", "transitions", "neighbours", "skip-gram", "repeats",
        "popularity-now", "popularity-recent", "popularity", "click-blend",
    }  # fmt: skip


def test_inspecting_a_state_in_use_shows_the_last_commit(run: Run, tmp_path: Path) -> None:
    learn(tmp_path, records(STREAM))
    owner = RocksStore(tmp_path)
    before = run("inspect", "--digest", "--data", tmp_path)[1]
    assert json.loads(run("inspect", "stats", "--data", tmp_path, "--json")[1])["format"] == 2
    owner.close()
    assert run("inspect", "--digest", "--data", tmp_path)[1] == before


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "give what to show: one of user, item, offsets, stats, dead-letters, or --digest"),
        (["user"], 2, "which user? streamer inspect user ID"),
        (["user", "u1", "--digest"], 2, "give what to show"),
        (
            ["item", "a", "--questions"],
            2,
            "--questions are about a user, not about item: streamer inspect user ID --questions",
        ),
        (["--digest", "--questions"], 2, "--questions are about a user"),
        (["user", "--questions"], 2, "which user? streamer inspect user ID"),
        (["user", "u1", "--questions", "--limit", "0"], 2, "0 is not in the range 1<=x<=100"),
        (["moods"], 2, "'moods' is not one of"),
        (["user", ""], 1, "the user's id is empty; an id has 1 to 256 bytes"),
        (["item", "x" * 257], 1, "the item's id has 257 bytes"),
        (["user", "\udcff"], 1, "the user's id '\\udcff' is not UTF-8"),
        (["user", "a\0b"], 1, "has a control character"),
    ],
)
def test_bad_arguments_are_refused_with_a_sentence(
    run: Run, state: Path, arguments: list[str], code: int, said: str
) -> None:
    ended, out, err = run("inspect", *arguments, "--data", state)
    assert (ended, out) == (code, "")
    assert said in err
    assert "Traceback" not in err


def test_a_directory_without_a_state_ends_with_78(run: Run, tmp_path: Path) -> None:
    code, _, err = run("inspect", "stats", "--data", tmp_path / "none")
    assert code == 78
    assert "no state in" in err
    RocksStore(tmp_path / "empty").close()
    code, _, err = run("inspect", "stats", "--data", tmp_path / "empty")
    assert code == 78
    assert "is empty: nothing was ever learned into it" in err


@pytest.mark.parametrize("events", [5, 511, 513, 700])
def test_the_last_512_events_of_a_long_history_are_kept(tmp_path: Path, events: int) -> None:
    learn(tmp_path, records([Click("u", f"i{n}", "view", 1_000_000_000_000 - n) for n in range(events)]))
    look = Inspection(str(tmp_path))
    (found,) = look.look("user", "u").objects
    look.close()
    history = found["history"]
    assert isinstance(history, list)
    assert [event["item_id"] for event in history] == [f"i{n}" for n in range(events - 1, max(-1, events - 513), -1)]


def test_nothing_is_shown_about_a_forgotten_user(run: Run, tmp_path: Path) -> None:
    learn(tmp_path, records([*STREAM, UserRemoval("u1")]))
    assert json.loads(run("inspect", "user", "u1", "--data", tmp_path, "--json")[1]) == {
        "user_id": "u1",
        "known": False,
    }
    store = RocksStore(tmp_path, read_only=True)
    tables = {table for table, _ in store.sizes()}
    keys = [key for table in tables for key, _ in store.scan(table) if table not in ("dead-letters", "journal")]
    store.close()
    assert not [key for key in keys if key.startswith(b"u1")]


def test_a_state_with_other_sizes_is_read_with_its_own(tmp_path: Path) -> None:
    learn(tmp_path, records(STREAM), dim=3, latent_dim=2)
    with closing(Inspection(str(tmp_path))) as inspection:
        (found,) = inspection.look("user", "u1").objects
    assert {name: len(vector) for name, vector in found["rows"].items()} == {  # type: ignore[attr-defined]
        "bayesian-hybrid/user": (4 + 2 + 40) * (4 + 2 + 40 + 3) // 2 + 4,
        "skip-gram/user": 3 + 10,
        "transitions/user": 10,
        "neighbours/user": 11,
        "repeats/user": 75,
    }
    assert answer_from_state(str(tmp_path), lambda recommender: recommender.recommend("u1", 1))
