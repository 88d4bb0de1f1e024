"""A recommender that learns events at once, and a small world in which each user likes one genre."""

from pathlib import Path

import numpy as np
from learning import records, settings

from streamer.consumers.memory import MemorySource
from streamer.core.events import Click, Event, ItemUpdate, Rating, Record
from streamer.serving.opening import learners
from streamer.serving.recommend import POPULARITY, Recommender
from streamer.storage.state import RocksStore
from streamer.stream.engine import Engine, NullObserver
from streamer.stream.memory import Memory


class LiveRecommender:
    """A recommender on a state that learns given events at once."""

    def __init__(self, folder: Path, **flags: object) -> None:
        chosen = settings(**flags)
        self.entries: list[Record] = []
        self.store = RocksStore(folder)
        self.memory = Memory(learners(chosen), chosen, self.store)
        source = MemorySource(self.entries)
        source.seek({})
        self.engine = Engine(source, self.memory, NullObserver(), max_records=100, commit_interval_s=3600.0)
        self.recommender = Recommender(self.memory, self.memory.learners.by_name[POPULARITY])

    def learn(self, *live: Event) -> None:
        self.entries += records(live, len(self.entries))
        while self.engine.step(0.0):
            pass

    def ids(self, user_id: str, limit: int = 10) -> list[str]:
        return [found.item_id for found in self.recommender.recommend(user_id, limit)]

    def first(self, preferences: dict[str, float], ratings: dict[str, float], limit: int = 10) -> list[str]:
        return [found.item_id for found in self.recommender.recommend_for_preferences(preferences, ratings, limit)]


def clicks(user_id: str, *item_ids: str) -> list[Event]:
    return [Click(user_id, item_id) for item_id in item_ids]


GENRES = ("Drama", "Comedy", "Horror")


def genres(count: int, *, users: int = 30, items: int = 60) -> list[Event]:
    """The items, then `count` ratings: item n has genre n % 3, and user m rates genre m % 3 with 5 and the others with 2 or 3."""
    random = np.random.default_rng(1)
    found: list[Event] = [ItemUpdate(f"i{n}", f"Item {n}", (GENRES[n % 3],)) for n in range(items)]
    for n, (u, i) in enumerate(zip(random.integers(0, users, count), random.integers(0, items, count), strict=True)):
        found.append(Rating(f"u{u}", f"i{i}", 5.0 if u % 3 == i % 3 else 2.0 + n % 2, 1_700_000_000_000 + n * 1000))
    return found


def genre_of(item_id: str) -> str:
    return GENRES[int(item_id[1:]) % 3]
