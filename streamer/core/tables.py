"""Embedding tables: growable (rows, width) arrays of one side, which hold embeddings, biases and per-row statistics.

One row holds everything that a learner keeps for one user or item, so that an update touches contiguous memory and a
row can be stored by itself. A row's initial values are a function of (seed, side, id); it is stored once it has changed.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from streamer.core.arrays import F64, I32, I64, U8, U32, Array
from streamer.core.kernel import kernel
from streamer.core.seed import fill_normal

Side: TypeAlias = Literal["user", "item", "stream"]  # "stream": one row, for what a learner knows of the whole stream


LONG = 64  # columns; a narrower row is always stored whole


@kernel
def _trim(rows: I32, words: U32, octets: U8, start: U32, kept: U8, ends: I64) -> None:
    """Write `rows` to `kept` one after the other, in the format of `Table.serialise`; row n ends at `ends[n]`.

    `words` (capacity, width) and `octets` (capacity, 4 width) are two views of the table.
    """
    width = start.shape[0]
    head, at = (width + 7) // 8, 0
    for n in range(rows.shape[0]):
        row, begin = rows[n], at
        most = begin + 4 * width
        kept[at : at + head] = 0
        at += head
        for k in range(width):
            if words[row, k] != start[k]:
                if at + 4 >= most:  # would not be shorter than the whole row
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

    `values` is (capacity, width), C-contiguous. `touched` is (capacity,): code that changes a row sets it to 1, and a
    commit clears it. Both arrays are replaced when the table grows: read the attributes anew for every batch.
    """

    def __init__(
        self,
        side: Side,
        start: Sequence[float],
        *,
        random: int = 0,
        scale: float = 0.0,
        dtype: DTypeLike = np.float32,
        added: int = 0,
    ) -> None:
        """A row begins as `start` (width,), plus N(0, scale) drawn by (seed, side, id) in its first `random` columns.

        Stored rows of older versions may lack the last `added` columns, and get those of `start`.
        """
        self.side: Side = side
        self.dtype = np.dtype(dtype)
        self.start: Array = np.asarray(start, dtype=self.dtype)
        self.random, self.scale, self._added = random, scale, added
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
        """Make room for `rows` rows, by doubling. New rows hold zeros until `begin`."""
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
        """The initial values of a row, (width,), from its id's key (`streamer.core.seed.id_key`). Changes nothing."""
        row: Array = self._initial([key])[0]
        return row

    def begin(self, rows: I32, keys: Sequence[int]) -> None:
        """Give `rows` their initial values. They do not count as touched: they can be recomputed and need not be stored."""
        self.values[rows] = self._initial(keys) if self.random else self.start
        self.touched[rows] = 0

    def _initial(self, keys: Sequence[int]) -> Array:
        rows = np.tile(self.start, (len(keys), 1))
        if self.random:
            noise = np.empty((len(keys), self.random), dtype=np.float64)
            fill_normal(np.array(keys, dtype=np.uint64), noise)
            rows[:, : self.random] += (self.scale * noise).astype(self.dtype)
        return rows

    def serialise(self, rows: I32) -> list[bytes]:
        """`rows` (n,) as bytes for the store, lossless: whole rows, or only the words that differ from `start` if that is shorter.

        A shortened row is a bit for each 32-bit word, 1 where it differs from `start`, followed by those words. It pays because
        most of a user's covariance is about categories that the user never met. Cost: about 1 ns a word.
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
        """Put a stored row back; raises ValueError when the bytes are not a row of this table."""
        self.values[row] = self.parse(value)
        self.touched[row] = 0

    def parse(self, value: bytes) -> Array:
        """A stored row as an array, (width,); raises ValueError when the bytes are not a row of this table."""
        if len(value) == self.row_bytes:
            return np.frombuffer(value, dtype=self.dtype)
        if self._added and len(value) == self.row_bytes - self._added * self.dtype.itemsize:
            return np.concatenate([np.frombuffer(value, dtype=self.dtype), self.start[-self._added :]])
        for width in (self.width, self.width - self._added):
            words, count = self.start.view(np.uint32).copy(), width * self.dtype.itemsize // 4
            differs, head = np.zeros(len(words), dtype=np.bool_), -(-count // 8)
            differs[:count] = np.unpackbits(np.frombuffer(value[:head], dtype=np.uint8), count=count)
            if width >= LONG and len(value) == head + 4 * np.count_nonzero(differs):
                words[differs] = np.frombuffer(value, dtype=np.uint32, offset=head)
                row: Array = words.view(self.dtype)
                return row
        raise ValueError(f"{len(value)} bytes are not a stored row of {self.width} numbers")

    def dirty(self) -> I32:
        """The rows touched since `clean`, ascending."""
        return np.flatnonzero(self.touched).astype(np.int32)

    def clean(self, rows: I32) -> None:
        """Mark `rows` as committed."""
        self.touched[rows] = 0


def evenly_spaced(count: int, most: int) -> I32:
    """At most `most` of `count` rows, evenly spaced, the first and the last among them."""
    return np.linspace(0, max(count - 1, 0), min(count, most)).astype(np.int32)


def rotation(old: Array, new: Array, weights: Array) -> F64:
    """The orthogonal R (dim, dim) that brings `new` R nearest to `old`, both (n, dim), with rows weighted by `weights` (n,)."""
    a, _, b = np.linalg.svd(new.T.astype(np.float64) @ (old * np.asarray(weights, dtype=np.float64)[:, None]))
    return np.asarray(a @ b, dtype=np.float64)
