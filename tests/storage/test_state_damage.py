"""A damaged, lost or cut file of the state store is never ignored, and no deleted file is taken for one."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from rocksdict import Rdict

from streamer.core.errors import BadState
from streamer.core.events import LOG
from streamer.core.protocols import Row
from streamer.storage.state import RocksStore


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 rows in one table file, in a directory whose name has a word that once misled the error handling."""
    folder = tmp_path_factory.mktemp("whole")
    store = RocksStore(folder)
    random = np.random.default_rng(1)
    store.commit([Row("t", b"%05d" % n, random.bytes(200)) for n in range(2000)], {LOG: 7})
    store._rocks.flush()
    store.close()
    return folder


def damaged(whole: Path, folder: Path, at: float) -> Path:
    """A copy with eight bytes changed in its only table file, at this share of its length."""
    shutil.copytree(whole, folder)
    (table,) = (folder / "state").glob("*.sst")
    spot = min(int(table.stat().st_size * at), table.stat().st_size - 8)
    with table.open("r+b") as file:
        file.seek(spot)
        was = file.read(8)
        file.seek(spot)
        file.write(bytes(255 - byte for byte in was))
    return folder


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("at", [0.0, 0.1, 0.35, 0.6, 0.85, 0.93, 0.96, 0.98, 0.99, 0.995, 0.999, 1.0])
def test_a_damaged_table_file_is_never_ignored(whole: Path, tmp_path: Path, at: float, read_only: bool) -> None:
    folder = damaged(whole, tmp_path / "damaged", at)
    store = unless_bad(lambda: RocksStore(folder, read_only=read_only))
    if isinstance(store, BadState):
        assert "in use" not in str(store)
        assert "restore a backup" in str(store)
        return
    scanned = unless_bad(lambda: len(list(store.scan("t"))))
    values = unless_bad(lambda: store.read("t", [b"%05d" % n for n in range(2000)]))
    store.close()
    assert "is damaged" in str(scanned) or scanned == 2000  # what was damaged held none of it
    assert isinstance(values, BadState) or None not in values


Found = TypeVar("Found")


def unless_bad(look: Callable[[], Found]) -> Found | BadState:
    try:
        return look()
    except BadState as error:
        return error


def test_without_a_status_check_a_scan_of_a_damaged_file_ends_early(whole: Path, tmp_path: Path) -> None:
    """rocksdict's own iterator ends silently, which is why `Rocks.scan` asks for the status."""
    store = RocksStore(damaged(whole, tmp_path / "damaged", 0.6), read_only=True)
    assert 0 < sum(1 for _ in store._rocks._db.items()) < 2000
    with pytest.raises(BadState, match="is damaged"):
        list(store.scan("t"))
    with pytest.raises(BadState, match="is damaged"):
        store.digest()
    store.close()


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("lost", ["*.sst", "MANIFEST-*", "CURRENT"])
def test_a_lost_file_is_never_ignored(whole: Path, tmp_path: Path, lost: str, read_only: bool) -> None:
    folder = tmp_path / "lost"
    shutil.copytree(whole, folder)
    for file in (folder / "state").glob(lost):
        file.unlink()
    tables = sorted((folder / "state").glob("*.sst"))
    with pytest.raises(BadState):
        RocksStore(folder, read_only=read_only)
    assert sorted((folder / "state").glob("*.sst")) == tables  # nothing was begun anew over it


def test_a_cut_write_ahead_log_gives_the_batches_before_the_cut(tmp_path: Path) -> None:
    store = RocksStore(tmp_path)
    for n in range(100):
        store.commit([Row("t", b"a", b"%d" % n), Row("t", b"b", b"%d" % n)], {LOG: n})
    for share in (0.9, 0.5, 0.1):
        copy = tmp_path / f"cut {share}"
        shutil.copytree(tmp_path / "state", copy / "state")  # as a kill leaves it
        (wal,) = (copy / "state").glob("*.log")
        os.truncate(wal, int(wal.stat().st_size * share))
        again = RocksStore(copy)
        offset = again.offsets()[LOG]
        assert abs(offset - 100 * share) < 3
        assert again.read("t", [b"a", b"b"]) == [b"%d" % offset] * 2
        again.close()
    store.close()


def test_a_file_deleted_while_a_reader_opens_does_not_count_as_damage(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once four in seventy reads beside a busy owner said that a backup must be restored."""
    tries = list[str]()

    def opened(path: str, *arguments: object, **more: object) -> Rdict:
        tries.append(path)
        if len(tries) < 3:
            raise Exception("IO error: No such file or directory: while stat a file for size")  # as rocksdict does
        return Rdict(path, *arguments, **more)

    monkeypatch.setattr("streamer.storage.rocks.Rdict", opened)
    reader = RocksStore(whole, read_only=True)
    assert len(list(reader.scan("t"))) == 2000
    reader.close()
    tries.clear()
    with pytest.raises(BadState):
        RocksStore(whole)  # an owner has nobody to wait for
    assert len(tries) == 1


def test_a_reader_opens_again_if_the_owner_has_written_a_table_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its write-ahead log may be gone before it was read: a busy log was said to lack records every few reads."""
    owner, opened = RocksStore(tmp_path), list[str]()
    owner.commit([Row("t", b"a", b"1")], {LOG: 1})

    def open_late(path: str, *arguments: object, **more: object) -> Rdict:
        opened.append(path)
        found = Rdict(path, *arguments, **more)
        if len(opened) == 1:
            owner.commit([Row("t", b"a", b"2")], {LOG: 2})
            owner._rocks.flush()
        return found

    monkeypatch.setattr("streamer.storage.rocks.Rdict", open_late)
    reader = RocksStore(tmp_path, read_only=True)
    assert (len(opened), reader.read("t", [b"a"])) == (2, [b"2"])
    reader.close()
    owner.close()


def test_a_reader_opens_again_if_the_owner_deletes_a_write_ahead_log_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is no longer needed does not lead to the next one, which was taken for damage."""
    owner, opened = RocksStore(tmp_path), list[str]()
    (old,) = owner.path.glob("*.log")
    owner.commit([Row("t", b"a", b"1")], {LOG: 1})
    content = old.read_bytes()
    for offset in (2, 3):
        owner._rocks.flush()
        owner.commit([Row("t", b"a", b"%d" % offset)], {LOG: offset})
    old.write_bytes(content)

    def open_late(path: str, *arguments: object, **more: object) -> Rdict:
        opened.append(path)
        old.unlink(missing_ok=True)
        return Rdict(path, *arguments, **more)

    monkeypatch.setattr("streamer.storage.rocks.Rdict", open_late)
    reader = RocksStore(tmp_path, read_only=True)
    assert (len(opened), reader.read("t", [b"a"])) == (2, [b"3"])
    reader.close()
    owner.close()
