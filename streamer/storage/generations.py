"""Generations on the disk: which there are, what became of each, and which one answers.

The first, g0, is the folder `state`. Each later one is a folder `generations/<id>` with a complete state of its own beside
what it was made from (streamer.renormalise.manifest) and the record of its life. `generation`, a file of one line replaced as a whole,
names the live one; without it that is g0. Each state holds its own offsets, so the swap is that one replacement.
"""

import re
import shutil
import time
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from streamer.core.answers import Generation, Score
from streamer.core.errors import BadState, StreamerError
from streamer.storage.files import write_atomically

FIRST = "g0"
_POINTER, _RECORD = "generation", "life.json"
JOB, PROGRESS = "job.json", "progress.json"  # what the training process is told, and what it tells
_NAME = re.compile(r"g(0|[1-9][0-9]{0,8})")

# What a generation goes through; the page of the docs draws it.
Stage: TypeAlias = Literal["cut", "trained", "catching up", "gate", "live", "kept", "rejected", "rolled back", "failed"]
UNDER_WAY: tuple[Stage, ...] = ("cut", "trained", "catching up", "gate")


class StageChange(msgspec.Struct, frozen=True):
    """When a generation came to a stage."""

    stage: Stage
    at_ms: int  # since 1970
    why: str = ""


class GenerationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a generation beside its state; `life.json`."""

    id: str
    parent: str = ""  # the one that was live at the cut
    trigger: str = ""  # schedule, drift, or by hand
    candidate: str = "all"  # what of the history counts, as streamer.renormalise.training.candidate reads it
    held: bool = False  # the stream waits for the swap: there is nothing to compare on
    better: bool = False  # it must be better than who answers, and not only not worse
    cut: dict[str, int] = {}  # topic/partition -> the next offset at which the snapshot was taken
    cut_events: int = 0  # learned before the cut
    cut_ratings: dict[str, int] = {}  # learner -> ratings it had predicted at the cut
    moments: tuple[StageChange, ...] = ()
    seconds: dict[str, float] = {}  # by step
    scores: tuple[Score, ...] = ()  # at the gate, against the one that was live
    watched: tuple[Score, ...] = ()  # since the swap, against the one that it replaced
    churn: dict[str, float] = {}

    @property
    def stage(self) -> Stage:
        """Where it is now."""
        return self.moments[-1].stage if self.moments else "live"

    @property
    def why(self) -> str:
        """Why it is there."""
        return self.moments[-1].why if self.moments else ""

    @property
    def answered(self) -> bool:
        """Whether it was live once: then it stays ready to be so again."""
        return self.id == FIRST or any(moment.stage == "live" for moment in self.moments)

    def now(self, stage: Stage, why: str = "") -> "GenerationRecord":
        """The life with one more moment."""
        at_ms = time.time_ns() // 1_000_000
        return msgspec.structs.replace(self, moments=(*self.moments, StageChange(stage, at_ms, why)))


def summary(one: GenerationRecord, live: str) -> Generation:
    """A life as others are told of it; `live` is the id of the one that answers."""
    first, last = (one.moments[0], one.moments[-1]) if one.moments else (None, None)
    return Generation(
        id=one.id, parent=one.parent, live=one.id == live, stage=one.stage, why=one.why, trigger=one.trigger,
        cut_events=one.cut_events, cut_ms=first.at_ms if first else 0, changed_ms=last.at_ms if last else 0,
        scores=one.scores, watched=one.watched, seconds=one.seconds, churn=one.churn,
    )  # fmt: skip


def state_paths(folder: Path) -> str:
    """What of a data directory is to be moved away so that everything is learned again from the log, in words."""
    there = [folder / name for name in ("state", "generations", _POINTER) if (folder / name).exists()]
    return " and ".join(map(str, there)) or str(folder / "state")


class Progress(msgspec.Struct, frozen=True):
    """How far the training process is; replaced a few times a second."""

    step: str = ""  # read, train, write, done
    share: float = 0.0
    seconds: dict[str, float] = {}  # by step
    churn: dict[str, float] = {}
    done: bool = False
    failed: str = ""  # a sentence, where it was


def live(folder: Path) -> str:
    """The id of the generation that answers; raises BadState for a pointer that cannot be read."""
    try:
        name = (folder / _POINTER).read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        if (folder / "generations").exists() and not (folder / "state").exists():
            raise BadState(
                f"{folder / _POINTER}, which says what generation is live, is gone: write the id of one that "
                "`streamer generations` lists into it, or restore a backup"
            ) from None
        return FIRST
    except (OSError, UnicodeDecodeError) as error:
        raise BadState(f"cannot read which generation is live from {folder / _POINTER}: {error}") from None
    if not _NAME.fullmatch(name):
        raise BadState(
            f"{folder / _POINTER} should name a generation, like g1, and says {name[:40]!r}: write the id of one that "
            f"`streamer generations` lists into it, or restore a backup"
        )
    return name


def generation_folder(folder: Path, generation: str) -> Path:
    """The folder of a generation, whether it is there or not."""
    return folder / "generations" / generation


def state_folder(folder: Path, generation: str) -> Path:
    """The RocksDB of a generation."""
    return folder / "state" if generation == FIRST else generation_folder(folder, generation) / "state"


def set_live(folder: Path, generation: str) -> None:
    """Make it the live one: on the disk when this returns, and never half."""
    write_atomically(folder / _POINTER, f"{generation}\n".encode())


def write_record(folder: Path, record: GenerationRecord) -> GenerationRecord:
    """Write what is known of a generation; answers it."""
    where = generation_folder(folder, record.id)
    where.mkdir(parents=True, exist_ok=True)
    write_atomically(where / _RECORD, msgspec.json.format(msgspec.json.encode(record)))
    return record


def read_record(folder: Path, generation: str) -> GenerationRecord:
    """What is known of a generation; raises StreamerError for one that is not there, BadState for a record nobody can read."""
    file = generation_folder(folder, generation) / _RECORD
    try:
        return msgspec.json.decode(file.read_bytes(), type=GenerationRecord)
    except FileNotFoundError:
        if generation == FIRST and (folder / "state").exists():
            return GenerationRecord(id=FIRST)
        there = ", ".join(found.id for found in read_records(folder)) or "none"
        raise StreamerError(f"no generation {generation!r} in {folder}; there are: {there}") from None
    except (OSError, msgspec.DecodeError) as error:
        raise BadState(f"the record of generation {generation} in {file} cannot be read: {error}") from None


def made_at_ms(folder: Path, one: GenerationRecord) -> int:
    """When it was cut, since 1970; of g0, which never was, when its state was made. Now, where nobody knows."""
    if one.id != FIRST and one.moments:
        return one.moments[0].at_ms
    try:  # RocksDB writes this file once
        return (state_folder(folder, one.id) / "IDENTITY").stat().st_mtime_ns // 1_000_000
    except OSError:
        return time.time_ns() // 1_000_000


def read_records(folder: Path) -> list[GenerationRecord]:
    """All generations, the oldest first; of those whose record a crash cut off, or a disk lost, not much is left to say."""
    found = [path.name for path in (folder / "generations").glob("g*") if _NAME.fullmatch(path.name)]
    names = {name for name in found if (generation_folder(folder, name) / _RECORD).exists()}
    if (folder / "state").exists():
        names.add(FIRST)
    return [_said(folder, name) for name in sorted(names, key=_number)]


def _said(folder: Path, name: str) -> GenerationRecord:
    try:
        return read_record(folder, name)
    except BadState as error:
        return GenerationRecord(id=name, moments=(StageChange("failed", 0, str(error)),))


def repair(folder: Path) -> None:
    """After a crash: make the records say what the pointer says, and delete what has none."""
    answering = live(folder)
    for path in (folder / "generations").glob("g*"):
        if _NAME.fullmatch(path.name) and not (path / _RECORD).exists() and path.name != answering:
            shutil.rmtree(path, ignore_errors=True)
    if answering != FIRST and not (generation_folder(folder, answering) / _RECORD).exists():
        write_record(folder, GenerationRecord(id=answering))
    for one in read_records(folder):
        if one.id == answering and one.stage != "live":
            write_record(folder, one.now("live", "swapped before a stop"))
        elif one.id != answering and one.stage == "live":
            back = one.parent == answering
            write_record(folder, one.now("rolled back" if back else "kept", f"{answering} answers since before a stop"))


def next_id(folder: Path) -> str:
    """The id for a new generation: never one that was there before."""
    found = [_number(path.name) for path in (folder / "generations").glob("g*") if _NAME.fullmatch(path.name)]
    return f"g{max([0, *found]) + 1}"


def drop_state(folder: Path, generation: str) -> None:
    """Delete the state of a generation; its record, and what it was made from, stay."""
    shutil.rmtree(state_folder(folder, generation), ignore_errors=True)


def prune(folder: Path, kept: int) -> None:
    """Delete the states that are not among `kept`: the live one and the newest others. Records and manifests stay."""
    others = [
        one.id for one in read_records(folder) if one.id != live(folder) and state_folder(folder, one.id).exists()
    ]
    for old in others[: max(0, len(others) - kept + 1)]:
        drop_state(folder, old)


def _number(name: str) -> int:
    return int(name[1:])
