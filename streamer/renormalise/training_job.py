"""What the renormaliser's own process does with a cut: read the history, train, write the generation, put it into its state.

Everything is in files under `generations/<id>`, so it matters not who started the process, nor on which side of a crash:
`job.json` (the settings), `state` (the checkpoint that was cut), then `progress.json`, the files of `streamer.renormalise.manifest`, and
at last the state with the new tables in it. Doing it again does what was left to do.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from streamer.core.errors import BadGeneration
from streamer.core.events import TopicPartition
from streamer.core.settings import Settings
from streamer.models import REFITTED_BY
from streamer.renormalise import manifest
from streamer.renormalise.rebuild import graft
from streamer.renormalise.training import candidate, retrained
from streamer.serving.opening import learners
from streamer.storage.archive.archive import Archive
from streamer.storage.generations import JOB, GenerationRecord, Progress, generation_folder, read_record
from streamer.storage.state import RocksStore
from streamer.stream.memory import Memory, state_settings

TOLD_S = 0.5
_NO_CHURN = ("panel_users",)  # of the measures


OnProgress = Callable[[Progress], None]


def archived(folder: Path, of: GenerationRecord) -> bool:
    """Whether the archive has come to the cut of a generation: before that nobody may read it."""
    offsets = Archive(folder).offsets
    return all(offsets.get(TopicPartition(*_place(name)), 0) >= offset for name, offset in of.cut.items())


def retrain(folder: Path, generation: str, on_progress: OnProgress) -> None:
    """Do what is left to do for `generation`; raises BadState, BadGeneration, StreamerError."""
    where = generation_folder(folder, generation)
    settings = msgspec.json.decode((where / JOB).read_bytes(), type=Settings)
    report = Report(on_progress)
    store = RocksStore(folder, generation=generation)
    try:
        if store.generation != generation:
            memory = Memory(learners(settings, store.promoted().values()), settings, store)
            train(where, memory, settings, read_record(folder, generation), report)
    finally:
        store.close()
    report.done()  # the state is let go of, and may be opened


def train(
    where: Path,
    memory: Memory,
    settings: Settings,
    of: GenerationRecord,
    report: "Report",
    names: Sequence[str] | None = None,
) -> None:
    """Train what is left to train of a generation on the archive and put it into `memory`, a copy of its parent's as of the cut.

    `names`: learners, by default all that have a trainer. Raises BadState, BadGeneration, StreamerError.
    """
    store = memory.store
    if not manifest.written(where):
        report.step("read")
        cut = {TopicPartition(*_place(name)): offset for name, offset in of.cut.items()}
        events = Archive(store.folder).events(settings.learning, cut)
        report.step("train")
        names = names or [name for name in memory.learners.by_name if name in REFITTED_BY]

        def on_progress(name: str, share: float) -> None:
            report.share((names.index(name) + share) / len(names))

        found = retrained(memory, events, names, candidate(of.candidate), on_progress=on_progress)
        report.step("write")
        manifest.write(
            where,
            manifest.Manifest(
                generation=of.id,
                parent=of.parent,
                cut=of.cut,
                events=len(events),
                settings=dict(state_settings(memory.learners, settings)),
                trained={name: sorted(tables) for name, tables in found.tables.items()},
                candidate=of.candidate,
                churn=dict(found.churn),
            ),
            found,
        )
    report.step("write")
    says, found = manifest.read(where)
    if (says.generation, says.cut) != (of.id, of.cut):
        raise BadGeneration(f"the manifest in {where} is of {says.generation} and another cut: retrain")
    report.churn = {
        f"{name} {measure}": value
        for name, churn in found.churn.items()
        for measure, value in msgspec.structs.asdict(churn).items()
        if value is not None and measure not in _NO_CHURN
    }
    graft(memory, of.id, found)
    store.sync()  # before anybody writes down that it is trained


def _place(name: str) -> tuple[str, int]:
    topic, _, partition = name.rpartition("/")
    return topic, int(partition)


class Report:
    """Counts the seconds of each step and says so, not too often."""

    def __init__(self, on_progress: OnProgress) -> None:
        """`told` hears of each step, and now and then of its share."""
        self._told, self._step, self._seconds = on_progress, "", dict[str, float]()
        self.churn: dict[str, float] = {}
        self._began = self._due = time.monotonic()

    def step(self, name: str) -> None:
        """A step begins."""
        now = time.monotonic()
        if self._step:
            self._seconds[self._step] = self._seconds.get(self._step, 0.0) + now - self._began
        self._step, self._began = name, now
        self._told(Progress(name, 0.0, dict(self._seconds)))

    def share(self, share: float) -> None:
        """So much of the step is done."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + TOLD_S
            self._told(Progress(self._step, share, dict(self._seconds)))

    def done(self) -> None:
        """All steps are."""
        self.step("done")
        self._told(Progress("done", 1.0, dict(self._seconds), self.churn, done=True))
