"""The kernels of click-blend; click_blend.py has their equations.

The stream's row is [the columns below, w (f,), variances (f,), H (f, f)] for f features: one of each of the n experts, the mixture,
whether the user knows the item, and one of each expert in the mixture, with the logs of their shares in the place of weights.
"""

import numpy as np

from streamer.core.arrays import F32, F64, I32, I64, U8, U64, Bool
from streamer.core.batch import PROPOSE
from streamer.core.kernel import kernel
from streamer.core.seed import mix64
from streamer.models.repeats import FLOOR
from streamer.models.skip_gram import has_seen
from streamer.models.transitions.lists import position_of

RING = 4096  # number of last clicks from which items are drawn
AS_IT_IS, RATING, COUNT, REPEAT, PROBABILITY = range(5)  # what an expert's score is; PROBABILITY: the log of one
COUNT_SMALLEST = 1e-3  # an item without clicks is given this many
# Columns of the stream; WEIGHTS: where w begins.
CLICKED, RANGE, REFUSED, UNFORESEEN, LEVEL, WEIGHTS = range(6)
ALL_LEARNED = 2048  # first clicks of a stream, of which none is passed over
OWN = 8  # candidates among the items that the user knows
FEATURE_CLIP = 20.0  # differences from the clicked item's features are clipped to this
HALF_COUNTED = 5e-3  # a click with this probability counts half
RATE = 0.01  # of the running means: an expert's variance and the share of unforeseen clicks
PROBABILITY_SMALLEST = 1e-12
SHARE_CLIP = 5.0  # logs of shares are clipped to this
LISTED = np.log(FLOOR) + 1e-3  # a score of `repeats` above this says that the item is on the user's list


@kernel
def draw_probes(
    ring: I32, stream: F64, users: I32, items: I32, clicks: F32, keys: U64, every: int, seen_counts: I64, pages: I32,
    page_of: I32, window: int, proposed: int, probes: I32,
) -> None:  # fmt: skip
    """Write to `probes` (n, 1 + c) the clicked item, places for proposals, an item that the user knows, and new ones from the ring.

    -1 elsewhere. `ring` is a copy, (RING,), and is advanced.
    """
    clicked, own, size = int(stream[0, CLICKED]), 1 + proposed, pages.shape[1]
    for k in range(len(clicks)):
        probes[k, :] = -1
        if not (clicks[k] > 0 and np.isfinite(clicks[k])):
            continue
        u, i, known = users[k], items[k], int(min(seen_counts[k], window))
        if clicked > 0 and (clicked < ALL_LEARNED or mix64(keys[k], 1 << 20) % np.uint64(every) == np.uint64(0)):
            probes[k, 0] = i
            probes[k, 1:own] = PROPOSE
            for m in range(own, own + min(OWN, known)):
                back = m - own if known <= OWN else np.int64(mix64(keys[k], (1 << 20) + m) % np.uint64(known))
                c = int(seen_counts[k]) - 1 - back
                j = pages[page_of[u, (c % (size * page_of.shape[1])) // size], c % size]
                probes[k, m] = j if j != i else -1
            for m in range(own + OWN, probes.shape[1]):
                j = ring[mix64(keys[k], (1 << 20) + m) % np.uint64(min(clicked, len(ring)))]
                if j != i and not has_seen(pages, page_of, u, seen_counts[k], window, j):
                    probes[k, m] = j
        ring[clicked % len(ring)] = i
        clicked += 1


@kernel
def share_of(in_ring: I32, stream: F64, i: int) -> float:
    """An item's share of the ring; one that is not in it counts as half a click. `in_ring` (item rows,): how often each is in it."""
    count = float(in_ring[i]) if 0 <= i < len(in_ring) else 0.0
    return float((count + 0.5) / (min(stream[0, CLICKED], float(RING)) + 1.0))


@kernel
def solve(h: F64, g: F64) -> F64:
    """H^-1 g for a symmetric positive definite H, (n, n), by elimination; overwrites both."""
    n = len(g)
    for a in range(n):
        for b in range(a + 1, n):
            share = h[b, a] / h[a, a]
            for c in range(a, n):
                h[b, c] -= share * h[a, c]
            g[b] -= share * g[a]
    for a in range(n - 1, -1, -1):
        for c in range(a + 1, n):
            g[a] -= h[a, c] * g[c]
        g[a] /= h[a, a]
    return g


@kernel
def feature(score: float, kind: int, stream: F64) -> float:
    """f_e from a score; ratings are divided by a quarter of their range, about a deviation; of counts it is the log; 0 from repeats."""
    if kind == RATING:
        return score * 4.0 / stream[0, RANGE] if stream[0, RANGE] > 0.0 else 0.0
    if kind == REPEAT:
        return 0.0
    return np.log(max(score, COUNT_SMALLEST)) if kind == COUNT else score


@kernel
def size_of(stream: F64) -> int:
    """The number of features."""
    n = 1
    while WEIGHTS + 2 * n + n * n < stream.shape[1]:
        n += 1
    return n


@kernel
def describe(scores: F32, kinds: I32, known: bool, stream: F64, f: F64) -> bool:
    """Write the features `f` of an item with the experts' `scores` (n,); return whether it is on its user's list.

    Features that are not finite are 0.
    """
    n, mixture, listed, at = len(kinds), 0.0, False, len(kinds) + 2
    for e in range(n):
        f[e] = feature(np.float64(scores[e]), kinds[e], stream)
        f[e] = f[e] if np.isfinite(f[e]) else 0.0
        if kinds[e] == PROBABILITY:
            f[at] = np.exp(stream[0, WEIGHTS + at] + f[e])
            mixture += f[at]
            at += 1
        listed = listed or (kinds[e] == REPEAT and scores[e] > LISTED)
    f[n] = np.log(max(mixture, PROBABILITY_SMALLEST)) if at > n + 2 else 0.0
    f[n + 1] = 1.0 if known else 0.0
    for e in range(n + 2, at):
        f[e] *= stream[0, WEIGHTS + n] / max(mixture, PROBABILITY_SMALLEST)
    return listed


@kernel
def move_weights(
    stream: F64,
    kinds: I32,
    first: F64,
    d: F64,
    z: F64,
    q: F64,
    count: int,
    share: float,
    prior: float,
    forgetting: float,
) -> None:
    """One step: `first` (f,) the clicked item's features, `d` (count, f) the others' differences from them, after a row of zeros.

    `z` (count,) are w . d, `q` (count,) as in click_blend.py, 1 first; `share`: the clicked item's share of the last clicks.
    """
    n, own = d.shape[1], 0.0
    w = stream[0, WEIGHTS : WEIGHTS + n]
    variance, h = stream[0, WEIGHTS + n : WEIGHTS + 2 * n], stream[0, WEIGHTS + 2 * n :].reshape(n, n)
    p = np.empty(count)
    for a in range(len(kinds) + 2):
        own += w[a] * first[a]
    for m in range(count):
        p[m] = np.exp(min(max(z[m], -50.0), 50.0)) / q[m]
    stream[0, LEVEL] += RATE * (own + np.log(p.sum()) - stream[0, LEVEL])
    p /= p.sum()
    foreseen, unforeseen = (1.0 - stream[0, UNFORESEEN]) * p[0], stream[0, UNFORESEEN] * share
    stream[0, UNFORESEEN] += RATE * (unforeseen / (foreseen + unforeseen) - stream[0, UNFORESEEN])
    reliability = p[0] / (p[0] + HALF_COUNTED)
    g = np.zeros(n)
    for m in range(count):
        for a in range(n):
            g[a] += p[m] * d[m, a]
    for a in range(n):
        for b in range(a + 1):
            second = 0.0
            for m in range(count):
                second += p[m] * d[m, a] * d[m, b]
            h[a, b] = forgetting * h[a, b] + reliability * (second - g[a] * g[b])
            if a == b:
                variance[a] += RATE * (second - g[a] * g[a] - variance[a])
            h[b, a] = h[a, b]
        h[a, a] += (1.0 - forgetting) * prior * max(variance[a], RATE)
    move = solve(h.copy(), g)
    if np.isfinite(move.sum()):
        for a in range(n):
            w[a] -= reliability * move[a]
        for a in range(len(kinds) + 2, n):
            w[a] = min(max(w[a], -SHARE_CLIP), SHARE_CLIP)
    else:
        stream[0, REFUSED] += 1.0


@kernel
def learn_click_blend(
    stream: F64, stream_touched: U8, ring: I32, ring_touched: U8, in_ring: I32, users: I32, items: I32, clicks: F32, lows: F32,
    highs: F32, seen_counts: I64, pages: I32, page_of: I32, window: int, probes: I32, proposed: int, scores: F32, kinds: I32,
    prior: float, forgetting: float,
) -> None:  # fmt: skip
    """Learn from clicks, one by one; `scores` (events with probes, 1 + c, n)."""
    n, asked = size_of(stream), -1
    first, f = np.empty(n), np.empty(n)
    d, z, q = np.empty((probes.shape[1], n)), np.empty(probes.shape[1]), np.empty(probes.shape[1])
    own, drawn = 1 + proposed, max(probes.shape[1] - 1 - proposed - OWN, 1)
    for k in range(len(clicks)):
        if not np.isfinite(clicks[k]):
            stream[0, REFUSED] += 1.0
            stream_touched[0] = 1
        if not (clicks[k] > 0 and np.isfinite(clicks[k])):
            continue
        width = np.float64(highs[k]) - np.float64(lows[k])
        if np.isfinite(width):
            stream[0, RANGE] = width
        asked += probes[k, 0] >= 0
        count = 0
        for m in range(probes.shape[1] if probes[k, 0] >= 0 else 0):
            j = probes[k, m]
            if j < 0 or (m >= own + OWN and position_of(probes[k, 1:own], j) >= 0):
                continue
            known = own <= m < own + OWN or (m == 0 and has_seen(pages, page_of, users[k], seen_counts[k], window, j))
            if describe(scores[asked, m], kinds, known, stream, first if m == 0 else f):
                if m == 0:
                    break
                continue
            z[count], q[count] = 0.0, 1.0
            if m >= own + OWN:
                q[count] = drawn * share_of(in_ring, stream, j)
            elif m >= own:
                q[count] = min(OWN / min(seen_counts[k], window), 1.0)
            for a in range(n):
                d[count, a] = min(max(f[a] - first[a], -FEATURE_CLIP), FEATURE_CLIP) if m > 0 else 0.0
                z[count] += stream[0, WEIGHTS + a] * d[count, a] if a < len(kinds) + 2 else 0.0
            count += 1
        # What was never clicked before is no candidate of anybody, and could not be predicted.
        if count > 1 and (in_ring[items[k]] > 0 or np.any((kinds == COUNT) & (scores[asked, 0] > 0.0))):
            move_weights(stream, kinds, first, d, z, q, count, share_of(in_ring, stream, items[k]), prior, forgetting)
        place = int(stream[0, CLICKED]) % ring.shape[1]
        if ring[0, place] >= 0:
            in_ring[ring[0, place]] -= 1
        ring[0, place] = items[k]
        in_ring[items[k]] += 1
        stream[0, CLICKED] += 1.0
        stream_touched[0] = ring_touched[0] = 1


@kernel
def score_click_blend(stream: F64, scores: F32, kinds: I32, known: Bool, rho: float, out: F32, listed: Bool) -> None:
    """Scores of items from the experts' `scores` (n, items) into `out` (items,), and whether each is on the user's list.

    `known` (items,): whether the user knows the item.
    """
    f, one = np.empty(size_of(stream)), np.empty(len(kinds), dtype=np.float32)
    level = stream[0, LEVEL] + np.log(rho / (1.0 - rho) / (1.0 - stream[0, UNFORESEEN]))
    for k in range(len(out)):
        total = 0.0
        for e in range(len(kinds)):
            one[e] = scores[e, k]
        listed[k] = describe(one, kinds, known[k], stream, f)
        for a in range(len(kinds) + 2):
            total += stream[0, WEIGHTS + a] * f[a]
        for e in range(len(kinds) if listed[k] else 0):
            if kinds[e] == REPEAT:
                total = level + np.float64(one[e])
        out[k] = total


@kernel
def share_probabilities(z: F32, listed: Bool, shares: F64, unforeseen: float, rho: float, out: F32) -> None:
    """P(i) of items with scores `z` (n,) and `shares` of the last clicks (n,) into `out` (n,)."""
    largest, sums, clicks = np.full(2, -np.inf), np.zeros(2), np.zeros(2)
    for k in range(len(out)):
        nest = int(listed[k])
        largest[nest] = max(largest[nest], z[k])
        clicks[nest] += shares[k]
    for k in range(len(out)):
        sums[int(listed[k])] += np.exp(np.float64(z[k]) - largest[int(listed[k])])
    rest = 1.0 if sums[0] == 0.0 or sums[1] == 0.0 else 0.0  # none is on the list, or all are
    for k in range(len(out)):
        nest = int(listed[k])
        foreseen = np.exp(np.float64(z[k]) - largest[nest]) / sums[nest]
        mixed = foreseen if nest else (1.0 - unforeseen) * foreseen + unforeseen * shares[k] / clicks[nest]
        out[k] = mixed * max(rho if nest else 1.0 - rho, rest)
