"""A disk that is really full: learning pauses and resumes by itself, answers continue, nothing is lost."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from commands import run
from learning import digest
from process import DEADLINE_S, Streamer, streamer

from streamer.core.errors import BadState
from streamer.storage.rocks import Rocks

ROWS = 20_000
LEARNED = 'streamer_events_total{outcome="learned",topic="ratings"}'


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MB: RocksDB resumes when a write buffer fits again."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        assert os.environ.get("CI") != "true", mounted.stderr
        pytest.skip(f"a small disk needs root: {mounted.stderr}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(ballast: Path) -> None:
    """Fill the disk until not one more byte fits."""
    with ballast.open("wb", buffering=0) as out:
        for size in (1 << 22, 1 << 16, 1 << 10, 1):
            try:
                while True:
                    out.write(bytes(size))
            except OSError:
                continue


def until_paused(process: Streamer) -> str:
    deadline = time.monotonic() + DEADLINE_S
    while "cannot write" not in (said := process.get("/healthz").json()["ingestion"]):
        assert time.monotonic() < deadline, said
        assert not process.pause(0.05), process.output.read_text()
    return str(said)


def test_a_full_disk_pauses_learning_and_nothing_else(small_disk: Path, tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    lines = (f"u{n * 7 % 501},i{n * n % 301},{1 + n % 5},{1_600_000_000 + n}\n" for n in range(ROWS))
    path.write_text("user,item,rating,timestamp\n" + "".join(lines))
    arguments = ("--replay", path, "--until-drained", "--commit-interval-s", "0.1")
    with streamer(small_disk / "d", *arguments, "--rate", "5000") as process:
        process.wait_for(LEARNED, 2000)
        ballast = small_disk / "ballast"
        fill(ballast)
        assert "free some space" in until_paused(process)
        assert process.metrics()["streamer_ingestion_up"] == 0
        assert process.call("RecommendationService/Recommend", userId="u7")["items"]
        event = {"events": [{"click": {"userId": "u7", "itemId": "i1"}}]}
        refused = httpx.post(f"{process.url}/streamer.v1.EventService/Publish", json=event, timeout=60)
        assert refused.json()["code"] == "unavailable"
        assert "free some space" in refused.json()["message"]
        ballast.unlink()
        assert process.process.wait(DEADLINE_S) == 0, process.output.read_text()  # by itself
    run("serve", "--data", tmp_path / "whole", "--port", "0", *arguments)
    assert digest(small_disk / "d") == digest(tmp_path / "whole")


def test_a_start_on_a_full_disk_asks_for_space_and_not_for_a_backup(small_disk: Path) -> None:
    state = Rocks(small_disk / "d")
    state.write([(b"key", bytes(1 << 20))], sync=True)
    state.close()
    ballast = small_disk / "ballast"
    fill(ballast)
    with pytest.raises(BadState, match="free some space"):
        Rocks(small_disk / "d")
    ballast.unlink()
    state = Rocks(small_disk / "d")
    assert state.get(b"key") == bytes(1 << 20)
    state.close()
