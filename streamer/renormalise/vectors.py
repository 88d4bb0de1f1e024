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
from streamer.renormalise.renormaliser import WATCHED
from streamer.renormalise.training import candidate
from streamer.renormalise.training_job import Report, Told, archived, train
from streamer.serving.opening import remembered
from streamer.storage import generations
from streamer.storage.archive.archive import Archive
from streamer.storage.generations import UNDER_WAY, Life, Progress
from streamer.storage.state import RocksStore
from streamer.stream.ledger import SWAP, note

TRIGGER = "import"


class Imported(NamedTuple):
    """What became of a file of vectors."""

    generation: str  # that answers from the next start on
    items: int  # of the state, that took a vector of the file
    unknown: int  # vectors of the file whose items the state does not know


def imported(folder: Path, file: Path, *, fixed: bool, told: Told = lambda progress: None) -> Imported:
    """Refit the item vectors of the state in `folder` from those of `file`; no streamer may run on it.

    `fixed`: items of the file keep its vectors to the bit, and only the others train. Raises BadState, BadSettings,
    StreamerError; then all is as it was.
    """
    ids, _ = read(file)
    chosen = candidate(f"{'fixed-vectors' if fixed else 'vectors'}:{file.resolve()}")
    if not (generations.state_of(folder, generations.live(folder)) / "CURRENT").exists():
        raise BadState(f"no state in {folder}: give the --data directory of a streamer that has run")
    left = next((one.id for one in generations.lives(folder) if one.stage in UNDER_WAY), None)
    if left is not None:
        raise StreamerError(f"{left} is on its way: start the streamer, and let it come to its end first")
    parent = RocksStore(folder)  # nobody else may open it meanwhile
    generation = generations.following(folder)
    where = generations.place(folder, generation)
    try:
        where.mkdir(parents=True)
        parent.checkpoint(where / "state")
        life, known = _trained(
            folder, Life(id=generation, parent=parent.generation, trigger=TRIGGER, candidate=chosen.name), ids, told
        )
        life = generations.record(folder, life.now("live", f"vectors of {file.name}"))
        generations.point(folder, generation)
    except BaseException:
        if generations.live(folder) != generation:
            shutil.rmtree(where, ignore_errors=True)
        raise
    finally:
        parent.close()
    before = generations.life(folder, life.parent)
    generations.record(folder, before.now("kept", f"{generation} answers"))
    return Imported(generation, known, len(ids) - known)


def _trained(folder: Path, life: Life, ids: list[str], told: Told) -> tuple[Life, int]:
    """The generation's life after its state took the vectors, and how many items of the file it knows."""
    store = RocksStore(folder, generation=life.id)
    try:
        memory, settings = remembered(store)
        names = [name for name in memory.learners.by_name if "word2vec" in ALSO_REFITTED_BY.get(name, ())]
        if not names:
            raise StreamerError(
                f"no learner in {folder} takes item vectors; there are: {', '.join(memory.learners.by_name)}; "
                f"{', '.join(sorted(ALSO_REFITTED_BY))} would"
            )
        life = msgspec.structs.replace(
            life,
            cut={f"{at.topic}/{at.partition}": offset for at, offset in memory.ledger.offsets.items()},
            cut_events=memory.monitor.learned,
            cut_ratings={learner: errors.ratings for learner, errors in memory.monitor.errors.items()},
        ).now("cut")
        if not archived(folder, life):
            raise StreamerError(
                f"the archive in {folder} ends before the state does ({Archive(folder).rows} records): vectors are fitted "
                "on it; start the streamer with its archive, and stop it when it has caught up"
            )
        last = Progress()

        def hear(progress: Progress) -> None:
            nonlocal last
            last = progress
            told(progress)

        report = Report(hear)
        train(generations.place(folder, life.id), memory, settings, life, report, names)
        report.done()
        memory.ledger.write(note(SWAP, life.id))
        memory.commit()
        store.sync()
        known = sum(item_id in memory.items.row_of for item_id in ids)
    finally:
        store.close()
    life = life.now("trained")
    return msgspec.structs.replace(life, seconds={WATCHED: 0.0, **last.seconds}, churn=last.churn), known
