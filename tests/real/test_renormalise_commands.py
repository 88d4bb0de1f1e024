"""The commands that retrain a running streamer: what they say, what they wait for, and their exit codes."""

import subprocess
from pathlib import Path

import msgspec
import pytest
from commands import run
from process import command, stream_file, streamer
from renormalising import DEADLINE_S, drained, external, stage, wait

from streamer.core.events import Click
from streamer.producers.client import Client
from streamer.renormalise import manifest
from streamer.storage import generations
from streamer.storage.generations import GenerationRecord


def test_renormalise_says_what_it_waits_for_at_the_gate(tmp_path: Path) -> None:
    path = stream_file(tmp_path, 200)
    with streamer(tmp_path / "d", "--replay", path, "--gate-max-wait-s", "5") as process, Client(process.url) as client:
        drained(client, path.read_bytes().count(b"\n"))
        said = run("renormalise", "--wait", "--url", process.url, code=1)
    assert "g1: gate, 0 ratings of at least 2,000" in said
    assert "`streamer promote generation g1`" in said


def test_renormalise_says_that_it_waits_for_a_broker(tmp_path: Path) -> None:
    with streamer(tmp_path / "d", "--kafka", "127.0.0.1:1") as process, Client(process.url) as client:
        client.renormalise()
        wait(lambda: "waiting: no Kafka at 127.0.0.1:1" in client.generations().now, "does not say what it waits for")


def test_without_ratings_the_gate_checks_only_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "clicks.jsonl"
    clicks = [Click(f"u{n % 17}", f"i{n * n % 29}", "click", 1000 * n) for n in range(400)]
    path.write_bytes(b"".join(msgspec.json.encode(click) + b"\n" for click in clicks))
    with streamer(tmp_path / "d", "--replay", path) as process, Client(process.url) as client:
        drained(client, len(clicks))
        assert "nobody rates" in run("renormalise", "--wait", "--url", process.url)
        assert client.generations().generations[-1].live


def test_a_missing_state_or_generation_gets_a_sentence(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    assert f"no state in {nothing}" in run("generations", "--data", nothing, code=78)
    assert "no generation 'g9'" in run("renormalise", "--data", nothing, "--generation", "g9", code=1)
    path = stream_file(tmp_path, 200)
    run("serve", "--data", tmp_path / "d", "--port", "0", "--replay", path, "--until-drained")
    assert "cannot train g0: its stage is live" in run(
        "renormalise", "--data", tmp_path / "d", "--generation", "g0", code=1
    )


@pytest.mark.parametrize("columns", ["80", "200"])
def test_the_list_gives_the_reason_on_one_line_at_any_terminal_width(
    tmp_path: Path, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    why = "retraining reads the archive, and there is none: start without --no-archive"
    generations.generation_folder(tmp_path, "g1").mkdir(parents=True)
    generations.write_record(
        tmp_path, GenerationRecord(id="g1", parent="g0", trigger="by hand").at_stage("failed", why)
    )
    (tmp_path / "state").mkdir()
    assert why in run("generations", "--data", tmp_path)


def test_the_commands_exit_codes_give_the_outcome(tmp_path: Path) -> None:
    """`renormalise --follow` does the training, after waiting for an archive that is behind the cut."""
    path, data = stream_file(tmp_path, 400), tmp_path / "d"
    flags = ("--replay", path, "--gate-max-wait-s", "6", "--archive-interval-s", "3600")
    with (
        external(data, *flags) as process,
        Client(process.url) as client,
        subprocess.Popen(command("renormalise", "--data", data, "--follow")) as follower,
    ):
        try:
            drained(client, path.read_bytes().count(b"\n"))
            run("rollback", "--url", process.url, code=1)  # to what?
            said = run("renormalise", "--url", process.url, "--wait", code=1)
            assert "g1: rejected, after 6 s too few ratings to tell" in said
            waiting = subprocess.Popen(command("renormalise", "--url", process.url, "--wait"), stdout=subprocess.PIPE)
            wait(lambda: stage(client, "g2") == "gate", "g2 does not reach the gate")
            run("renormalise", "--url", process.url, code=1)  # one is under way
            client.promote_generation("g2")
            said = waiting.communicate(timeout=DEADLINE_S)[0].decode()
            assert (waiting.returncode, said.splitlines()[-1]) == (0, "g2: live, promoted by hand")
            trained = manifest.read(generations.generation_folder(data, "g2"))[0]
            assert trained.events == generations.read_record(data, "g2").cut_events  # all of the history
            assert "g0 answers" in run("rollback", "--url", process.url)
            assert follower.poll() is None
        finally:
            follower.kill()
