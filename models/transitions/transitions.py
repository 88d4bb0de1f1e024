"""Transitions: counts of how often users click one item after another.

    P(i | c)  = (n_ci + m s_i) / (n_c + m)                      s_i: the item's share of recent clicks
    P(i | u)  = sum_t a_t P(i | c_t) / sum_t a_t                c_0, c_1, ...: the last clicks of u, newest first
    learning  n_(c_t)i += w a_t / a_0,  n_i(c_t) += b w a_t / a_0      for a click of weight w; b weighs the reverse direction
              a_t += r (A p_t - a_t),  p_t = a_t P(i | c_t) / sum_t a_t P(i | c_t)      A: the sum of a_t over the clicks that u has
    score     ln P(i | u), with (1 - o) s_i + o sum_j P(i | j) q_j in place of s_i        q_j: P(j | u), of the 16 likeliest items j

How much each of the last clicks says of the next one is learned from the stream, as the weights of a mixture by online expectation
maximisation. In music the last one says five times as much as the one before it, in films half as much again. They begin
as d^t. With d^t for ever, HR@10 of click-blend is 6% lower on simulated music, .5% lower on shop sessions and 1% higher on
ml-latest-small.

A rating that is no like is no click, but says as well what is used after what: it is context, and is counted with the weight
`rated`. On ml-latest-small that raises HR@10 from .118 to .123 where all else is equal.

The second step, over j, fills lists that are short: HR@10 of shop sessions rises from .144 to .150. `learn` and `predict`
leave it out, as they look at one item alone.
n_c is the sum of n_ci over i. For a user without clicks the prediction is s. Each item keeps a list of its most frequent
`successors` by Space-Saving: an item that is not in a full list replaces the one with the smallest count and takes over that
count, so that recent items stay. A dislike (a weight below 0) subtracts its weight from the same counts, down to 0. Counts are
integers in 1/1,024, so that the processor compares eight at once; a list whose sum passes 2^19 clicks is halved.
A like that is taken back while it is among its user's last clicks loses the transitions that it made, with the weights of
today; of an older one, popularity alone.
Cost: O(window successors) a click, about 1 us. State: 4 (2 successors + 1) bytes an item, 772, and 16 of popularity;
4 window bytes a user.

Cappé, Moulines (2009), On-line expectation-maximization algorithm for latent data models, J. R. Stat. Soc. B 71.
Metwally, Agrawal, El Abbadi (2005), Efficient computation of frequent and top-k elements in data streams, ICDT. Deviation:
weights instead of counts of 1. On ml-latest-small bounded lists rank better than unbounded ones, because they forget.
"""

from collections.abc import Mapping

import msgspec
import numpy as np

from streamer.core.arrays import F32, F64, I32, I64, U8
from streamer.core.batch import RATING, Batch, Opinion, UserView
from streamer.core.kernel import kernel
from streamer.core.protocols import Kind
from streamer.core.tables import Table
from streamer.models.popularity import take_recent
from streamer.models.transitions.lists import (
    HOP,
    SUM_LARGEST,
    UNIT,
    add_successor,
    count_of,
    gather,
    position_of,
    propose,
)

REFUSED, LAGS = 2, 3  # columns of the stream; LAGS: where a begins
LAG_RATE = 5e-4  # r, after the first 1 / r clicks; before, it is 1 / (LAG_CLICKS + their number)
LAG_CLICKS = 200.0  # as how many clicks the initial weights count
COUNT_SMALLEST = 1e-3  # the number of clicks that an item without clicks is given, so that every score is finite


class TransitionsParameters(msgspec.Struct, frozen=True):
    """Sizes of lists, and decays."""

    successors: int = 96
    """Length of an item's list. 96 to 256 rank alike on ml-latest-small; 64 loses 3%, and in click-blend .6%."""
    window: int = 10
    """Number of a user's last clicks that are used. The design's measurement."""
    decay: float = 0.85
    """d: the initial weight of a click relative to the next newer one."""
    backwards: float = 0.5
    """b: the weight of a transition in the reverse direction. The design's measurement."""
    pseudo_counts: float = 20.0
    """m: the weight of popularity in a list, in clicks. The design's measurement."""
    rated: float = 0.3
    """Weight of a rating that is no like. On ml-latest-small .3 to 1 rank alike."""
    onward: float = 0.9
    half_life: float = 5000.0
    """Number of clicks, by any user on any item, after which a click counts half in popularity. As for popularity-recent."""


@kernel
def share_of(popularity: F64, stream: F64, i: int, half_life: float) -> float:
    """s_i; popularity rows are [n, t], n decayed to click t; the stream's row is [sum, clicks, refused, a]."""
    n = 0.0
    if 0 <= i < len(popularity):
        n = popularity[i, 0] * 2.0 ** ((popularity[i, 1] - stream[0, 1]) / half_life)
    return float((n if n > COUNT_SMALLEST else COUNT_SMALLEST) / max(stream[0, 0], COUNT_SMALLEST))  # also replaces NaN


@kernel
def probability(
    context: I32, lists: I32, share: float, i: int, lags: F64, pseudo_counts: float, positions: I32, parts: F64
) -> float:
    """P(i | u); writes to `positions` (window,) those of i in the context's lists, and to `parts` (window,) a_t P(i | c_t)."""
    total, weights, half = 0.0, 0.0, lists.shape[1] >> 1
    parts[:] = 0.0
    for t in range(len(context)):
        c = context[t]
        if c < 0:
            break
        positions[t] = position_of(lists[c, 1 : 1 + half], i)
        count = count_of(lists[c], positions[t])
        parts[t] = lags[t] * (count + pseudo_counts * share) / (lists[c, 0] / UNIT + pseudo_counts)
        total += parts[t]
        weights += lags[t]
    return total / weights if weights > 0.0 else share


@kernel
def learn_lags(context: I32, i: int, parts: F64, rate: float, lags: F64) -> None:
    """Move the weights `lags` (window,) toward what each click in the context had of the probability of the next one, on i.

    A repeated item says nothing: no list has it.
    """
    total, weights = parts.sum(), 0.0
    if len(context) < 2 or context[1] < 0 or position_of(context, i) >= 0 or not total > 0.0:
        return
    for t in range(len(context)):
        weights += lags[t] if context[t] >= 0 else 0.0
    for t in range(len(context)):
        if context[t] >= 0:
            lags[t] += rate * (weights * parts[t] / total - lags[t])


@kernel
def relative(lags: F64, t: int) -> float:
    """How much a transition from the click at place t of the context counts."""
    share: float = lags[t] / lags[0]
    return min(1.0, share)


@kernel
def record_click(context: I32, i: int, weight: float) -> None:
    """Move or insert i at the front of the last clicks; for a dislike, remove it."""
    position = len(context) - 1
    for t in range(len(context)):
        if context[t] == i:
            position = t
            break
    if weight > 0.0:
        for t in range(position, 0, -1):
            context[t] = context[t - 1]
        context[0] = i
    elif context[position] == i:
        for t in range(position, len(context) - 1):
            context[t] = context[t + 1]
        context[len(context) - 1] = -1


@kernel
def take_back(context: I32, lists: I32, lists_touched: U8, i: int, weight: float, lags: F64, backwards: float) -> None:
    """Take back the transitions of a click on i: from the clicks before it, and to those after it, while it is in the context."""
    half, place = lists.shape[1] >> 1, -1
    for t in range(len(context)):
        if context[t] == i:
            place = t
    for t in range(len(context) if place >= 0 else 0):
        if context[t] < 0:
            break
        if t != place:
            c, d = context[max(t, place)], context[min(t, place)]  # c was clicked before d
            step = -weight * relative(lags, abs(t - place) - 1)
            at = position_of(lists[c, 1 : 1 + half], d)
            if at >= 0:
                add_successor(lists[c], at, d, step)
            at = position_of(lists[d, 1 : 1 + half], c)
            if at >= 0:
                add_successor(lists[d], at, c, backwards * step)
            lists_touched[c] = lists_touched[d] = 1


@kernel
def learn_transitions(
    user: I32, user_touched: U8, lists: I32, lists_touched: U8, popularity: F64, popularity_touched: U8, stream: F64,
    stream_touched: U8, kinds: U8, users: I32, items: I32, clicks: F32, withdrawn: F32, seen_counts: I64, pages: I32,
    page_of: I32, window: int, probes: I32, constants: tuple[float, float, float, float, float], mass: F64, out: F32,
    scores: F32,
) -> None:  # fmt: skip
    """Predict, then count, click by click; `constants` as in `Transitions.constants`, `probes` as in protocols.Proposing.

    `withdrawn` from batch.TakenBack; `mass` (item rows,) is scratch, 0 before and after.
    """
    backwards, pseudo_counts, half_life, rated, onward = constants
    half, positions, parts = lists.shape[1] >> 1, np.empty(user.shape[1], dtype=np.int32), np.empty(user.shape[1])
    lags = stream[0, LAGS:]
    found, best = np.empty((HOP + user.shape[1]) * half, dtype=np.int32), np.empty(probes.shape[1])
    for k in range(len(clicks)):
        u, i, weight, context = users[k], items[k], float(clicks[k]), user[users[k]]
        if k < len(withdrawn) and withdrawn[k] > 0:
            take_back(context, lists, lists_touched, i, np.float64(withdrawn[k]), lags, backwards)
            record_click(context, i, -1.0)
            take_recent(popularity, i, stream, 0, stream[0, 1], half_life, np.float64(withdrawn[k]))
            user_touched[u] = popularity_touched[i] = stream_touched[0] = 1
        if probes.shape[1] and probes[k, 0] >= 0:
            count, rest, weights = gather(context, lists, lags, pseudo_counts, onward, mass, found)
            for chosen in (False, True):  # first what is asked for, then what is proposed
                if chosen:
                    propose(
                        mass, found[:count], popularity, u, i, seen_counts[k], pages, page_of, window, probes[k], best
                    )
                for m in range(probes.shape[1]):
                    j = probes[k, m]
                    if j >= 0 and not (chosen and np.isfinite(scores[k, m])):
                        share = share_of(popularity, stream, j, half_life)
                        scores[k, m] = np.log((mass[j] + rest * share) / weights)
                    elif not chosen:
                        scores[k, m] = np.nan
            for n in range(count):
                mass[found[n]] = 0.0
        out[k] = np.nan
        if not np.isfinite(weight) or not np.isfinite(popularity[i, 0]):
            stream[0, REFUSED] += 1.0
            stream_touched[0] = 1
        if (weight == 0.0 and kinds[k] != RATING) or not np.isfinite(weight):
            continue
        share = share_of(popularity, stream, i, half_life)
        p = probability(context, lists, share, i, lags, pseudo_counts, positions, parts)
        out[k] = min(p, 1.0) if weight > 0.0 else np.nan
        is_click = weight > 0.0
        if weight == 0.0:
            weight = rated
        weight = min(max(weight, -SUM_LARGEST), SUM_LARGEST)
        for t in range(len(context)):
            c = context[t]
            if c < 0:
                break
            if c != i:
                step = weight * relative(lags, t)
                add_successor(lists[c], positions[t], i, step)
                add_successor(lists[i], position_of(lists[i, 1 : 1 + half], c), c, backwards * step)
                lists_touched[c] = lists_touched[i] = 1
        if is_click:
            learn_lags(context, i, parts, max(LAG_RATE, 1.0 / (LAG_CLICKS + stream[0, 1])), lags)
        record_click(context, i, weight)
        user_touched[u] = 1
        if is_click and np.isfinite(popularity[i, 0]):
            t = stream[0, 1]
            popularity[i, 0] = popularity[i, 0] * 2.0 ** ((popularity[i, 1] - t) / half_life) + weight
            popularity[i, 1] = t
            stream[0, 0] = (stream[0, 0] + weight) * 2.0 ** (-1.0 / half_life)
            stream[0, 1] = t + 1.0
            popularity_touched[i] = stream_touched[0] = 1


@kernel
def predict_transitions(
    user: I32, lists: I32, popularity: F64, stream: F64, users: I32, items: I32, clicks: F32,
    constants: tuple[float, float, float, float, float], out: F32,
) -> None:  # fmt: skip
    """P(i | u) of pairs of rows into `out` (n,); s_i for an unseen user, NaN for events that are not clicks."""
    _, pseudo_counts, half_life, _, _ = constants
    new_user, positions = np.full(user.shape[1], -1, dtype=np.int32), np.empty(user.shape[1], dtype=np.int32)
    parts = np.empty(user.shape[1])
    for k in range(len(items)):
        context = user[users[k]] if 0 <= users[k] < len(user) else new_user
        share = share_of(popularity, stream, items[k], half_life)
        p = probability(context, lists, share, items[k], stream[0, LAGS:], pseudo_counts, positions, parts)
        out[k] = min(p, 1.0) if clicks[k] > 0 and np.isfinite(clicks[k]) else np.nan


@kernel
def score_transitions(
    context: I32, lists: I32, popularity: F64, stream: F64, items: I32,
    constants: tuple[float, float, float, float, float], out: F32,
) -> None:  # fmt: skip
    """ln P(i | u) into `out` (n,); the lists of the last clicks are summed once for all items."""
    _, pseudo_counts, half_life, _, onward = constants
    mass, found = np.zeros(len(lists)), np.empty((HOP + len(context)) * (lists.shape[1] >> 1), dtype=np.int32)
    _, rest, weights = gather(context, lists, stream[0, LAGS:], pseudo_counts, onward, mass, found)
    for k in range(len(items)):
        i = items[k]
        p = rest * share_of(popularity, stream, i, half_life)
        if 0 <= i < len(mass):
            p += mass[i]
        out[k] = np.log(p / weights)


class Transitions:
    """Scores items by what users clicked just before."""

    kind: Kind = "clicks"
    Parameters = TransitionsParameters

    def __init__(self, name: str, parameters: TransitionsParameters, *, seed: int) -> None:
        """The seed is unused: nothing here is random."""
        self.name, self.parameters = name, parameters
        p = parameters
        self.user = Table("user", [-1] * p.window, dtype=np.int32)  # item rows, newest first
        self.lists = Table("item", [0] + [-1] * p.successors + [0] * p.successors, dtype=np.int32)  # n_c, i, n_ci
        self.popularity = Table("item", [0.0, 0.0], dtype=np.float64)  # n, t
        lags = [p.decay**t for t in range(p.window)]
        self.stream = Table(
            "stream", [0.0, 0.0, 0.0, *lags], dtype=np.float64, added=p.window
        )  # sum of n, clicks, refused, a
        self.constants = (p.backwards, p.pseudo_counts, p.half_life, p.rated, p.onward)
        self._mass: F64 = np.zeros(0)  # scratch, by item row

    @property
    def proposing(self) -> bool:
        """See Proposing."""
        return True

    @property
    def refused(self) -> int:
        """See Guarded."""
        return int(self.stream.values[0, REFUSED])

    def tables(self) -> Mapping[str, Table]:
        """See Stateful."""
        return {"user": self.user, "lists": self.lists, "popularity": self.popularity, "stream": self.stream}

    def learn(self, batch: Batch) -> F32:
        """See OnlineLearner; P(i | u) of each click."""
        return self.learn_probed(batch, np.empty((len(batch), 0), dtype=np.int32)).predicted

    def learn_probed(self, batch: Batch, probes: I32) -> Opinion:
        """See Proposing."""
        if len(self._mass) < len(self.lists.values):
            self._mass = np.zeros(len(self.lists.values))
        opinion = Opinion(np.empty(len(batch), dtype=np.float32), np.empty(probes.shape, dtype=np.float32))
        user, lists, popularity, stream = self.user, self.lists, self.popularity, self.stream
        learn_transitions(
            user.values, user.touched, lists.values, lists.touched, popularity.values, popularity.touched,
            stream.values, stream.touched, batch.kinds, batch.users, batch.items, batch.clicks,
            batch.taken_back.withdrawn, batch.seen_counts, batch.seen.pages, batch.seen.page_of, batch.seen.window, probes,
            self.constants, self._mass, *opinion,
        )  # fmt: skip
        return opinion

    def predict(self, batch: Batch) -> F32:
        """See OnlineLearner; recent popularity for an unseen user."""
        out = np.empty(len(batch), dtype=np.float32)
        predict_transitions(
            self.user.values, *self._kernel_tables(), batch.users, batch.items, batch.clicks, self.constants, out
        )  # fmt: skip
        return out

    def score(self, user: UserView, items: I32) -> F32:
        """ln P(i | u), (len(items),). Cost: O(len(items) + window successors)."""
        out = np.empty(len(items), dtype=np.float32)
        context = np.array(user.rows[self.name])  # a copy: a read-only row would compile the kernel again
        score_transitions(context, *self._kernel_tables(), items, self.constants, out)
        return out

    def _kernel_tables(self) -> tuple[I32, F64, F64]:
        return self.lists.values, self.popularity.values, self.stream.values
