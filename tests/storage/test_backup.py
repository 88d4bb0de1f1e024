"""Backups: taken under load, restored exactly, and refused when they are incomplete or damaged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from commands import run
from learning import digest
from process import LEARNED, Streamer, stream_file, streamer

ROWS = 6000
COMMITS = ("--commit-interval-s", "0.1")


def backed_up(process: Streamer, destination: Path) -> dict[str, object]:
    """Back up a running streamer with the command; its output."""
    found: dict[str, object] = json.loads(run("backup", destination, "--url", process.url, "--json"))
    return found


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """A backup of 300 rows, made without a running streamer."""
    run("serve", "--data", tmp_path / "d", "--port", "0", "--replay", stream_file(tmp_path, 300), "--until-drained")
    run("backup", tmp_path / "b", "--data", tmp_path / "d")
    return tmp_path / "b"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_backup_taken_under_load_continues_to_the_same_state(tmp_path: Path) -> None:
    path = stream_file(tmp_path, ROWS)
    with streamer(tmp_path / "d", *COMMITS, "--replay", path, "--rate", "800", "--max-records", "100") as process:
        process.wait_for(LEARNED, 800)
        made = process.call("AdminService/Backup", directory=str(tmp_path / "b"))
        process.stop()
    run("restore", tmp_path / "b", "--data", tmp_path / "r")
    restored = digest(tmp_path / "r")
    assert 800 < restored.offsets["log/0"] < ROWS, "the backup was not taken in mid-progress"
    assert restored.digest == made["digest"] == run("inspect", "--digest", "--data", tmp_path / "r").splitlines()[-1]
    for data in (tmp_path / "d", tmp_path / "r"):  # the log's next row of the file came along
        run("serve", "--data", data, "--port", "0", "--replay", path, "--until-drained")
    assert digest(tmp_path / "r") == digest(tmp_path / "d")
    assert digest(tmp_path / "r").offsets["log/0"] == path.read_bytes().count(b"\n")


def test_a_backup_writes_only_to_its_folder(tmp_path: Path) -> None:
    run("serve", "--data", tmp_path / "d", "--port", "0", "--replay", stream_file(tmp_path, 300), "--until-drained")
    before = contents(tmp_path / "d")
    run("backup", tmp_path / "b", "--data", tmp_path / "d")
    assert contents(tmp_path / "d") == before
    made = contents(tmp_path / "b")
    run("restore", tmp_path / "b", "--data", tmp_path / "r")
    assert contents(tmp_path / "b") == made
    run("serve", "--data", tmp_path / "r", "--port", "0", "--replay", stream_file(tmp_path, 600), "--until-drained")
    assert contents(tmp_path / "b") == made  # what was put back learned on without it


def test_an_unsuitable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letters").write_text("of love")
    with streamer(tmp_path / "d") as process:
        sentence = run("backup", tmp_path / "d" / "inside", "--url", process.url, code=1)
        assert "cannot lie inside it" in sentence
        assert not (tmp_path / "d" / "inside").exists()
        assert "is not empty" in run("backup", tmp_path / "full", "--url", process.url, code=1)
        assert "in use by another process" in run("backup", tmp_path / "b", "--data", tmp_path / "d", code=78)
        backed_up(process, tmp_path / "b")
        process.stop()
    assert "is not empty" in run("restore", tmp_path / "b", "--data", tmp_path / "d", code=1)
    assert "no state in" in run("backup", tmp_path / "c", "--data", tmp_path / "nothing", code=78)
    assert contents(tmp_path / "full") == {"letters": b"of love"}


def cut_off(backup: Path) -> None:
    (backup / "backup.json").unlink()


def flip(backup: Path) -> None:
    table = max((backup / "state").glob("*.sst"), key=lambda path: path.stat().st_size)
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 1
    shutil.copyfile(table, copy := table.with_suffix(".copy"))
    copy.write_bytes(content)
    copy.replace(table)  # it may be linked to the original


def lose(backup: Path) -> None:
    next((backup / "log").glob("*.sst")).unlink()


def escape(backup: Path) -> None:
    made = json.loads((backup / "backup.json").read_text())
    made["files"][0]["path"] = "../outside"
    (backup / "backup.json").write_text(json.dumps(made))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [(cut_off, "is not a complete backup"), (flip, "is damaged"), (lose, "is damaged"), (escape, "is damaged")],
)
def test_an_incomplete_or_damaged_backup_is_not_restored(
    backup: Path, tmp_path: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    spoil(backup)
    found = run("restore", backup, "--data", tmp_path / "r", code=78)
    assert sentence in found
    assert "another" in found
    assert not (tmp_path / "r").exists()


def test_a_damaged_state_is_not_backed_up(tmp_path: Path) -> None:
    run("serve", "--data", tmp_path / "d", "--port", "0", "--replay", stream_file(tmp_path, 300), "--until-drained")
    flip(tmp_path / "d")
    assert "damaged" in run("backup", tmp_path / "b", "--data", tmp_path / "d", code=78)
    assert contents(tmp_path / "b") == {}


def test_an_interrupted_restore_cannot_be_opened(backup: Path, tmp_path: Path) -> None:
    run("restore", backup, "--data", tmp_path / "r")
    for current in (tmp_path / "r").rglob("CURRENT"):
        current.unlink()  # they come last
    assert "restore a backup" in run("serve", "--data", tmp_path / "r", "--port", "0", code=78)


def test_a_backup_lists_its_content(backup: Path, tmp_path: Path) -> None:
    made = msgspec.json.decode((backup / "backup.json").read_bytes())
    assert {file["path"] for file in made["files"]} == set(contents(backup)) - {"backup.json"}
    assert made["state"]["digest"] == digest(backup).digest
    assert made["log_end"] == made["state"]["offsets"]["log/0"]
