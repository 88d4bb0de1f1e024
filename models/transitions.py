"""Transitions: what people click after what, counted.

    P(i | c)  = (n_ci + m s_i) / (n_c + m)                      s_i: the item's share of the clicks of late
    P(i | u)  = sum_t d^t P(i | c_t) / sum_t d^t                c_0, c_1, ...: what u clicked last, newest first
    learning  n_(c_t)i += w d^t,  n_i(c_t) += b w d^t           for a click of weight w, b backwards

and n_c is the sum of n_c. A user without clicks gets s. Each item keeps the `successors` that count most, by Space-Saving:
an item that is not in a full list takes the place and the count of the least, so that what came lately stays in. A
dislike (a weight below 0) takes its weight from the same counts, down to 0. A list whose sum passes 2^20 is halved.
Cost: O(window successors) a click, about 3 us. State: 4 (2 successors + 1) bytes an item, 1 KB, and 16 of popularity;
4 window bytes a user.

Metwally, Agrawal, El Abbadi (2005), Efficient computation of frequent and top-k elements in data streams, ICDT. Deviation:
weights instead of ones. On ml-latest-small lists of 128 rank better than unbounded ones, as they forget.
"""

from collections.abc import Mapping

import msgspec
import numpy as np

from streamer.arrays import F32, F64, I32, U8, Array
from streamer.batch import Batch, Opinion, UserView
from streamer.embeddings import Table
from streamer.kernel import kernel
from streamer.protocols import Kind

FULL = 1048576.0  # a larger sum is halved: float32 still holds what one click adds
REFUSED = 2  # column of the stream
LEAST = 1e-3  # clicks that an item without any counts as, so that every score is a number


class TransitionsParameters(msgspec.Struct, frozen=True):
    """Lists and decays."""

    successors: int = 128
    """Items in an item's list. 96 to 256 all rank alike on ml-latest-small; 64 loses 3%."""
    window: int = 10
    """A user's last clicks that count. The design's measurement."""
    decay: float = 0.85
    """What an older click counts of the next newer one. Between .8 and .9 all gain alike."""
    backwards: float = 0.5
    """What the way back counts. The design's measurement."""
    pseudo_counts: float = 20.0
    """m: clicks that popularity counts for in a list. The design's measurement."""
    half_life: float = 5000.0
    """After how many clicks (of anybody, on anything) a click counts half in popularity. As for popularity-recent."""


@kernel
def place_of(row: I32, i: int) -> int:
    """Where i stands in a list, -1: nowhere."""
    place = -1
    for n in range(len(row)):  # no early end: this way the processor compares many at once
        place = max(place, n if row[n] == i else -1)
    return place


@kernel
def add_successor(row: I32, counts: Array, i: int, weight: float) -> bool:
    """Count i in a list; `counts` is [sum, count, ...]. A weight below 0 takes away what is there. False: refused."""
    if not np.isfinite(counts[0]):
        return False
    place = place_of(row, i)
    if place < 0:
        if weight <= 0.0:
            return True
        place = int(np.argmin(counts[1:]))
        row[place] = i
    count = np.float64(counts[1 + place])
    moved = max(weight, -count)
    counts[1 + place] = count + moved
    counts[0] = max(np.float64(counts[0]) + moved, 0.0)
    if counts[0] > FULL:
        for n in range(len(counts)):
            counts[n] = 0.5 * counts[n]
    return True


@kernel
def share_of(popularity: F64, stream: F64, i: int, half_life: float) -> float:
    """s_i; popularity rows are [n, t], as of click t; the stream's is [sum, clicks, refused]."""
    n = 0.0
    if 0 <= i < len(popularity):
        n = popularity[i, 0] * 2.0 ** ((popularity[i, 1] - stream[0, 1]) / half_life)
    return float(max(n, LEAST) / max(stream[0, 0], LEAST))


@kernel
def probability(
    context: I32, successors: I32, counts: Array, share: float, i: int, decay: float, pseudo_counts: float
) -> float:
    """P(i | u)."""
    total, weights, weight = 0.0, 0.0, 1.0
    for t in range(len(context)):
        c = context[t]
        if c < 0:
            break
        place = place_of(successors[c], i)
        count = np.float64(counts[c, 1 + place]) if place >= 0 else 0.0
        p = (count + pseudo_counts * share) / (np.float64(counts[c, 0]) + pseudo_counts)
        if np.isfinite(p):
            total += weight * p
            weights += weight
        weight *= decay
    return total / weights if weights > 0.0 else share


@kernel
def note_click(context: I32, i: int, weight: float) -> None:
    """Put i first among the last clicks, or take a disliked one out."""
    place = len(context) - 1
    for t in range(len(context)):
        if context[t] == i:
            place = t
            break
    if weight > 0.0:
        for t in range(place, 0, -1):
            context[t] = context[t - 1]
        context[0] = i
    elif context[place] == i:
        for t in range(place, len(context) - 1):
            context[t] = context[t + 1]
        context[len(context) - 1] = -1


@kernel
def learn_transitions(
    user: I32,
    user_touched: U8,
    successors: I32,
    successors_touched: U8,
    counts: Array,
    counts_touched: U8,
    popularity: F64,
    popularity_touched: U8,
    stream: F64,
    stream_touched: U8,
    users: I32,
    items: I32,
    clicks: F32,
    probes: I32,
    constants: tuple[float, float, float, float],
    out: F32,
    scores: F32,
) -> None:
    """Predict, then count, click by click; `constants` as in `Transitions.constants`; probes as in protocols.Probed."""
    decay, backwards, pseudo_counts, half_life = constants
    for k in range(len(clicks)):
        u, i, weight, context = users[k], items[k], float(clicks[k]), user[users[k]]
        for m in range(probes.shape[1] if probes.shape[1] and probes[k, 0] >= 0 else 0):
            j = probes[k, m]
            scores[k, m] = np.nan
            if j >= 0:
                share = share_of(popularity, stream, j, half_life)
                scores[k, m] = np.log(probability(context, successors, counts, share, j, decay, pseudo_counts))
        out[k] = np.nan
        if not np.isfinite(weight):
            stream[0, REFUSED] += 1.0
            stream_touched[0] = 1
        if weight == 0.0 or not np.isfinite(weight):
            continue
        if weight > 0.0:
            share = share_of(popularity, stream, i, half_life)
            out[k] = min(probability(context, successors, counts, share, i, decay, pseudo_counts), 1.0)
        step = weight = min(max(weight, -FULL), FULL)
        for t in range(len(context)):
            c = context[t]
            if c < 0:
                break
            if c != i:
                forth = add_successor(successors[c], counts[c], i, step)
                back = add_successor(successors[i], counts[i], c, backwards * step)
                if not (forth and back):
                    stream[0, REFUSED] += 1.0
                    stream_touched[0] = 1
                successors_touched[c] = counts_touched[c] = successors_touched[i] = counts_touched[i] = 1
            step *= decay
        note_click(context, i, weight)
        user_touched[u] = 1
        if weight > 0.0:
            t = stream[0, 1]
            popularity[i, 0] = popularity[i, 0] * 2.0 ** ((popularity[i, 1] - t) / half_life) + weight
            popularity[i, 1] = t
            stream[0, 0] = (stream[0, 0] + weight) * 2.0 ** (-1.0 / half_life)
            stream[0, 1] = t + 1.0
            popularity_touched[i] = stream_touched[0] = 1


@kernel
def predict_transitions(
    user: I32,
    successors: I32,
    counts: Array,
    popularity: F64,
    stream: F64,
    users: I32,
    items: I32,
    clicks: F32,
    constants: tuple[float, float, float, float],
    out: F32,
) -> None:
    """P(i | u) of pairs of rows into `out` (n,), s_i where the user is unknown, NaN where the event is not a click."""
    decay, _, pseudo_counts, half_life = constants
    nobody = np.full(user.shape[1], -1, dtype=np.int32)
    for k in range(len(items)):
        context = user[users[k]] if 0 <= users[k] < len(user) else nobody
        share = share_of(popularity, stream, items[k], half_life)
        p = probability(context, successors, counts, share, items[k], decay, pseudo_counts)
        out[k] = min(p, 1.0) if clicks[k] > 0 and np.isfinite(clicks[k]) else np.nan


@kernel
def score_transitions(
    context: I32,
    successors: I32,
    counts: Array,
    popularity: F64,
    stream: F64,
    items: I32,
    constants: tuple[float, float, float, float],
    out: F32,
) -> None:
    """ln P(i | u) into `out` (n,): the lists of the last clicks are added up once for all items."""
    decay, _, pseudo_counts, half_life = constants
    counted = np.zeros(len(successors))
    rest, weights, weight = 0.0, 0.0, 1.0
    for t in range(len(context)):
        c = context[t]
        if c < 0:
            break
        share = weight / (np.float64(counts[c, 0]) + pseudo_counts)
        weights += weight if np.isfinite(share) else 0.0
        weight *= decay
        for n in range(successors.shape[1] if np.isfinite(share) else 0):
            if successors[c, n] >= 0:
                counted[successors[c, n]] += share * np.float64(counts[c, 1 + n])
        rest += share * pseudo_counts if np.isfinite(share) else 0.0
    if weights == 0.0:
        rest = weights = 1.0
    for k in range(len(items)):
        i = items[k]
        p = rest * share_of(popularity, stream, i, half_life)
        if 0 <= i < len(counted):
            p += counted[i]
        out[k] = np.log(p / weights)


class Transitions:
    """What is clicked after what."""

    kind: Kind = "clicks"
    Parameters = TransitionsParameters

    def __init__(self, name: str, parameters: TransitionsParameters, *, seed: int) -> None:
        """The seed changes nothing: there is nothing random here."""
        self.name, self.parameters = name, parameters
        p = parameters
        self.user = Table("user", [-1] * p.window, dtype=np.int32)  # item rows, newest first
        self.successors = Table("item", [-1] * p.successors, dtype=np.int32)
        self.counts = Table("item", [0.0] * (1 + p.successors))  # n_c, n_ci
        self.popularity = Table("item", [0.0, 0.0], dtype=np.float64)  # n, t
        self.stream = Table("stream", [0.0, 0.0, 0.0], dtype=np.float64)  # sum of n, clicks, refused
        self.constants = (p.decay, p.backwards, p.pseudo_counts, p.half_life)

    @property
    def refused(self) -> int:
        """See Guarded."""
        return int(self.stream.values[0, REFUSED])

    def tables(self) -> Mapping[str, Table]:
        """See Stateful."""
        return {
            "user": self.user, "successors": self.successors, "counts": self.counts, "popularity": self.popularity,
            "stream": self.stream,
        }  # fmt: skip

    def learn(self, batch: Batch) -> F32:
        """See OnlineLearner; P(i | u) of each click."""
        return self.learn_probed(batch, np.empty((len(batch), 0), dtype=np.int32)).predicted

    def learn_probed(self, batch: Batch, probes: I32) -> Opinion:
        """See Probed."""
        said = Opinion(np.empty(len(batch), dtype=np.float32), np.empty(probes.shape, dtype=np.float32))
        user, successors, counts, popularity, stream = self.tables().values()
        learn_transitions(
            user.values, user.touched, successors.values, successors.touched, counts.values, counts.touched,
            popularity.values, popularity.touched, stream.values, stream.touched, batch.users, batch.items,
            batch.clicks, probes, self.constants, *said,
        )  # fmt: skip
        return said

    def predict(self, batch: Batch) -> F32:
        """See OnlineLearner; popularity where the user is unknown."""
        out = np.empty(len(batch), dtype=np.float32)
        predict_transitions(
            self.user.values, *self._known(), batch.users, batch.items, batch.clicks, self.constants, out
        )  # fmt: skip
        return out

    def score(self, user: UserView, items: I32) -> F32:
        """ln P(i | u), (len(items),). Cost: O(len(items) + window successors)."""
        out = np.empty(len(items), dtype=np.float32)
        context = np.array(user.rows[self.name])  # a copy: a read-only row would compile the kernel once more
        score_transitions(context, *self._known(), items, self.constants, out)
        return out

    def _known(self) -> tuple[I32, Array, F64, F64]:
        return self.successors.values, self.counts.values, self.popularity.values, self.stream.values
