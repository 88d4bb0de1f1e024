"""What the session neighbours of both papers share: sessions and the sessions of an item, as chains of clicks, and one kernel.

    r(t) = sum of w(position of i) over the items i that the session s and the earlier session t share
    score(i) = sum over the k nearest t that contain i of  r(t) d(steps back in s to the newest item shared with t) f(i)

The two papers differ in the candidates t, in w, d and f, and in the defaults; see v_sknn.py and vmis_knn.py. Every click takes part at
once: a session is a neighbour from its first click on, and none of itself.
Cost of a query: the last clicks on each of the session's items, at most `sample` an item, and the items of k sessions.
"""

from collections import defaultdict, deque
from functools import cache
from math import inf, log
from typing import Literal

import numpy as np

from streamer.core.arrays import F32, I32
from streamer.core.kernel import kernel

Shape = Literal["same", "linear", "div", "quadratic", "log"]


@cache
def weights(shape: Shape, count: int) -> F32:
    """The weights w of a session's items, the newest first, (count,)."""
    back = np.arange(count, dtype=np.float32)
    found = {
        "same": np.ones_like(back), "linear": np.maximum(1 - 0.1 * back, 0), "div": (count - back) / count,
        "quadratic": ((count - back) / count) ** 2, "log": 1 / np.log10(back + 1.7),
    }[shape]  # fmt: skip
    shaped: F32 = found.astype(np.float32)
    return shaped


@cache
def decays(shape: Shape, count: int) -> F32:
    """The weights d of a neighbour by the newest item that it shares, the newest first, (count,)."""
    step = np.arange(1, count + 1, dtype=np.float32)
    found = {
        "same": np.ones_like(step), "linear": np.maximum(1 - 0.1 * step, 0), "div": 1 / step, "quadratic": 1 / step**2,
        "log": 1 / np.log10(step + 1.7),
    }[shape]  # fmt: skip
    shaped: F32 = found.astype(np.float32)
    return shaped


@kernel
def nearest_sessions(
    own: I32, weight: F32, decay: F32, idf: F32, session: int, sample: int, k: int,
    last_of_item: I32, before_of_item: I32, session_of: I32, last_of_session: I32, before_of_session: I32, item_of: I32,
    similarity: F32, shared: I32, mark: I32, scores: F32,
) -> None:  # fmt: skip
    """Add to `scores` (items,) what the neighbours of the items `own` (n,), newest first, say.

    `similarity`, `shared` and `mark` (sessions,) are room to work in; they are left as they were found.
    """
    found = np.empty(len(own) * sample, dtype=np.int32)
    count = 0
    for n in range(len(own)):
        at, seen = last_of_item[own[n]], 0
        while at >= 0 and seen < sample:  # a session is once in an item's chain
            other = session_of[at]
            if other != session:
                if mark[other] == 0:
                    found[count], mark[other], shared[other] = other, 1, n
                    count += 1
                similarity[other] += weight[n]
                seen += 1
            at = before_of_item[at]
    chosen = found[:count]
    if count > sample:  # the most recent
        chosen = chosen[np.argsort(-last_of_session[chosen], kind="mergesort")[:sample]]
    if len(chosen) > k:  # the nearest, of equal ones the most recent
        order = np.argsort(-last_of_session[chosen], kind="mergesort")
        chosen = chosen[order]
        chosen = chosen[np.argsort(-similarity[chosen], kind="mergesort")[:k]]
    for other in chosen:
        at = last_of_session[other]
        worth = similarity[other] * decay[shared[other]]
        while at >= 0:
            scores[item_of[at]] += worth * idf[item_of[at]]
            at = before_of_session[at]
    for n in range(count):
        similarity[found[n]], mark[found[n]] = 0.0, 0


class Sessions:
    """The clicks so far, by item and by session, and the scores of items for a session."""

    def __init__(self, events: int, unit: Literal["session", "history"], last_items: int) -> None:
        """`unit`: whether a session ends at a pause, or is all that the user ever clicked. At most `events` clicks."""
        self._unit, self._clicks = unit, 0
        self._open: dict[int, int] = {}  # user -> number of the session
        self._begun = 0
        self._own: defaultdict[int, deque[int]] = defaultdict(lambda: deque(maxlen=last_items))
        self._items: defaultdict[int, set[int]] = defaultdict(set)
        self.counts: F32 = np.zeros(events, dtype=np.float32)  # clicks by item
        self.sessions_with: F32 = np.zeros(events, dtype=np.float32)  # sessions by item
        chains = (np.full(events, -1, dtype=np.int32) for _ in range(6))
        self._last_of_item, self._before_of_item, self._session_of, self._last_of_session, before, item = chains
        self._before_of_session, self._item_of = before, item
        self._similarity: F32 = np.zeros(events, dtype=np.float32)
        self._shared: I32 = np.zeros(events, dtype=np.int32)
        self._mark: I32 = np.zeros(events, dtype=np.int32)

    def begin(self, user: int) -> None:
        """A session of the user begins."""
        if self._unit == "session":
            self._open.pop(user, None)

    def learn(self, user: int, item: int) -> None:
        """A click; the same item again in a session moves it to the end of what the session asks by, and counts once."""
        session = self._open.get(user)
        if session is None:
            session = self._open[user] = self._begun
            self._begun += 1
        own = self._own[session]
        if item in own:
            own.remove(item)
        own.append(item)
        self.counts[item] += 1
        if item in self._items[session]:
            return
        self._items[session].add(item)
        n = self._clicks
        self._clicks += 1
        self._item_of[n], self._session_of[n] = item, session
        self._before_of_item[n], self._last_of_item[item] = self._last_of_item[item], n
        self._before_of_session[n], self._last_of_session[session] = self._last_of_session[session], n
        self.sessions_with[item] += 1

    def score(self, user: int, count: int, sample: int, k: int, shapes: tuple[Shape, Shape], idf: float) -> F32:
        """Scores of the first `count` items, (count,); what no neighbour has comes behind, by popularity.

        `shapes` are those of w and d. f(i) is 1 + `idf` log(sessions / sessions with i) for a positive `idf`, the logarithm alone for an infinite one.
        """
        scores: F32 = np.zeros(count, dtype=np.float32)
        session = self._open.get(user)
        if session is not None:
            own = np.array(self._own[session], dtype=np.int32)[::-1].copy()
            nearest_sessions(
                own, weights(shapes[0], len(own)), decays(shapes[1], len(own)), self._idf(count, idf), session, sample, k,
                self._last_of_item, self._before_of_item, self._session_of, self._last_of_session,
                self._before_of_session, self._item_of, self._similarity, self._shared, self._mark, scores,
            )  # fmt: skip
        return behind(scores, self.counts[:count])

    def _idf(self, count: int, factor: float) -> F32:
        if not factor:
            return np.ones(count, dtype=np.float32)
        rarity: F32 = np.float32(log(max(self._begun, 2))) - np.log(np.maximum(self.sessions_with[:count], 1))
        found: F32 = rarity if factor == inf else 1 + np.float32(factor) * rarity
        return found


def behind(scores: F32, counts: F32) -> F32:
    """`scores` (count,), and for items without a positive one their popularity, below all that have one."""
    ranked: F32 = np.where(scores > 0, scores, -1 / (1 + counts))
    return ranked
