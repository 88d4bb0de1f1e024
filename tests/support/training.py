"""A small world learned into a memory, with the events it learned, to retrain on."""

from pathlib import Path

import numpy as np
from learning import settings

from streamer.consumers.stream import StreamSource
from streamer.core.batch import Batch, Events
from streamer.core.settings import Settings
from streamer.producers.simulate import World
from streamer.serving.opening import learners
from streamer.storage.state import RocksStore
from streamer.stream.memory import Memory

WORLD = World(users=60, items=80, events=3000, duplicates=0.0, late=0.0, bad=0.0)


CHOSEN = settings(rating_learner="biased-mf", click_learner="skip-gram")


class Fed:
    """A memory that has learned a small world, and the events that it learned."""

    def __init__(self, folder: Path, chosen: Settings = CHOSEN, events: int | None = None) -> None:
        self.store = RocksStore(folder)
        self.memory = Memory(learners(chosen), chosen, self.store)
        self.batches: list[Batch] = []
        self.user_ids: list[str] = []
        source = StreamSource(WORLD.stream(catalogue_first=True))
        left = WORLD.items + events if events is not None else len(source.stream)
        while records := source.poll(min(700, left), 0.0):
            left -= len(records)
            for part, batch in self.memory.encoder.encode(records, self.memory.commit):
                self.memory.monitor.observe(batch, self.memory.learners.learn(batch))
                self.memory.ledger.advance(part)
                if len(batch):
                    self.batches.append(batch)
                    self.user_ids += [self.memory.users.ids[row] for row in batch.users.tolist()]
        self.memory.commit()

    def events(self) -> Events:
        ids = list(dict.fromkeys(self.user_ids))
        number = {user_id: n for n, user_id in enumerate(ids)}
        users = np.array([number[user_id] for user_id in self.user_ids], dtype=np.int32)
        found = [
            np.concatenate([getattr(batch, name) for batch in self.batches])
            for name in ("items", "kinds", "values", "times_ms", "keys")
        ]
        return Events(ids, list(self.memory.items.ids), users, *found)
