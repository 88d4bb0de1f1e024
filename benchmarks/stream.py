"""A stream as peers see it: plain arrays, read, decoded and ordered by the product's own source and encoder.

So peers get exactly the events of `streamer evaluate` in the same order, without duplicates and bad events, with the same range of
ratings before each event and the same clicks.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from streamer.consumers.files import FileSource
from streamer.core.arrays import F32, I32, Bool
from streamer.core.batch import RATING, Batch
from streamer.core.settings import EVALUATED_RECORDS, Settings
from streamer.models import learner
from streamer.storage.state import RocksStore
from streamer.stream.learners import Learners
from streamer.stream.memory import Memory

EVERYWHERE = {"clicks", "events", "ratings", "interactions"}  # names of files that do not say which stream it is


@dataclass(frozen=True)
class Events:
    """n events in the order in which they are learned."""

    rated: Bool  # (n,) whether it is a rating and not a click
    users: I32  # (n,) by first appearance
    items: I32  # (n,) by first appearance, the catalogue included
    values: F32  # (n,)
    clicks: F32  # (n,) weight as a click, above 0 for clicks and likes
    sessions: I32  # (n,) number of the session, as the stream names it or by pauses of its user
    lows: F32  # (n,) range of the ratings before the event
    highs: F32  # (n,)
    user_count: int
    item_ids: Sequence[str]
    categories: Sequence[Sequence[str]]  # by item

    def __len__(self) -> int:
        return len(self.users)

    def first(self, count: int) -> "Events":
        """The first `count` events."""
        columns = ("rated", "users", "items", "values", "clicks", "sessions", "lows", "highs")
        return replace(self, **{name: getattr(self, name)[:count] for name in columns})


def stream_name(path: Path) -> str:
    """What results call the stream of this path: the file's or folder's name, or for `clicks.csv` and the like the folder's."""
    path = path.resolve()
    return path.parent.name if path.stem in EVERYWHERE else path.stem


@contextmanager
def memory(learners: Learners, settings: Settings) -> Iterator[Memory]:
    """An empty state in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="streamer-") as folder:
        store = RocksStore(Path(folder))
        try:
            yield Memory(learners, settings, store)
        finally:
            store.close()


def batches(parts: Memory, path: Path, settings: Settings) -> Iterator[Batch]:
    """The batches of `path`, as in `streamer evaluate`; each must be learned before the next is taken."""
    source = FileSource(path, settings.learning.seed)
    while records := source.poll(settings.learning.max_records or EVALUATED_RECORDS, 0.0):
        for part, batch in parts.encoder.encode(records, parts.commit):
            yield batch
            parts.ledger.advance(part)


def read(path: Path, settings: Settings) -> Events:
    """The events of `path`, a file or folder that streamer.consumers.files.read can read."""
    count = learner("popularity", seed=settings.learning.seed)
    with memory(Learners([count], {"clicks": count.name}), settings) as parts:
        rows: dict[str, int] = {}
        users, sessions = list[int](), list[int]()
        session_of: dict[int, int] = {}
        seen: list[Batch] = []
        begun = 0
        for batch in batches(parts, path, settings):
            ids = parts.users.ids  # rows are recycled, so ids are looked up batch by batch
            for row, begins in zip(batch.users.tolist(), batch.begins.tolist(), strict=True):
                user = rows.setdefault(ids[row], len(rows))
                if begins or user not in session_of:
                    session_of[user], begun = begun, begun + 1
                users.append(user)
                sessions.append(session_of[user])
            seen.append(batch)
        words, names = parts.categories.words.values[:, 0], parts.categories.names
        categories = [
            [name for number, name in enumerate(names) if int(words[row]) >> number & 1]
            for row in range(len(parts.items))
        ]
        return Events(
            rated=np.concatenate([batch.kinds for batch in seen]) == RATING,
            users=np.array(users, dtype=np.int32),
            items=np.concatenate([batch.items for batch in seen]),
            values=np.concatenate([batch.values for batch in seen]),
            clicks=np.concatenate([batch.clicks for batch in seen]),
            sessions=np.array(sessions, dtype=np.int32),
            lows=np.concatenate([batch.lows for batch in seen]),
            highs=np.concatenate([batch.highs for batch in seen]),
            user_count=len(rows),
            item_ids=list(parts.items.ids),
            categories=categories,
        )
