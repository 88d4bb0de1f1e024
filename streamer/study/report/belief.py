"""The online learner's beliefs after the training part alone: a temporary memory learns it, event by event."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from streamer.core.dataset import Dataset
from streamer.core.events import CATALOGUE_TOPICS, Offsets, Rating, Record, message
from streamer.core.protocols import Source
from streamer.core.settings import EVALUATED_RECORDS, KafkaSettings, Settings
from streamer.models import learner
from streamer.storage.state import RocksStore
from streamer.stream.learners import assemble
from streamer.stream.memory import Memory


class CatalogueRecorder:
    """A protocols.Source that passes on the records of another and keeps those of the catalogue and of users' profiles."""

    def __init__(self, source: Source) -> None:
        """Wrap `source`; `catalogue` fills while it is read."""
        self._source = source
        self.catalogue: list[Record] = []

    def seek(self, offsets: Offsets) -> None:
        """See Source."""
        self._source.seek(offsets)

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """See Source."""
        records = self._source.poll(max_records, timeout_s)
        self.catalogue += [record for record in records if record.topic in CATALOGUE_TOPICS]
        return records

    def lag(self) -> Mapping[str, Mapping[int, int]]:
        """See Source."""
        return self._source.lag()

    def close(self) -> None:
        """See Source."""
        self._source.close()


@contextmanager
def learned_memory(catalogue: Sequence[Record], train: Dataset, settings: Settings) -> Iterator[Memory]:
    """A temporary memory in which the champion for ratings has learned `train`, after all records of the catalogue.

    It is deleted at the end of the context. Cost: some 10 us a rating. Raises BadSettings for an unknown learner.
    """
    name, settings = settings.learning.rating_learner, msgspec.structs.replace(settings, kafka=KafkaSettings())
    sizes = {"dim": settings.learning.dim, "latent_dim": settings.learning.latent_dim}
    made = assemble([name], {"ratings": name}, lambda one: learner(one, seed=settings.learning.seed, **sizes))
    records = [*catalogue, *_records(train, len(catalogue))]
    with tempfile.TemporaryDirectory(prefix="streamer-") as folder:
        store = RocksStore(Path(folder))
        try:
            memory = Memory(made, settings, store)
            for start in range(0, len(records), EVALUATED_RECORDS):
                for _ in memory.learn(records[start : start + EVALUATED_RECORDS], memory.commit):
                    pass
            memory.commit()
            yield memory
        finally:
            store.close()


def _records(train: Dataset, first: int) -> Iterator[Record]:
    user_ids, item_ids = train.side.user_ids, train.side.item_ids
    columns = (train.users.tolist(), train.items.tolist(), train.values.tolist(), train.times_ms.tolist())
    for offset, (user, item, value, time_ms) in enumerate(zip(*columns, strict=True), first):
        made = message(Rating(user_ids[user], item_ids[item], value, time_ms))
        yield Record(made.topic, -1, offset, time_ms, made.key, made.value)
