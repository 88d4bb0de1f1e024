"""A file, a folder or an archive as one `Dataset`: read, decoded and given rows as in the service, but without a learner."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import DTypeLike

from streamer.core.arrays import Array
from streamer.core.batch import RATING, Batch, Change
from streamer.core.dataset import Dataset
from streamer.core.protocols import Source
from streamer.core.settings import EVALUATED_RECORDS, KafkaSettings, Settings
from streamer.monitoring.monitor import DUPLICATE
from streamer.monitoring.scale import on_latest_scale
from streamer.renormalise.side_information import side_information
from streamer.storage.state import RocksStore
from streamer.stream.learners import Learners
from streamer.stream.memory import Memory

Progress = Callable[[int, int], None]  # gets the number of records read and that of all records


class History(NamedTuple):
    """The contents of a source."""

    data: Dataset
    duplicates: int

    def left_out(self) -> list[str]:
        """Sentences about good events that are not in the data; empty if all are."""
        return (
            [f"{self.duplicates:,} repeated event{'' if self.duplicates == 1 else 's'} left out"]
            if self.duplicates
            else []
        )


def read(source: Source, settings: Settings, progress: Progress) -> History:
    """All events of `source` except bad ones, and duplicates, which are counted. Cost: some 3 us an event.

    The state directory in `settings` is not touched. Raises BadSettings for settings that cannot be used.
    """
    settings = msgspec.structs.replace(settings, kafka=KafkaSettings())
    with tempfile.TemporaryDirectory(prefix="streamer-") as folder:
        store = RocksStore(Path(folder))
        try:
            return _read(source, Memory(Learners([], {}), settings, store), settings, progress)
        finally:
            store.close()


def _read(source: Source, memory: Memory, settings: Settings, progress: Progress) -> History:
    left = sum(count for partitions in source.lag().values() for count in partitions.values())
    number_of: dict[str, int] = {}
    users: list[int] = []
    parts: list[Batch] = []
    changes: list[Change] = []
    done = 0
    while records := source.poll(settings.learning.max_records or EVALUATED_RECORDS, 0.0):
        for part, batch in memory.encoder.encode(records, memory.commit):
            memory.ledger.advance(part)
            if len(batch):
                ids = memory.users.ids  # rows of users are recycled: a row may be another user's in the next batch
                changes += [one._replace(at=len(users) + one.at) for one in batch.changes]
                users += [number_of.setdefault(ids[row], len(number_of)) for row in batch.users.tolist()]
                parts.append(batch)
        done += len(records)
        progress(done, left)

    def column(name: str, kind: DTypeLike) -> Array:
        return np.concatenate([np.empty(0, dtype=kind), *(getattr(part, name) for part in parts)])

    kinds = column("kinds", np.uint8)
    data = Dataset(
        side_information(memory, list(number_of)), kinds, np.array(users, dtype=np.int32), column("items", np.int32),
        on_latest_scale(column("values", np.float32), kinds == RATING, changes), column("clicks", np.float32), column("times_ms", np.int64),
    )  # fmt: skip
    duplicates = sum(outcomes[DUPLICATE] for outcomes in memory.monitor.events.values())
    return History(data, duplicates)
