"""Skip-gram with negative sampling on clicks: a user and their last items against item vectors, one step a click.

    h = u + sum_t d^t x_(c_t) / sqrt(sum_t d^2t)                c_0, c_1, ...: the last clicks of u, newest first
    maximise  log s(h . v_i - ln k) + sum_{k negatives j} log s(ln k - h . v_j),    j ~ n_j^.75 / sum n^.75,    s(z) = 1 / (1 + e^-z)
    a vector's step:  max(a / sqrt(.5 + G), smallest),          G: the sum of its rows' squared gradients so far

where n is an item's weighted clicks so far. Negatives are never items that the user has seen. Among k negatives and one click
the odds are 1 : k before anything is known, so the logit h . v_i estimates the log ratio of the item's probability to that
under the noise, and a score adds .75 ln n_i to it. The vectors of a user without clicks are 0, which leaves popularity. A
dislike (a weight below 0) is one negative step on its item. A like that is taken back leaves the counts and the context; the
step that it made cannot be undone.
Cost: O((k + window) dim + k (log items + items seen)) a click. State: u float32 (rows, dim) and the last items; v, x and their
G float32 (rows, 2 dim + 2); n and n^.75 int64 (items, 2); clicks, steps refused.

Mikolov, Sutskever, Chen, Corrado, Dean (2013), Distributed representations of words and phrases and their
compositionality, NIPS, eq. 4; Le, Mikolov (2014), Distributed representations of sentences and documents, ICML, sec. 2.3
(a user vector in addition to the context's); Barkan, Koenigstein (2016), Item2vec, MLSP; Gutmann, Hyvarinen (2010),
Noise-contrastive estimation, AISTATS, eq. 4 (ln k); Duchi, Hazan, Singer (2011), Adaptive subgradient methods, JMLR 12.
Deviations, with HR@10 in a shop's sessions (20,000 items with 5 clicks each), on music (10,000 items, two of three clicks
repeated) and ml-latest-small in a prototype: word2vec has no ln k. Then every item has to learn -ln k on its own, a new one is
overrated k times, and the negatives drown what few clicks teach: .039, .052 and .084 without it, .050, .104 and .098 with it.
Steps fall with what a row has learned, as most items have few clicks; one G for a whole vector: .093, .163 and .115 with the
other parameters below. The noise follows the counts event by event (see noise.py). Steps have a smallest size, as the stream
has no end. The context is divided by the norm of its weights, so that it counts the same for few and many clicks.
An item in the context of its own repeated click stays: without it the sessions lose 8%, and music gains nothing.
"""

from collections.abc import Mapping
from typing import TypeAlias

import msgspec
import numpy as np

from streamer.core.arrays import F32, F64, I32, I64, U8, U64, Array
from streamer.core.batch import Batch, Opinion, UserView
from streamer.core.kernel import kernel
from streamer.core.protocols import Kind
from streamer.core.seed import mix64
from streamer.core.tables import Side, Table
from streamer.models.noise import UNIT, add_clicks, build_noise, draw_noise

REDRAWS = 4  # at most this many draws for each negative wanted
SQUARES = 0.5  # what a row's sum of squared gradients begins with
LARGEST = 1e6  # steps with a logit beyond this are refused
ROWS = 1 << 24  # float32 holds no higher row number exactly: items from there on are left out of the context
WEIGHT_LARGEST = 1e6  # larger weights of a click count as this
STEPS_LARGEST = 4.0  # the largest weight of a click in a step: that of a purchase
Rates: TypeAlias = tuple[tuple[float, float, float], tuple[float, float, float], float, int, float, float, int]


class SkipGramParameters(msgspec.Struct, frozen=True):
    """Steps and noise, measured on five streams: films, a shop's sessions, music, a simulated world, news."""

    dim: int = 32
    """Length of the vectors. 64 gain 8% in the prototype for twice the memory."""
    learning_rate: float = 0.5
    """a of v, for a click of weight 1. .7 gains on sessions and loses on films; .35 loses a fifth on sessions."""
    context_rate: float = 1.0
    """a of x. With .5 sessions lose four hits in ten."""
    step_smallest: float = 0.05
    """No step is smaller, as the stream has no end."""
    step_largest: float = 0.8
    """No step of a click is larger, whatever its weight; that of a context twice as large."""
    user_rate: float = 0.02
    """Step of a user's vector. It says little beside the context: .1 loses a tenth on music."""
    negatives: int = 6
    """k: negatives for each click. 10 gain 4% and cost half as much again."""
    noise_exponent: float = 0.75
    """Negatives are drawn in proportion to counts to this power, which is also popularity's weight in a score. The paper's."""
    window: int = 10
    """Number of a user's last clicks in the context."""
    decay: float = 0.7
    """d: the weight of a click relative to the next newer one. .85 loses a tenth on music."""
    noise: float = 0.1
    """Standard deviation of the entries of an item's initial v. .2 gains on sessions and loses on films."""


@kernel
def has_seen(pages: I32, page_of: I32, u: int, seen: int, window: int, i: int) -> bool:
    """Whether item i is among the last `window` of the `seen` items of user u; see `batch.Seen`."""
    size = pages.shape[1]
    ring = size * page_of.shape[1]
    c = max(0, seen - window)
    while c < seen:
        first = c % size
        last = min(size, first + seen - c)
        page = pages[page_of[u, (c % ring) // size]]
        hits = 0
        for slot in range(first, last):  # no early exit, so that the processor compares many at once
            hits += page[slot] == i
        if hits > 0:
            return True
        c += last - first
    return False


@kernel
def logit(h: Array, v: Array) -> float:
    """h . v in float64 over the first len(h) entries of v, as four partial sums that the processor computes at once."""
    a = b = c = d = 0.0
    whole = len(h) - len(h) % 4
    for j in range(0, whole, 4):
        a += np.float64(h[j]) * np.float64(v[j])
        b += np.float64(h[j + 1]) * np.float64(v[j + 1])
        c += np.float64(h[j + 2]) * np.float64(v[j + 2])
        d += np.float64(h[j + 3]) * np.float64(v[j + 3])
    for j in range(whole, len(h)):
        a += np.float64(h[j]) * np.float64(v[j])
    return (a + b) + (c + d)


@kernel
def hidden_vector(u: Array, item: Array, decay: float, h: F64, context: I32, shares: F64) -> int:
    """Write h, the context's item rows and their weights to `h`, `context` and `shares`; return the number of context items.

    A user's row is [u, the last item rows, newest first, -1 where there is none]: float32 holds them exactly up to 2^24.
    """
    dim, count, squares, weight = len(h), 0, 0.0, 1.0
    for t in range(len(u) - dim):
        if u[dim + t] < 0:
            break
        context[t], shares[t] = int(u[dim + t]), weight
        squares += weight * weight
        weight *= decay
        count += 1
    for j in range(dim):
        h[j] = np.float64(u[j])
    for t in range(count):
        share = shares[t] / np.sqrt(squares)
        shares[t], x = share, item[context[t], dim : 2 * dim]  # a slice, so that the loop is vectorised
        for j in range(dim):
            h[j] += share * np.float64(x[j])
    return count


@kernel
def record_item(u: Array, dim: int, i: int, weight: float) -> None:
    """Move or insert i at the front of the user's last items; for a dislike, remove it."""
    place = len(u) - 1
    for t in range(dim, len(u)):
        if u[t] == i:
            place = t
            break
    if weight > 0.0 and i < ROWS:
        for t in range(place, dim, -1):
            u[t] = u[t - 1]
        u[dim] = i
    elif weight < 0.0 and u[place] == i:
        for t in range(place, len(u) - 1):
            u[t] = u[t + 1]
        u[len(u) - 1] = -1


@kernel
def step_size(rates: tuple[float, float, float], weight: float, squares: float) -> float:
    """The step of a vector with the sum of squares G = `squares`, for a click of `weight`."""
    rate, smallest, largest = rates
    return float(min(max(rate / np.sqrt(SQUARES + squares), smallest) * weight, largest))


@kernel
def step_item(
    h: Array, row: Array, label: float, odds: float, weight: float, rates: tuple[float, float, float], move: F64
) -> bool:
    """One logistic step of a row's item vector v towards `label`; adds the gradient of h to `move`.

    `odds` are the log odds of the label before anything is known, `rates` as in `step_size`. Returns False for a refused step.
    """
    x = logit(h, row)
    g = label - 1.0 / (1.0 + np.exp(-x - odds))
    if not abs(x) < LARGEST:  # also refuses NaN
        return False
    squares = 2 * len(h)
    row[squares] += g * g
    step = g * step_size(rates, weight, np.float64(row[squares]))
    for j in range(len(h)):
        move[j] += g * np.float64(row[j])
        row[j] = np.float64(row[j]) + step * np.float64(h[j])
    return True


@kernel
def score_item(h: F64, item: Array, noise: I64, i: int, exponent: float) -> float:
    """Logit plus exponent times the log of the clicks; an item without clicks counts as 1/UNIT of a click."""
    z, n = 0.0, 1.0
    if 0 <= i < min(len(item), len(noise)) and noise[i, 0] > 0:
        z, n = logit(h, item[i]), float(noise[i, 0])
    return float(z + exponent * np.log(n / UNIT))


@kernel
def learn_skip_gram(
    user: Array,
    user_touched: U8,
    item: Array,
    item_touched: U8,
    noise: I64,
    noise_touched: U8,
    tree: I64,
    stream: F64,
    stream_touched: U8,
    users: I32,
    items: I32,
    clicks: F32,
    keys: U64,
    seen_counts: I64,
    pages: I32,
    page_of: I32,
    window: int,
    withdrawn: F32,
    probes: I32,
    rates: Rates,
    out: F32,
    scores: F32,
) -> None:
    """Item rows are [v, x, G of v, G of x]; noise rows are [n, n^.75] in 1 / UNIT; stream is [clicks, refused].

    `rates` as in `SkipGram.rates`, `probes` as in protocols.Probed, `withdrawn` from batch.TakenBack.
    """
    steps, context_steps, user_rate, negatives, exponent, decay, dim = rates
    odds = -np.log(max(negatives, 1))
    move, h = np.empty(dim, dtype=np.float64), np.empty(dim, dtype=np.float64)
    context = np.empty(user.shape[1] - dim, dtype=np.int32)
    shares = np.empty(len(context), dtype=np.float64)
    for k in range(len(clicks)):
        out[k] = np.nan
        weight = np.float64(clicks[k])
        is_click = weight != 0.0 and np.isfinite(weight)
        if k < len(withdrawn) and withdrawn[k] > 0:  # steps of descent stay
            record_item(user[users[k]], dim, items[k], -1.0)
            add_clicks(noise, tree, items[k], -min(np.float64(withdrawn[k]), WEIGHT_LARGEST), exponent)
            stream[0, 0] = max(0.0, stream[0, 0] - 1.0)
            user_touched[users[k]] = noise_touched[items[k]] = stream_touched[0] = 1
        if not np.isfinite(weight):
            stream[0, 1] += 1.0
            stream_touched[0] = 1
        asked = probes.shape[1] > 0 and probes[k, 0] >= 0
        if not is_click and not asked:
            continue
        u, i = users[k], items[k]
        last = hidden_vector(user[u], item, decay, h, context, shares)
        for m in range(probes.shape[1] if asked else 0):
            j = probes[k, m]
            scores[k, m] = np.nan if j < 0 else score_item(h, item, noise, j, exponent)
        if not is_click:
            continue
        size = min(abs(weight), STEPS_LARGEST)
        stream_touched[0] = 1
        if weight > 0:
            z = logit(h, item[i]) if noise[i, 0] > 0 else 0.0  # a new item's vector is only noise
            out[k] = 1.0 / (1.0 + np.exp(-z))
        move[:] = 0.0
        if step_item(h, item[i], 1.0 if weight > 0 else 0.0, odds if weight > 0 else 0.0, size, steps, move):
            item_touched[i] = 1
        else:
            stream[0, 1] += 1.0
        wanted, draws = (negatives, REDRAWS * negatives) if weight > 0 else (0, 0)
        for draw in range(draws):
            if wanted == 0:
                break
            j = draw_noise(tree, mix64(keys[k], draw))
            if j < 0 or j == i or has_seen(pages, page_of, u, seen_counts[k], window, j):
                continue
            wanted -= 1
            if step_item(h, item[j], 0.0, odds, size, steps, move):
                item_touched[j] = 1
            else:
                stream[0, 1] += 1.0
        step = min(user_rate * size, steps[2])
        for j in range(dim):
            user[u, j] = np.float64(user[u, j]) + step * move[j]
        square = logit(move, move)
        for t in range(last):
            row, share = item[context[t]], shares[t]
            row[2 * dim + 1] += square * share * share
            step = share * step_size(context_steps, size, np.float64(row[2 * dim + 1]))
            x = row[dim : 2 * dim]
            for j in range(dim):
                x[j] = np.float64(x[j]) + step * move[j]
            item_touched[context[t]] = 1
        record_item(user[u], dim, i, weight)
        user_touched[u] = 1
        if weight > 0:
            add_clicks(noise, tree, i, min(weight, WEIGHT_LARGEST), exponent)
            noise_touched[i] = 1
            stream[0, 0] += 1.0


@kernel
def predict_skip_gram(
    user: Array, item: Array, noise: I64, users: I32, items: I32, clicks: F32,
    rates: Rates, out: F32,
) -> None:  # fmt: skip
    """s(h . v) of pairs of rows into `out` (n,); .5 where a side is unseen, NaN for events that are not clicks."""
    decay, dim = rates[5], rates[6]
    h = np.empty(dim, dtype=np.float64)
    context = np.empty(user.shape[1] - dim, dtype=np.int32)
    shares = np.empty(len(context), dtype=np.float64)
    for k in range(len(items)):
        u, i, z = users[k], items[k], 0.0
        if 0 <= u < len(user) and 0 <= i < min(len(item), len(noise)) and noise[i, 0] > 0:
            hidden_vector(user[u], item, decay, h, context, shares)
            z = logit(h, item[i])
        out[k] = 1.0 / (1.0 + np.exp(-z)) if clicks[k] > 0 and np.isfinite(clicks[k]) else np.nan


@kernel
def score_skip_gram(u: Array, item: Array, noise: I64, items: I32, rates: Rates, out: F32) -> None:
    """`score_item` of `items` (n,) into `out` (n,), for the user with row u."""
    exponent, decay, dim = rates[4], rates[5], rates[6]
    h = np.empty(dim, dtype=np.float64)
    context = np.empty(len(u) - dim, dtype=np.int32)
    hidden_vector(u, item, decay, h, context, np.empty(len(context), dtype=np.float64))
    for k in range(len(items)):
        out[k] = score_item(h, item, noise, items[k], exponent)


class SkipGram:
    """Learns user and item vectors from clicks."""

    kind: Kind = "clicks"
    Parameters = SkipGramParameters

    def __init__(self, name: str, parameters: SkipGramParameters, *, seed: int) -> None:
        """The seed acts through the keys of item rows (initial vectors) and of events (negatives)."""
        self.name, self.parameters = name, parameters
        p, zeros = parameters, [0.0] * parameters.dim
        self.user = Table("user", zeros + [-1.0] * p.window)  # u, the last items
        self.item = Table("item", [*2 * zeros, 0.0, 0.0], random=p.dim, scale=p.noise, added=2)  # v, x, G of v, G of x
        self.noise = Table("item", [0, 0], dtype=np.int64)  # n, n^.75
        self.stream = Table("stream", [0.0, 0.0], dtype=np.float64)  # clicks, refused
        self.rates: Rates = (
            (p.learning_rate, p.step_smallest, p.step_largest),
            (p.context_rate, 2.0 * p.step_smallest, 2.0 * p.step_largest),
            p.user_rate, p.negatives, p.noise_exponent, p.decay, p.dim,
        )  # fmt: skip
        self._tree: I64 = np.zeros(1, dtype=np.int64)  # over noise.values[:, 1]

    @property
    def refused(self) -> int:
        """See Guarded."""
        return int(self.stream.values[0, 1])

    def tables(self) -> Mapping[str, Table]:
        """See Stateful."""
        return {"user": self.user, "item": self.item, "noise": self.noise, "stream": self.stream}

    def restored(self) -> None:
        """See Rebuilt: the tree is rebuilt from the stored weights when it is next needed."""
        self._tree = np.zeros(1, dtype=np.int64)

    def learn(self, batch: Batch) -> F32:
        """See OnlineLearner; s(h . v_i) of each click."""
        return self.learn_probed(batch, np.empty((len(batch), 0), dtype=np.int32)).predicted

    def learn_probed(self, batch: Batch, probes: I32) -> Opinion:
        """See Probed."""
        if len(self._tree) <= len(self.noise.values):
            self._tree = build_noise(self.noise.values[:, 1])
        opinion = Opinion(np.empty(len(batch), dtype=np.float32), np.empty(probes.shape, dtype=np.float32))
        user, item, noise, stream, seen = self.user, self.item, self.noise, self.stream, batch.seen
        learn_skip_gram(
            user.values, user.touched, item.values, item.touched, noise.values, noise.touched, self._tree,
            stream.values, stream.touched, batch.users, batch.items, batch.clicks, batch.keys, batch.seen_counts,
            seen.pages, seen.page_of, seen.window, batch.taken_back.withdrawn, probes, self.rates, *opinion,
        )  # fmt: skip
        return opinion

    def predict(self, batch: Batch) -> F32:
        """See OnlineLearner; .5 where a side is unseen."""
        out = np.empty(len(batch), dtype=np.float32)
        user, item, noise = self.user.values, self.item.values, self.noise.values
        predict_skip_gram(user, item, noise, batch.users, batch.items, batch.clicks, self.rates, out)
        return out

    def score(self, user: UserView, items: I32) -> F32:
        """Log odds against the noise plus the log of the noise, (len(items),)."""
        out = np.empty(len(items), dtype=np.float32)
        u = np.array(user.rows[self.name])  # a copy: a read-only row would compile the kernel again
        score_skip_gram(u, self.item.values, self.noise.values, items, self.rates, out)
        return out

    def norms(self, side: Side, rows: I32) -> F64:
        """See Watched: of users u, of items v and x together. Items start at noise sqrt(dim)."""
        values = (
            self.user.values[:, : self.parameters.dim]
            if side == "user"
            else self.item.values[:, : 2 * self.parameters.dim]
        )
        return np.asarray(np.linalg.norm(values[rows].astype(np.float64), axis=1))

    def widths(self, side: Side, rows: I32) -> Mapping[str, F64]:
        """See Watched: none, as gradient descent has no posterior."""
        return {}

    def vectors(self) -> Array:
        """See ItemVectors: v, which is similar for items that the same users click."""
        return self.item.values[:, : self.parameters.dim]
