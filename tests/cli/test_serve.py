"""`streamer serve` as users see it: its output, how it ends, and what it refuses."""

import signal
import socket
from pathlib import Path

import httpx
import pytest
from commands import run
from learning import digest
from process import streamer

CSV = "user,item,rating,timestamp\n" + "".join(
    f"u{n % 9},i{n % 23},{1 + n % 5},{1_600_000_000 + n}\n" for n in range(2000)
)


@pytest.fixture
def ratings(tmp_path: Path) -> Path:
    path = tmp_path / "ratings.csv"
    path.write_text(CSV)
    return path


def test_an_event_changes_the_next_answer(tmp_path: Path) -> None:
    with streamer(tmp_path / "d") as process:
        for n in range(3):
            event = {"rating": {"userId": f"u{n}", "itemId": "good", "rating": 5}}
            published = process.call("EventService/Publish", events=[event])
        answer = process.call(
            "RecommendationService/Recommend", userId="new", freshnessToken=published["freshnessToken"]
        )
        assert [(item["itemId"], item["source"]) for item in answer["items"]] == [("good", "popular")]  # type: ignore[attr-defined]
        mine = process.call("RecommendationService/Recommend", userId="u1", freshnessToken=published["freshnessToken"])
        assert mine["items"] == []  # seen


def test_a_token_for_other_events_is_refused_at_once_and_rejected_events_are_counted(tmp_path: Path) -> None:
    with streamer(tmp_path / "d") as process:
        for token in ("ratings/3:17", "log/1:1", "log/0:0,mine/0:1"):
            url = f"{process.url}/streamer.v1.RecommendationService/Recommend"
            answer = httpx.post(url, json={"userId": "u", "freshnessToken": token}, timeout=30)
            assert answer.status_code == 400
            assert answer.json()["code"] == "invalid_argument"
            assert "not read here: events come from the embedded log, log/0" in answer.json()["message"]
        bad = {"rating": {"userId": "u", "itemId": "i", "rating": 1e9}}
        process.call("EventService/Publish", events=[bad, bad, {}])
        assert process.metrics()['streamer_publish_rejected_total{reason="out_of_range"}'] == 2
        assert process.metrics()['streamer_publish_rejected_total{reason="wrong_type"}'] == 1


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_replay_in_order(tmp_path: Path, ratings: Path, sign: signal.Signals) -> None:
    arguments = ("--replay", ratings, "--until-drained")
    with streamer(tmp_path / "d", *arguments, "--rate", "500") as process:
        process.wait_for('streamer_events_total{outcome="learned",topic="ratings"}', 100)
        process.process.send_signal(sign)
        assert process.process.wait(5) == 1  # under 5 s, and nobody may take it for drained
        assert "start again to continue" in process.output.read_text()
    run("serve", "--data", tmp_path / "d", "--port", "0", *arguments)
    run("serve", "--data", tmp_path / "whole", "--port", "0", *arguments)
    assert digest(tmp_path / "d") == digest(tmp_path / "whole")


def test_a_restart_continues_where_it_stopped(tmp_path: Path, ratings: Path) -> None:
    run("serve", "--data", tmp_path / "d", "--port", "0", "--replay", ratings, "--until-drained")
    with streamer(tmp_path / "d") as process:
        assert process.metrics()['streamer_events_total{outcome="learned",topic="ratings"}'] == 2000
        similar = process.call("RecommendationService/SimilarItems", itemId="i4", limit=3)
        assert len(similar["items"]) == 3  # type: ignore[arg-type]


def test_a_port_in_use_is_reported_before_anything_is_touched(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = run("serve", "--data", tmp_path / "d", "--port", port, code=78)  # type: ignore[arg-type]
    assert f"port {port} is in use" in said
    assert "--port" in said
    assert not (tmp_path / "d").exists()


def test_a_state_of_another_seed_or_dim_is_refused(tmp_path: Path, ratings: Path) -> None:
    run("serve", "--data", tmp_path / "d", "--port", "0", "--replay", ratings, "--until-drained")
    assert "was made with seed 1, the settings say 2: use 1" in run(
        "serve", "--data", tmp_path / "d", "--port", "0", "--seed", "2", code=78
    )
    said = run("serve", "--data", tmp_path / "d", "--port", "0", "--dim", "8", code=78)
    assert "32" in said
    assert "8" in said
    assert "away to learn again from the log" in said


def test_a_state_in_use_is_refused_and_still_readable(tmp_path: Path, ratings: Path) -> None:
    with streamer(tmp_path / "d", "--replay", ratings) as process:
        process.wait_for('streamer_events_total{outcome="learned",topic="ratings"}', 2000)
        process.wait_for("streamer_commit_seconds_count", 1)
        assert "in use by another process" in run("serve", "--data", tmp_path / "d", "--port", "0", code=78)
        assert len(run("inspect", "--data", tmp_path / "d", "--digest").splitlines()[-1]) == 64


@pytest.mark.parametrize(
    ("arguments", "sentence", "code"),
    [
        (("--replay", "nothing-there"), "nothing-there", 78),
        (("--rating-learner", "magic"), "no learner 'magic'; choose one of: ", 78),
        (("--rating-learner", "skip-gram"), "'skip-gram' learns from clicks", 78),
        (("--candidates", "all,window:0"), "no candidate 'window:0': wanted all, window:DAYS", 78),
        (("--host", "0.0.0.0"), "--insecure", 78),
        (("--max-records", "0"), "max_records", 78),
        (("--config", "nothing.toml"), "no settings file nothing.toml", 78),
        (("--simulate", "--replay", "x"), "choose one", 2),
        (("--until-drained",), "--replay", 2),
        (("--no-such-flag",), "No such option", 2),
    ],
)
def test_bad_settings_are_refused_with_a_sentence(
    tmp_path: Path, arguments: tuple[str, ...], sentence: str, code: int
) -> None:
    said = run("serve", "--data", tmp_path / "d", "--port", "0", *arguments, code=code)
    assert sentence in said
    assert "Traceback" not in said


def test_settings_come_from_flags_over_variables_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "streamer.toml").write_text("[learning]\nseed = 5\ndim = 16\n[state]\ndata = 'here'\n")
    port = ("--port", "0")
    csv = tmp_path / "r.csv"
    csv.write_text(CSV)
    run("serve", "--replay", "r.csv", "--until-drained", *port, cwd=tmp_path)
    assert '"seed":5' in run("inspect", "stats", cwd=tmp_path)
    assert "was made with seed 5, the settings say 6" in run("serve", "--seed", "6", *port, cwd=tmp_path, code=78)


def test_a_simulated_world_can_be_learned(tmp_path: Path) -> None:
    with streamer(tmp_path / "d", "--simulate") as process:
        process.wait_for('streamer_rolling_rmse{learner="bayesian-hybrid",window="1000"}', 0.1)
        answer = process.call("RecommendationService/Recommend", userId="nobody", limit=3)
        assert all(item["title"] for item in answer["items"])  # type: ignore[attr-defined]
