"""Embedding tables: growable (rows, width) arrays of one side, embeddings with their biases and per-row statistics.

One row holds everything that a learner keeps of one user or item, so that an update touches one run of memory and a
row is stored as it stands. Rows begin as a function of (seed, side, id) and are stored only once they were touched.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from streamer.arrays import I32, U8, Array
from streamer.seed import fill_normal

Side: TypeAlias = Literal["user", "item", "stream"]  # "stream": one row, what a learner knows of the whole stream


class Table:
    """Rows of one side.

    `values` is (capacity, width), C-contiguous; `touched` is (capacity,), set to 1 by whoever changes a row and cleared
    when the row is committed. Both are replaced when the table grows: take them anew for every batch.
    """

    def __init__(
        self,
        side: Side,
        start: Sequence[float],
        *,
        random: int = 0,
        scale: float = 0.0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        """A row begins as `start` (width,), plus N(0, scale) from (seed, side, id) in its first `random` columns."""
        self.side: Side = side
        self.dtype = np.dtype(dtype)
        self.start: Array = np.asarray(start, dtype=self.dtype)
        self.random, self.scale = random, scale
        capacity = 1 if side == "stream" else 0
        self.values: Array = np.tile(self.start, (capacity, 1))
        self.touched: U8 = np.zeros(capacity, dtype=np.uint8)

    @property
    def width(self) -> int:
        """Columns of a row."""
        return len(self.start)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.width * self.dtype.itemsize

    def reserve(self, rows: int) -> None:
        """Make room for `rows` rows, by doubling; rows not yet begun hold zeros."""
        capacity = len(self.values)
        if rows <= capacity:
            return
        capacity = max(rows, 2 * capacity, 64)
        values = np.zeros((capacity, self.width), dtype=self.dtype)
        values[: len(self.values)] = self.values
        touched = np.zeros(capacity, dtype=np.uint8)
        touched[: len(self.touched)] = self.touched
        self.values, self.touched = values, touched

    def initial(self, key: int) -> Array:
        """What a row begins as, (width,), from its id's key (`streamer.seed.id_key`). Pure."""
        row: Array = self._initial([key])[0]
        return row

    def begin(self, rows: I32, keys: Sequence[int]) -> None:
        """Give `rows` their first values. Not a touch: what can be made again need not be stored."""
        self.values[rows] = self._initial(keys)
        self.touched[rows] = 0

    def _initial(self, keys: Sequence[int]) -> Array:
        rows = np.tile(self.start, (len(keys), 1))
        if self.random:
            noise = np.empty((len(keys), self.random), dtype=np.float64)
            fill_normal(np.array(keys, dtype=np.uint64), noise)
            rows[:, : self.random] += (self.scale * noise).astype(self.dtype)
        return rows

    def load(self, row: int, value: bytes) -> None:
        """Put a stored row back; raises ValueError when it is not a row of this table."""
        self.values[row] = np.frombuffer(value, dtype=self.dtype, count=self.width)
        self.touched[row] = 0

    def parse(self, value: bytes) -> Array:
        """A stored row as an array, (width,), without putting it anywhere."""
        return np.frombuffer(value, dtype=self.dtype, count=self.width)

    def dirty(self) -> I32:
        """The rows touched since `clean`, ascending."""
        return np.flatnonzero(self.touched).astype(np.int32)

    def clean(self, rows: I32) -> None:
        """Say that `rows` are committed."""
        self.touched[rows] = 0


def spaced(count: int, most: int) -> I32:
    """At most `most` of `count` rows, evenly spaced, the first and the last among them."""
    return np.linspace(0, max(count - 1, 0), min(count, most)).astype(np.int32)
