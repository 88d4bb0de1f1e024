"""Generations on disk: which ones exist, the record of each, and which one is live.

The first generation, g0, is the folder `state`. Each later one is a folder `generations/<id>` with a complete state, the files
that it was made from (streamer.renormalise.manifest) and its record. The file `generation` has one line, the id of the live
generation and a checksum; without the file that is g0. Each state holds its own offsets, so replacing this file is the whole
swap. By hand, the id alone is written to it.
"""

import hashlib
import logging
import re
import shutil
import time
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from streamer.core.answers import Generation, Score
from streamer.core.errors import BadState, StreamerError
from streamer.storage.files import read_sealed, sealed, write_atomically

FIRST = "g0"
_POINTER, _RECORD, MANIFEST = "generation", "life.json", "manifest.json"
JOB, PROGRESS = "job.json", "progress.json"  # the training process's input, and its reports
_NAME = re.compile(r"g(0|[1-9][0-9]{0,8})")
_LINE = re.compile(r"(g[0-9]{1,9})(?: ([0-9a-f]{16}))?\n")
_RESTORE = "restore it from a backup, or let the next start make it anew if that generation is live"
_LOGGER = logging.getLogger("streamer.generations")

# The stages of a generation; docs/renormalisation.md draws them.
Stage: TypeAlias = Literal["cut", "trained", "catching up", "gate", "live", "kept", "rejected", "rolled back", "failed"]
WATCHED = "watch"  # this step has an entry in GenerationRecord.seconds when the watch is over
UNDER_WAY: tuple[Stage, ...] = ("cut", "trained", "catching up", "gate")


class StageChange(msgspec.Struct, frozen=True):
    """A generation's entry into a stage."""

    stage: Stage
    at_ms: int  # since 1970
    why: str = ""


class GenerationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a generation, `life.json`: where it came from, and what became of it."""

    id: str
    parent: str = ""  # the generation that was live at the cut
    trigger: str = ""  # schedule, drift, or by hand
    candidate: str = "all"  # the kind of retraining, as streamer.renormalise.training.candidate parses it
    held: bool = False  # the stream waits for the swap, so that there are no ratings to compare on
    better: bool = False  # it must be better than the live generation, not only not worse
    cut: dict[str, int] = {}  # topic/partition -> the next offset at which the snapshot was taken
    cut_events: int = 0  # learned before the cut
    cut_ratings: dict[str, int] = {}  # learner -> ratings it had predicted at the cut
    moments: tuple[StageChange, ...] = ()
    seconds: dict[str, float] = {}  # by step
    scores: tuple[Score, ...] = ()  # at the gate, against the live generation
    watched: tuple[Score, ...] = ()  # since the swap, against the generation that it replaced
    churn: dict[str, float] = {}

    @property
    def stage(self) -> Stage:
        """The stage that it is in."""
        return self.moments[-1].stage if self.moments else "live"

    @property
    def why(self) -> str:
        """Why it is in this stage."""
        return self.moments[-1].why if self.moments else ""

    @property
    def was_live(self) -> bool:
        """Whether it is or was live; such a generation is kept ready for a rollback."""
        return self.id == FIRST or any(moment.stage == "live" for moment in self.moments)

    def at_stage(self, stage: Stage, why: str = "") -> "GenerationRecord":
        """The record after entering another stage now."""
        at_ms = time.time_ns() // 1_000_000
        return msgspec.structs.replace(self, moments=(*self.moments, StageChange(stage, at_ms, why)))


def summary(one: GenerationRecord, live: str) -> Generation:
    """The record as the endpoint shows it; `live` is the id of the live generation."""
    first, last = (one.moments[0], one.moments[-1]) if one.moments else (None, None)
    return Generation(
        id=one.id, parent=one.parent, live=one.id == live, stage=one.stage, why=one.why, trigger=one.trigger,
        cut_events=one.cut_events, cut_ms=first.at_ms if first else 0, changed_ms=last.at_ms if last else 0,
        scores=one.scores, watched=one.watched, seconds=one.seconds, churn=one.churn,
    )  # fmt: skip


def state_paths(folder: Path) -> str:
    """For a message: the paths to move away so that everything is learned again from the log."""
    there = [folder / name for name in ("state", "generations", _POINTER) if (folder / name).exists()]
    return " and ".join(map(str, there)) or str(folder / "state")


class Progress(msgspec.Struct, frozen=True):
    """The progress of the training process; its file is replaced a few times a second."""

    step: str = ""  # read, train, write, done
    share: float = 0.0
    seconds: dict[str, float] = {}  # by step
    churn: dict[str, float] = {}
    done: bool = False
    failed: str = ""  # a sentence that says why it failed


def live(folder: Path) -> str:
    """The id of the live generation; raises BadState when the file that names it is lost or damaged."""
    pointer = folder / _POINTER
    try:
        line = pointer.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        later = [one.id for one in read_records(folder) if one.id != FIRST and one.was_live]
        if later or ((folder / "generations").exists() and not (folder / "state").exists()):
            raise BadState(
                f"{pointer}, which names the live generation, is missing: create it with the id of a generation "
                "that `streamer generations` lists, or restore a backup"
            ) from None
        return FIRST
    except (OSError, UnicodeDecodeError) as error:
        raise BadState(f"cannot read which generation is live from {pointer}: {error}") from None
    found = _LINE.fullmatch(line)
    if not found or not _NAME.fullmatch(found[1]):
        raise BadState(
            f"{pointer} should name a generation, like g1, in one line, and says {line[:40]!r}: write the id of a generation "
            f"that `streamer generations` lists to it, or restore a backup"
        )
    if found[2] and found[2] != _checksum(found[1]):
        raise BadState(
            f"{pointer} is damaged: {found[1]} does not fit its checksum {found[2]}: write the id of the generation that was "
            "live, as `streamer generations` lists it, to it, or restore a backup"
        )
    return found[1]


def _line(generation: str) -> bytes:
    return f"{generation} {_checksum(generation)}\n".encode()


def _checksum(generation: str) -> str:
    return hashlib.sha256(generation.encode()).hexdigest()[:16]


def generation_folder(folder: Path, generation: str) -> Path:
    """The folder of a generation, which need not exist."""
    return folder / "generations" / generation


def state_folder(folder: Path, generation: str) -> Path:
    """The RocksDB folder of a generation, which need not exist."""
    return folder / "state" if generation == FIRST else generation_folder(folder, generation) / "state"


def set_live(folder: Path, generation: str) -> None:
    """Make a generation live: atomic, and durable when this returns."""
    write_atomically(folder / _POINTER, _line(generation))


def write_record(folder: Path, record: GenerationRecord) -> GenerationRecord:
    """Write the record of a generation, and return it."""
    where = generation_folder(folder, record.id)
    where.mkdir(parents=True, exist_ok=True)
    write_atomically(where / _RECORD, sealed(msgspec.json.format(msgspec.json.encode(record))))
    return record


def read_record(folder: Path, generation: str) -> GenerationRecord:
    """The record of a generation; raises StreamerError for one that does not exist, BadState for an unreadable record."""
    file = generation_folder(folder, generation) / _RECORD
    try:
        if not _NAME.fullmatch(generation):  # a name from outside, which may lead out of the folder
            raise FileNotFoundError
        return read_sealed(file, GenerationRecord)
    except FileNotFoundError:
        if _NAME.fullmatch(generation) and _is_made(file.parent):
            raise BadState(f"the record of generation {generation}, {file}, is missing: {_RESTORE}") from None
        if generation == FIRST and (folder / "state").exists():
            return GenerationRecord(id=FIRST)
        there = ", ".join(found.id for found in read_records(folder)) or "none"
        raise StreamerError(f"no generation {generation!r} in {folder}; there are: {there}") from None
    except (OSError, msgspec.DecodeError) as error:
        raise BadState(f"the record of generation {generation} in {file} cannot be read: {error}: {_RESTORE}") from None


def _is_made(folder: Path) -> bool:
    """Whether this is the folder of a generation that was trained, also when its record is lost."""
    return (folder / MANIFEST).exists()


def made_at_ms(folder: Path, one: GenerationRecord) -> int:
    """When a generation was cut, in ms since 1970; for g0, when its state was created. The present time if that is unknown."""
    if one.id != FIRST and one.moments:
        return one.moments[0].at_ms
    try:  # RocksDB writes this file once, when it creates the database
        return (state_folder(folder, one.id) / "IDENTITY").stat().st_mtime_ns // 1_000_000
    except OSError:
        return time.time_ns() // 1_000_000


def read_records(folder: Path) -> list[GenerationRecord]:
    """The records of all generations, the oldest first; one that cannot be read is replaced by a failed one with the error."""
    found = [path.name for path in (folder / "generations").glob("g*") if _NAME.fullmatch(path.name)]
    places = {name: generation_folder(folder, name) for name in found}
    names = {name for name, place in places.items() if (place / _RECORD).exists() or _is_made(place)}
    if (folder / "state").exists():
        names.add(FIRST)
    return [_record_or_failure(folder, name) for name in sorted(names, key=_number)]


def _record_or_failure(folder: Path, name: str) -> GenerationRecord:
    try:
        return read_record(folder, name)
    except BadState as error:
        return GenerationRecord(id=name, moments=(StageChange("failed", 0, str(error)),))


def repair(folder: Path) -> None:
    """After a crash: make the records agree with the live generation, and delete folders without a record and a manifest.

    A record of the live generation that is lost or damaged is made anew, as far as its manifest says what it had.
    """
    live_id = live(folder)
    if (folder / _POINTER).exists() and (folder / _POINTER).read_bytes() != _line(live_id):
        set_live(folder, live_id)  # it was written by hand, or before there were checksums
    for path in (folder / "generations").glob("g*"):
        lost = not (path / _RECORD).exists() and not _is_made(path)
        if _NAME.fullmatch(path.name) and lost and path.name != live_id:
            shutil.rmtree(path, ignore_errors=True)
    try:
        read_record(folder, live_id)
    except StreamerError as error:
        if state_folder(folder, live_id).exists():
            _LOGGER.warning("%s; it is made anew", error)
            write_record(folder, _remade(folder, live_id, str(error)))
    for one in read_records(folder):
        if one.id == live_id and one.stage != "live":
            write_record(folder, one.at_stage("live", "swapped before a stop"))
        elif one.id != live_id and one.stage == "live":
            back = one.parent == live_id
            write_record(
                folder, one.at_stage("rolled back" if back else "kept", f"{live_id} answers since before a stop")
            )


class _Made(msgspec.Struct):
    """What a manifest (streamer.renormalise.manifest) says of a generation's origin."""

    format: int
    parent: str
    cut: dict[str, int]
    events: int
    candidate: str


def _remade(folder: Path, generation: str, error: str) -> GenerationRecord:
    """A record for the live generation, whose own cannot be read."""
    file, why = generation_folder(folder, generation) / MANIFEST, f"its record is made anew: {error}"
    try:
        made, at_ms = read_sealed(file, _Made), file.stat().st_mtime_ns // 1_000_000
    except (OSError, msgspec.DecodeError):
        return GenerationRecord(id=generation).at_stage("live", why)
    return GenerationRecord(
        id=generation, parent=made.parent, cut=made.cut, cut_events=made.events, candidate=made.candidate,
        moments=(StageChange("trained", at_ms),), seconds={WATCHED: 0.0},
    ).at_stage("live", why)  # fmt: skip


def next_id(folder: Path) -> str:
    """The id for a new generation, one higher than any before."""
    found = [_number(path.name) for path in (folder / "generations").glob("g*") if _NAME.fullmatch(path.name)]
    return f"g{max([0, *found]) + 1}"


def drop_state(folder: Path, generation: str) -> None:
    """Delete the state of a generation; its record and the files that it was made from stay."""
    shutil.rmtree(state_folder(folder, generation), ignore_errors=True)


def prune(folder: Path, kept: int) -> None:
    """Delete all states but `kept`: the live one and the newest others. Records and manifests stay."""
    others = [
        one.id for one in read_records(folder) if one.id != live(folder) and state_folder(folder, one.id).exists()
    ]
    for old in others[: max(0, len(others) - kept + 1)]:
        drop_state(folder, old)


def _number(name: str) -> int:
    return int(name[1:])
