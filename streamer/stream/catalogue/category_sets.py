"""Sets of items that have exactly the same categories, for the learners. They follow from the catalogue and are not stored."""

import heapq

import numpy as np

from streamer.core.arrays import I32
from streamer.core.tables import Table


class CategorySets:
    """Sets of items by the bits of their categories. Each set is represented by one item, the one with the lowest row."""

    def __init__(self) -> None:
        self.sets = Table("item", [-1], dtype=np.int32)  # the item's set, -1: without categories
        self.representatives: I32 = np.full(64, -1, dtype=np.int32)  # (sets,) item rows
        self._bits: dict[int, int] = {}  # item row -> its bits
        self._set_of: dict[int, int] = {}  # bits -> set
        self._heaps: list[list[int]] = []  # by set, a heap of item rows; may still hold items that have left the set

    def put(self, row: int, bits: int) -> None:
        """Set the categories of the item in `row`. Cost: O(log(items of the set))."""
        before = self._bits.get(row, 0)
        if bits == before:
            return
        self._bits[row] = bits
        self.sets.values[row, 0] = self._join(row, bits) if bits else -1
        if before:
            self._update_representative(self._set_of[before], before)

    def _join(self, row: int, bits: int) -> int:
        number = self._set_of.setdefault(bits, len(self._heaps))
        if number == len(self._heaps):
            self._heaps.append([])
            if number == len(self.representatives):
                self.representatives = np.concatenate([self.representatives, np.full(number, -1, dtype=np.int32)])
        members = self._heaps[number]
        heapq.heappush(members, row)
        if members[0] == row:  # otherwise the first member is still in this set: see `_update_representative`
            self.representatives[number] = row
        return number

    def _update_representative(self, number: int, bits: int) -> None:
        members = self._heaps[number]
        while members and self._bits[members[0]] != bits:
            heapq.heappop(members)
        self.representatives[number] = members[0] if members else -1
