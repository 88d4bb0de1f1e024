"""Items: their rows, and their entries in the catalogue. All are in memory.

Items are numbered in order of arrival, for ever, so that rows mean the same after a restart; no stored key is a row.
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
    """All items and the catalogue; protocols.Persistent.

    The engine's thread writes, and queries read: `ids` only grows, `available` is (capacity,), 1 for items that may be shown.
    """

    def __init__(self, tables: Sequence[Table], categories: Categories, seed: int) -> None:
        """`tables` are the item tables of all learners; they grow with the number of items."""
        self._tables, self.categories, self._seed = (
            [*tables, categories.words, categories.category_sets.sets],
            categories,
            seed,
        )
        self.ids: list[str] = []
        self.row_of: dict[str, int] = {}
        self.catalogue: dict[str, ItemUpdate] = {}
        self.available: U8 = np.zeros(64, dtype=np.uint8)
        self._committed_rows = 0  # this row and higher ones are not committed
        self._changed: dict[str, bytes] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, item_ids: Sequence[str]) -> I32:
        """Rows (n,) of items; new items get a row with initial values. Cost: a dict look-up for each item."""
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
        """Replace the catalogue's entry of an item."""
        row = self.row_of.get(item.item_id)
        if row is None:
            row = int(self.rows([item.item_id])[0])
        self.catalogue[item.item_id] = item
        self.available[row] = item.available
        self.categories.put(row, item)
        self._changed[item.item_id] = _ENCODER.encode(item)

    def remove(self, item_id: str) -> None:
        """Never recommend the item again; what was learned about it stays until the next renormalisation."""
        self.put(ItemUpdate(item_id, available=False))

    def title(self, item_id: str) -> str:
        """The item's title, or its id where the catalogue has no title."""
        item = self.catalogue.get(item_id)
        return item.title if item and item.title else item_id

    def restore(self, store: StateStore) -> None:
        """See protocols.Persistent. Must follow the categories."""
        stored = sorted((int.from_bytes(value, "little"), key.decode()) for key, value in store.scan("items"))
        if [row for row, _ in stored] != list(range(len(stored))):
            raise BadState(f"the state has {len(stored)} items, but their numbers have gaps: restore a backup")
        self._admit([item for _, item in stored])
        self._committed_rows = len(stored)
        for key, value in store.scan("catalogue"):
            item = _DECODER.decode(value)
            self.catalogue[key.decode()] = item
            self.available[self.row_of[item.item_id]] = item.available
            self.categories.put(self.row_of[item.item_id], item)

    def changed(self) -> Sequence[Rows]:
        """See protocols.Persistent."""
        new, updates = self.ids[self._committed_rows :], list(self._changed.items())
        numbers = [row.to_bytes(4, "little") for row in range(self._committed_rows, len(self.ids))]
        rows = [
            Rows("items", tuple([item.encode() for item in new]), tuple(numbers)),
            Rows("catalogue", tuple([item.encode() for item, _ in updates]), tuple([value for _, value in updates])),
        ]
        return [run for run in rows if run.keys]

    def committed(self) -> None:
        """See protocols.Persistent."""
        self._committed_rows = len(self.ids)
        self._changed.clear()
