"""Damage to the embedded log: an acknowledged record is never lost without a sentence, and a torn tail is no damage."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from streamer.core.errors import BadState
from streamer.core.events import LOG, Message
from streamer.storage import mark, runs, wal
from streamer.storage.log import EmbeddedLog, LogSource

Found = TypeVar("Found")
EVENTS, A_WRITE = 1000, 5
READS, REFUSED, SAYS = "reads everything", "refused", "refused when it is read"


def write(folder: Path) -> EmbeddedLog:
    log = EmbeddedLog(folder)
    for first in range(0, EVENTS, A_WRITE):
        values = [b'{"user_id":"u%d","item_id":"i%d"}' % (n % 30, n) for n in range(first, first + A_WRITE)]
        log.publish([Message("clicks", b"u", value) for value in values])
    return log


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log as a kill leaves it: 1,000 acknowledged events, all of them in the write-ahead log."""
    folder = tmp_path_factory.mktemp("killed")
    log = write(folder / "running")
    shutil.copytree(folder / "running", folder / "data")
    log.close()
    return folder / "data"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log as a stop leaves it: 1,000 acknowledged events, all of them in a table."""
    folder = tmp_path_factory.mktemp("stopped")
    write(folder).close()
    return folder


def flip(share: float) -> Callable[[Path], None]:
    """One bit, at this share of the file."""

    def damage(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[int(len(content) * share)] ^= 1
        file.write_bytes(content)

    return damage


def zeros(share: float) -> Callable[[Path], None]:
    """4 KiB of zeros, at this share of the file."""

    def damage(file: Path) -> None:
        with file.open("r+b") as opened:
            opened.seek(int(file.stat().st_size * share) // 4096 * 4096)
            opened.write(bytes(4096))

    return damage


def cut(share: float) -> Callable[[Path], None]:
    return lambda file: os.truncate(file, int(file.stat().st_size * share))


def cut_by(count: int) -> Callable[[Path], None]:
    return lambda file: os.truncate(file, file.stat().st_size - count)


def cut_after_a_write(file: Path) -> None:
    """Cut where a write ends: nothing that is left looks damaged."""
    content = file.read_bytes()
    os.truncate(file, list(wal.batches(content))[-2].end)


def torn(share: float) -> Callable[[Path], None]:
    """A write that a crash tore: the first part of a whole one, which nobody acknowledged."""

    def damage(file: Path) -> None:
        content = file.read_bytes()
        start = list(wal.batches(content))[-2].end
        with file.open("ab") as opened:
            opened.write(content[start : start + int((len(content) - start) * share)])

    return damage


def grow(more: bytes) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(file.read_bytes() + more)


def delete(file: Path) -> None:
    file.unlink()


def kind(wanted: int) -> Callable[[Path], None]:
    """The kind of a fragment in the middle is another one."""

    def damage(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[list(wal.batches(bytes(content)))[100].end + 6] = wanted
        file.write_bytes(content)

    return damage


WAL, TABLE, MARK = "*.log", "*.sst", mark.NAME
AFTER_A_KILL = [
    (WAL, flip(0.0), REFUSED),
    (WAL, flip(0.1), REFUSED),
    (WAL, flip(0.5), REFUSED),
    (WAL, kind(5), REFUSED),  # RocksDB would never end
    (WAL, flip(0.9999), REFUSED),  # the last record: it looks like a torn one
    (WAL, zeros(0.0), REFUSED),
    (WAL, zeros(0.5), REFUSED),
    (WAL, zeros(1.0), REFUSED),
    (WAL, cut(0.0), REFUSED),
    (WAL, cut(0.5), REFUSED),
    (WAL, cut_by(1), REFUSED),
    (WAL, cut_after_a_write, REFUSED),
    (WAL, delete, REFUSED),
    (WAL, torn(0.01), READS),
    (WAL, torn(0.5), READS),
    (WAL, torn(0.99), READS),
    (WAL, grow(bytes(5000)), READS),
    (WAL, grow(bytes(range(256)) * 20), READS),
    (MARK, flip(0.0), READS),
    (MARK, flip(0.99), READS),
    (MARK, cut(0.0), READS),
    (MARK, delete, READS),
    ("MANIFEST-*", flip(0.5), REFUSED),
    ("MANIFEST-*", cut(0.5), REFUSED),
    ("MANIFEST-*", delete, REFUSED),
    ("CURRENT", flip(0.5), REFUSED),
    ("CURRENT", cut(0.0), REFUSED),
    ("CURRENT", delete, REFUSED),
    ("[!A]*", delete, REFUSED),  # everything but the mark
    ("OPTIONS-*", delete, READS),
]
AFTER_A_STOP = [
    (TABLE, flip(0.1), SAYS),
    (TABLE, zeros(0.5), SAYS),
    (TABLE, flip(0.999), REFUSED),
    (TABLE, cut(0.5), REFUSED),
    (TABLE, delete, REFUSED),
    (WAL, delete, READS),  # it is empty
    (MARK, delete, READS),
    ("MANIFEST-*", flip(0.5), REFUSED),
    ("CURRENT", delete, REFUSED),
]


@pytest.mark.parametrize(("pattern", "damage", "expected"), AFTER_A_KILL)
def test_after_a_kill(
    killed: Path, tmp_path: Path, pattern: str, damage: Callable[[Path], None], expected: str
) -> None:
    check(killed, tmp_path / "data", pattern, damage, expected)


@pytest.mark.parametrize(("pattern", "damage", "expected"), AFTER_A_STOP)
def test_after_a_stop(
    stopped: Path, tmp_path: Path, pattern: str, damage: Callable[[Path], None], expected: str
) -> None:
    check(stopped, tmp_path / "data", pattern, damage, expected)


def check(whole: Path, folder: Path, pattern: str, damage: Callable[[Path], None], expected: str) -> None:
    shutil.copytree(whole, folder)
    for file in (folder / "log").glob(pattern):
        damage(file)
    before = contents(folder)
    for read_only in (True, False):
        assert opened(folder, read_only=read_only) == expected
        if expected == REFUSED:
            assert contents(folder) == before  # nothing was repaired, and nothing deleted


def opened(folder: Path, *, read_only: bool) -> str:
    log, said = unless_bad(lambda: EmbeddedLog(folder, read_only=read_only))
    if log is None:
        assert f"streamer recover --data {folder}" in said
        return REFUSED
    source = LogSource(log)
    source.seek({LOG: 0})
    records, said = unless_bad(lambda: source.poll(EVENTS + 1, 0.0))
    log.close()
    if records is None:
        assert f"streamer recover --data {folder}" in said
        return SAYS
    assert [record.offset for record in records] == list(range(EVENTS))
    return READS


def unless_bad(act: Callable[[], Found]) -> tuple[Found | None, str]:
    try:
        return act(), ""
    except BadState as error:
        return None, str(error)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in (folder / "log").iterdir()
        if path.suffix in (".log", ".sst") or path.name.startswith(("MANIFEST", "CURRENT", mark.NAME))
    }


@pytest.mark.parametrize("known", [None, 100])
@pytest.mark.parametrize("damage", [flip(0.1), flip(0.5), zeros(0.5), kind(5)])
def test_whole_writes_behind_damage_are_enough_to_refuse(
    killed: Path, tmp_path: Path, damage: Callable[[Path], None], known: int | None
) -> None:
    """After a power cut the mark may be a second old, and a data directory of an earlier version has none."""
    shutil.copytree(killed, tmp_path / "data")
    (tmp_path / "data/log" / mark.NAME).unlink()
    if known is not None:
        mark.write(tmp_path / "data/log", mark.Mark(end=known))
    (file,) = wal.files(tmp_path / "data/log")
    damage(file)
    with pytest.raises(BadState, match="whole writes are behind a damaged part of its write-ahead log"):
        EmbeddedLog(tmp_path / "data")


@pytest.mark.parametrize("left", [6, 7, 8])
def test_a_write_near_the_end_of_a_block_is_no_damage(tmp_path: Path, left: int) -> None:
    """Where a block has 7 bytes left, the next write begins there with an empty part. It was taken for damage, and the start refused."""
    log = EmbeddedLog(tmp_path / "running")
    (file,) = wal.files(tmp_path / "running/log")
    for _ in range(2):
        before = file.stat().st_size
        log.publish([Message("clicks", b"u", bytes(10_000))])
    overhead, end = file.stat().st_size - before - 10_000, wal.BLOCK_BYTES - left
    log.publish([Message("clicks", b"u", bytes(end - file.stat().st_size - overhead))])
    assert file.stat().st_size == end
    for _ in range(3):
        log.publish([Message("clicks", b"u", b"{}")])
    shutil.copytree(tmp_path / "running", tmp_path / "data")
    log.close()
    assert wal.survey(tmp_path / "data/log").unsound is False
    opened = EmbeddedLog(tmp_path / "data")
    assert opened.end == 6
    opened.close()


def test_what_comes_behind_damage_is_not_sound_although_it_follows_in_number(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "running")
    for _ in range(3):
        log.publish([Message("clicks", b"u", b"{}")])
    shutil.copytree(tmp_path / "running", tmp_path / "data")
    log.close()
    (file,) = wal.files(tmp_path / "data/log")
    content = file.read_bytes()
    ends = [batch.end for batch in wal.batches(content)]
    file.write_bytes(content[: ends[1]] + b"torn" * 5 + content[ends[1] :])
    found = wal.survey(tmp_path / "data/log")
    assert (found.sound_bytes, found.unsound, found.dropped_batches) == ({file: ends[1]}, True, len(ends) - 2)


def test_a_gap_between_the_tables_and_the_write_ahead_log_is_refused(tmp_path: Path) -> None:
    """A file of the write-ahead log that is gone leaves one, if there is a later file."""
    log = write(tmp_path / "running")
    log._rocks.delete_range(runs.key_of(900), runs.key_of(EVENTS))
    log._rocks.flush()
    log.publish([Message("clicks", b"u", b"{}")])
    shutil.copytree(tmp_path / "running", tmp_path / "data")
    log.close()
    with pytest.raises(BadState, match="the records from offset 900 to 999 are missing"):
        EmbeddedLog(tmp_path / "data")


def test_a_missing_mark_is_a_warning(killed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(killed, tmp_path / "data")
    (tmp_path / "data/log" / mark.NAME).unlink()
    EmbeddedLog(tmp_path / "data").close()
    assert "cannot be checked this time" in caplog.text
    caplog.clear()
    EmbeddedLog(tmp_path / "data").close()
    assert not caplog.text


def test_an_erasure_that_is_lost_is_refused(tmp_path: Path) -> None:
    """Otherwise the records of a forgotten user would be back."""
    log = write(tmp_path / "running")
    log._rocks.flush()
    log.rewrite(lambda record: record if record.offset else type(record)("", -1, 0, 0, None, None), 1)
    shutil.copytree(tmp_path / "running", tmp_path / "data")
    log.close()
    (file,) = wal.files(tmp_path / "data/log")
    os.truncate(file, 0)
    with pytest.raises(BadState, match="which were erased, are in it again"):
        EmbeddedLog(tmp_path / "data")


def test_the_mark_is_written_before_the_acknowledgement_and_synced_on_request(
    tmp_path: Path, synced: list[int]
) -> None:
    log = EmbeddedLog(tmp_path)
    file = (tmp_path / "log" / mark.NAME).stat().st_ino
    synced.clear()
    for count in range(1, 4):
        log.publish([Message("clicks", b"u", b"{}")])
        found = mark.read(tmp_path / "log")
        assert found is not None
        assert found.end == count
    assert synced == []  # RocksDB's own fsync for a group of records is enough
    log.sync_mark()
    log.sync_mark()
    assert synced == [file]
    log.close()
