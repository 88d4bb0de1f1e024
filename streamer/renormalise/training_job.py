"""The job of the training process: read the history of a cut, train, write the generation, put its tables into its state.

Everything is in files under `generations/<id>`, so any process can do the job, and do it again after a crash:
`job.json` (the settings), `state` (the checkpoint made at the cut), then `progress.json`, the files of
`streamer.renormalise.manifest`, and at last the state with the new tables. A second run does what is left to do.
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
from streamer.renormalise.rebuild import install_generation
from streamer.renormalise.training import candidate, refit
from streamer.serving.opening import learners
from streamer.storage.archive.archive import Archive
from streamer.storage.files import read_sealed
from streamer.storage.generations import JOB, GenerationRecord, Progress, generation_folder, read_record
from streamer.storage.state import RocksStore
from streamer.stream.memory import Memory, state_settings

REPORT_INTERVAL_S = 0.5
_NO_CHURN = ("panel_users",)  # fields of Churn that are not measures of churn

OnProgress = Callable[[Progress], None]


def is_archived(folder: Path, record: GenerationRecord) -> bool:
    """Whether the archive holds everything before the cut of a generation, so that it can be trained."""
    offsets = Archive(folder).offsets
    return all(offsets.get(TopicPartition(*_parse_sequence(name)), 0) >= offset for name, offset in record.cut.items())


def retrain(folder: Path, generation: str, on_progress: OnProgress) -> None:
    """Do what is left to do to train `generation`; raises BadState, BadGeneration, StreamerError."""
    where = generation_folder(folder, generation)
    try:
        settings = read_sealed(where / JOB, Settings)
    except (OSError, msgspec.DecodeError) as error:
        raise BadGeneration(f"the settings of the training in {where / JOB} cannot be read: {error}; retrain") from None
    report = ProgressReport(on_progress)
    store = RocksStore(folder, generation=generation)
    try:
        if store.generation != generation:
            memory = Memory(learners(settings, store.promoted().values()), settings, store)
            train(where, memory, settings, read_record(folder, generation), report)
    finally:
        store.close()
    report.done()  # after `close`, so that the serving process can open the state


def train(
    where: Path,
    memory: Memory,
    settings: Settings,
    record: GenerationRecord,
    report: "ProgressReport",
    names: Sequence[str] | None = None,
) -> None:
    """Train a generation on the archive, unless its files are complete, and put its tables into `memory`.

    `memory` holds the parent's state as of the cut. `names`: the learners to train, by default all that have a trainer.
    Raises BadState, BadGeneration, StreamerError.
    """
    store = memory.store
    if not manifest.written(where):
        report.step("read")
        cut = {TopicPartition(*_parse_sequence(name)): offset for name, offset in record.cut.items()}
        events = Archive(store.folder).events(settings.learning, cut)
        report.step("train")
        names = names or [name for name in memory.learners.by_name if name in REFITTED_BY]

        def on_progress(name: str, share: float) -> None:
            report.share((names.index(name) + share) / len(names))

        found = refit(memory, events, names, candidate(record.candidate), on_progress=on_progress)
        report.step("write")
        manifest.write(
            where,
            manifest.Manifest(
                generation=record.id,
                parent=record.parent,
                cut=record.cut,
                events=len(events),
                settings=dict(state_settings(memory.learners, settings)),
                trained={name: sorted(tables) for name, tables in found.tables.items()},
                candidate=record.candidate,
                churn=dict(found.churn),
            ),
            found,
        )
    report.step("write")
    written, found = manifest.read(where)
    if (written.generation, written.cut) != (record.id, record.cut):
        raise BadGeneration(
            f"the manifest in {where} should be of {record.id} at its cut, and is of {written.generation} at {written.cut}: retrain"
        )
    report.churn = {
        f"{name} {measure}": value
        for name, churn in found.churn.items()
        for measure, value in msgspec.structs.asdict(churn).items()
        if value is not None and measure not in _NO_CHURN
    }
    install_generation(memory, record.id, found)
    store.sync()  # before the generation is recorded as trained


def _parse_sequence(name: str) -> tuple[str, int]:
    topic, _, partition = name.rpartition("/")
    return topic, int(partition)


class ProgressReport:
    """Adds up the seconds of each step and reports progress, at most every REPORT_INTERVAL_S within a step."""

    def __init__(self, on_progress: OnProgress) -> None:
        """`on_progress` is called at the start of each step, and now and then within it."""
        self._on_progress, self._step, self._seconds = on_progress, "", dict[str, float]()
        self.churn: dict[str, float] = {}
        self._began = self._due = time.monotonic()

    def step(self, name: str) -> None:
        """Begin a step."""
        now = time.monotonic()
        if self._step:
            self._seconds[self._step] = self._seconds.get(self._step, 0.0) + now - self._began
        self._step, self._began = name, now
        self._on_progress(Progress(name, 0.0, dict(self._seconds)))

    def share(self, share: float) -> None:
        """Report that this share of the step is done."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + REPORT_INTERVAL_S
            self._on_progress(Progress(self._step, share, dict(self._seconds)))

    def done(self) -> None:
        """Report that all steps are done."""
        self.step("done")
        self._on_progress(Progress("done", 1.0, dict(self._seconds), self.churn, done=True))
