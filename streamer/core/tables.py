"""Embedding tables: growable (rows, width) arrays of one side, embeddings with their biases and per-row statistics.

One row holds everything that a learner keeps of one user or item, so that an update touches one run of memory and a
row is stored by itself. Rows begin as a function of (seed, side, id) and are stored only once they were touched.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from streamer.core.arrays import F64, I32, I64, U8, U32, Array
from streamer.core.kernel import kernel
from streamer.core.seed import fill_normal

Side: TypeAlias = Literal["user", "item", "stream"]  # "stream": one row, what a learner knows of the whole stream


LONG = 64  # numbers; a shorter row is always stored whole


@kernel
def _trim(rows: I32, words: U32, octets: U8, start: U32, kept: U8, ends: I64) -> None:
    """Row by row as `Table.stored` says, one behind the other; `octets` are the bytes of `words`."""
    width = start.shape[0]
    head, at = (width + 7) // 8, 0
    for n in range(rows.shape[0]):
        row, begin = rows[n], at
        most = begin + 4 * width
        kept[at : at + head] = 0
        at += head
        for k in range(width):
            if words[row, k] != start[k]:
                if at + 4 >= most:  # no shorter than the whole row
                    at = most
                    break
                kept[begin + k // 8] |= np.uint8(128 >> (k % 8))
                for b in range(4):
                    kept[at + b] = octets[row, 4 * k + b]
                at += 4
        if at == most:
            kept[begin:most] = octets[row]
        ends[n] = at


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
        """What a row begins as, (width,), from its id's key (`streamer.core.seed.id_key`). Pure."""
        row: Array = self._initial([key])[0]
        return row

    def begin(self, rows: I32, keys: Sequence[int]) -> None:
        """Give `rows` their first values. Not a touch: what can be made again need not be stored."""
        self.values[rows] = self._initial(keys) if self.random else self.start
        self.touched[rows] = 0

    def _initial(self, keys: Sequence[int]) -> Array:
        rows = np.tile(self.start, (len(keys), 1))
        if self.random:
            noise = np.empty((len(keys), self.random), dtype=np.float64)
            fill_normal(np.array(keys, dtype=np.uint64), noise)
            rows[:, : self.random] += (self.scale * noise).astype(self.dtype)
        return rows

    def stored(self, rows: I32) -> list[bytes]:
        """`rows` (n,) as the store keeps them, to the bit: whole, or without what is as `start` says, where that is shorter.

        Such a row is a bit for each of its words of 32 bits, 1 where it differs from `start`, and those words: most of
        a user's covariance is about categories never met. Cost: about 1 ns a word.
        """
        size = self.row_bytes
        if self.width < LONG:
            whole = self.values[rows].tobytes()
            return [whole[start : start + size] for start in range(0, len(whole), size)]
        kept, ends = np.empty(len(rows) * size, dtype=np.uint8), np.empty(len(rows), dtype=np.int64)
        words = self.values.view(np.uint32)
        _trim(rows, words, words.view(np.uint8), self.start.view(np.uint32), kept, ends)
        stops = ends.tolist()
        packed = kept[: stops[-1] if stops else 0].tobytes()
        return [packed[start:stop] for start, stop in zip([0, *stops[:-1]], stops, strict=bool(stops))]

    def load(self, row: int, value: bytes) -> None:
        """Put a stored row back; raises ValueError when it is not a row of this table."""
        self.values[row] = self.parse(value)
        self.touched[row] = 0

    def parse(self, value: bytes) -> Array:
        """A stored row as an array, (width,), without putting it anywhere; raises ValueError when it is not one of this table."""
        if len(value) == self.row_bytes:
            return np.frombuffer(value, dtype=self.dtype)
        words = self.start.view(np.uint32).copy()
        head = -(-len(words) // 8)
        differs = np.unpackbits(np.frombuffer(value[:head], dtype=np.uint8), count=len(words)).view(np.bool_)
        if self.width < LONG or len(value) != head + 4 * np.count_nonzero(differs):
            raise ValueError(f"{len(value)} bytes are no row of {self.width} numbers")
        words[differs] = np.frombuffer(value, dtype=np.uint32, offset=head)
        row: Array = words.view(self.dtype)
        return row

    def dirty(self) -> I32:
        """The rows touched since `clean`, ascending."""
        return np.flatnonzero(self.touched).astype(np.int32)

    def clean(self, rows: I32) -> None:
        """Say that `rows` are committed."""
        self.touched[rows] = 0


def spaced(count: int, most: int) -> I32:
    """At most `most` of `count` rows, evenly spaced, the first and the last among them."""
    return np.linspace(0, max(count - 1, 0), min(count, most)).astype(np.int32)


def rotation(old: Array, new: Array, weights: Array) -> F64:
    """The orthogonal R (dim, dim) that takes `new` (n, dim) nearest to `old` as new R, rows weighted by `weights` (n,)."""
    a, _, b = np.linalg.svd(new.T.astype(np.float64) @ (old * np.asarray(weights, dtype=np.float64)[:, None]))
    return np.asarray(a @ b, dtype=np.float64)
