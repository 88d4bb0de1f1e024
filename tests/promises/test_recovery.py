"""`streamer recover`: every event that log or archive hold whole is back at its offset, the others are named, and the state is
what learning exactly those events gives."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from archiving import archived
from commands import run
from learning import digest, events, learn, records, settings
from process import LEARNED, stream_file, streamer
from recovering import (
    RECORDS,
    WAL,
    blank,
    counts,
    cut,
    delete,
    empty,
    flip,
    flip_a_block,
    flip_the_end,
    learn_log,
    publish,
    read,
    recovered,
    report_removals,
    spanned,
    zeros,
)

from streamer.app import App
from streamer.core.errors import BadState
from streamer.core.events import BLANK, Message
from streamer.storage import mark, wal
from streamer.storage.archive.archive import Archive
from streamer.storage.archive.manifest import write_manifest
from streamer.storage.log import EmbeddedLog
from streamer.storage.runs import RUN_RECORDS

MOST_LOST = 60  # records in 4 KiB of the write-ahead log, or in a block of a table


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
    if damage in (zeros, flip_a_block):
        assert len(gone) <= MOST_LOST
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
    with streamer(data, "--no-archive") as process:
        process.wait_for(LEARNED, 1)
        run("publish", path, "--url", process.url)  # it goes on
        assert process.stop() == 0
    run("backup", tmp_path / "backup", "--data", data)
    assert not list((tmp_path / "backup").glob("*.damaged-*"))  # what was replaced is not backed up
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
    with pytest.raises(BadState, match="archive covers the embedded log up to offset 300, but the log in"):
        App(settings(data=str(tmp_path / "data")))
    shutil.rmtree(tmp_path / "data/archive")
    shutil.copytree(killed / "state", tmp_path / "data/state", dirs_exist_ok=True)
    with pytest.raises(BadState, match=r"ends at 200: acknowledged events are missing.*`streamer recover --data"):
        App(settings(data=str(tmp_path / "data")))


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


def test_a_damaged_file_of_the_archive_gives_nothing_and_says_so(killed: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(killed, data)
    archived(data, RECORDS, cut=100)
    delete(next((data / "log").glob(WAL)))
    (third,) = [one for one in Archive(data).manifest.files if one.topic == "ratings" and 200 <= one.spans[-1][0] < 300]
    delete(data / "archive" / third.path)
    report = recovered(data)
    low, high = third.spans[-1]
    assert [one for one in report["damage"] if third.path in one]
    assert {low, high} <= set(spanned(report["gone"])) <= set(range(low, high + 1))
    assert max(spanned(report["uncounted"])) > high
    learn_log(data)
    missing = {*spanned(report["gone"]), *spanned(report["uncounted"])}
    learn(tmp_path / "exactly", [blank(one) if one.offset in missing else one for one in RECORDS])
    assert digest(data) == digest(tmp_path / "exactly")


@pytest.mark.parametrize("damaged", ["archive/_archive.json", "archive/_archive.copy.json", "state/CURRENT"])
def test_a_log_that_is_whole_stays_whatever_else_is_damaged(killed: Path, tmp_path: Path, damaged: str) -> None:
    data = tmp_path / "data"
    shutil.copytree(killed, data)
    archived(data, RECORDS)
    (data / damaged).write_text("{}")
    assert "is whole: nothing to recover" in run("recover", "--data", data)
    assert not list(data.glob("*.damaged-*"))


def test_erased_records_stay_blank(tmp_path: Path) -> None:
    """A table still has the record, the write-ahead log has what replaced it."""
    log = EmbeddedLog(tmp_path / "running")
    publish(log, RECORDS[:200])
    log._rocks.flush()
    log.rewrite(lambda one: blank(one) if one.offset in (5, 7) else one, 200)
    publish(log, RECORDS[200:300])
    shutil.copytree(tmp_path / "running", tmp_path / "data")
    log.close()
    (file,) = [one for one in (tmp_path / "data/log").glob(WAL) if one.stat().st_size]
    flip(file)
    assert recovered(tmp_path / "data")["gone"] != []
    log = EmbeddedLog(tmp_path / "data")
    assert [one.offset for one in read(log)[:200] if one.topic == BLANK] == [5, 7]
    log.close()


def test_a_replay_continues_where_it_was(tmp_path: Path) -> None:
    """Otherwise events that came back from the archive would be appended once more."""
    log = EmbeddedLog(tmp_path / "running")
    log.append([Message(one.topic, one.key, one.value, one.timestamp_ms) for one in RECORDS], ("ab" * 32, 400))
    shutil.copytree(tmp_path / "running", tmp_path / "data")
    log.close()
    archived(tmp_path / "data", RECORDS)
    for file in (tmp_path / "data/log").glob(WAL):
        delete(file)
    assert recovered(tmp_path / "data")["gone"] == []
    log = EmbeddedLog(tmp_path / "data")
    assert (log.next_replay_row("ab" * 32), log.end) == (400, 400)
    log.close()


def test_the_beginning_of_a_long_write_is_kept(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "running")
    log.publish([Message("clicks", None, b"%d" % n + os.urandom(100)) for n in range(5000)])
    shutil.copytree(tmp_path / "running", tmp_path / "data")
    log.close()
    (file,) = (tmp_path / "data/log").glob(WAL)
    os.truncate(file, file.stat().st_size * 9 // 10)
    report = recovered(tmp_path / "data")
    ((first, last),) = report["gone"]
    assert (first % RUN_RECORDS, last) == (0, 4999)
    assert first >= 4000


@pytest.mark.parametrize("reached", [0, 400])
def test_a_trimmed_log_is_filled_from_the_archive_if_everything_is_learned_again(
    killed: Path, tmp_path: Path, reached: int
) -> None:
    data = tmp_path / "data"
    shutil.copytree(killed, tmp_path / "running")
    log = EmbeddedLog(tmp_path / "running")
    log.trim(120, 1, older_than_ms=10**15)
    begin = log.begin()
    assert 100 <= begin <= 120
    publish(log, RECORDS[:200])
    shutil.copytree(tmp_path / "running", data)
    log.close()
    if reached:
        archived(data, RECORDS)
    (file,) = [one for one in (data / "log").glob(WAL) if one.stat().st_size]
    flip(file)
    delete(next((data / "state").glob("CURRENT")))  # so that everything must be learned again
    report = recovered(data)
    assert report["begin"] == (0 if reached else begin)
    learn_log(data)
    missing = {*spanned(report["gone"]), *spanned(report["uncounted"])}
    assert (
        {n for n in missing if n < begin} == {n for n in range(begin) if not held_in_archive(data, n)}
        if reached
        else missing
    )
    learned = [*RECORDS, *records(events(380)[:200], 400)]
    exactly = [blank(one) if one.offset in missing else one for one in learned if one.offset >= report["begin"]]
    if reached:
        learn(tmp_path / "exactly", exactly)
        assert digest(data) == digest(tmp_path / "exactly")
    assert digest(data).offsets == {"log/0": 600}


def test_an_archive_of_before_its_list_had_offsets_gives_its_events_too(killed: Path, tmp_path: Path) -> None:
    """The log's first 200 records are gone, and no mark says that there were any."""
    data = tmp_path / "data"
    shutil.copytree(killed, data)
    archive = archived(data, RECORDS)
    old = tuple(msgspec.structs.replace(file, sha256="", spans={}) for file in archive.manifest.files)
    write_manifest(archive.folder, msgspec.structs.replace(archive.manifest, files=old))
    flip_the_end(next((data / "log").glob("*.sst")))
    delete(data / "log" / mark.NAME)
    report = recovered(data)
    assert (report["begin"], report["end"], report["gone"]) == (0, 400, [])
    assert report["from_archive"] > 100


def held_in_archive(data: Path, offset: int) -> bool:
    return any(one.offset == offset for one in Archive(data).records(offset, offset + 1))
