"""Imports item vectors of another tool into a state, as a new generation. The generation before is kept and can go live again.

A state depends on its log, its settings and the generations that were put into it, so vectors are imported as a generation: a
copy of the live state, in which the learner of item vectors is refitted on the archive, starting from the file (`word2vec`).
Its tables, its manifest and a note in the apply journal are written first, and the live pointer last. Replaying the journal gives the same bytes.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

import msgspec

from streamer.core.errors import BadState, StreamerError
from streamer.models import ALSO_REFITTED_BY
from streamer.models.offline.clicks.vector_file import read
from streamer.renormalise.training import candidate
from streamer.renormalise.training_job import OnProgress, ProgressReport, is_archived, train
from streamer.serving.opening import load_memory
from streamer.storage import generations
from streamer.storage.archive.archive import Archive
from streamer.storage.generations import UNDER_WAY, WATCHED, GenerationRecord, Progress
from streamer.storage.state import RocksStore
from streamer.stream.ledger import WENT_LIVE, note

TRIGGER = "import"


class ImportResult(NamedTuple):
    """The result of an import."""

    generation: str  # live from the next start on
    items: int  # items of the state that got a vector of the file
    unknown: int  # vectors of the file whose items the state does not know


def import_vectors(
    folder: Path, file: Path, *, fixed: bool, on_progress: OnProgress = lambda progress: None
) -> ImportResult:
    """Refit the item vectors of the state in `folder`, starting from those of `file`; no streamer may run on the state.

    `fixed`: items of the file keep exactly its vectors, and only the others are trained. Raises BadState, BadSettings,
    StreamerError, and then leaves everything as it was.
    """
    ids, _ = read(file)
    chosen = candidate(f"{'fixed-vectors' if fixed else 'vectors'}:{file.resolve()}")
    if not (generations.state_folder(folder, generations.live(folder)) / "CURRENT").exists():
        raise BadState(f"no state in {folder}: give the --data directory of a streamer that has run")
    left = next((one.id for one in generations.read_records(folder) if one.stage in UNDER_WAY), None)
    if left is not None:
        raise StreamerError(
            f"the retraining of {left} is not finished: start the streamer and let it finish, then import again"
        )
    parent = RocksStore(folder)  # open until the end, so that no streamer can start
    generation = generations.next_id(folder)
    where = generations.generation_folder(folder, generation)
    try:
        where.mkdir(parents=True)
        parent.checkpoint(where / "state")
        record, known = _train(
            folder,
            GenerationRecord(id=generation, parent=parent.generation, trigger=TRIGGER, candidate=chosen.name),
            ids,
            on_progress,
        )
        record = generations.write_record(folder, record.at_stage("trained"))
        generations.set_live(folder, generation)
        record = generations.write_record(folder, record.at_stage("live", f"vectors of {file.name}"))
    except BaseException:
        if generations.live(folder) != generation:
            shutil.rmtree(where, ignore_errors=True)
        raise
    finally:
        parent.close()
    before = generations.read_record(folder, record.parent)
    generations.write_record(folder, before.at_stage("kept", f"{generation} answers"))
    return ImportResult(generation, known, len(ids) - known)


def _train(
    folder: Path, record: GenerationRecord, ids: list[str], on_progress: OnProgress
) -> tuple[GenerationRecord, int]:
    """Train the new generation; returns its record as trained, and how many items of the file it knows."""
    store = RocksStore(folder, generation=record.id)
    try:
        memory, settings = load_memory(store)
        names = [name for name in memory.learners.by_name if "word2vec" in ALSO_REFITTED_BY.get(name, ())]
        if not names:
            raise StreamerError(
                f"no learner in {folder} can use item vectors; it has {', '.join(memory.learners.by_name)}; "
                f"it needs one of: {', '.join(sorted(ALSO_REFITTED_BY))}"
            )
        record = msgspec.structs.replace(
            record,
            cut={f"{at.topic}/{at.partition}": offset for at, offset in memory.ledger.offsets.items()},
            cut_events=memory.monitor.learned,
            cut_ratings={learner: errors.ratings for learner, errors in memory.monitor.errors.items()},
        ).at_stage("cut")
        if not is_archived(folder, record):
            raise StreamerError(
                f"the archive in {folder} ends before the state does (it has {Archive(folder).rows} records), and vectors are "
                "fitted on it: start the streamer with its archive, and stop it when the archive has caught up"
            )
        last = Progress()

        def keep_last(progress: Progress) -> None:
            nonlocal last
            last = progress
            on_progress(progress)

        report = ProgressReport(keep_last)
        train(generations.generation_folder(folder, record.id), memory, settings, record, report, names)
        report.done()
        memory.ledger.add_note(note(WENT_LIVE, record.id))
        memory.commit()
        store.sync()
        known = sum(item_id in memory.items.row_of for item_id in ids)
    finally:
        store.close()
    record = record.at_stage("trained")
    return msgspec.structs.replace(record, seconds={WATCHED: 0.0, **last.seconds}, churn=last.churn), known
