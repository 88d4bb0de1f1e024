"""Starts on a damaged log: one that is refused changes nothing, and none succeeds while the log is being replaced."""

import shutil
from pathlib import Path

import pytest
from learning import settings
from recovering import WAL

from streamer.app import App
from streamer.core.errors import BadState


def all_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_start_that_is_refused_changes_nothing(killed: Path, tmp_path: Path) -> None:
    """It used to cut the state's write-ahead log, and to begin a new log in the place of the one that is gone."""
    data = tmp_path / "data"
    shutil.copytree(killed, data)
    shutil.rmtree(data / "log")
    with next((data / "state").glob(WAL)).open("ab") as file:
        file.write(b"torn")
    before = all_files(data)
    with pytest.raises(BadState, match=r"there is no log in .*, but 400 events were read from one: `streamer recover"):
        App(settings(data=str(data)))
    assert all_files(data) == before


def test_a_start_that_fails_late_leaves_nothing_open(
    killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    shutil.copytree(killed, data)

    def fail(*_: object) -> None:
        raise BadState("late")

    with monkeypatch.context() as patch:
        patch.setattr("streamer.app.Maintenance", fail)
        with pytest.raises(BadState, match="late") as failed:
            App(settings(data=str(data)))
    App(settings(data=str(data))).close()
    assert failed.tb is not None  # with it, all that the first one opened would still be referred to
