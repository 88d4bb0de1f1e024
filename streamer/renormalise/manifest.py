"""The files of a trained generation: one safetensors file for each learner, one for the ids, and a manifest.

The manifest is written last and replaced as a whole, so a generation without one is incomplete. It holds the size and the
SHA-256 of every file, and no time: the same history and state give the same bytes.
Only this file imports safetensors, a format that holds arrays and no code.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from streamer.core.arrays import Array
from streamer.core.errors import BadGeneration
from streamer.renormalise.churn import Churn
from streamer.renormalise.training import RefittedTables
from streamer.storage.files import read_sealed, sealed, write_atomically
from streamer.storage.generations import MANIFEST

FORMAT = 1
_IDS, _SUFFIX = "ids", ".safetensors"


class File(msgspec.Struct, frozen=True):
    """Size and checksum of one file."""

    size_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a generation's manifest."""

    format: int = FORMAT
    generation: str
    parent: str
    cut: dict[str, int]  # topic/partition -> the next offset
    events: int  # how many it was trained on
    settings: dict[str, Any]  # those that the state depends on
    trained: dict[str, list[str]]  # learner -> its tables
    candidate: str  # how it was trained, as streamer.renormalise.training.candidate reads it
    churn: dict[str, Churn]  # learner -> how much the retraining changes it
    files: dict[str, File] = {}


def write(folder: Path, manifest: Manifest, found: RefittedTables) -> Manifest:
    """Write the files of a generation into `folder` durably, the manifest last; returns it with the files' checksums."""
    contents = {_IDS + _SUFFIX: save({**_packed("users", found.user_ids), **_packed("items", found.item_ids)})}
    for learner, tables in found.tables.items():
        contents[learner + _SUFFIX] = save({name: np.ascontiguousarray(values) for name, values in tables.items()})
    files = {name: File(len(content), hashlib.sha256(content).hexdigest()) for name, content in contents.items()}
    for name, content in contents.items():
        with (folder / name).open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
    manifest = msgspec.structs.replace(manifest, files=files)
    content = msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"))
    write_atomically(folder / MANIFEST, sealed(content))
    return manifest


def written(folder: Path) -> bool:
    """Whether the files of a generation are complete: its manifest is there."""
    return (folder / MANIFEST).exists()


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest alone; raises BadGeneration for one that is missing, damaged or of another format."""
    try:
        manifest = read_sealed(folder / MANIFEST, Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise BadGeneration(f"the manifest in {folder} cannot be read: {error}; retrain") from None
    if manifest.format != FORMAT:
        raise BadGeneration(
            f"the manifest in {folder} has format {manifest.format}, this streamer reads {FORMAT}: retrain"
        )
    return manifest


def look(folder: Path) -> None:
    """Compare the files of a generation with its manifest by their sizes; raises BadGeneration. Cost: some 100 us."""
    for name, file in read_manifest(folder).files.items():
        size = (folder / name).stat().st_size if (folder / name).is_file() else None
        if size != file.size_bytes:
            found = "missing" if size is None else f"damaged: {size:,} bytes, not {file.size_bytes:,}"
            raise BadGeneration(f"{name} in {folder} is {found}; it is not used: retrain")


def read(folder: Path) -> tuple[Manifest, RefittedTables]:
    """Read what `write` wrote; raises BadGeneration for a file that is missing, damaged, or not as the manifest says."""
    manifest = read_manifest(folder)
    ids = _load(folder, _IDS + _SUFFIX, manifest.files)
    tables = {}
    for learner, names in manifest.trained.items():
        tables[learner] = _load(folder, learner + _SUFFIX, manifest.files)
        if sorted(tables[learner]) != sorted(names):
            raise BadGeneration(
                f"{learner + _SUFFIX} in {folder} holds {sorted(tables[learner])}, not {names}: retrain"
            )
    return manifest, RefittedTables(_unpacked("users", ids), _unpacked("items", ids), tables, manifest.churn)


def erase(folder: Path, user_ids: Collection[str], of_users: Callable[[str, str], bool]) -> None:
    """Remove the rows of users from the files of a generation; `of_users(learner, table)`: whether a table has one row per user.

    Files that cannot be read, for example after a crash in this function, are deleted: the state made from them does not need them.
    """
    try:
        manifest, found = read(folder) if written(folder) else (None, None)
    except BadGeneration:
        manifest = found = None
    if manifest is None or found is None:
        for file in folder.glob(f"*{_SUFFIX}"):
            file.unlink()
        (folder / MANIFEST).unlink(missing_ok=True)
        return
    kept = [n for n, user_id in enumerate(found.user_ids) if user_id not in user_ids]
    if len(kept) == len(found.user_ids):
        return
    tables = {
        learner: {name: values[kept] if of_users(learner, name) else values for name, values in named.items()}
        for learner, named in found.tables.items()
    }
    for file in folder.glob(f"*{_SUFFIX}"):
        file.unlink()  # and not overwritten: a backup may hard-link it
    left = [found.user_ids[n] for n in kept]
    write(folder, manifest, dataclasses.replace(found, user_ids=left, tables=tables))


def _load(folder: Path, name: str, files: Mapping[str, File]) -> dict[str, Array]:
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise BadGeneration(f"{name} in {folder} cannot be read: {error}; retrain") from None
    wanted, found = files.get(name), File(len(content), hashlib.sha256(content).hexdigest())
    if found != wanted:
        expected = f"{wanted.size_bytes} bytes, SHA-256 {wanted.sha256[:12]}" if wanted else "no such file"
        raise BadGeneration(
            f"{name} in {folder} is damaged: the manifest says {expected}, found {found.size_bytes} bytes, {found.sha256[:12]}; "
            "it is not used: retrain"
        )
    try:
        tables: dict[str, Array] = load(content)
    except (SafetensorError, ValueError) as error:
        raise BadGeneration(f"{name} in {folder} cannot be read: {error}; retrain") from None
    return tables


def _packed(name: str, ids: Sequence[str]) -> dict[str, Array]:
    encoded = [one.encode() for one in ids]
    octets = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    return {name: octets, f"{name}.lengths": np.array([len(one) for one in encoded], dtype=np.int32)}


def _unpacked(name: str, tensors: Mapping[str, Array]) -> list[str]:
    octets, ends = tensors[name].tobytes(), np.cumsum(tensors[f"{name}.lengths"]).tolist()
    return [octets[start:stop].decode() for start, stop in zip([0, *ends[:-1]], ends, strict=bool(ends))]
