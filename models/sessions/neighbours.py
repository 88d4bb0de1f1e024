"""Session neighbours: what others clicked near the items that the user has just clicked.

    sim(s)    = sum_t d^t idf(c_t) a^x_t / sum_t d^t idf(c_t)   over the clicks c_t of the user that are in session s,
                                                                c_0 the newest; s is the x_t-th newest session with c_t
    idf(c)    = ln(1 + (N + 1) / (n_c + 1))                     n_c of N clicks were on c
    votes(i)  = sum_s sim(s)^(3/2) v(p_s(i) - p_s(c))           p_s: positions in s; c: the newest click that is in s
    v(p)      = (1 - g) / (1 + b) (g^(p-1) if p > 0, b g^(-p-1) if p < 0, else 0)
    P(i | u)  = (votes(i) + m s_i) / (D + m)                    s_i: the item's share of recent clicks
    D         = the sum of sim(s) over all sessions, which the votes of all items together do not exceed

A session is a run of at most 16 distinct clicks of one user; the next one begins with the user's last two. Each item has a
list of the newest sessions with it, and room for 16 sessions of anybody: the sessions of all items together are one ring,
whose oldest session is the next to be overwritten. So users may be evicted, an event changes a few rows, and memory
depends on the number of items alone. `learn` and `predict` look for neighbours among the sessions in the list of the item itself; `score`
and probes take all sessions in the lists of the user's last clicks. The two differ for items that are so frequent that
their lists are full.
A dislike, or a like that is taken back, removes the item from its user's current session and last clicks.
Cost: O(window listed) a click, .7 us on shop sessions and 2 to 2.6 us on films, 1.1 to 1.4 times that of transitions; a
query reads at most window x listed sessions, 10 to 16 us, and then takes 20 ns an item.
State: 4 (1 + listed + 256) bytes an item, 1.3 KB, and 16 of popularity; 4 (window + 1) bytes a user.

Ludewig, Jannach (2018), Evaluation of session-based recommendation algorithms, UMUAI 28 (V-SKNN); Kersbergen, Sprangers,
Schelter (2022), Serenade: low-latency session-based recommendation in e-commerce at scale, SIGMOD (VMIS-kNN). Deviations:
incremental; the votes of a session fade with the distance from the match, which gains 6% to 9% of HR@10 on shop sessions and
films; sim^(3/2) instead of the k most similar sessions; no idf of the items that get votes.
"""

from collections.abc import Mapping

import msgspec
import numpy as np

from streamer.core.arrays import F32, F64, I32, U8
from streamer.core.batch import Batch, Opinion, UserView
from streamer.core.kernel import kernel
from streamer.core.protocols import Kind
from streamer.core.tables import Table
from streamer.models.popularity import take_recent
from streamer.models.sessions.ring import (
    CONTEXT,
    CURRENT,
    HOSTED,
    LISTED,
    NEXT,
    ROWS,
    TURN,
    TURN_BEFORE,
    add_to_session,
    place_in,
    remove_from_session,
    slot_among,
)
from streamer.models.transitions.transitions import record_click, share_of

REFUSED = 2  # column of the stream, which is also that of the ring
WEIGHT_LARGEST = 524288.0  # clicks


class NeighboursParameters(msgspec.Struct, frozen=True):
    """Sizes of lists, and decays. Tuned on shop sessions and ml-latest-small, where most of them matter little."""

    listed: int = 64
    """Sessions in an item's list. 32 lose 2% on ml-latest-small; 128 gain nothing."""
    length: int = 16
    """Most items of a session. 32 and more gain nothing: votes fade before."""
    overlap: int = 2
    """Last clicks of a user with which the next session begins. 0 loses 2% on ml-latest-small."""
    window: int = 10
    """Number of a user's last clicks for which neighbours are looked up. 6 lose 1.5% on ml-latest-small."""
    decay: float = 0.85
    """d: the weight of a click relative to the next newer one."""
    ageing: float = 0.98
    """a: the weight of a session in an item's list relative to the next newer one. 1 loses 3% on ml-latest-small."""
    nearness: float = 0.8
    """g: the weight of an item relative to one that is a click nearer to the match. 1 loses 6% to 9%."""
    before: float = 0.7
    """b: the weight of an item before the match relative to one behind it."""
    pseudo_counts: float = 0.5
    """m: the weight of popularity, in sessions."""
    half_life: float = 5000.0
    """Number of clicks, by any user on any item, after which a click counts half in popularity. As for popularity-recent."""


@kernel
def hash_size(entries: int) -> int:
    """The smallest power of two that is at least twice `entries`."""
    size = 2
    while size < 2 * entries:
        size *= 2
    return size


@kernel
def find_neighbours(
    user: I32, postings: I32, sessions: I32, stream: F64, decay: float, fading: F64, only: int, index: I32,
    slots: I32, places: I32, sims: F64, matched: I32,
) -> tuple[int, float]:  # fmt: skip
    """Write the slots, sims and matched clicks of the user's neighbours; return their number, and the sum of all sims.

    With an item `only`, these are the sessions in its list, and some may have a sim of 0. `index` (a power of two,) is a hash
    table from slots to neighbours, -1 where empty, and is left empty.
    """
    found, total, weights, weight = 0, 0.0, 0.0, 1.0
    mask, size, own = len(index) - 1, postings.shape[1] - 1, user[CURRENT]
    last, turn, before = int(stream[0, NEXT]), int(stream[0, TURN]), int(stream[0, TURN_BEFORE])
    for t in range(-1, len(user) - CONTEXT):
        c, share = only, 0.0
        if t >= 0:
            c = user[CONTEXT + t]
            if c < 0:
                break
            share = weight * np.log(1.0 + (stream[0, LISTED] + 1.0) / (postings[c, 0] + 1.0))
            weights += share
            weight *= decay
        if c < 0:
            continue
        at = 1 + postings[c, 0] % size  # behind the newest; without a division for each session
        for x in range(min(postings[c, 0], size)):
            at = at - 1 if at > 1 else size
            session = postings[c, at]
            slot = slot_among(int(session), last, turn, before, len(sessions)) if session != own else -1
            if slot < 0:
                continue
            total += share * fading[x]
            place = (slot * 40503) & mask
            while index[place] >= 0 and slots[index[place]] != slot:
                place = (place + 1) & mask
            n = index[place]
            if n < 0:
                if t >= 0 and only >= 0:
                    continue
                n = found
                index[place], slots[n], places[n], sims[n], matched[n] = n, slot, place, 0.0, c
                found += 1
            if t >= 0:
                if sims[n] == 0.0:
                    matched[n] = c
                sims[n] += share * fading[x]
    for n in range(found):
        index[places[n]] = -1
        sims[n] /= max(weights, 1e-300)
    return found, total / max(weights, 1e-300)


@kernel
def votes_of(sessions: I32, slots: I32, sims: F64, matched: I32, found: int, near: F64, i: int) -> float:
    """votes(i)"""
    votes, middle = 0.0, len(near) >> 1
    for n in range(found):
        if sims[n] > 0.0:
            session = sessions[slots[n]]
            at, here = place_in(session, i), place_in(session, matched[n])
            if at >= 0 and here >= 0:
                votes += sims[n] * np.sqrt(sims[n]) * near[middle + at - here]
    return votes


@kernel
def add_votes(sessions: I32, slots: I32, sims: F64, matched: I32, found: int, near: F64, votes: F64) -> None:
    """Add the votes of the neighbours to `votes` (item rows,)."""
    middle = len(near) >> 1
    for n in range(found):
        session = sessions[slots[n]]
        here, weight = place_in(session, matched[n]), sims[n] * np.sqrt(sims[n])
        for at in range(len(session) if here >= 0 else 0):
            if session[at] < 0:
                break
            votes[session[at]] += weight * near[middle + at - here]


@kernel
def clear_votes(sessions: I32, slots: I32, found: int, votes: F64) -> None:
    """Set to 0 what `add_votes` may have changed."""
    for n in range(found):
        for i in sessions[slots[n]]:
            if i >= 0:
                votes[i] = 0.0


@kernel
def learn_neighbours(
    user: I32, user_touched: U8, postings: I32, postings_touched: U8, sessions: I32, sessions_touched: U8,
    popularity: F64, popularity_touched: U8, stream: F64, stream_touched: U8, users: I32, items: I32, clicks: F32,
    withdrawn: F32, probes: I32, constants: tuple[float, float, float, float], fading: F64, near: F64, votes: F64,
    out: F32, scores: F32,
) -> None:  # fmt: skip
    """Predict, then add, click by click; `sessions` (slots, length), `constants` as in `Neighbours.constants`.

    `withdrawn` from batch.TakenBack, `probes` as in protocols.Probed; `votes` (item rows,) are 0 and left 0.
    """
    decay, pseudo_counts, half_life, overlap = constants
    room = (user.shape[1] - CONTEXT) * (postings.shape[1] - 1)
    index = np.full(hash_size(room), -1, dtype=np.int32)
    slots, places, matched = np.empty((3, room), dtype=np.int32)
    sims = np.empty(room)
    for k in range(len(clicks)):
        u, i, weight = users[k], items[k], float(clicks[k])
        if k < len(withdrawn) and withdrawn[k] > 0:
            remove_from_session(user[u], postings, postings_touched, sessions, sessions_touched, stream, i)
            take_recent(popularity, i, stream, 0, stream[0, 1], half_life, np.float64(withdrawn[k]))
            user_touched[u] = popularity_touched[i] = stream_touched[0] = 1
        if probes.shape[1] and probes[k, 0] >= 0:
            found, total = find_neighbours(
                user[u], postings, sessions, stream, decay, fading, -1, index, slots, places, sims, matched
            )
            add_votes(sessions, slots, sims, matched, found, near, votes)
            for m in range(probes.shape[1]):
                j = probes[k, m]
                scores[k, m] = np.nan
                if j >= 0:
                    share = share_of(popularity, stream, j, half_life)
                    scores[k, m] = np.log((votes[j] + pseudo_counts * share) / (total + pseudo_counts))
            clear_votes(sessions, slots, found, votes)
        out[k] = np.nan
        if not np.isfinite(weight) or not np.isfinite(popularity[i, 0]):
            stream[0, REFUSED] += 1.0
            stream_touched[0] = 1
        if weight == 0.0 or not np.isfinite(weight):
            continue
        user_touched[u] = stream_touched[0] = 1
        if weight < 0.0:
            remove_from_session(user[u], postings, postings_touched, sessions, sessions_touched, stream, i)
            continue
        found, total = find_neighbours(
            user[u], postings, sessions, stream, decay, fading, i, index, slots, places, sims, matched
        )
        share = share_of(popularity, stream, i, half_life)
        p = (votes_of(sessions, slots, sims, matched, found, near, i) + pseudo_counts * share) / (total + pseudo_counts)
        out[k] = min(p, 1.0)
        stream[0, ROWS] = max(stream[0, ROWS], i + 1.0)
        add_to_session(user[u], postings, postings_touched, sessions, sessions_touched, stream, i, int(overlap))
        record_click(user[u, CONTEXT:], i, weight)
        if np.isfinite(popularity[i, 0]):
            t, weight = stream[0, 1], min(weight, WEIGHT_LARGEST)
            popularity[i, 0] = popularity[i, 0] * 2.0 ** ((popularity[i, 1] - t) / half_life) + weight
            popularity[i, 1] = t
            stream[0, 0] = (stream[0, 0] + weight) * 2.0 ** (-1.0 / half_life)
            stream[0, 1] = t + 1.0
            popularity_touched[i] = 1


@kernel
def predict_neighbours(
    user: I32, postings: I32, sessions: I32, popularity: F64, stream: F64, users: I32, items: I32, clicks: F32,
    constants: tuple[float, float, float, float], fading: F64, near: F64, out: F32,
) -> None:  # fmt: skip
    """P(i | u) of pairs of rows into `out` (n,); s_i for an unseen user, NaN for events that are not clicks."""
    decay, pseudo_counts, half_life, _ = constants
    room = (user.shape[1] - CONTEXT) * (postings.shape[1] - 1)
    index = np.full(hash_size(room), -1, dtype=np.int32)
    slots, places, matched = np.empty((3, room), dtype=np.int32)
    sims, new_user = np.empty(room), np.full(user.shape[1], -1, dtype=np.int32)
    for k in range(len(items)):
        i, row = items[k], user[users[k]] if 0 <= users[k] < len(user) else new_user
        found, total = 0, 0.0
        out[k] = np.nan
        if not (clicks[k] > 0 and np.isfinite(clicks[k])):
            continue
        if 0 <= i < len(postings):
            found, total = find_neighbours(
                row, postings, sessions, stream, decay, fading, i, index, slots, places, sims, matched
            )
        share = share_of(popularity, stream, i, half_life)
        p = (votes_of(sessions, slots, sims, matched, found, near, i) + pseudo_counts * share) / (total + pseudo_counts)
        out[k] = min(p, 1.0)


@kernel
def score_neighbours(
    user: I32, postings: I32, sessions: I32, popularity: F64, stream: F64, items: I32,
    constants: tuple[float, float, float, float], fading: F64, near: F64, out: F32,
) -> None:  # fmt: skip
    """ln P(i | u) into `out` (n,); the neighbours' votes are summed once for all items."""
    decay, pseudo_counts, half_life, _ = constants
    room = (len(user) - CONTEXT) * (postings.shape[1] - 1)
    index = np.full(hash_size(room), -1, dtype=np.int32)
    slots, places, matched = np.empty((3, room), dtype=np.int32)
    sims, votes = np.empty(room), np.zeros(len(sessions) // HOSTED)
    found, total = find_neighbours(
        user, postings, sessions, stream, decay, fading, -1, index, slots, places, sims, matched
    )
    add_votes(sessions, slots, sims, matched, found, near, votes)
    for k in range(len(items)):
        i = items[k]
        p = pseudo_counts * share_of(popularity, stream, i, half_life)
        if 0 <= i < len(votes):
            p += votes[i]
        out[k] = np.log(p / (total + pseudo_counts))


class Neighbours:
    """Scores items by what others clicked in sessions that are like the user's."""

    kind: Kind = "clicks"
    Parameters = NeighboursParameters

    def __init__(self, name: str, parameters: NeighboursParameters, *, seed: int) -> None:
        """The seed is unused: nothing here is random."""
        self.name, self.parameters = name, parameters
        p = parameters
        self.user = Table("user", [-1] * (CONTEXT + p.window), dtype=np.int32)  # the session, last clicks, newest first
        self.postings = Table("item", [0] + [-1] * p.listed, dtype=np.int32)  # n_c, a ring of sessions
        self.sessions = Table("item", [-1] * (HOSTED * p.length), dtype=np.int32)  # items in order
        self.popularity = Table("item", [0.0, 0.0], dtype=np.float64)  # n, t
        # sum of n, clicks, refused, sessions begun, before this turn, before the last one, item rows used, N
        self.stream = Table("stream", [0.0] * 8, dtype=np.float64)
        self._constants = (p.decay, p.pseudo_counts, p.half_life, float(p.overlap))
        self._fading = np.asarray(p.ageing ** np.arange(p.listed), dtype=np.float64)
        apart = np.arange(1, p.length, dtype=np.float64)
        nearer = p.nearness ** (apart - 1.0) * (1.0 - p.nearness) / (1.0 + p.before)
        self._near: F64 = np.array([*(p.before * nearer[::-1]), 0.0, *nearer])  # v, (2 length - 1,)
        self._votes: F64 = np.zeros(0)  # (item rows,) 0 between calls

    @property
    def refused(self) -> int:
        """See Guarded."""
        return int(self.stream.values[0, REFUSED])

    def tables(self) -> Mapping[str, Table]:
        """See Stateful."""
        return {
            "user": self.user, "postings": self.postings, "sessions": self.sessions, "popularity": self.popularity,
            "stream": self.stream,
        }  # fmt: skip

    def learn(self, batch: Batch) -> F32:
        """See OnlineLearner; P(i | u) of each click."""
        return self.learn_probed(batch, np.empty((len(batch), 0), dtype=np.int32)).predicted

    def learn_probed(self, batch: Batch, probes: I32) -> Opinion:
        """See Probed."""
        opinion = Opinion(np.empty(len(batch), dtype=np.float32), np.empty(probes.shape, dtype=np.float32))
        user, postings, sessions, popularity, stream = self.tables().values()
        if len(self._votes) < len(sessions.values):
            self._votes = np.zeros(len(sessions.values))
        learn_neighbours(
            user.values, user.touched, postings.values, postings.touched, self._slots(), sessions.touched,
            popularity.values, popularity.touched, stream.values, stream.touched, batch.users, batch.items, batch.clicks,
            batch.taken_back.withdrawn, probes, self._constants, self._fading, self._near, self._votes, *opinion,
        )  # fmt: skip
        return opinion

    def predict(self, batch: Batch) -> F32:
        """See OnlineLearner; recent popularity for an unseen user."""
        out = np.empty(len(batch), dtype=np.float32)
        stream = self.stream.values.copy()  # before the others, so that they have every slot that it speaks of
        predict_neighbours(
            self.user.values, self.postings.values, self._slots(), self.popularity.values, stream, batch.users, batch.items,
            batch.clicks, self._constants, self._fading, self._near, out,
        )  # fmt: skip
        return out

    def score(self, user: UserView, items: I32) -> F32:
        """ln P(i | u), (len(items),). Cost: O(len(items) + window listed length)."""
        out = np.empty(len(items), dtype=np.float32)
        row = np.array(user.rows[self.name])  # a copy: a read-only row would compile the kernel again
        stream = self.stream.values.copy()  # before the others, so that they have every slot that it speaks of
        score_neighbours(
            row, self.postings.values, self._slots(), self.popularity.values, stream, items, self._constants, self._fading,
            self._near, out,
        )  # fmt: skip
        return out

    def _slots(self) -> I32:
        """All sessions, (slots, length), a view."""
        return self.sessions.values.reshape(-1, self.parameters.length)
