"""The files of a generation: read back as written, the same bytes each time, and refused when damaged."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from streamer.core.errors import BadGeneration
from streamer.renormalise.churn import Churn
from streamer.renormalise.manifest import Manifest, read, write, written
from streamer.renormalise.training import RefittedTables
from streamer.storage.files import sealed

FOUND = RefittedTables(
    ["ann", "böb", "", "u" * 300],
    ["i1", "電影", "i3"],
    {
        "biased-mf": {
            "user": np.arange(12, dtype=np.float32).reshape(4, 3),
            "item": np.arange(9, dtype=np.float32).reshape(3, 3)[:, ::-1],  # not contiguous
        },
        "popularity": {"item": np.array([[1.5], [np.inf], [-0.0]], dtype=np.float64)},
    },
    {},
)


def said(**fields: object) -> Manifest:
    whole = {
        "generation": "g3",
        "parent": "g1",
        "cut": {"ratings/0": 7, "ratings/1": 9},
        "events": 16,
        "settings": {"seed": 1, "kinds": {"view": 0.5}},
        "trained": {"biased-mf": ["item", "user"], "popularity": ["item"]},
        "candidate": "window:30",
        "churn": dict[str, Churn](),
        **fields,
    }
    return msgspec.convert(whole, Manifest)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, said(), FOUND)
    return tmp_path


def test_files_are_read_as_they_were_written(folder: Path) -> None:
    says, found = read(folder)
    assert msgspec.structs.replace(says, files={}) == said()
    assert sorted(says.files) == ["biased-mf.safetensors", "ids.safetensors", "popularity.safetensors"]
    assert (found.user_ids, found.item_ids) == (FOUND.user_ids, FOUND.item_ids)
    for learner, tables in FOUND.tables.items():
        assert found.tables[learner].keys() == tables.keys()
        for name, values in tables.items():
            again = found.tables[learner][name]
            assert (again.dtype, again.shape) == (values.dtype, values.shape)
            assert again.tobytes() == np.ascontiguousarray(values).tobytes()


def test_a_generation_without_users_can_be_written(tmp_path: Path) -> None:
    nothing = RefittedTables([], [], {}, {})
    write(tmp_path, said(trained={}), nothing)
    assert read(tmp_path)[1] == nothing


def test_the_same_tables_give_the_same_bytes(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    backwards = {name: dict(reversed(tables.items())) for name, tables in reversed(FOUND.tables.items())}
    write(other, said(), RefittedTables(FOUND.user_ids, FOUND.item_ids, backwards, {}))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in other.iterdir()
    }


def test_a_generation_is_complete_or_has_no_manifest(tmp_path: Path) -> None:
    """The manifest is written last: before it, nothing counts as written."""
    in_the_way = tmp_path / ".manifest.json.new"
    in_the_way.mkdir()
    with pytest.raises(OSError, match="manifest"):
        write(tmp_path, said(), FOUND)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    assert not written(tmp_path)
    in_the_way.rmdir()
    write(tmp_path, said(), FOUND)
    assert written(tmp_path)


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def longer(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


@pytest.mark.parametrize("damage", [flipped, cut_off, emptied, longer, Path.unlink])
@pytest.mark.parametrize("name", ["biased-mf.safetensors", "ids.safetensors", "popularity.safetensors"])
def test_a_damaged_file_is_refused_by_name(folder: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(folder / name)
    with pytest.raises(BadGeneration, match=rf"{name} in .* retrain"):
        read(folder)


@pytest.mark.parametrize("damage", [flipped, cut_off, emptied, Path.unlink])
def test_a_damaged_manifest_is_refused(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder / "manifest.json")
    with pytest.raises(BadGeneration, match=r"manifest in .* cannot be read.*retrain"):
        read(folder)


def changed(folder: Path, **fields: object) -> None:
    says = {**msgspec.json.decode((folder / "manifest.json").read_bytes()), **fields}
    del says["sha256"]
    (folder / "manifest.json").write_bytes(sealed(msgspec.json.encode(says)))


def test_a_file_that_is_not_in_the_manifest_is_refused(folder: Path) -> None:
    changed(folder, files={})
    with pytest.raises(BadGeneration, match="no such file"):
        read(folder)


def test_tables_that_the_manifest_does_not_name_are_refused(folder: Path) -> None:
    changed(folder, trained={"biased-mf": ["item"]})
    with pytest.raises(BadGeneration, match="holds"):
        read(folder)


@pytest.mark.parametrize("other", [0, 2])
def test_another_format_is_refused(folder: Path, other: int) -> None:
    changed(folder, format=other)
    with pytest.raises(BadGeneration, match=f"format {other}, this streamer reads 1"):
        read(folder)
