"""Repeats: which of the items that the user has clicked before is clicked again, and how often users do so.

    P(i | repeat) = x_i / sum_j x_j                             over the user's last 24 distinct items
    x_i           = f_gap(i) f_count(i) f_habit(i)
    gap           the user's clicks since the last one on i, in half octaves; count: the user's clicks on i, in octaves
    habit         h_i / h, in half octaves; h_i = (r_i + k h) / (n_i + k): r_i of n_i clicks on i were repeats, and h of all clicks
    f_b           = (W_b + m f0_b) / (E_b + m)                  W_b: repeats of an item of class b; f0 = 1 / gap, else 1
                                                                E_b = the sum over repeats of P(an item of class b) / f_b
    rho_u         = (r_u + k_u h) / (n_u + k_u)                 r_u of the user's n_u clicks were repeats
    P(i | u)      = rho_u P(i | repeat) for one of these items, otherwise (1 - rho_u) s_i; s_i: its share of recent clicks

W / E is a step of the minorise-maximise iteration for the Plackett-Luce model, made online: so the dependence on gap, count
and habit is learned from the stream, and no form of it is assumed. W, E, h, rho_u and s_i fade; a repeat is a click
on one of the user's last 24 distinct items. A dislike, or a like that is taken back, takes the item off the user's list.
`score` says ln(P(i | u) / (1 - rho_u)), the log odds against all new items, and the log of a small floor for all other items: what is
clicked otherwise is for other learners to say.
Cost: the items of the list a click, .5 us on shop sessions, .9 us on films. State: 32 bytes an item, 300 bytes a user.

Anderson, Kumar, Tomkins, Vassilvitskii (2014), The dynamics of repeat consumption, WWW; Hunter (2004), MM algorithms for generalized
Bradley-Terry models, Annals of Statistics 32(1). Deviations: factors by class instead of quality times a power law; online.
"""

from collections.abc import Mapping

import msgspec
import numpy as np

from streamer.core.arrays import F32, F64, I32, I64, U8
from streamer.core.batch import Batch, Opinion, UserView
from streamer.core.kernel import kernel
from streamer.core.protocols import Kind
from streamer.core.tables import Table
from streamer.models.popularity import take_recent
from streamer.models.transitions.transitions import share_of

UNIT = 1024  # a user's numbers of clicks are kept in 1/1,024
FLOOR = 1e-12  # what stands for an item that is not on the user's list
RHO_SMALLEST = 1e-6
WEIGHT_LARGEST = 524288.0  # clicks
GAPS, COUNTS, HABITS = 24, 6, 9  # numbers of classes
CLASSES = GAPS + COUNTS + HABITS
REFUSED, REPEATED, COUNTED, WINS = range(2, 6)  # columns of the stream; WINS: where W begins, and E follows
TICKS, OWN_REPEATS, OWN_CLICKS, LIST = range(4)  # columns of the user; LIST: items, their last ticks, their counts
CLICKS, AGAIN = 2, 3  # columns of the item: n_i and r_i, which follow the popularity
HABIT_START = (1.0, 10.0)  # repeats, and clicks, which the stream is given before its own


class RepeatsParameters(msgspec.Struct, frozen=True):
    """Sizes, and how fast what is learned fades."""

    listed: int = 24
    """Number of a user's last distinct items that can be repeated."""
    half_life: float = 5000.0
    """Number of clicks after which a click counts half in popularity and in h, and of repeats after which one counts half in W, E."""
    user_half_life: float = 100.0
    """Number of a user's clicks after which one counts half in rho_u."""
    pseudo_counts: float = 5.0
    """m: the weight of f0, in repeats."""
    user_pseudo_counts: float = 3.0
    """k_u: the weight of h in rho_u, in clicks."""
    item_pseudo_counts: float = 5.0
    """k: the weight of h in h_i, in clicks."""


@kernel
def habit_of(stream: F64) -> float:
    """h"""
    return float((stream[0, REPEATED] + HABIT_START[0]) / (stream[0, COUNTED] + HABIT_START[1]))


@kernel
def rate_of(user: I32, stream: F64, pseudo_counts: float) -> float:
    """rho_u; 0 for a user without clicks."""
    if user[LIST] < 0:
        return 0.0
    own, clicks = user[OWN_REPEATS] / UNIT, user[OWN_CLICKS] / UNIT
    return float((own + pseudo_counts * habit_of(stream)) / (clicks + pseudo_counts))


@kernel
def octaves(ratio: float, a_class: float) -> int:
    """The nearest whole number to log2(ratio) / a_class."""
    return int(np.floor(np.log2(ratio) / a_class + 0.5))


@kernel
def factor(stream: F64, b: int, first: F64, pseudo_counts: float) -> float:
    """f_b"""
    wins, expected = stream[0, WINS + b], stream[0, WINS + CLASSES + b]
    return float((wins + pseudo_counts * first[b]) / (expected + pseudo_counts))


@kernel
def weigh(
    user: I32, item: F64, stream: F64, first: F64, pseudo_counts: float, item_pseudo_counts: float, x: F64, classes: I64
) -> float:
    """Write x (listed,) and the `classes` (listed, 3) of the items on the user's list; return the sum of x."""
    listed, total, habit = len(x), 0.0, habit_of(stream)
    for n in range(listed):
        j = user[LIST + n]
        if j < 0:
            break
        own = 1.0
        if j < len(item):
            own = (item[j, AGAIN] + item_pseudo_counts * habit) / (item[j, CLICKS] + item_pseudo_counts) / habit
        own = own if 1e-6 < own < 1e6 else 1.0  # also replaces NaN
        gap, count = user[TICKS] - user[LIST + listed + n], user[LIST + 2 * listed + n]
        classes[n, 0] = min(octaves(max(gap, 1.0), 0.5), GAPS - 1)
        classes[n, 1] = GAPS + min(octaves(max(count, 1.0), 1.0), COUNTS - 1)
        classes[n, 2] = GAPS + COUNTS + min(max(octaves(own, 0.5) + HABITS // 2, 0), HABITS - 1)
        x[n] = 1.0
        for b in classes[n]:
            x[n] *= factor(stream, b, first, pseudo_counts)
        total += x[n]
    return total


@kernel
def place_on_list(user: I32, listed: int, i: int) -> int:
    """The place of i on the user's list, -1 where it is absent."""
    place = -1
    for n in range(listed):
        place = n if user[LIST + n] == i else place
    return place if i >= 0 else -1


@kernel
def probability(
    user: I32, item: F64, stream: F64, i: int, constants: tuple[float, float, float, float, float], first: F64, x: F64,
    classes: I64,
) -> float:  # fmt: skip
    """P(i | u); writes x and `classes` as `weigh` does."""
    half_life, _, pseudo_counts, user_pseudo_counts, item_pseudo_counts = constants
    total = weigh(user, item, stream, first, pseudo_counts, item_pseudo_counts, x, classes)
    place, rate = place_on_list(user, len(x), i), rate_of(user, stream, user_pseudo_counts)
    if place >= 0:
        return float(rate * x[place] / total)
    return (1.0 - rate) * share_of(item, stream, i, half_life)


@kernel
def count_repeat(
    user: I32, stream: F64, place: int, half_life: float, pseudo_counts: float, first: F64, x: F64, classes: I64
) -> None:
    """One step of W and E for a repeat of the item at `place` of the user's list."""
    total, keep = 0.0, 2.0 ** (-1.0 / half_life)
    for n in range(len(x)):
        if user[LIST + n] < 0:
            break
        total += x[n]
    factors = np.empty(CLASSES)
    for b in range(CLASSES):
        factors[b] = factor(stream, b, first, pseudo_counts)
    for column in range(WINS, WINS + 2 * CLASSES):
        stream[0, column] *= keep
    for n in range(len(x)):
        if user[LIST + n] < 0:
            break
        for b in classes[n]:
            stream[0, WINS + CLASSES + b] += x[n] / total / factors[b]
    for b in classes[place]:
        stream[0, WINS + b] += 1.0


@kernel
def move_on_list(user: I32, listed: int, place: int, to: int) -> None:
    """Move the entry at `place` of the user's list to `to`; those between them make room."""
    step = 1 if to > place else -1
    for start in range(LIST, LIST + 3 * listed, listed):
        moved = user[start + place]
        for n in range(place, to, step):
            user[start + n] = user[start + n + step]
        user[start + to] = moved


@kernel
def take_off_list(user: I32, listed: int, i: int) -> None:
    """Remove i from the user's list."""
    place = place_on_list(user, listed, i)
    if place >= 0:
        move_on_list(user, listed, place, listed - 1)
        user[LIST + listed - 1], user[LIST + 2 * listed - 1], user[LIST + 3 * listed - 1] = -1, 0, 0


@kernel
def learn_repeats(
    user: I32, user_touched: U8, item: F64, item_touched: U8, stream: F64, stream_touched: U8, users: I32, items: I32,
    clicks: F32, withdrawn: F32, probes: I32, constants: tuple[float, float, float, float, float], first: F64, out: F32,
    scores: F32,
) -> None:  # fmt: skip
    """Predict, then count, click by click; `constants` as in `Repeats`, `withdrawn` from batch.TakenBack, `probes` as in protocols.Probed."""
    half_life, user_half_life, pseudo_counts, user_pseudo_counts, item_pseudo_counts = constants
    listed = (user.shape[1] - LIST) // 3
    x, classes = np.empty(listed), np.empty((listed, 3), dtype=np.int64)
    keep, user_keep = 2.0 ** (-1.0 / half_life), 2.0 ** (-1.0 / user_half_life)
    for k in range(len(clicks)):
        u, i, weight, row = users[k], items[k], float(clicks[k]), user[users[k]]
        if k < len(withdrawn) and withdrawn[k] > 0:
            take_off_list(row, listed, i)
            take_recent(item, i, stream, 0, stream[0, 1], half_life, np.float64(withdrawn[k]))
            item[i, CLICKS] = max(0.0, item[i, CLICKS] - 1.0)
            item[i, AGAIN] = min(item[i, AGAIN], item[i, CLICKS])
            user_touched[u] = item_touched[i] = stream_touched[0] = 1
        if probes.shape[1] and probes[k, 0] >= 0:
            score(row, item, stream, probes[k], pseudo_counts, user_pseudo_counts, item_pseudo_counts, first, scores[k])
        out[k] = np.nan
        if not np.isfinite(weight) or not np.isfinite(item[i, 0]):
            stream[0, REFUSED] += 1.0
            stream_touched[0] = 1
        if weight == 0.0 or not np.isfinite(weight):
            continue
        user_touched[u] = 1
        if weight < 0.0:
            take_off_list(row, listed, i)
            continue
        out[k] = min(probability(row, item, stream, i, constants, first, x, classes), 1.0)
        stream_touched[0] = 1
        place = place_on_list(row, listed, i)
        again = 1.0 if place >= 0 else 0.0
        if place >= 0:
            count_repeat(row, stream, place, half_life, pseudo_counts, first, x, classes)
        if row[LIST] >= 0:
            row[OWN_REPEATS] = int(row[OWN_REPEATS] * user_keep + UNIT * again)
            row[OWN_CLICKS] = int(row[OWN_CLICKS] * user_keep + UNIT)
            stream[0, REPEATED] = stream[0, REPEATED] * keep + again
            stream[0, COUNTED] = stream[0, COUNTED] * keep + 1.0
        count = row[LIST + 2 * listed + place] if place >= 0 else 0
        move_on_list(row, listed, place if place >= 0 else listed - 1, 0)
        row[LIST], row[LIST + listed], row[LIST + 2 * listed] = i, row[TICKS], count + 1
        row[TICKS] += 1
        if np.isfinite(item[i, 0]):
            t, weight = stream[0, 1], min(weight, WEIGHT_LARGEST)
            item[i, 0] = item[i, 0] * 2.0 ** ((item[i, 1] - t) / half_life) + weight
            item[i, 1] = t
            item[i, CLICKS] += 1.0
            item[i, AGAIN] += again
            stream[0, 0] = (stream[0, 0] + weight) * 2.0 ** (-1.0 / half_life)
            stream[0, 1] = t + 1.0
            item_touched[i] = 1


@kernel
def score(
    user: I32, item: F64, stream: F64, items: I32, pseudo_counts: float, user_pseudo_counts: float,
    item_pseudo_counts: float, first: F64, out: F32,
) -> None:  # fmt: skip
    """ln(P(i | u) / (1 - rho_u)) into `out` (n,), ln FLOOR for items that are not on the user's list."""
    rate = min(max(rate_of(user, stream, user_pseudo_counts), RHO_SMALLEST), 1.0 - RHO_SMALLEST)
    listed = (len(user) - LIST) // 3
    x, classes = np.empty(listed), np.empty((listed, 3), dtype=np.int64)
    total = weigh(user, item, stream, first, pseudo_counts, item_pseudo_counts, x, classes)
    for k in range(len(items)):
        place = place_on_list(user, listed, items[k])
        out[k] = np.log(max(rate / (1.0 - rate) * x[place] / total, 2.0 * FLOOR)) if place >= 0 else np.log(FLOOR)


@kernel
def predict_repeats(
    user: I32, item: F64, stream: F64, users: I32, items: I32, clicks: F32,
    constants: tuple[float, float, float, float, float], first: F64, out: F32,
) -> None:  # fmt: skip
    """P(i | u) of pairs of rows into `out` (n,); s_i for an unseen user, NaN for events that are not clicks."""
    listed = (user.shape[1] - LIST) // 3
    x, classes = np.empty(listed), np.empty((listed, 3), dtype=np.int64)
    new_user = np.full(user.shape[1], -1, dtype=np.int32)
    for k in range(len(items)):
        row = user[users[k]] if 0 <= users[k] < len(user) else new_user
        known = clicks[k] > 0 and np.isfinite(clicks[k])
        out[k] = min(probability(row, item, stream, items[k], constants, first, x, classes), 1.0) if known else np.nan


class Repeats:
    """Scores the items that a user has clicked before by how likely they are clicked again."""

    kind: Kind = "clicks"
    Parameters = RepeatsParameters

    def __init__(self, name: str, parameters: RepeatsParameters, *, seed: int) -> None:
        """The seed is unused: nothing here is random."""
        self.name, self.parameters = name, parameters
        p = parameters
        # clicks, r_u, n_u; items, newest first, the clicks before each one's last, and its own clicks
        self.user = Table("user", [0] * LIST + [-1] * p.listed + [0] * 2 * p.listed, dtype=np.int32)
        self.item = Table("item", [0.0] * 4, dtype=np.float64)  # n and t of the popularity, n_i, r_i
        # sum of n, clicks, refused, repeats, the clicks that could be, W, E
        self.stream = Table("stream", [0.0] * (WINS + 2 * CLASSES), dtype=np.float64)
        self._constants = (
            p.half_life, p.user_half_life, p.pseudo_counts, p.user_pseudo_counts, p.item_pseudo_counts
        )  # fmt: skip
        self._first = np.append(2.0 ** (-0.5 * np.arange(GAPS)), np.ones(COUNTS + HABITS))  # f0

    @property
    def refused(self) -> int:
        """See Guarded."""
        return int(self.stream.values[0, REFUSED])

    def tables(self) -> Mapping[str, Table]:
        """See Stateful."""
        return {"user": self.user, "item": self.item, "stream": self.stream}

    def learn(self, batch: Batch) -> F32:
        """See OnlineLearner; P(i | u) of each click."""
        return self.learn_probed(batch, np.empty((len(batch), 0), dtype=np.int32)).predicted

    def learn_probed(self, batch: Batch, probes: I32) -> Opinion:
        """See Probed."""
        opinion = Opinion(np.empty(len(batch), dtype=np.float32), np.empty(probes.shape, dtype=np.float32))
        user, item, stream = self.user, self.item, self.stream
        learn_repeats(
            user.values, user.touched, item.values, item.touched, stream.values, stream.touched, batch.users, batch.items,
            batch.clicks, batch.taken_back.withdrawn, probes, self._constants, self._first, *opinion,
        )  # fmt: skip
        return opinion

    def predict(self, batch: Batch) -> F32:
        """See OnlineLearner; recent popularity for an unseen user."""
        out = np.empty(len(batch), dtype=np.float32)
        predict_repeats(
            self.user.values, self.item.values, self.stream.values, batch.users, batch.items, batch.clicks, self._constants,
            self._first, out,
        )  # fmt: skip
        return out

    def score(self, user: UserView, items: I32) -> F32:
        """ln(P(i | u) / (1 - rho_u)), (len(items),), ln FLOOR for items that are not on the list. Cost: O(len(items) + listed)."""
        out = np.empty(len(items), dtype=np.float32)
        row = np.array(user.rows[self.name])  # a copy: a read-only row would compile the kernel again
        p = self.parameters
        score(
            row, self.item.values, self.stream.values, items, p.pseudo_counts, p.user_pseudo_counts, p.item_pseudo_counts,
            self._first, out,
        )  # fmt: skip
        return out
