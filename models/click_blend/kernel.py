"""The kernels of click-blend; click_blend.py has their equations.

The stream's row is [the columns below, v (3,), H of v (3, 3), w (f,), variances (f,), H (f, f)] for f features: one of each of the
n experts, the mixture, whether the user knows the item, and one of each expert in the mixture, with the logs of their shares in the
place of weights.
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
CLICKED, RANGE, REFUSED, UNFORESEEN, LISTED_WEIGHTS = range(5)  # columns of the stream; the last: where v begins
LISTED_FEATURES = 3  # of an item on the list: 1, the score of `repeats`, and w . f
WEIGHTS = LISTED_WEIGHTS + LISTED_FEATURES + LISTED_FEATURES**2  # where w begins
ALL_LEARNED = 2048  # first clicks of a stream, of which none is passed over
OWN = 8  # candidates among the items that the user knows
FEATURE_CLIP = 20.0  # differences from the clicked item's features are clipped to this
HALF_COUNTED = 5e-3  # a click with this probability counts half
RATE = 0.01  # of the running means: an expert's variance and the share of unforeseen clicks
PROBABILITY_SMALLEST = 1e-12
SHARE_CLIP = 5.0  # logs of shares are clipped to this
LISTED = np.log(FLOOR) + 0.5  # a score of `repeats` above this says that the item is on the user's list


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
def describe_listed(scores: F32, kinds: I32, z: float, y: F64) -> None:
    """Write to `y` (3,) what an item on the list has: 1, the score of `repeats`, and `z`, which is its w . f."""
    y[0], y[1], y[2] = 1.0, 0.0, z
    for e in range(len(kinds)):
        if kinds[e] == REPEAT:
            y[1] = np.float64(scores[e])


@kernel
def product(w: F64, f: F64, n: int) -> float:
    """w . f of the first n features."""
    total = 0.0
    for a in range(n):
        total += w[a] * f[a]
    return total


@kernel
def second_moments(h: F64, p: F64, f: F64, g: F64, count: int, reliability: float, forgetting: float) -> None:
    """H <- l H + r (the covariance of the features `f` (count, n) under `p` (count,)), whose mean is `g` (n,)."""
    for a in range(len(g)):
        for b in range(a + 1):
            second = 0.0
            for m in range(count):
                second += p[m] * f[m, a] * f[m, b]
            h[a, b] = forgetting * h[a, b] + reliability * (second - g[a] * g[b])
            h[b, a] = h[a, b]


@kernel
def move_weights(stream: F64, kinds: I32, d: F64, z: F64, q: F64, count: int, prior: float, forgetting: float) -> None:
    """One step of w and a: `d` (count, f) the differences of the candidates off the list from the clicked item, a row of zeros first.

    `z` (count,) are w . d, `q` (count,) as in click_blend.py, 1 first.
    """
    n = d.shape[1]
    w = stream[0, WEIGHTS : WEIGHTS + n]
    variance, h = stream[0, WEIGHTS + n : WEIGHTS + 2 * n], stream[0, WEIGHTS + 2 * n :].reshape(n, n)
    p, g = np.empty(count), np.zeros(n)
    for m in range(count):
        p[m] = np.exp(min(max(z[m], -50.0), 50.0)) / q[m]
    p /= p.sum()
    reliability = p[0] / (p[0] + HALF_COUNTED)
    for m in range(count):
        for a in range(n):
            g[a] += p[m] * d[m, a]
    for a in range(n):
        second = 0.0
        for m in range(count):
            second += p[m] * d[m, a] * d[m, a]
        variance[a] += RATE * (second - g[a] * g[a] - variance[a])
    second_moments(h, p, d, g, count, reliability, forgetting)
    for a in range(n):
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
def move_listed(stream: F64, y: F64, z: F64, q: F64, count: int, share: float, prior: float, forgetting: float) -> None:
    """One step of v and u: `y` (count, 3) what items on the list have, zeros for others, and `z` (count,) of all, the clicked one first.

    `share`: the clicked item's share of the last clicks.
    """
    n = LISTED_FEATURES
    v = stream[0, LISTED_WEIGHTS : LISTED_WEIGHTS + n]
    h = stream[0, LISTED_WEIGHTS + n : WEIGHTS].reshape(n, n)
    p, g, largest = np.empty(count), np.zeros(n), z[0]
    for m in range(count):
        largest = max(largest, z[m])
    for m in range(count):
        p[m] = np.exp(z[m] - largest) / q[m]
    p /= p.sum()
    foreseen, unforeseen = (1.0 - stream[0, UNFORESEEN]) * p[0], stream[0, UNFORESEEN] * share
    stream[0, UNFORESEEN] += RATE * (unforeseen / (foreseen + unforeseen) - stream[0, UNFORESEEN])
    reliability = p[0] / (p[0] + HALF_COUNTED)
    for m in range(count):
        for a in range(n):
            g[a] += p[m] * y[m, a]
    second_moments(h, p, y, g, count, reliability, forgetting)
    for a in range(n):
        h[a, a] += (1.0 - forgetting) * prior
        g[a] -= y[0, a]
    move = solve(h.copy(), g)
    if np.isfinite(move.sum()):
        for a in range(n):
            v[a] -= reliability * move[a]
    else:
        stream[0, REFUSED] += 1.0


@kernel
def learn_click_blend(
    stream: F64, stream_touched: U8, ring: I32, ring_touched: U8, in_ring: I32, users: I32, items: I32, clicks: F32, lows: F32,
    highs: F32, seen_counts: I64, pages: I32, page_of: I32, window: int, probes: I32, proposed: int, scores: F32, kinds: I32,
    prior: float, forgetting: float,
) -> None:  # fmt: skip
    """Learn from clicks, one by one; `scores` (events with probes, 1 + c, n)."""
    n, asked, width = size_of(stream), -1, probes.shape[1]
    first, f, w = np.empty(n), np.empty(n), stream[0, WEIGHTS : WEIGHTS + n]
    d, z, q = np.empty((width, n)), np.empty(width), np.empty(width)  # off the list
    y, z_of_all, q_of_all = np.empty((width, LISTED_FEATURES)), np.empty(width), np.empty(width)
    own, drawn, linear = 1 + proposed, max(width - 1 - proposed - OWN, 1), len(kinds) + 2
    for k in range(len(clicks)):
        if not np.isfinite(clicks[k]):
            stream[0, REFUSED] += 1.0
            stream_touched[0] = 1
        if not (clicks[k] > 0 and np.isfinite(clicks[k])):
            continue
        span = np.float64(highs[k]) - np.float64(lows[k])
        if np.isfinite(span):
            stream[0, RANGE] = span
        asked += probes[k, 0] >= 0
        count, off_list, repeated = 0, 0, False
        for m in range(width if probes[k, 0] >= 0 else 0):
            j = probes[k, m]
            if j < 0 or (m >= own + OWN and position_of(probes[k, 1:own], j) >= 0):
                continue
            known = own <= m < own + OWN or (m == 0 and has_seen(pages, page_of, users[k], seen_counts[k], window, j))
            listed = describe(scores[asked, m], kinds, known, stream, first if m == 0 else f)
            z_of_all[count], q_of_all[count], y[count, :] = product(w, first if m == 0 else f, linear), 1.0, 0.0
            if m >= own + OWN:
                q_of_all[count] = drawn * share_of(in_ring, stream, j)
            elif m >= own:
                q_of_all[count] = min(OWN / min(seen_counts[k], window), 1.0)
            if listed:
                describe_listed(scores[asked, m], kinds, z_of_all[count], y[count])
                z_of_all[count] = product(stream[0, LISTED_WEIGHTS:], y[count], LISTED_FEATURES)
            repeated = repeated or (listed and m == 0)
            if not listed and not repeated:
                for a in range(n):
                    d[off_list, a] = min(max(f[a] - first[a], -FEATURE_CLIP), FEATURE_CLIP) if m > 0 else 0.0
                z[off_list], q[off_list] = product(w, d[off_list], linear), q_of_all[count]
                off_list += 1
            count += 1
        # What was never clicked before is no candidate of anybody, and could not be predicted.
        if count > 1 and (in_ring[items[k]] > 0 or np.any((kinds == COUNT) & (scores[asked, 0] > 0.0))):
            share = share_of(in_ring, stream, items[k])
            if off_list > 1:
                move_weights(stream, kinds, d, z, q, off_list, prior, forgetting)
            move_listed(stream, y, z_of_all, q_of_all, count, share, prior, forgetting)
        place = int(stream[0, CLICKED]) % ring.shape[1]
        if ring[0, place] >= 0:
            in_ring[ring[0, place]] -= 1
        ring[0, place] = items[k]
        in_ring[items[k]] += 1
        stream[0, CLICKED] += 1.0
        stream_touched[0] = ring_touched[0] = 1


@kernel
def score_click_blend(stream: F64, scores: F32, kinds: I32, known: Bool, out: F32) -> None:
    """z of items from the experts' `scores` (n, items) into `out` (items,); `known` (items,): whether the user knows the item."""
    n = size_of(stream)
    f, one, y = np.empty(n), np.empty(len(kinds), dtype=np.float32), np.empty(LISTED_FEATURES)
    for k in range(len(out)):
        for e in range(len(kinds)):
            one[e] = scores[e, k]
        listed = describe(one, kinds, known[k], stream, f)
        total = product(stream[0, WEIGHTS:], f, len(kinds) + 2)
        if listed:
            describe_listed(one, kinds, total, y)
            total = product(stream[0, LISTED_WEIGHTS:], y, LISTED_FEATURES)
        out[k] = total


@kernel
def share_probabilities(z: F32, shares: F64, unforeseen: float, out: F32) -> None:
    """P(i) of items with scores `z` (n,) and `shares` of the last clicks (n,) into `out` (n,)."""
    largest, total, clicks = z.max() if len(z) else 0.0, 0.0, shares.sum()
    for k in range(len(out)):
        total += np.exp(np.float64(z[k]) - largest)
    for k in range(len(out)):
        foreseen = np.exp(np.float64(z[k]) - largest) / total
        out[k] = (1.0 - unforeseen) * foreseen + unforeseen * shares[k] / clicks
