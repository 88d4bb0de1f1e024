"""`streamer recover`: every event that log or archive hold whole is back at its offset, the others are named, and the state is
what learning exactly those events gives."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from archiving import archived
from commands import run
from learning import digest, events, learn, records, settings
from process import LEARNED, stream_file, streamer

from streamer.core.events import BLANK, LOG, Message, Record
from streamer.core.settings import SERVED_RECORDS
from streamer.serving.opening import learners
from streamer.storage import wal
from streamer.storage.log import EmbeddedLog, LogSource
from streamer.storage.state import RocksStore
from streamer.stream.engine import Engine, NullObserver
from streamer.stream.memory import Memory

RECORDS = records(events(380))[:400]
A_WRITE = 10
WAL, TABLE = "*.log", "*.sst"


def learn_log(folder: Path) -> None:
    """Learn what the log has and the state has not."""
    chosen, store, log = settings(), RocksStore(folder), EmbeddedLog(folder)
    try:
        memory = Memory(learners(chosen), chosen, store)
        source = LogSource(log)
        source.seek(memory.ledger.offsets)
        engine = Engine(source, memory, NullObserver(), max_records=SERVED_RECORDS, commit_interval_s=3600.0)
        while engine.step(0.0):
            pass
        engine.commit()
    finally:
        store.close()
        log.close()


def publish(log: EmbeddedLog, some: Sequence[Record]) -> None:
    for start in range(0, len(some), A_WRITE):
        part = some[start : start + A_WRITE]
        log.publish([Message(one.topic, one.key, one.value, one.timestamp_ms) for one in part])


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory as a kill leaves it: offsets 0 to 199 in a table, 200 to 399 in the write-ahead log, all learned."""
    folder = tmp_path_factory.mktemp("killed")
    log = EmbeddedLog(folder / "running")
    publish(log, RECORDS[:200])
    log.close()
    log = EmbeddedLog(folder / "running")
    publish(log, RECORDS[200:])
    shutil.copytree(folder / "running", folder / "data")
    log.close()
    learn(folder / "data", RECORDS)
    return folder / "data"


def flip(file: Path) -> None:
    """One bit of the write that begins with offset 300."""
    content = bytearray(file.read_bytes())
    content[list(wal.batches(bytes(content)))[9].end + 100] ^= 1
    file.write_bytes(content)


def zeros(file: Path) -> None:
    """4 KiB in the middle."""
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        opened.write(bytes(4096))


def cut(file: Path) -> None:
    """Behind the write that ends with offset 299, and a little more."""
    os.truncate(file, list(wal.batches(file.read_bytes()))[9].end + 20)


def flip_a_block(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 4] ^= 1
    file.write_bytes(content)


def flip_the_end(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)


def delete(file: Path) -> None:
    file.unlink()


def empty(file: Path) -> None:
    shutil.rmtree(file)


# What is damaged, up to which offset the archive reaches, and which offsets may be missing in the new log.
DAMAGES: list[tuple[str, Callable[[Path], None], int, Sequence[int]]] = [
    ("log/*.log", flip, 0, range(300, 310)),
    ("log/*.log", flip, 305, range(305, 310)),
    ("log/*.log", flip, 400, []),
    ("log/*.log", zeros, 0, range(200, 400)),
    ("log/*.log", zeros, 400, []),
    ("log/*.log", cut, 0, range(300, 400)),
    ("log/*.log", cut, 350, range(350, 400)),
    ("log/*.log", delete, 0, range(200, 400)),
    ("log/*.log", delete, 400, []),
    ("log/*.sst", flip_a_block, 0, range(200)),
    ("log/*.sst", flip_a_block, 400, []),
    ("log/*.sst", flip_the_end, 0, range(200)),
    ("log/*.sst", delete, 400, []),
    ("log/MANIFEST-*", flip_a_block, 0, []),
    ("log/CURRENT", delete, 0, []),
    ("log", empty, 300, range(300, 400)),
]


@pytest.mark.parametrize(("pattern", "damage", "reached", "lost"), DAMAGES)
def test_recovering(
    killed: Path, tmp_path: Path, pattern: str, damage: Callable[[Path], None], reached: int, lost: Sequence[int]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(killed, data)
    if reached:
        archived(data, RECORDS[:reached])
    for file in data.glob(pattern):
        damage(file)
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    told = recovered(data, "--dry-run")
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before
    report = recovered(data)
    assert {**report, "moved": {}} == told

    gone, uncounted = spanned(report["gone"]), spanned(report["uncounted"])
    assert set(gone) <= set(lost)
    assert (len(gone) > 0) == (len(lost) > 0)
    if damage is not zeros and damage is not flip_a_block:
        assert gone == [n for n in lost if n not in report_removals(report)]
    assert all(n < reached and not counts(RECORDS, n) for n in uncounted)

    log = EmbeddedLog(data)
    log.verify()
    (found,) = [list(read(log))]
    log.close()
    missing = {*gone, *uncounted}
    assert [one.offset for one in found] == list(range(400))
    assert [one.offset for one in found if one.topic == BLANK] == sorted(missing)
    for was, now in zip(RECORDS, found, strict=True):
        assert (
            was.offset in missing or (was.topic, was.key or b"") == (now.topic, now.key or b"") or now.offset < reached
        )

    assert (report["state"] == "kept") == (not missing)
    learn_log(data)
    learn(tmp_path / "exactly", [blank(one) if one.offset in missing else one for one in RECORDS])
    assert digest(data) == digest(tmp_path / "exactly")
    for file, content in before.items():  # what was replaced is still there
        moved = report["moved"].get(file.relative_to(data).parts[0])
        if moved:
            assert (data / moved / Path(*file.relative_to(data).parts[1:])).read_bytes() == content


def test_a_damaged_log_is_refused_recovered_and_served_again(tmp_path: Path) -> None:
    path, data = stream_file(tmp_path, 300), tmp_path / "data"
    with streamer(data, "--replay", path, "--rate", "500", "--no-archive") as process:
        process.wait_for(LEARNED, 150)
        process.kill()
    (file,) = wal.files(data / "log")
    end = len(list(wal.batches(file.read_bytes())))
    zeros(file)
    said = run("serve", "--data", data, "--port", "0", code=78)
    assert f"`streamer recover --data {data}` keeps what is whole" in said
    assert f"`streamer recover --data {data}`" in run("doctor", "--data", data, "--port", "0", code=1)
    assert end > len(list(wal.batches(file.read_bytes())))  # nothing was repaired
    said = run("recover", "--data", data)
    assert "gone: " in said
    assert "the new log is in place, start again: streamer serve" in said
    assert "is whole: nothing to recover" in run("recover", "--data", data)
    run("backup", tmp_path / "backup", "--data", data)
    assert not list((tmp_path / "backup").glob("*.damaged-*"))  # what was replaced is not backed up
    with streamer(data, "--no-archive") as process:
        process.wait_for(LEARNED, 1)
        run("publish", path, "--url", process.url)  # it goes on
        assert process.stop() == 0
    log = EmbeddedLog(data)
    assert log.end > 300
    log.close()
    shutil.copytree(data / "log", tmp_path / "again/log")
    learn_log(data)
    learn_log(tmp_path / "again")
    assert digest(data) == digest(tmp_path / "again")


def test_a_state_or_an_archive_ahead_of_the_log_is_refused(killed: Path, tmp_path: Path) -> None:
    """As where `log` was removed, or replaced by an older copy."""
    log = EmbeddedLog(tmp_path / "data")
    publish(log, RECORDS[:200])
    log.close()
    archived(tmp_path / "data", RECORDS[:300])
    said = run("serve", "--data", tmp_path / "data", "--port", "0", code=78)
    assert "covers the embedded log up to offset 300, but the log in" in said
    shutil.rmtree(tmp_path / "data/archive")
    shutil.copytree(killed / "state", tmp_path / "data/state", dirs_exist_ok=True)
    said = run("serve", "--data", tmp_path / "data", "--port", "0", code=78)
    assert f"the state in {tmp_path / 'data/state'} covers the embedded log up to offset 400" in said
    assert (
        "ends at 200: acknowledged events are missing, or the two do not belong together; `streamer recover --data"
        in said
    )


def test_a_removal_that_only_the_state_knows_is_not_lost(killed: Path, tmp_path: Path) -> None:
    """A forgotten user stays forgotten: the state is learned again, and earlier events of the user are whole."""
    data = tmp_path / "data"
    shutil.copytree(killed, data)
    (file,) = (data / "log").glob(WAL)
    delete(file)
    report = recovered(data)
    removals = [one for one in RECORDS[200:] if one.topic == "users" and one.value is None]
    assert report["from_state"] == len(removals) > 0
    log = EmbeddedLog(data)
    found = {one.offset: one for one in read(log)}
    log.close()
    assert [(found[one.offset].topic, found[one.offset].key, found[one.offset].value) for one in removals] == [
        (one.topic, one.key, None) for one in removals
    ]


def test_a_state_is_kept_on_request(killed: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(killed, data)
    (file,) = (data / "log").glob(WAL)
    flip(file)
    before = digest(data)
    said = run("recover", "--data", data, "--keep-state")
    assert "gone: 10 records, at the offsets 300 to 309" in said
    assert "the state is kept, although the state has learned from events that are gone" in said
    learn_log(data)
    assert digest(data) == before


@pytest.mark.parametrize("stage", ["new log complete", "old log renamed"])
def test_an_interrupted_recovery_is_completed(killed: Path, tmp_path: Path, stage: str) -> None:
    data = tmp_path / "data"
    shutil.copytree(killed, data)
    (file,) = (data / "log").glob(WAL)
    flip(file)
    shutil.copytree(data, tmp_path / "before")
    recovered(data)
    shutil.rmtree(tmp_path / "again", ignore_errors=True)
    shutil.copytree(tmp_path / "before", tmp_path / "again")
    shutil.copytree(data / "log", tmp_path / "again/log.recovering")
    if stage == "old log renamed":
        (tmp_path / "again/state").rename(tmp_path / "again/state.damaged-1")
        (tmp_path / "again/log").rename(tmp_path / "again/log.damaged-1")
    run("recover", "--data", tmp_path / "again")
    assert not (tmp_path / "again/log.recovering").exists()
    learn_log(data)
    learn_log(tmp_path / "again")
    assert digest(data) == digest(tmp_path / "again")


def recovered(data: Path, *more: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(run("recover", "--data", data, "--json", *more))
    report: dict[str, Any] = answer["report"]
    return report


def spanned(spans: Sequence[Sequence[int]]) -> list[int]:
    return [n for first, last in spans for n in range(first, last + 1)]


def report_removals(report: dict[str, Any]) -> list[int]:
    """Offsets of removals, if the state gave some back."""
    return [one.offset for one in RECORDS if one.topic == "users" and one.value is None] if report["from_state"] else []


def counts(some: Sequence[Record], offset: int) -> bool:
    """Whether a record is archived at the end: a valid event, not a duplicate, of a user that nobody removed later."""
    one = some[offset]
    removed = {r.key for r in some if r.topic == "users" and r.value is None and r.offset >= offset}
    return (
        one.topic != "users"
        and b"NaN" not in (one.value or b"")
        and b"event_id" not in (one.value or b"")
        and one.key not in removed
    )


def blank(one: Record) -> Record:
    return Record(BLANK, -1, one.offset, one.timestamp_ms, None, None)


def read(log: EmbeddedLog) -> list[Record]:
    source = LogSource(log)
    source.seek({LOG: log.begin()})
    return list(source.poll(10_000, 0.0))
