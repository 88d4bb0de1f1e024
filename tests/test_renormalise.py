"""Renormalising with real processes: kill -9 at each of its steps, and the stream, the answers and the files are as if nothing had been."""

import hashlib
import os
import signal
import time
from pathlib import Path

import msgspec
import pytest
from learning import digest, settings
from process import Streamer, run, streamer
from test_crash import stream_file

from streamer import generations
from streamer.app import opened
from streamer.errors import StreamerError
from streamer.generations import PROGRESS, Progress
from streamer.ledger import GRAFT, journal, lineage
from streamer.log import EmbeddedLog, LogSource
from streamer.rebuild import rebuild
from streamer.state import Digest, RocksStore

DEADLINE_S = 120.0
STEPS = ("cut", "read", "train", "write", "put in", "catching up", "gate", "swap", "watch")
_BY_STAGE = {"trained": 5, "catching up": 5, "gate": 6, "live": 8}
CHILD_STEPS = ("read", "train", "write", "put in")


def step(data: Path, generation: str) -> int:
    """How far a generation is, as a number into STEPS, read from its files; -1 before it is begun, 9 when it is over."""
    where = generations.place(data, generation)
    if not where.exists():
        return -1
    try:
        life = generations.life(data, generation)
    except StreamerError:
        return 0
    if life.stage == "gate" and generations.live(data) == generation:
        return 7
    if life.stage != "cut":
        return _BY_STAGE.get(life.stage, 9) if "watch" not in life.seconds else 9
    try:
        progress = msgspec.json.decode((where / PROGRESS).read_bytes(), type=Progress)
    except (OSError, msgspec.DecodeError):
        progress = Progress()
    found = {"read": 1, "train": 2, "write": 3, "done": 4}.get(progress.step, 0)
    return 4 if found == 3 and (where / "manifest.json").exists() else found


def children(process: int) -> list[int]:
    """Processes that it started, from /proc."""
    found = []
    for thread in Path(f"/proc/{process}/task").iterdir():
        found += [int(child) for child in (thread / "children").read_text().split()]
    return found


def wait_for_step(running: Streamer, generation: str, wanted: str) -> None:
    """Until a generation is there, or past it."""
    deadline = time.monotonic() + DEADLINE_S
    while step(running.data, generation) < STEPS.index(wanted):
        assert running.process.poll() is None, running.output.read_text()
        assert time.monotonic() < deadline, f"{generation} does not come to {wanted}: {running.output.read_text()}"
        os.sched_yield()


def rebuilt(data: Path, into: Path) -> Digest:
    """The digest of what the journal of the live state comes to, learned again from the log and the generations' files."""
    store = RocksStore(data, read_only=True)
    runs = journal(store)
    store.close()
    made, log = opened(settings(data=str(into))), EmbeddedLog(data)
    rebuild(made.memory, LogSource(log), runs, data)
    made.close()
    log.close()
    return digest(into)


def tables_made(data: Path) -> dict[str, str]:
    """The sums of what was trained, and of the manifests, of all generations."""
    files = [*data.glob("generations/*/*.safetensors"), *data.glob("generations/*/manifest.json")]
    return {str(file.relative_to(data)): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(files)}


# Who is killed at which step of which generation: the streamer, or (child) the process that trains for it.
FEW = [("g1", "read"), ("g1", "train child"), ("g1", "put in"), ("g2", "cut"), ("g2", "catching up"), ("g2", "swap")]
MANY = [
    (f"g{number}", at)
    for number in range(1, 6)
    for at in ("cut", "read child", "train", "write child", "put in", ("catching up", "gate", "swap")[number % 3])
]


@pytest.mark.parametrize("kills", [FEW, pytest.param(MANY, marks=pytest.mark.soak)], ids=["few", "many"])
def test_killed_at_any_step_a_replay_ends_as_one_that_was_not(tmp_path: Path, kills: list[tuple[str, str]]) -> None:
    """With --hold all is deterministic: states, generations and the journal's replay are the same bytes with and without kills."""
    made = len({generation for generation, _ in kills})
    path = stream_file(tmp_path, 500 * made + 300)
    arguments = ("--replay", path, "--until-drained", "--renormalise-every-events", "400", "--hold", "--watch-events", "50")
    data, left, landed = tmp_path / "killed", list(kills), 0
    while left:
        with streamer(data, *arguments) as process:
            while left and process.process.poll() is None:
                generation, what = left.pop(0)
                wanted, child = what.removesuffix(" child"), what.endswith("child")
                wait_for_step(process, generation, wanted)
                for trainer in children(process.process.pid) if child else [process.process.pid]:
                    os.kill(trainer, signal.SIGKILL)
                if not child:
                    process.process.wait(DEADLINE_S)
                landed += STEPS.index(wanted) <= step(data, generation) < STEPS.index("watch")
    assert landed >= 0.7 * len(kills), f"only {landed} of {len(kills)} kills landed while a generation was on its way"
    run("serve", "--data", data, "--port", "0", *arguments)
    run("serve", "--data", tmp_path / "whole", "--port", "0", *arguments)
    assert digest(data) == digest(tmp_path / "whole")
    assert tables_made(data) == tables_made(tmp_path / "whole")
    assert len({name.split("/")[1] for name in tables_made(data)}) >= made
    assert rebuilt(data, tmp_path / "again") == digest(data)
