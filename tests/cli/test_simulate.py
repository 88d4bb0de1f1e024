"""`streamer simulate`: the same bytes for the same settings, and a file that the other commands read."""

import hashlib
import json
import os
import stat
import subprocess
from pathlib import Path

from commands import run
from process import command

SMALL = ("--users", "50", "--items", "20", "--events", "2000", "--days", "10")


def test_the_same_settings_write_the_same_bytes_to_a_file_and_to_the_standard_output(tmp_path: Path) -> None:
    said = json.loads(run("simulate", "a.jsonl", *SMALL, "--json", cwd=tmp_path))
    run("simulate", "b.jsonl", *SMALL, cwd=tmp_path)
    piped = subprocess.run(command("simulate", "-", *SMALL), capture_output=True, timeout=60, check=True).stdout
    first = (tmp_path / "a.jsonl").read_bytes()
    assert first == (tmp_path / "b.jsonl").read_bytes() == piped
    assert said["bytes"] == len(first)
    assert said["ratings"] + said["clicks"] == said["events"] == 2000
    assert said["items"] == 20
    assert (said["duplicates"], said["late"], said["bad"]) == (2, 2, 2)
    assert first.count(b"\n") == 2000 + 20 + 2 + 2
    assert 0.7 < said["oracle_rmse"] < 0.85
    assert said["arrays_per_second"] > 0 < said["lines_per_second"]
    run("simulate", "a.jsonl", *SMALL, "--seed", "2", cwd=tmp_path)
    other = (tmp_path / "a.jsonl").read_bytes()
    assert hashlib.sha256(other).digest() != hashlib.sha256(first).digest()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl"]


def test_the_shares_and_the_shock_are_options(tmp_path: Path) -> None:
    flags = (
        "--duplicates",
        "0.1",
        "--late",
        "0.05",
        "--bad",
        "0",
        "--shock-day",
        "3",
        "--shock-share",
        "1",
        "--turn",
        "0",
    )
    said = json.loads(run("simulate", "a.jsonl", *SMALL, *flags, "--json", cwd=tmp_path))
    assert (said["duplicates"], said["late"], said["bad"]) == (200, 100, 0)
    run("simulate", "calm.jsonl", *SMALL, *flags[:6], "--turn", "0", cwd=tmp_path)
    shocked, calm = ((tmp_path / name).read_text().splitlines() for name in ("a.jsonl", "calm.jsonl"))
    assert shocked[:300] == calm[:300]
    assert shocked[-300:] != calm[-300:]


def test_the_file_can_be_served(tmp_path: Path) -> None:
    run("simulate", "world.jsonl", *SMALL, cwd=tmp_path)
    said = run("serve", "--replay", "world.jsonl", "--until-drained", "--port", "0", cwd=tmp_path)
    assert "learned 2,020 events" in said
    assert "2 dead letters" in said


def test_a_file_that_cannot_be_written_gives_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    assert "give a file in an existing folder" in run("simulate", "no/where.jsonl", *SMALL, code=78, cwd=tmp_path)
    assert "it is a folder" in run("simulate", ".", *SMALL, code=78, cwd=tmp_path)
    assert "within the 10 days" in run("simulate", "a", *SMALL, "--shock-day", "11", code=78, cwd=tmp_path)
    assert "found nan" in run("simulate", "a", *SMALL, "--late", "nan", code=78, cwd=tmp_path)
    assert "--events" in run("simulate", "a", "--events", "0", code=2, cwd=tmp_path)
    assert "standard output consists of the events" in run("simulate", "-", "--json", code=2, cwd=tmp_path)
    assert "PATH" in run("simulate", code=2, cwd=tmp_path)
    assert "--simulate" in run("evaluate", code=2, cwd=tmp_path)
    assert "not both" in run("evaluate", "a", "--simulate", code=2, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_and_a_link_stay_what_they_are_and_are_written_through(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link.jsonl"
    os.mkfifo(pipe)
    with (tmp_path / "read").open("wb") as copy, subprocess.Popen(["cat", str(pipe)], stdout=copy) as reader:
        said = json.loads(run("simulate", "pipe", *SMALL, "--json", cwd=tmp_path))
        assert reader.wait(timeout=30) == 0
    read = (tmp_path / "read").read_bytes()
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert read.count(b"\n") == 2024
    assert said["bytes"] == len(read)
    link.symlink_to("there.jsonl")
    run("simulate", "link.jsonl", *SMALL, cwd=tmp_path)
    assert link.is_symlink()
    assert (tmp_path / "there.jsonl").read_bytes() == read


def test_a_world_too_large_for_memory_gives_a_sentence(tmp_path: Path) -> None:
    for option in ("--users", "--items", "--events", "--days"):
        assert "give less" in run("simulate", "a", option, "9" * 14, code=78, cwd=tmp_path)
    assert "cannot write" in run("simulate", "x" * 300, *SMALL, code=78, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
