"""Damage to a data directory: it is refused with a sentence, repaired, said, or changes nothing.

First what people have had, each with what is said of it; then random places. Each case damages a copy of a small data directory and
starts on it. `make soak` tries 200 places; a failure prints the seed and the place, and `SEED=n` tries the same places again.
"""

import os
import random
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from data_directory import Found, look, make

from streamer.storage.generations import read_record
from streamer.storage.log import EmbeddedLog

SEED = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
PARTS = ("state", "generations", "archive", "log", "generation")  # folders, and a file, of the data directory
NOT_DATA = ("LOCK", "LOG", "LOG.old")  # RocksDB's lock file and its diagnostic log
PAGE_BYTES = 4096

Damage = Callable[[bytes, random.Random], bytes | None]


def flipped_bit(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]


def cut_short(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def zeroed_page(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content)) // PAGE_BYTES * PAGE_BYTES
    return content[:at] + bytes(len(content[at : at + PAGE_BYTES])) + content[at + PAGE_BYTES :]


def deleted(content: bytes, chance: random.Random) -> None:
    return None


DAMAGES: tuple[Damage, ...] = (flipped_bit, cut_short, zeroed_page, deleted)


@dataclass(frozen=True)
class Place:
    """A file, and what is done to it."""

    path: str
    damage: Damage
    seed: int

    def __str__(self) -> str:
        return f"{self.damage.__name__} in {self.path}, place {self.seed}, SEED={SEED}"

    def harm(self, folder: Path) -> None:
        file = folder / self.path
        content = self.damage(file.read_bytes(), random.Random(self.seed))
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)


def places(folder: Path, count: int) -> list[Place]:
    """Random places, alike for the same seed: each part is as likely, then each of its files, then each damage."""
    chance = random.Random(SEED)
    files = {
        part: [
            path.relative_to(folder).as_posix()
            for path in sorted([folder / part, *(folder / part).rglob("*")])
            if path.is_file() and path.stat().st_size and not path.name.startswith(NOT_DATA)
        ]
        for part in PARTS
    }
    return [
        Place(chance.choice(files[chance.choice(PARTS)]), chance.choice(DAMAGES), chance.randrange(10**9))
        for _ in range(count)
    ]


@dataclass(frozen=True)
class Whole:
    """The undamaged data directory, and what a start on it comes to."""

    folder: Path
    found: Found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("damage")
    make(folder / "whole", folder / "aside")
    shutil.copytree(folder / "whole", folder / "copy")
    found = look(folder / "copy")
    assert (found.refused, found.said, found.deep) == ("", "", "")
    assert len(found.rows) == 251
    return Whole(folder / "whole", found)


def verdict(wanted: Found, found: Found) -> str:
    """Why the damage changed something in silence; empty when it did not."""
    if found.refused:
        return "" if len(found.refused) > 40 else f"refused without a sentence: {found.refused}"
    if found.answers != wanted.answers or found.digest != wanted.digest:
        return "" if found.said else f"other answers, or another state, and nobody is told; {found.deep}"
    if found.rows != wanted.rows:
        return "" if found.deep else "other rows in the archive, and nobody is told"
    return ""


def test_no_damage_changes_anything_in_silence(whole: Whole, tmp_path: Path) -> None:
    try_places(whole, tmp_path, 12)


@pytest.mark.soak
def test_no_damage_at_200_places_changes_anything_in_silence(whole: Whole, tmp_path: Path) -> None:
    try_places(whole, tmp_path, 200)


def try_places(whole: Whole, tmp_path: Path, count: int) -> None:
    for n, place in enumerate(places(whole.folder, count)):
        folder = tmp_path / str(n)
        shutil.copytree(whole.folder, folder)
        place.harm(folder)
        why = verdict(whole.found, look(folder))
        assert not why, f"{place}: {why}"
        shutil.rmtree(folder)


def remove(name: str) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        for path in [folder / name] if (folder / name).exists() else sorted(folder.glob(name)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return harm


def cut(name: str) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        path = sorted(folder.glob(name))[0]
        path.write_bytes(path.read_bytes()[:-40])

    return harm


def both(*harms: Callable[[Path], None]) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        for one in harms:
            one(folder)

    return harm


def trim_the_log(folder: Path) -> None:
    log = EmbeddedLog(folder)
    log.trim(100, 0, int(1000 * time.time()) + 1)
    assert log.begin() > 0
    log.close()


LIST = both(remove("archive/_archive.json"), remove("archive/_archive.copy.json"))
# What is damaged, how a start goes on, and what is said of it.
NOTICED = {
    "archive removed": (remove("archive"), "repaired", ""),
    "archive removed, and the log begins later": (both(remove("archive"), trim_the_log), "says", "there is no archive in .*, though the state has learned log/0 up to 251, and the log begins at offset .*run `streamer archive repair`"),
    "list of the archive deleted": (remove("archive/_archive.json"), "repaired", ""),
    "list of the archive and its copy deleted": (LIST, "refuses", "cannot read the archive's .*nor its copy: restore a backup, or move .* away"),
    "a file of the archive deleted": (remove("archive/topic=clicks/day=*/*.parquet"), "says", r"\.parquet is missing: run `streamer archive repair` \(\d more\)"),
    "a file of the archive cut short": (cut("archive/topic=clicks/day=*/*.parquet"), "says", r"\.parquet is damaged: .* bytes, not .*; run `streamer archive repair`"),
    "record of the live generation cut short": (cut("generations/g1/life.json"), "repaired", "the record of generation g1 in .* cannot be read"),
    "record of the live generation deleted": (remove("generations/g1/life.json"), "repaired", "the record of generation g1, .*, is missing"),
    "manifest of the live generation cut short": (cut("generations/g1/manifest.json"), "says", "the manifest in .*g1 cannot be read: .*; retrain"),
    "manifest of the live generation deleted": (remove("generations/g1/manifest.json"), "says", "the manifest in .*g1 cannot be read: .*; retrain"),
    "trained tables of the live generation deleted": (remove("generations/g1/ids.safetensors"), "says", "ids.safetensors in .*g1 is missing; .*retrain"),
    "name of the live generation deleted": (remove("generation"), "refuses", "which names the live generation, is missing: create it"),
    "name of the live generation is another one's": (lambda folder: (folder / "generation").write_text("g0 719430f6164e9380\n"), "refuses", "generation is damaged: g0 does not fit its checksum"),
    "state of the live generation deleted": (remove("generations/g1/state"), "refuses", "there is no state of generation g1"),
}  # fmt: skip


@pytest.mark.parametrize("what", NOTICED)
def test_a_start_notices_what_is_missing(what: str, whole: Whole, tmp_path: Path) -> None:
    harm, then, pattern = NOTICED[what]
    folder = tmp_path / "d"
    shutil.copytree(whole.folder, folder)
    harm(folder)
    found = look(folder)
    assert bool(found.refused) == (then == "refuses"), found
    assert re.search(pattern, found.refused or found.said), found.refused or found.said
    if then != "refuses":
        assert (found.digest, found.answers) == (whole.found.digest, whole.found.answers)
    if then == "repaired":
        again = look(folder)
        assert (again.said, again.deep, again.rows) == ("", "", whole.found.rows)
        assert read_record(folder, "g1").parent == "g0"
