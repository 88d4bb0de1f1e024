"""Starts on a damaged log: one that is refused changes nothing, and none succeeds while the log is being replaced."""

import shutil
from pathlib import Path

import pytest
from commands import run
from data_directory import make_live
from learning import digest, settings
from process import run as run_apart
from recovering import WAL, delete, flip, learn_log, recovered

from streamer.app import App
from streamer.core.errors import BadState
from streamer.storage.log import EmbeddedLog
from streamer.storage.state import RocksStore


def all_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("before", ["generations", "generation", "state", "log", "log.recovering"])
def test_an_interrupted_recovery_is_completed(
    killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    """Until then no start begins anew without the log, and a dry run leaves the new one alone."""
    data = tmp_path / "data"
    shutil.copytree(killed, data)
    make_live(data, "g1")
    flip(next((data / "log").glob(WAL)))
    shutil.copytree(data, tmp_path / "at once")
    at_once, rename = recovered(tmp_path / "at once"), Path.rename

    def stop(path: Path, to: Path) -> Path:
        if path.name == before:
            raise KeyboardInterrupt
        return rename(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stop)
        run("recover", "--data", data, code=130)
    left = all_files(data)
    with pytest.raises(BadState, match=rf"was interrupted: run `streamer recover --data {data}`"):
        App(settings(data=str(data)))
    assert recovered(data, "--dry-run") == {**at_once, "moved": {}}
    assert all_files(data) == left
    assert recovered(data) == at_once
    assert {str(path) for path in data.iterdir()} == {
        str(data / path.relative_to(tmp_path / "at once")) for path in (tmp_path / "at once").iterdir()
    }
    assert at_once["moved"].keys() == {"generations", "generation", "state", "log"}
    for folder in (data, tmp_path / "at once"):
        learn_log(folder)
    assert digest(data) == digest(tmp_path / "at once")


def test_a_recovery_that_is_interrupted_as_it_makes_a_state_is_completed(
    killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state that began at 0 would be refused, as the log begins later."""
    data = tmp_path / "data"
    shutil.copytree(killed, data)
    log = EmbeddedLog(data)
    log.trim(120, 1, older_than_ms=10**15)
    log.close()
    (data / "state/CURRENT").unlink()
    delete(next((data / "log").glob("*.sst")))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RocksStore, "commit", stop)
        run("recover", "--data", data, code=130)
    assert (data / "state/CURRENT").exists()
    report = recovered(data)
    assert report["begin"] >= 100
    assert digest(data).offsets == {"log/0": report["begin"]}


def test_a_recovery_that_cannot_write_says_so(killed: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(killed, data)
    flip(next((data / "log").glob(WAL)))
    (data / "log.recovering").touch()
    said = run("recover", "--data", data, code=1)
    assert "cannot recover the log in" in said
    assert said.rstrip().endswith("mend that, and run it again")


def test_no_streamer_can_start_while_a_log_is_recovered(
    killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the new log takes the place of the old one, although state and log were opened and closed before."""
    data, said, rename = tmp_path / "data", list[str](), Path.rename
    shutil.copytree(killed, data)
    flip(next((data / "log").glob(WAL)))

    def start_too(path: Path, to: Path) -> Path:
        if path.name == "log":
            said.append(run_apart("serve", "--data", data, "--port", "0", code=78))
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", start_too)
    assert recovered(data)["gone"]
    assert "in use by another process" in said[0]


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
