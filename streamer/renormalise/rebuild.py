"""Rebuilding a state from its journal: the same records in the same order, and the same trained tables at the same places.

The result equals the live state byte for byte (but for the journal's notes of swaps, and dead letters), over any number of
swaps, as long as the source has all records from the beginning and the files of the generations are there.
"""

from collections import deque
from collections.abc import Iterable
from pathlib import Path

from streamer.core.errors import SourceLost
from streamer.core.protocols import Source
from streamer.renormalise import manifest
from streamer.renormalise.training import RefittedTables, replace_tables
from streamer.storage.generations import FIRST, generation_folder
from streamer.stream.ledger import TABLES_REPLACED, JournalSource, Run, lineage, note
from streamer.stream.memory import Memory

WAIT_S = 0.2
EMPTY_POLLS = 50  # polls without a record, after which a record of the journal counts as lost


def install_generation(memory: Memory, generation: str, found: RefittedTables) -> None:
    """Replace the tables of `memory` with those of a generation, and make `memory` the state of that generation.

    Nothing is uncommitted before and after. Raises StoreUnavailable.
    """
    replace_tables(memory, found)
    memory.ledger.add_note(note(TABLES_REPLACED, generation))
    memory.become(generation)


def rebuild(memory: Memory, source: Source, runs: Iterable[Run], folder: Path, *, max_records: int = 2000) -> None:
    """Learn the journal `runs` into an empty `memory` and commit; `folder` holds the generations that the journal names.

    Raises SourceLost when a record of the journal is gone, BadGeneration for files that are missing or damaged.
    """
    replay, empty = JournalSource(source, ()), 0
    replay.seek({})
    for generation, learned in lineage(runs):
        if generation != FIRST:
            install_generation(memory, generation, manifest.read(generation_folder(folder, generation))[1])
        replay.append_runs(learned)
        while not replay.finished:
            records = replay.poll(max_records, WAIT_S)
            deque(memory.learn(records, memory.commit), maxlen=0)
            empty = 0 if records else empty + 1
            if empty > EMPTY_POLLS:
                raise SourceLost(
                    f"the source has no records after {dict(memory.ledger.offsets)}, but the journal has more: "
                    "rebuild from a source that holds all records of the journal"
                )
        memory.commit()
