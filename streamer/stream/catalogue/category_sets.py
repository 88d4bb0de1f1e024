"""Kin: items of the very same categories, as learners read it. It follows from the catalogue, and nothing of it is stored."""

import heapq

import numpy as np

from streamer.core.arrays import I32
from streamer.core.tables import Table


class CategorySets:
    """Sets of items by their categories' bits; each keeps what is known of it with its eldest, the item with the lowest row."""

    def __init__(self) -> None:
        self.sets = Table("item", [-1], dtype=np.int32)  # the item's set, -1: of no category
        self.representatives: I32 = np.full(64, -1, dtype=np.int32)  # (sets,) item rows
        self._bits: dict[int, int] = {}  # item row -> its bits
        self._set_of: dict[int, int] = {}  # bits -> set
        self._members: list[list[int]] = []  # heaps of item rows, with some that have left

    def put(self, row: int, bits: int) -> None:
        """The item in `row` is of these categories now. Cost: O(log items of the set)."""
        before = self._bits.get(row, 0)
        if bits == before:
            return
        self._bits[row] = bits
        self.sets.values[row, 0] = self._join(row, bits) if bits else -1
        if before:
            self._settle(self._set_of[before], before)

    def _join(self, row: int, bits: int) -> int:
        number = self._set_of.setdefault(bits, len(self._members))
        if number == len(self._members):
            self._members.append([])
            if number == len(self.representatives):
                self.representatives = np.concatenate([self.representatives, np.full(number, -1, dtype=np.int32)])
        members = self._members[number]
        heapq.heappush(members, row)
        if members[0] == row:  # the first of them is of this set, as it was settled last
            self.representatives[number] = row
        return number

    def _settle(self, number: int, bits: int) -> None:
        members = self._members[number]
        while members and self._bits[members[0]] != bits:
            heapq.heappop(members)
        self.representatives[number] = members[0] if members else -1
