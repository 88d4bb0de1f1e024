"""A file, a folder or an archive as one `Dataset`: read, decoded and admitted as the service does it, without a learner."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import DTypeLike

from streamer.core.arrays import F32, Array
from streamer.core.batch import Batch
from streamer.core.dataset import Dataset, SideInformation
from streamer.core.protocols import Source
from streamer.core.settings import EVALUATED_RECORDS, KafkaSettings, Settings
from streamer.monitoring.monitor import DUPLICATE
from streamer.storage.state import RocksStore
from streamer.stream.learners import Learners
from streamer.stream.memory import Memory

Progress = Callable[[int, int], None]  # told how many records are read and how many there are


class History(NamedTuple):
    """What a source held."""

    data: Dataset
    dead_letters: dict[str, int]  # by reason
    duplicates: int

    def left_out(self) -> list[str]:
        """For people: what of the source is not in the data; empty for nothing."""
        why = ", ".join(f"{reason} {count:,}" for reason, count in self.dead_letters.items() if count)
        said = (
            (sum(self.dead_letters.values()), "bad", f": {why}"),
            (self.duplicates, "repeated", ""),
        )
        return [
            f"{count:,} {what} event{'' if count == 1 else 's'} left out{more}" for count, what, more in said if count
        ]


def read(source: Source, settings: Settings, progress: Progress) -> History:
    """Everything that `source` holds but bad events and duplicates, which are counted. Cost: some 3 us an event.

    The state that `settings` name is left alone. Raises BadSettings for settings that cannot be used.
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
    done = 0
    while records := source.poll(settings.learning.max_records or EVALUATED_RECORDS, 0.0):
        for part, batch in memory.encoder.encode(records, memory.commit):
            memory.ledger.advance(part)
            if len(batch):
                ids = memory.users.ids  # a user's row may be another's in the next batch
                users += [number_of.setdefault(ids[row], len(number_of)) for row in batch.users.tolist()]
                parts.append(batch)
        done += len(records)
        progress(done, left)

    def column(name: str, kind: DTypeLike) -> Array:
        return np.concatenate([np.empty(0, dtype=kind), *(getattr(part, name) for part in parts)])

    data = Dataset(
        side_information(memory, list(number_of)), column("kinds", np.uint8), np.array(users, dtype=np.int32),
        column("items", np.int32), column("values", np.float32), column("clicks", np.float32), column("times_ms", np.int64),
    )  # fmt: skip
    duplicates = sum(outcomes[DUPLICATE] for outcomes in memory.monitor.events.values())
    return History(data, dict(memory.monitor.dead_letters), duplicates)


def side_information(memory: Memory, user_ids: Sequence[str]) -> SideInformation:
    """What the catalogue and profiles say: of all items, by row, and of these users, by place. Cost: a look at each profile."""
    items, names = memory.items, memory.categories.names
    years = [
        items.catalogue[item_id].attributes.get("year") if item_id in items.catalogue else None for item_id in items.ids
    ]
    groups: F32 = np.zeros((len(user_ids), len(memory.users.profiles.group_of)), dtype=np.float32)
    for row, user_id in enumerate(user_ids):
        _, of = memory.users.profiles.read(memory.users.profile(user_id))
        groups[row, list(of)] = 1.0
    bits = np.unpackbits(memory.categories.words.values[: len(items)].view(np.uint8), axis=1, bitorder="little")
    return SideInformation(
        user_ids=user_ids,
        item_ids=list(items.ids),
        titles=[items.title(item_id) for item_id in items.ids],
        category_names=list(names),
        categories=bits[:, : len(names)].astype(np.float32),
        years=np.array([year if type(year) in (int, float) else np.nan for year in years], dtype=np.float32),
        group_names=list(memory.users.profiles.group_of),
        groups=groups,
    )
