"""Items: ids to rows, and what the catalogue says of them. All of it lives in memory.

An item's row is its order of arrival, kept for ever, so that rows mean the same after a restart; nothing is keyed by it.
"""

from collections.abc import Sequence

import msgspec
import numpy as np

from streamer.core.arrays import I32, U8
from streamer.core.errors import BadState
from streamer.core.events import ItemUpdate
from streamer.core.protocols import Rows, StateStore
from streamer.core.seed import id_key
from streamer.core.tables import Table
from streamer.stream.catalogue.categories import Categories

_DECODER = msgspec.json.Decoder(ItemUpdate)
_ENCODER = msgspec.json.Encoder(order="deterministic")


class Items:
    """The vocabulary of items and the catalogue; protocols.Persistent.

    The engine's thread writes, queries read: `ids` only grows, `available` is (capacity,) with 1 for what may be shown.
    """

    def __init__(self, tables: Sequence[Table], categories: Categories, seed: int) -> None:
        """`tables` are all learners' item tables: they grow with the vocabulary, as do the categories' words."""
        self._tables, self.categories, self._seed = (
            [*tables, categories.words, categories.category_sets.sets],
            categories,
            seed,
        )
        self.ids: list[str] = []
        self.row_of: dict[str, int] = {}
        self.catalogue: dict[str, ItemUpdate] = {}
        self.available: U8 = np.zeros(64, dtype=np.uint8)
        self._new = 0  # rows from here on are not committed
        self._changed: dict[str, bytes] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, item_ids: Sequence[str]) -> I32:
        """Rows (n,) of items, new ones beginning as `Table.initial` says. Cost: a look-up an item."""
        row_of = self.row_of
        try:
            return np.array([row_of[item] for item in item_ids], dtype=np.int32)
        except KeyError:
            self._admit([item for item in dict.fromkeys(item_ids) if item not in row_of])
            return np.array([row_of[item] for item in item_ids], dtype=np.int32)

    def _admit(self, item_ids: Sequence[str]) -> None:
        first, count = len(self.ids), len(self.ids) + len(item_ids)
        keys = [id_key(self._seed, "item", item) for item in item_ids]
        rows = np.arange(first, count, dtype=np.int32)
        for table in self._tables:
            table.reserve(count)
            table.begin(rows, keys)
        if count > len(self.available):
            grown = np.zeros(max(count, 2 * len(self.available)), dtype=np.uint8)
            grown[: len(self.available)] = self.available
            self.available = grown
        self.available[first:count] = 1
        self.ids.extend(item_ids)
        self.row_of.update(zip(item_ids, range(first, count), strict=True))

    def put(self, item: ItemUpdate) -> None:
        """What the catalogue says now."""
        row = self.row_of.get(item.item_id)
        if row is None:
            row = int(self.rows([item.item_id])[0])
        self.catalogue[item.item_id] = item
        self.available[row] = item.available
        self.categories.put(row, item)
        self._changed[item.item_id] = _ENCODER.encode(item)

    def remove(self, item_id: str) -> None:
        """Show it no more; what was learned of it stays until the next renormalisation."""
        self.put(ItemUpdate(item_id, available=False))

    def title(self, item_id: str) -> str:
        """Its title, or its id where the catalogue has none."""
        item = self.catalogue.get(item_id)
        return item.title if item and item.title else item_id

    def restore(self, store: StateStore) -> None:
        """See protocols.Persistent; after the categories."""
        stored = sorted((int.from_bytes(value, "little"), key.decode()) for key, value in store.scan("items"))
        if [row for row, _ in stored] != list(range(len(stored))):
            raise BadState(f"the state holds {len(stored)} items, but not one of each number: restore a backup")
        self._admit([item for _, item in stored])
        self._new = len(stored)
        for key, value in store.scan("catalogue"):
            item = _DECODER.decode(value)
            self.catalogue[key.decode()] = item
            self.available[self.row_of[item.item_id]] = item.available
            self.categories.put(self.row_of[item.item_id], item)

    def changed(self) -> Sequence[Rows]:
        """See protocols.Persistent."""
        new, said = self.ids[self._new :], list(self._changed.items())
        numbers = [row.to_bytes(4, "little") for row in range(self._new, len(self.ids))]
        rows = [
            Rows("items", tuple([item.encode() for item in new]), tuple(numbers)),
            Rows("catalogue", tuple([item.encode() for item, _ in said]), tuple([value for _, value in said])),
        ]
        return [run for run in rows if run.keys]

    def committed(self) -> None:
        """See protocols.Persistent."""
        self._new = len(self.ids)
        self._changed.clear()
