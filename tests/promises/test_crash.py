"""kill -9 of the real process at random moments of a replay: the final state equals that of a run without kills."""

import json
import random
from pathlib import Path

import pytest
from commands import run
from learning import digest
from process import LEARNED, stream_file, streamer

from streamer.storage.log import EmbeddedLog
from streamer.storage.state import RocksStore

ROWS_PER_KILL = 1000
RATE = 2000  # so that a busy machine, which makes every wait longer, does not come to the end before the last kill


def progress(data: Path) -> tuple[int, int]:
    """The committed offset and the end of the log."""
    store, log = RocksStore(data), EmbeddedLog(data)
    try:
        return next(iter(store.offsets().values()), 0), log.end
    finally:
        store.close()
        log.close()


@pytest.mark.parametrize("kills", [6, pytest.param(50, marks=pytest.mark.soak)])
def test_a_replay_survives_kills(tmp_path: Path, kills: int) -> None:
    path, chance = stream_file(tmp_path, 6 * kills * ROWS_PER_KILL), random.Random(kills)
    total = path.read_bytes().count(b"\n")
    data, landed, before = tmp_path / "killed", 0, (0, 0)
    arguments = ("--replay", path, "--until-drained", "--commit-interval-s", "0.05")
    for _ in range(kills):
        cut = str(chance.choice([1, 7, 100, 1000]))
        with streamer(data, *arguments, "--rate", str(RATE), "--max-records", cut) as process:
            process.wait_for(LEARNED, process.metrics()[LEARNED] + chance.randrange(1, ROWS_PER_KILL))
            process.pause(chance.uniform(0.0, 0.05))
            process.kill()
        after = progress(data)
        landed += after[1] > before[1] and 0 < after[0] < total  # it appended, learned, and was not done
        before = after
    assert landed >= 0.8 * kills, f"only {landed} of {kills} kills landed in mid-progress"
    run("serve", "--data", data, "--port", "0", *arguments)
    run("serve", "--data", tmp_path / "whole", "--port", "0", *arguments)
    assert progress(data) == (total, total)
    killed, whole = digest(data), digest(tmp_path / "whole")
    assert killed == whole


def test_a_drained_replay_appends_nothing_again(tmp_path: Path) -> None:
    path = stream_file(tmp_path, 500)
    arguments = ("--data", tmp_path / "d", "--port", "0", "--replay", path, "--until-drained")
    run("serve", *arguments)
    first = digest(tmp_path / "d")
    run("serve", *arguments)
    assert digest(tmp_path / "d") == first


def test_the_digest_is_printed_as_programs_read_it(tmp_path: Path) -> None:
    path = stream_file(tmp_path, 300)
    run("serve", "--data", tmp_path / "d", "--port", "0", "--replay", path, "--until-drained")
    found = digest(tmp_path / "d")
    assert run("inspect", "--data", tmp_path / "d", "--digest").splitlines()[-1] == found.digest
    spoken = json.loads(run("inspect", "--data", tmp_path / "d", "--digest", "--json"))
    assert spoken == {"digest": found.digest, "learners": found.learners, "offsets": found.offsets}
