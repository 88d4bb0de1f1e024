"""Item vectors of another tool into a state, as one more generation: what was there stays, and can come back.

A state is a function of its log, its settings and the generations that were put into it, so vectors come in as these do: a
copy of the live state, the learner of item vectors refitted on the archive with the file before it (`word2vec`), tables and
manifest beside it, a note in the apply journal, and the pointer last. A replay of the journal comes to the same bytes.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

import msgspec

from streamer.core.errors import BadState, StreamerError
from streamer.models import ALSO_REFITTED_BY
from streamer.models.offline.clicks.vector_file import read
from streamer.renormalise.stages import WATCHED
from streamer.renormalise.training import candidate
from streamer.renormalise.training_job import OnProgress, Report, archived, train
from streamer.serving.opening import load_memory
from streamer.storage import generations
from streamer.storage.archive.archive import Archive
from streamer.storage.generations import UNDER_WAY, GenerationRecord, Progress
from streamer.storage.state import RocksStore
from streamer.stream.ledger import WENT_LIVE, note

TRIGGER = "import"


class Imported(NamedTuple):
    """What became of a file of vectors."""

    generation: str  # that answers from the next start on
    items: int  # of the state, that took a vector of the file
    unknown: int  # vectors of the file whose items the state does not know


def imported(folder: Path, file: Path, *, fixed: bool, on_progress: OnProgress = lambda progress: None) -> Imported:
    """Refit the item vectors of the state in `folder` from those of `file`; no streamer may run on it.

    `fixed`: items of the file keep its vectors to the bit, and only the others train. Raises BadState, BadSettings,
    StreamerError; then all is as it was.
    """
    ids, _ = read(file)
    chosen = candidate(f"{'fixed-vectors' if fixed else 'vectors'}:{file.resolve()}")
    if not (generations.state_folder(folder, generations.live(folder)) / "CURRENT").exists():
        raise BadState(f"no state in {folder}: give the --data directory of a streamer that has run")
    left = next((one.id for one in generations.read_records(folder) if one.stage in UNDER_WAY), None)
    if left is not None:
        raise StreamerError(f"{left} is on its way: start the streamer, and let it come to its end first")
    parent = RocksStore(folder)  # nobody else may open it meanwhile
    generation = generations.next_id(folder)
    where = generations.generation_folder(folder, generation)
    try:
        where.mkdir(parents=True)
        parent.checkpoint(where / "state")
        record, known = _trained(
            folder,
            GenerationRecord(id=generation, parent=parent.generation, trigger=TRIGGER, candidate=chosen.name),
            ids,
            on_progress,
        )
        record = generations.write_record(folder, record.at_stage("live", f"vectors of {file.name}"))
        generations.set_live(folder, generation)
    except BaseException:
        if generations.live(folder) != generation:
            shutil.rmtree(where, ignore_errors=True)
        raise
    finally:
        parent.close()
    before = generations.read_record(folder, record.parent)
    generations.write_record(folder, before.at_stage("kept", f"{generation} answers"))
    return Imported(generation, known, len(ids) - known)


def _trained(
    folder: Path, record: GenerationRecord, ids: list[str], on_progress: OnProgress
) -> tuple[GenerationRecord, int]:
    """The generation's life after its state took the vectors, and how many items of the file it knows."""
    store = RocksStore(folder, generation=record.id)
    try:
        memory, settings = load_memory(store)
        names = [name for name in memory.learners.by_name if "word2vec" in ALSO_REFITTED_BY.get(name, ())]
        if not names:
            raise StreamerError(
                f"no learner in {folder} takes item vectors; there are: {', '.join(memory.learners.by_name)}; "
                f"{', '.join(sorted(ALSO_REFITTED_BY))} would"
            )
        record = msgspec.structs.replace(
            record,
            cut={f"{at.topic}/{at.partition}": offset for at, offset in memory.ledger.offsets.items()},
            cut_events=memory.monitor.learned,
            cut_ratings={learner: errors.ratings for learner, errors in memory.monitor.errors.items()},
        ).at_stage("cut")
        if not archived(folder, record):
            raise StreamerError(
                f"the archive in {folder} ends before the state does ({Archive(folder).rows} records): vectors are fitted "
                "on it; start the streamer with its archive, and stop it when it has caught up"
            )
        last = Progress()

        def hear(progress: Progress) -> None:
            nonlocal last
            last = progress
            on_progress(progress)

        report = Report(hear)
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
