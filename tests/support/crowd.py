"""The user cache without an engine: one learner's table that counts each user's events, and a store."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from streamer.core.arrays import I64
from streamer.core.batch import CLICK
from streamer.core.protocols import Row, StateStore
from streamer.core.tables import Table
from streamer.storage.state import RocksStore
from streamer.stream.catalogue.categories import Categories
from streamer.stream.history_rows import EVENT, block_key, young_history
from streamer.stream.profiles import Profiles
from streamer.stream.users import Users


class Crowd:
    """Users whose row is [events, first values..., 7]."""

    def __init__(self, folder: Path, cache_bytes: int = 1 << 30) -> None:
        self.store = RocksStore(folder)
        self.table = Table("user", [0.0, 0.0, 0.0, 7.0], random=3, scale=1.0)
        self.users = Users(
            {"counter": ("learned/counter/user", self.table)}, self.store, 1, cache_bytes, Profiles(Categories({}), {})
        )
        self.users.restore(self.store)
        self.commits = 0

    def reading(self, store: StateStore) -> None:
        """Read from `store` from now on."""
        self.users.stored.store = store

    def happen(self, user_ids: Sequence[str], items: Sequence[int], clicks: Sequence[float] | None = None) -> I64:
        """Apply one batch of events; return for each how many distinct items its user had seen before it."""
        n = len(user_ids)
        rows = self.users.rows(user_ids, self.commit)
        events = np.zeros(n, dtype=EVENT)
        events["item"], events["offset"] = items, np.arange(n)
        found = self.users.remember(
            rows, np.array(items, dtype=np.int32), np.full(n, CLICK, np.uint8), np.zeros(n, np.float32),
            np.array(clicks or np.zeros(n), dtype=np.float32), np.arange(n, dtype=np.int64),
            np.ones(n, np.bool_), np.zeros(n, np.uint8), events, 0,
        )  # fmt: skip
        for row in rows.tolist():
            self.table.values[row, 0] += 1.0
            self.table.touched[row] = 1
        return found.seen_counts

    def commit(self) -> None:
        self.store.commit(self.users.changed(), {})
        self.users.committed()
        self.commits += 1

    def digest(self) -> str:
        self.commit()
        return self.store.digest().digest

    def close(self) -> None:
        self.store.close()


def unfold_heads(store: RocksStore, columns: int = 5) -> int:
    """Store the histories of users with few events as earlier versions did, and heads with fewer columns; returns how many."""
    rows, users = list[Row](), 0
    for key, head in store.scan("users/head"):
        young, at = young_history(head), block_key(key.decode(), 0)
        if young:
            users += 1
            rows.append(Row("users/head", key, head[: 8 * columns]))
            rows.extend(map(Row, ("users/history", "users/seen", "users/rated"), (at, at, at), young))
    store.commit(rows, {})
    return users
