"""Generations on disk: the pointer to the live one, the records, and the repair after a crash between two writes."""

import hashlib
from pathlib import Path

import pytest
from learning import settings

from streamer.app import open_generation
from streamer.core.errors import BadState, StreamerError
from streamer.storage import generations
from streamer.storage.generations import (
    GenerationRecord,
    live,
    next_id,
    prune,
    read_record,
    read_records,
    repair,
    set_live,
    state_folder,
    write_record,
)
from streamer.storage.state import RocksStore


def made(folder: Path, name: str, *stages: generations.Stage, parent: str = "g0") -> GenerationRecord:
    """Make a generation with a state and a record with these stages."""
    state_folder(folder, name).mkdir(parents=True)
    one = GenerationRecord(id=name, parent="" if name == "g0" else parent)
    for stage in stages:
        one = one.at_stage(stage)
    return write_record(folder, one) if name != "g0" or stages else one


def stages(folder: Path) -> dict[str, str]:
    return {one.id: one.stage for one in read_records(folder)}


def states(folder: Path) -> list[str]:
    return [one.id for one in read_records(folder) if state_folder(folder, one.id).exists()]


def test_without_a_pointer_the_first_generation_is_live(tmp_path: Path) -> None:
    assert live(tmp_path) == live(tmp_path / "nothing") == "g0"
    set_live(tmp_path, "g12")
    assert live(tmp_path) == "g12"
    assert (tmp_path / "generation").read_text() == "g12 " + hashlib.sha256(b"g12").hexdigest()[:16] + "\n"
    assert [path.name for path in tmp_path.iterdir()] == ["generation"]


def test_a_pointer_is_durable_before_it_replaces_the_old_one(tmp_path: Path, synced: list[int]) -> None:
    set_live(tmp_path, "g1")
    assert synced == [(tmp_path / "generation").stat().st_ino, tmp_path.stat().st_ino]


@pytest.mark.parametrize(
    "content", [b"", b"g", b"g01\n", b"g-1\n", b"../state\n", b"g1 g2\n", b"\xff\xfe", b"g1\0", b"g1"]
)
def test_a_damaged_pointer_is_refused_with_advice(tmp_path: Path, content: bytes) -> None:
    """It is never taken for g0, which may be months old."""
    (tmp_path / "generation").write_bytes(content)
    with pytest.raises(BadState, match=r"generation"):
        live(tmp_path)
    with pytest.raises(BadState):
        RocksStore(tmp_path)
    assert not (tmp_path / "state").exists()


def test_an_id_written_by_hand_is_taken_and_gets_its_checksum_at_the_next_start(tmp_path: Path) -> None:
    made(tmp_path, "g3", "live")
    (tmp_path / "generation").write_text("g3\n")
    assert live(tmp_path) == "g3"
    repair(tmp_path)
    line = (tmp_path / "generation").read_bytes()
    for at in range(len(line)):
        for bit in range(8):
            (tmp_path / "generation").write_bytes(line[:at] + bytes([line[at] ^ 1 << bit]) + line[at + 1 :])
            with pytest.raises(BadState, match="generation"):
                live(tmp_path)


def test_without_a_pointer_g0_is_not_taken_for_live_where_a_later_one_was(tmp_path: Path) -> None:
    made(tmp_path, "g0")
    made(tmp_path, "g1", "cut", "rejected")
    assert live(tmp_path) == "g0"
    made(tmp_path, "g2", "cut", "live")
    with pytest.raises(BadState, match="which names the live generation, is missing"):
        live(tmp_path)


def test_repair_deletes_no_trained_generation_whose_record_is_lost(tmp_path: Path) -> None:
    made(tmp_path, "g0")
    for name in ("g1", "g2"):
        made(tmp_path, name, "kept")
        (tmp_path / "generations" / name / "life.json").unlink()
    (tmp_path / "generations" / "g1" / "manifest.json").write_bytes(b"{}")
    repair(tmp_path)
    assert states(tmp_path) == ["g0", "g1"]
    assert "is missing: restore it from a backup" in read_records(tmp_path)[1].why


def test_a_lost_or_wrong_pointer_creates_no_new_state(tmp_path: Path) -> None:
    made(tmp_path, "g3", "live")
    with pytest.raises(BadState, match="is missing"):
        live(tmp_path)
    set_live(tmp_path, "g4")
    with pytest.raises(BadState, match="no state of generation g4"):
        open_generation(settings(data=str(tmp_path)))
    assert not state_folder(tmp_path, "g4").exists()


def test_ids_are_never_used_twice(tmp_path: Path) -> None:
    assert next_id(tmp_path) == "g1"
    for name in ("g1", "g2", "g10"):
        made(tmp_path, name, "rejected")
    (tmp_path / "generations" / "notes").mkdir()
    assert next_id(tmp_path) == "g11"
    generations.drop_state(tmp_path, "g10")
    assert next_id(tmp_path) == "g11"
    assert [one.id for one in read_records(tmp_path)] == ["g1", "g2", "g10"]


def test_a_missing_generation_is_refused_with_a_list_of_the_others(tmp_path: Path) -> None:
    made(tmp_path, "g0")
    made(tmp_path, "g1", "live")
    with pytest.raises(StreamerError, match="there are: g0, g1"):
        read_record(tmp_path, "g7")


def test_a_damaged_record_does_not_hide_the_others(tmp_path: Path) -> None:
    made(tmp_path, "g0")
    made(tmp_path, "g1", "live")
    (tmp_path / "generations" / "g1" / "life.json").write_bytes(b'{"id":"g1","mom')
    with pytest.raises(BadState, match="g1"):
        read_record(tmp_path, "g1")
    assert stages(tmp_path) == {"g0": "live", "g1": "failed"}
    assert "cannot be read" in read_records(tmp_path)[1].why


@pytest.mark.parametrize(("kept", "left"), [(1, ["g2"]), (2, ["g2", "g4"]), (3, ["g2", "g3", "g4"]), (9, ["g0", "g1", "g2", "g3", "g4"])])  # fmt: skip
def test_pruning_keeps_the_states_of_the_live_and_the_newest_generations(
    tmp_path: Path, kept: int, left: list[str]
) -> None:
    for name in ("g0", "g1", "g2", "g3", "g4"):
        made(tmp_path, name, "kept")
    set_live(tmp_path, "g2")
    prune(tmp_path, kept)
    assert states(tmp_path) == left
    assert len(read_records(tmp_path)) == 5  # records stay


def test_repair_makes_records_agree_with_the_pointer(tmp_path: Path) -> None:
    """The swap is only the pointer; the process may be killed before it writes the records."""
    made(tmp_path, "g0")
    made(tmp_path, "g1", "cut", "trained", "catching up", "gate")
    set_live(tmp_path, "g1")
    (tmp_path / "generations" / "g2" / "state").mkdir(parents=True)  # a cut without a record
    repair(tmp_path)
    assert stages(tmp_path) == {"g0": "kept", "g1": "live"}
    assert not (tmp_path / "generations" / "g2").exists()
    set_live(tmp_path, "g0")  # a rollback
    repair(tmp_path)
    assert stages(tmp_path) == {"g0": "live", "g1": "rolled back"}
    before = read_records(tmp_path)
    repair(tmp_path)
    assert read_records(tmp_path) == before


def test_repair_keeps_a_live_generation_whose_record_is_lost(tmp_path: Path) -> None:
    state_folder(tmp_path, "g1").mkdir(parents=True)
    set_live(tmp_path, "g1")
    repair(tmp_path)
    assert stages(tmp_path) == {"g1": "live"}
    assert states(tmp_path) == ["g1"]
