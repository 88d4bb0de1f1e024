"""The noise distribution of negative sampling: item rows drawn with weights that change with every event.

A Fenwick tree over item rows: drawing a row and changing a weight cost O(log rows), growth by doubling O(1) an item.
Weights are integers, so the tree holds exact sums: it is the same whether it was updated event by event or built from the
stored weights after a restart, so the tree itself is not stored.

Fenwick (1994), A new data structure for cumulative frequency tables, Software: Practice and Experience 24(3).
"""

import numpy as np

from streamer.core.arrays import I64, Array
from streamer.core.kernel import kernel

UNIT = 65536.0  # counts and weights are in 1/65,536: 2^63 is enough for 10 million items with a million clicks each


@kernel
def noise_weight(count: int, exponent: float) -> int:
    """The weight of a row clicked `count` / UNIT times, in 1 / UNIT."""
    return int(np.floor(UNIT * (count / UNIT) ** exponent + 0.5))


@kernel
def build_noise(weights: Array) -> I64:
    """The tree (size + 1,) over weights (rows,); size is the next power of two. Cost: O(size)."""
    size = 1
    while size < len(weights):
        size *= 2
    tree = np.zeros(size + 1, dtype=np.int64)
    for row in range(len(weights)):
        tree[row + 1] = weights[row]
    for node in range(1, size):
        parent = node + (node & -node)
        tree[parent] += tree[node]
    return tree


@kernel
def add_noise(tree: I64, row: int, weight: int) -> None:
    """Add to a row's weight."""
    node = row + 1
    while node < len(tree):
        tree[node] += weight
        node += node & -node


@kernel
def add_clicks(noise: I64, tree: I64, i: int, clicks: float, exponent: float) -> None:
    """Add clicks to item i, in its row of the noise and in the tree; it keeps no less than 0."""
    noise[i, 0] = max(0, noise[i, 0] + np.int64(np.floor(UNIT * clicks + 0.5)))
    before = noise[i, 1]
    noise[i, 1] = noise_weight(noise[i, 0], exponent)
    add_noise(tree, i, noise[i, 1] - before)


@kernel
def draw_noise(tree: I64, bits: np.uint64) -> int:
    """The row that 64 random bits select, -1 when all weights are 0. Does not depend on the tree's size."""
    step = len(tree) - 1
    if tree[step] <= 0:
        return -1
    rest = np.int64(bits % np.uint64(tree[step]))
    row = 0
    while step > 0:
        node = row + step
        if node < len(tree) and tree[node] <= rest:
            row = node
            rest -= tree[node]
        step //= 2
    return row
