"""The learners in their order, champions and shadows, each learning every batch from tables named after it."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from streamer.arrays import F32
from streamer.batch import Batch
from streamer.embeddings import Table
from streamer.errors import BadSettings, BadState
from streamer.items import Items
from streamer.protocols import Categorised, Kind, OnlineLearner, Rebuilt, Row, StateStore
from streamer.state import GENERATION
from streamer.users import table_rows

_STREAM = b"stream"


class Learners:
    """All learners; protocols.Persistent for their item and stream tables (user tables belong to the user cache)."""

    def __init__(self, learners: Sequence[OnlineLearner], champions: Mapping[Kind, str]) -> None:
        """`champions` names the one that answers for each kind; raises BadSettings when it learns from the other kind."""
        self.by_name = {learner.name: learner for learner in learners}
        self.champions: dict[Kind, str] = dict(champions)
        for kind, name in champions.items():
            if self.by_name[name].kind != kind:
                raise BadSettings(
                    f"{name!r} learns from {self.by_name[name].kind}, it cannot be the champion for {kind}"
                )
        self._items: Items | None = None

    def champion(self, kind: Kind) -> OnlineLearner:
        """The one that answers."""
        return self.by_name[self.champions[kind]]

    def learn(self, batch: Batch) -> Mapping[str, F32]:
        """What each predicted for each event before learning it, (n,), by name; ratings clipped to the range seen before."""
        if not len(batch):
            return {name: np.empty(0, dtype=np.float32) for name in self.by_name}
        predictions = {}
        for name, learner in self.by_name.items():
            predicted = learner.learn(batch)
            predictions[name] = predicted.clip(batch.lows, batch.highs) if learner.kind == "ratings" else predicted
        return predictions

    def user_tables(self) -> dict[str, tuple[str, Table]]:
        """Learner name -> (its name in the store, its user table)."""
        return {learner: (stored, table) for learner, stored, table in self._tables("user")}

    def item_tables(self) -> list[Table]:
        """All item tables."""
        return [table for _, _, table in self._tables("item")]

    def _tables(self, side: str) -> Iterator[tuple[str, str, Table]]:
        for name, learner in self.by_name.items():
            for table_name, table in learner.tables().items():
                if table.side == side:
                    yield name, f"{GENERATION}/{name}/{table_name}", table

    def attach(self, items: Items) -> None:
        """Name the items whose rows the item tables hold."""
        self._items = items
        for learner in self.by_name.values():
            if isinstance(learner, Categorised):
                learner.attach(items.categories.words)

    def restore(self, store: StateStore) -> None:
        """See protocols.Persistent; after the items, before the users."""
        assert self._items is not None
        row_of = self._items.row_of
        for _, stored, table in self._tables("item"):
            for key, value in store.scan(stored):
                row = row_of.get(key.decode())
                if row is None or len(value) != table.row_bytes:
                    raise BadState(f"row {key.decode()!r} of {stored} does not fit the state: restore a backup")
                table.load(row, value)
        for _, stored, table in self._tables("stream"):
            (row_value,) = store.read(stored, [_STREAM])
            if row_value is not None:
                table.load(0, row_value)
        for learner in self.by_name.values():
            if isinstance(learner, Rebuilt):
                learner.restored()

    def changed(self) -> Sequence[Row]:
        """See protocols.Persistent."""
        assert self._items is not None
        rows: list[Row] = []
        for _, stored, table in self._tables("item"):
            rows.extend(table_rows(stored, table, self._items.ids))
        for _, stored, table in self._tables("stream"):
            if table.touched[0]:
                rows.append(Row(stored, _STREAM, table.values[0].tobytes()))
        return rows

    def committed(self) -> None:
        """See protocols.Persistent."""
        for side in ("item", "stream"):
            for _, _, table in self._tables(side):
                table.clean(table.dirty())
