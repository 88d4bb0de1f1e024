"""The kernels of the online networks: a forward pass, and a gradient step of a rating's user and item rows.

`network` is one row, laid out as in `Layout`, with hidden layers, categories and groups, which only a retraining changes.
Inner loops run over units and outer ones over inputs, a += x_j w_j, so that they are vectorised with a fixed order of sums.
"""

from typing import NamedTuple

import numpy as np

from streamer.core.arrays import F32, F64, I32, U8, U64, Array
from streamer.core.batch import CATEGORIES, GROUPS, RATING, REPLACED
from streamer.core.kernel import kernel
from streamer.models.biased_mf import LARGEST, deviation
from streamer.models.evidence import take_from_counts

FIELDS = 4  # user, item, the item's categories, the user's groups
# The first two columns of a network: the norms of users' and items' rows after its training, divided by those before it.
NORM_RATIOS = 2


class Layout(NamedTuple):
    """Sizes of a network. Its row is the norm ratios, CATEGORIES and then GROUPS rows of [vector, bias], W1, c1, W2, c2, w."""

    dim: int
    first: int
    second: int
    products: bool  # whether pairwise products of fields are added

    @property
    def width(self) -> int:
        """Number of columns of a network."""
        fields = (CATEGORIES + GROUPS) * (self.dim + 1)
        return NORM_RATIOS + fields + (FIELDS * self.dim + 1) * self.first + (self.first + 2) * self.second


class Layers(NamedTuple):
    """The parts of a network, in float64; `known` is False for one that was never trained, which is all 0."""

    categories: F64  # (CATEGORIES, dim + 1)
    groups: F64  # (GROUPS, dim + 1)
    w1: F64  # (FIELDS dim, first)
    c1: F64  # (first,)
    w2: F64  # (first, second)
    c2: F64  # (second,)
    w3: F64  # (second,)
    back1: F64  # (first, 2 dim): w1 of user and item, transposed
    back2: F64  # (second, first): w2, transposed
    known: bool


@kernel
def layers(network: Array, layout: Layout) -> Layers:
    """Split a network's row into `Layers`. Cost: some 10 us at 32 factors and 16, 16 units."""
    row, dim, first, second = network[0].astype(np.float64), layout.dim, layout.first, layout.second
    inputs, at = FIELDS * dim, NORM_RATIOS
    categories = row[at : at + CATEGORIES * (dim + 1)].reshape((CATEGORIES, dim + 1))
    at += CATEGORIES * (dim + 1)
    groups = row[at : at + GROUPS * (dim + 1)].reshape((GROUPS, dim + 1))
    at += GROUPS * (dim + 1)
    w1 = row[at : at + inputs * first].reshape((inputs, first))
    at += inputs * first
    c1 = row[at : at + first]
    at += first
    w2 = row[at : at + first * second].reshape((first, second))
    at += first * second
    c2 = row[at : at + second]
    w3 = row[at + second : at + 2 * second]
    back1, back2 = w1[: 2 * dim].T.copy(), w2.T.copy()
    return Layers(categories, groups, w1, c1, w2, c2, w3, back1, back2, bool(np.any(row[NORM_RATIOS:] != 0.0)))


@kernel
def read_fields(
    p: Array, q: Array, category_words: U64, item: int, groups: I32, net: Layers, dim: int, x: F64
) -> float:
    """Write the fields of a pair to `x` (4 dim,) and return the sum of their biases.

    The vector of an item without events counts 0.
    """
    bias = np.float64(p[dim]) + np.float64(q[dim])
    x[2 * dim :] = 0.0
    for j in range(dim):
        x[j] = p[j]
    if q[dim + 1] > 0:
        for j in range(dim):
            x[dim + j] = q[j]
    else:  # a new item's vector is only noise
        x[dim : 2 * dim] = 0.0
    if not net.known:
        return bias
    count, total = 0, 0.0
    if 0 <= item < len(category_words):
        for word in range(category_words.shape[1]):
            bits, n = category_words[item, word], 64 * word
            while bits:
                if bits & np.uint64(1):
                    count += 1
                    total += net.categories[n, dim]
                    for j in range(dim):
                        x[2 * dim + j] += net.categories[n, j]
                bits >>= np.uint64(1)
                n += 1
    if count:
        bias += total / count
        for j in range(dim):
            x[2 * dim + j] /= count
    count, total = 0, 0.0
    for group in groups:
        if group >= 0:
            count += 1
            total += net.groups[group, dim]
            for j in range(dim):
                x[3 * dim + j] += net.groups[group, j]
    if count:
        bias += total / count
        for j in range(dim):
            x[3 * dim + j] /= count
    return bias


@kernel
def forward(x: F64, net: Layers, layout: Layout, h1: F64, h2: F64) -> float:
    """The sum of products and hidden layers for fields `x`; writes the hidden units to `h1` (first,) and `h2` (second,)."""
    dim, z = layout.dim, 0.0
    if layout.products:
        for j in range(dim):
            a, b, c, d = x[j], x[dim + j], x[2 * dim + j], x[3 * dim + j]
            z += a * b + c * d + (a + b) * (c + d)
    if not net.known:
        return z
    h1[:] = net.c1
    for j in range(len(x)):
        if x[j] != 0.0:
            x_j, row = x[j], net.w1[j]
            for k in range(len(h1)):
                h1[k] += x_j * row[k]
    h2[:] = net.c2
    for k in range(len(h1)):
        h1[k] = max(h1[k], 0.0)
        if h1[k] > 0.0:
            x_k, row = h1[k], net.w2[k]
            for m in range(len(h2)):
                h2[m] += x_k * row[m]
    for m in range(len(h2)):
        h2[m] = max(h2[m], 0.0)
        z += net.w3[m] * h2[m]
    return z


@kernel
def backward(x: F64, net: Layers, layout: Layout, h1: F64, h2: F64, d1: F64, slope: F64) -> None:
    """The gradient of z with respect to the user's and item's vectors, into `slope` (2 dim,), after `forward`.

    `d1` (first,) is scratch.
    """
    dim = layout.dim
    slope[:] = 0.0
    if layout.products:
        for j in range(dim):
            rest = x[2 * dim + j] + x[3 * dim + j]
            slope[j] = x[dim + j] + rest
            slope[dim + j] = x[j] + rest
    if not net.known:
        return
    d1[:] = 0.0
    for m in range(len(h2)):
        if h2[m] > 0.0:
            d_m, row = net.w3[m], net.back2[m]
            for k in range(len(d1)):
                d1[k] += d_m * row[k]
    for k in range(len(h1)):
        if h1[k] > 0.0:
            d_k, row = d1[k], net.back1[k]
            for j in range(2 * dim):
                slope[j] += d_k * row[j]


@kernel
def learn_network(
    user: Array,
    user_touched: U8,
    item: Array,
    item_touched: U8,
    stream: F64,
    stream_touched: U8,
    network: Array,
    category_words: U64,
    kinds: U8,
    users: I32,
    items: I32,
    values: F32,
    earlier: F32,
    slots: I32,
    groups: I32,
    layout: Layout,
    rates: tuple[float, float, float, float, float, float],
    out: F32,
) -> None:
    """User and item rows are [vector, b, n]; stream is [events, mu, squares, refused]; rates as in `Network.rates`."""
    bias_rate, learning_rate, step_floor, bias_l2, l2, clip = rates
    dim, net, no_groups = layout.dim, layers(network, layout), np.full(1, -1, dtype=np.int32)
    x, slope = np.empty(FIELDS * dim), np.empty(2 * dim)
    h1, h2, d1 = np.empty(layout.first), np.empty(layout.second), np.empty(layout.first)
    for k in range(len(kinds)):
        out[k] = np.nan
        if k < len(earlier) and not np.isnan(earlier[k]):  # only counts, mean and deviation can be taken back
            take_from_counts(stream, user[users[k]], item[items[k]], dim + 1, np.float64(earlier[k]))
            user_touched[users[k]] = item_touched[items[k]] = stream_touched[0] = 1
        if kinds[k] != RATING and kinds[k] != REPLACED:
            continue
        p, q, y = user[users[k]], item[items[k]], np.float64(values[k])
        mu, sigma = stream[0, 1], deviation(stream)
        slot = slots[users[k]] if users[k] < len(slots) else -1
        bias = read_fields(p, q, category_words, items[k], groups[slot] if slot >= 0 else no_groups, net, dim, x)
        predicted = mu + sigma * (bias + forward(x, net, layout, h1, h2))
        out[k] = predicted if kinds[k] == RATING else np.nan
        stream_touched[0] = 1
        b_u, b_i, n_u, n_i = np.float64(p[dim]), np.float64(q[dim]), np.float64(p[dim + 1]), np.float64(q[dim + 1])
        size = b_u * b_u + b_i * b_i + n_u + n_i
        for j in range(dim):
            size += np.float64(p[j]) * np.float64(p[j]) + np.float64(q[j]) * np.float64(q[j])
        if not (np.isfinite(y) and np.isfinite(predicted) and size < LARGEST):  # also refuses NaN
            stream[0, 3] += 1
            continue
        z = min(max((y - predicted) / sigma, -clip), clip)
        backward(x, net, layout, h1, h2, d1, slope)
        s_u, s_i = max(step_floor, 1.0 / np.sqrt(n_u + 1.0)), max(step_floor, 1.0 / np.sqrt(n_i + 1.0))
        p[dim] = b_u + bias_rate * s_u * (z - bias_l2 * b_u)
        q[dim] = b_i + bias_rate * s_i * (z - bias_l2 * b_i)
        s_u, s_i, reach = learning_rate * s_u, learning_rate * s_i, 0.0
        for j in range(dim):
            reach += s_u * slope[j] * slope[j] + s_i * slope[dim + j] * slope[dim + j]
        if reach > 1.0:  # do not overshoot the error
            s_u, s_i = s_u / reach, s_i / reach
        for j in range(dim):
            p[j] = np.float64(p[j]) + s_u * (z * slope[j] - l2 * np.float64(p[j]))
            q[j] = np.float64(q[j]) + s_i * (z * slope[dim + j] - l2 * np.float64(q[j]))
        p[dim + 1] = n_u + 1.0
        q[dim + 1] = n_i + 1.0
        stream[0, 0] += 1.0
        stream[0, 1] = mu + (y - mu) / stream[0, 0]
        stream[0, 2] += (y - mu) * (y - stream[0, 1])
        user_touched[users[k]] = 1
        item_touched[items[k]] = 1


@kernel
def predict_network(
    user: Array, item: Array, stream: F64, network: Array, category_words: U64, users: I32, items: I32, slots: I32, groups: I32, layout: Layout, out: F32,
) -> None:  # fmt: skip
    """Predictions for pairs of rows into `out` (n,); a row outside its table is an unseen one."""
    dim, net, no_groups = layout.dim, layers(network, layout), np.full(1, -1, dtype=np.int32)
    x, h1, h2 = np.empty(FIELDS * dim), np.empty(layout.first), np.empty(layout.second)
    unknown = np.zeros(dim + 2, dtype=user.dtype)
    sigma = deviation(stream)
    for k in range(len(items)):
        u, i = users[k], items[k]
        p, q = user[u] if 0 <= u < len(user) else unknown, item[i] if 0 <= i < len(item) else unknown
        slot = slots[u] if 0 <= u < len(slots) else -1
        bias = read_fields(p, q, category_words, i, groups[slot] if slot >= 0 else no_groups, net, dim, x)
        out[k] = stream[0, 1] + sigma * (bias + forward(x, net, layout, h1, h2))
