"""Renormalising with real processes: kill -9 at each step leaves the stream, the answers and the files as without the kill."""

import hashlib
import json
import os
import re
import signal
import time
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # ships no types
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # ships no types
import pytest
from commands import run
from learning import digest, settings
from process import Streamer, stream_file, streamer
from renormalising import DEADLINE_S, Load, answers, drained, external, learned, renormalised, stage, wait

from streamer.app import open_generation
from streamer.core.errors import StreamerError
from streamer.core.events import CLICKS, RATINGS, Click, Rating, message
from streamer.producers.client import Client
from streamer.producers.http import event_json
from streamer.producers.simulate import World
from streamer.renormalise.rebuild import rebuild
from streamer.renormalise.training_job import is_archived, retrain
from streamer.storage import generations
from streamer.storage.archive.manifest import read_manifest, write_manifest
from streamer.storage.generations import PROGRESS, Progress
from streamer.storage.log import EmbeddedLog, LogSource
from streamer.storage.state import Digest, RocksStore
from streamer.stream.ledger import journal

ANSWERS = 1000
STEPS = ("cut", "read", "train", "write", "put in", "catching up", "gate", "swap", "watch")
_BY_STAGE = {"trained": 5, "catching up": 5, "gate": 6, "live": 8}


def step(data: Path, generation: str) -> int:
    """How far a generation is, as an index into STEPS, read from its files; -1 before its cut, 9 after its end."""
    where = generations.generation_folder(data, generation)
    if not where.exists():
        return -1
    try:
        record = generations.read_record(data, generation)
    except StreamerError:
        return 0
    if record.stage == "gate" and generations.live(data) == generation:
        return 7
    if record.stage != "cut":
        return _BY_STAGE.get(record.stage, 9) if "watch" not in record.seconds else 9
    try:
        progress = msgspec.json.decode((where / PROGRESS).read_bytes(), type=Progress)
    except (OSError, msgspec.DecodeError):
        progress = Progress()
    found = {"read": 1, "train": 2, "write": 3, "done": 4}.get(progress.step, 0)
    return 4 if found == 3 and (where / "manifest.json").exists() else found


def children(process: int) -> list[int]:
    """Its child processes, from /proc."""
    found = []
    for thread in Path(f"/proc/{process}/task").iterdir():
        found += [int(child) for child in (thread / "children").read_text().split()]
    return found


def wait_for_step(running: Streamer, generation: str, wanted: str) -> None:
    """Wait until a generation is at this step or beyond."""
    deadline = time.monotonic() + DEADLINE_S
    while step(running.data, generation) < STEPS.index(wanted):
        assert running.process.poll() is None, running.output.read_text()
        assert time.monotonic() < deadline, f"{generation} does not come to {wanted}: {running.output.read_text()}"
        time.sleep(0.001)


def rebuilt(data: Path, into: Path) -> Digest:
    """The digest of the state rebuilt from the journal of the live state, the log and the generations' files."""
    store = RocksStore(data, read_only=True)
    runs = journal(store)
    store.close()
    made, log = open_generation(settings(data=str(into))), EmbeddedLog(data)
    rebuild(made.memory, LogSource(log), runs, data)
    made.close()
    log.close()
    return digest(into)


def tables_made(data: Path) -> dict[str, str]:
    """The checksums of the trained files and the manifests of all generations."""
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
def test_a_replay_killed_at_any_step_ends_like_one_that_was_not(tmp_path: Path, kills: list[tuple[str, str]]) -> None:
    """With --hold everything is deterministic: states, generations and the rebuilt state have the same bytes with and without kills."""
    made = len({generation for generation, _ in kills})
    path = stream_file(tmp_path, 500 * made + 300)
    arguments = (
        "--replay",
        path,
        "--until-drained",
        "--renormalise-every-events",
        "400",
        "--hold",
        "--watch-events",
        "50",
    )
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
    cuts = [one.cut["log/0"] for one in generations.read_records(data) if one.parent]
    assert [events_before(data, offset) for offset in cuts] == [400 * (n + 1) for n in range(len(cuts))]


def events_before(data: Path, offset: int) -> int:
    """The number of ratings and clicks in the log, learned or not."""
    log = EmbeddedLog(data)
    source = LogSource(log)
    source.seek({})
    found = 0
    while records := source.poll(1000, 0.0):
        found += sum(record.topic in (RATINGS, CLICKS) and record.offset < offset for record in records)
    log.close()
    return found


@pytest.mark.process
def test_with_the_stream_held_a_later_candidate_is_rejected(tmp_path: Path) -> None:
    path, data = stream_file(tmp_path, 600), tmp_path / "d"
    flags = ("--renormalise-every-events", "300", "--hold", "--until-drained", "--candidates", "all,warm")
    run("serve", "--data", data, "--port", "0", "--replay", path, *flags)
    found = {one.id: one for one in generations.read_records(data) if one.candidate}
    assert found["g1"].was_live
    assert found["g2"].stage == "rejected"
    assert found["g2"].candidate == "warm"


def test_no_answer_mixes_two_generations(tmp_path: Path) -> None:
    """While nothing is published, a generation's answers stay the same, so every answer shows which of two generations gave it."""
    path, said = stream_file(tmp_path, 800), dict[tuple[str, str], set[bytes]]()
    with streamer(tmp_path / "d", "--replay", path) as process, Client(process.url) as client:
        drained(client, path.read_bytes().count(b"\n"))
        users = [f"u{number}" for number in range(0, 40, 8)]

        def ask() -> None:
            for user in users:
                found = client.recommend(user, 20)
                said.setdefault((found.generation, user), set()).add(msgspec.json.encode(found.items))

        loads = [Load(ask) for _ in range(2)]
        for load in loads:
            load.start()
        renormalised(client, "g1", loads)
        for _ in range(2):
            asked = sum(load.times for load in loads)
            wait(lambda asked=asked: sum(load.times for load in loads) >= asked + 20, "no answers", loads)
            client.rollback()
            answers(client, "g0", loads)
            wait(lambda: client.generations().now == "", "never settles", loads)
            client.promote_generation("g1")
            answers(client, "g1", loads)
        wait(lambda: sum(load.times for load in loads) * len(users) >= ANSWERS, "too few answers", loads)
        for load in loads:
            load.end()
    assert {generation for generation, _ in said} == {"g0", "g1"}
    assert all(len(found) == 1 for found in said.values()), {key: len(found) for key, found in said.items()}
    assert all(said["g0", user] != said["g1", user] for user in users)


def test_a_rollback_under_load_loses_no_event_and_no_token(tmp_path: Path) -> None:
    """Every answer includes the events published before it, whichever generation gives it; the rebuilt state has the live digest."""
    path, data = stream_file(tmp_path, 2000), tmp_path / "d"
    flags = ("--replay", path, "--commit-interval-s", "0.05", "--max-records", "7", "--gate-min-events", "8000")
    with streamer(data, *flags) as process, Client(process.url) as client:
        before, tokens, rated, included = path.read_bytes().count(b"\n"), list[str](), list[str](), list[str]()
        drained(client, before)
        ours = learned(client)

        def publish() -> None:
            n = len(tokens)
            at_ms = 1_700_001_000_000 + n
            mine = Rating("watched", f"new {n}", 4.0, at_ms)
            clicks = [Click(f"w{n % 50}", f"i{(n + k) * 7 % 401}", "click", at_ms) for k in range(5)]
            found = client.publish([event_json(message(event)) for event in (*clicks, mine)])
            assert found.accepted == 6
            rated.append(mine.item_id)
            tokens.append(found.freshness_token)
            shown = {item.item_id for item in client.recommend("watched", 1000, tokens[-1]).items}
            assert not shown & set(rated)
            included[:] = rated

        def ask() -> None:
            known = list(included)
            found = client.recommend("watched", 1000)
            assert not {item.item_id for item in found.items} & set(known), f"{found.generation} lacks events"

        loads = [Load(publish), Load(ask)]
        for load in loads:
            load.start()
        renormalised(client, "g1", loads)
        client.rollback()
        answers(client, "g0", loads)
        wait(lambda: client.generations().now == "", "never settles", loads)
        renormalised(client, "g2", loads)
        for load in loads:
            load.end()
        for token in (tokens[0], tokens[len(tokens) // 2], tokens[-1]):
            assert client.recommend("watched", 10, token).generation == "g2"
        drained(client, before + 6 * len(tokens))
        assert learned(client) == ours + 6 * len(tokens)
        assert stage(client, "g1") == "rolled back"
        assert process.stop() == 0
    assert generations.live(data) == "g2"
    assert digest(data).offsets == {"log/0": before + 6 * len(tokens)}
    assert rebuilt(data, tmp_path / "again") == digest(data)


def cut(client: Client, data: Path, generation: str) -> None:
    """Wait until a generation is cut, and the archive holds the events before the cut."""
    client.renormalise()
    wait(lambda: stage(client, generation) == "cut", f"{generation} is not cut")
    wait(lambda: is_archived(data, generations.read_record(data, generation)), "the archive stays behind")


def shuffle(data: Path) -> None:
    """The same ratings, each assigned to another user and item; the archive's list has the digests of the new files."""
    files = sorted((data / "archive").glob("topic=ratings/**/*.parquet"))
    tables = [pq.read_table(file, partitioning=None) for file in files]
    every = np.concatenate([table["rating"].to_numpy() for table in tables])
    every = np.random.default_rng(1).permutation(every)
    for file, table in zip(files, tables, strict=True):
        mine, every = every[: len(table)], every[len(table) :]
        at = table.schema.get_field_index("rating")
        pq.write_table(table.set_column(at, table.schema.field(at), pa.array(mine)), file)
    manifest = read_manifest(data / "archive")
    now = {file.path: (data / "archive" / file.path).read_bytes() for file in manifest.files}
    files = tuple(
        msgspec.structs.replace(file, bytes=len(now[file.path]), sha256=hashlib.sha256(now[file.path]).hexdigest())
        for file in manifest.files
    )
    write_manifest(data / "archive", msgspec.structs.replace(manifest, files=files))


def test_a_generation_trained_on_shuffled_ratings_is_rejected_and_a_good_one_is_not(tmp_path: Path) -> None:
    """The same cut of the same stream, once with shuffled ratings."""
    world = World(users=150, items=60, events=110_000, duplicates=0.0, late=0.0, bad=0.0, turn=0.0).stream()
    sent = [one for one in world.messages(0, len(world)) if one.topic == "ratings"]
    path, data, first = tmp_path / "first.jsonl", tmp_path / "d", 3500
    path.write_bytes(b"\n".join(one.value or b"" for one in sent[:first]) + b"\n")
    flags = ("--replay", path, "--rating-learner", "biased-mf", "--click-learner", "popularity")
    with external(data, *flags) as process, Client(process.url) as client:
        drained(client, first)
        for generation, spoilt, outcome in (("g1", True, "rejected"), ("g2", False, "live")):
            cut(client, data, generation)
            if spoilt:
                kept = {file: file.read_bytes() for file in (data / "archive").rglob("*.*")}
                shuffle(data)
            run("renormalise", "--data", data, "--generation", generation)
            if spoilt:
                for file, content in kept.items():
                    file.write_bytes(content)
            part = sent[first : first + 1200] if spoilt else sent[first + 1200 :]
            client.publish([event_json(one) for one in part])
            wait(lambda: stage(client, generation) in ("rejected", "failed", "live"), f"{generation} is never judged")  # noqa: B023
            assert stage(client, generation) == outcome, client.generations()
            wait(lambda: client.generations().now == "", f"{generation} never ends")
        found = json.loads(run("generations", "--url", process.url, "--json"))["generations"]
        assert [(one["id"], one["stage"], one["live"]) for one in found] == [
            ("g0", "kept", False), ("g1", "rejected", False), ("g2", "live", True),
        ]  # fmt: skip
        assert re.fullmatch(r"biased-mf RMSE 1?\.?\d+ against .* on the same .* ratings .*", found[1]["why"]), found[1]
        worse = found[1]["scores"][0]
        assert worse["difference"] - worse["half_width"] > 0.005 * worse["before_rmse"] ** 2


@pytest.mark.parametrize("damage", ["a flipped byte", "a manifest cut off", "a file that is gone"])
def test_a_good_generation_with_damaged_files_is_rejected(tmp_path: Path, damage: str) -> None:
    path, data = stream_file(tmp_path, 400), tmp_path / "d"
    with external(data, "--replay", path) as process, Client(process.url) as client:
        drained(client, path.read_bytes().count(b"\n"))
        before = client.recommend("u1", 20).items
        cut(client, data, "g1")
        where = generations.generation_folder(data, "g1")

        def killed(progress: Progress) -> None:
            if (where / "manifest.json").exists():
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            retrain(data, "g1", killed)
        if damage == "a flipped byte":
            tables = bytearray((where / "bayesian-hybrid.safetensors").read_bytes())
            tables[len(tables) // 2] ^= 1
            (where / "bayesian-hybrid.safetensors").write_bytes(tables)
        elif damage == "a manifest cut off":
            (where / "manifest.json").write_bytes((where / "manifest.json").read_bytes()[:-40])
        else:
            (where / "ids.safetensors").unlink()
        run("renormalise", "--data", data, "--generation", "g1", code=1)
        wait(lambda: stage(client, "g1") not in ("cut", "trained"), "it is never refused")
        found = client.generations().generations
        assert [(one.id, one.stage, one.live) for one in found] == [("g0", "live", True), ("g1", "failed", False)]
        assert "retrain" in found[1].why
        assert str(where) in found[1].why
        assert client.recommend("u1", 20).items == before
        assert not generations.state_folder(data, "g1").exists()
