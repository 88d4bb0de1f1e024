"""A file, a folder or an archive as one `Dataset`: read, decoded and given rows as in the service, but without a learner."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import DTypeLike

from streamer.core.arrays import F32, I32, U8, Array
from streamer.core.batch import CLICK, RATING, REPEATED, Batch, Change
from streamer.core.dataset import Dataset
from streamer.core.protocols import Source
from streamer.core.settings import EVALUATED_RECORDS, KafkaSettings, Settings
from streamer.core.superseded import holding
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
    replaced: int  # ratings that a later one of the same user and item replaced or withdrew, and these withdrawals
    repeated: int  # events that say nothing new

    def left_out(self) -> list[str]:
        """Sentences about good events that are not in the data; empty if all are."""
        counts = (
            (self.duplicates, "repeated event{} left out: their event_id was read before"),
            (self.replaced, "rating{} left out: the same user rated the same item later, or withdrew the rating"),
            (self.repeated, "event{} left out: the same rating again, or a click again within seconds"),
        )
        return [f"{count:,} {said.format('' if count == 1 else 's')}" for count, said in counts if count]


def read(source: Source, settings: Settings, progress: Progress) -> History:
    """All events of `source` that hold (core.superseded), without bad ones and duplicates, which are counted. Cost: some 3 us an event.

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

    numbers, items, kinds = np.array(users, dtype=np.int32), column("items", np.int32), column("kinds", np.uint8)
    values = on_latest_scale(column("values", np.float32), kinds != CLICK, changes)
    data = Dataset(
        side_information(memory, list(number_of)), kinds, numbers, items, values,
        _likes(numbers, items, kinds, parts), column("times_ms", np.int64),
    )  # fmt: skip
    duplicates = sum(outcomes[DUPLICATE] for outcomes in memory.monitor.events.values())
    holds, repeated = holding(data.users, data.items, data.kinds, data.values), data.kinds == REPEATED
    kept = data.select(holds)
    kept.kinds[kept.kinds != CLICK] = RATING
    return History(kept, duplicates, int(np.count_nonzero(~holds & ~repeated)), int(np.count_nonzero(repeated)))


def _likes(users: I32, items: I32, kinds: U8, parts: Sequence[Batch]) -> F32:
    """The weight as a click of each event that holds, (n,). Of a like in place of a like a batch says 0, as there is nothing to learn."""
    nothing = np.empty(0, np.float32)
    clicks = np.concatenate([nothing, *(part.clicks for part in parts)])
    back = np.concatenate([nothing, *(part.taken_back.withdrawn for part in parts)])
    rated = np.flatnonzero(kinds != CLICK)
    order = rated[np.argsort(users[rated].astype(np.int64) << 32 | items[rated], kind="stable")]
    said = np.cumsum(kinds[order] == RATING)  # a first rating of an item, and those in its place
    clicks[order] = np.bincount(said, weights=clicks[order] - back[order])[said]
    return clicks
