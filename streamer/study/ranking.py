"""How well learners of clicks rank the next click: one query for each click, just before it is learned.

    rank = 1 + items scored higher + half of those scored the same
    HR@k = share of queries with rank <= k        NDCG@k = mean of 1 / log2(1 + rank), MRR@k of 1 / rank, where rank <= k, else 0

The item is ranked among all items with an earlier click, never among a sample. The first click ever of an item counts as a miss.
A click is an event whose weight as a click is above 0. An item that its user has clicked before is asked for in two ways:

    repeats excluded   such a click makes no query, and the user's own items are no candidates
    repeats allowed    it is a query like any other, and the user's own items are candidates

Both ranks come from the same scores. `streamer.study.click_figures` makes figures of them.
Cost: for each click, a score of each item ever clicked. Memory: 13 bytes a click and 8 for each learner.

Krichene, Rendle (2020), On sampled metrics for item recommendation, KDD.
"""

from array import array
from collections.abc import Callable, Mapping, Sequence
from math import inf
from time import process_time
from typing import NamedTuple

import numpy as np

from streamer.core.arrays import F32, F64, I32
from streamer.core.batch import Batch, Seen, UserView
from streamer.stream.learners import Learners
from streamer.stream.users import Users
from streamer.study.clicked import ClickedItems

OnQuery = Callable[[UserView, I32, F32, int, I32], None]

_NOTHING: I32 = np.empty(0, dtype=np.int32)


class Ranks(NamedTuple):
    """The ranks that one learner gave, in order of the clicks; float32, exact up to 8 million."""

    excluded: "array[float]"  # repeats excluded; NaN for a click that makes no query
    allowed: "array[float]"  # repeats allowed


class Ranking:
    """Learns as `learners` does, and before each click ranks it."""

    def __init__(
        self, learners: Learners, users: Users, names: Sequence[str] = (), on_query: OnQuery | None = None
    ) -> None:
        """`names` are the learners that rank, by default the champion for clicks alone.

        `on_query` gets each query that may be a hit, with repeats excluded, as the first of them ranked it. Its arguments are
        the user's view, item rows, their scores, and the positions of the clicked item and of excluded ones.
        """
        self._learners, self._users, self._on_query = learners, users, on_query
        names = names or [learners.champion("clicks").name]
        used = learners.names_in_use(*names)
        self._tables = {name: table for name, (_, table) in learners.user_tables().items() if name in used}
        self._clicked = ClickedItems()
        self._rows: I32 = np.zeros(64, dtype=np.int32)  # rows of the items with a click, ordered by their first click
        self._positions: dict[int, int] = {}  # item row -> its position there
        self._session_of, self._sessions_begun = array("i"), 0  # user number -> the number of the user's session
        self.user_numbers, self.positions, self.sessions = array("i"), array("i"), array("i")  # one for each click
        self.repeated = array("B")  # whether the user had clicked the item before
        self.by_learner = {name: Ranks(array("f"), array("f")) for name in names}
        self.seconds = 0.0  # CPU time of the queries alone

    @property
    def ranks(self) -> F64:
        """The ranks by the first learner, repeats excluded, (queries,); inf for an item never clicked before."""
        ranks = np.array(next(iter(self.by_learner.values())).excluded, dtype=np.float64)
        return ranks[~np.isnan(ranks)]

    def learn(self, batch: Batch) -> Mapping[str, F32]:
        """As Learners.learn, with the same predictions bit for bit."""
        parts, start = [], 0
        for k in np.flatnonzero((batch.clicks > 0) | (batch.begins > 0)).tolist():
            user, position = (
                self._clicked.number(self._users.ids[batch.users[k]]),
                self._positions.get(int(batch.items[k])),
            )
            session = self._session(user, begins=bool(batch.begins[k]))
            if not batch.clicks[k] > 0:
                continue
            if position is None:
                position, repeated = self._miss(user, int(batch.items[k])), False
            else:
                if k > start:  # what comes before must be learned: only here, as a miss needs no scores
                    parts.append(self._learners.learn(batch.part(start, k)))
                    start = k
                began = process_time()
                repeated = self._query(batch, k, user, position)
                self.seconds += process_time() - began
            self.user_numbers.append(user)
            self.positions.append(position)
            self.sessions.append(session)
            self.repeated.append(repeated)
        parts.append(self._learners.learn(batch.part(start, len(batch))))
        return {name: np.concatenate([part[name] for part in parts]) for name in self._learners.by_name}

    def _session(self, user: int, *, begins: bool) -> int:
        """The number of the session in which an event of the user is; it may begin with an event that is no click."""
        if user == len(self._session_of):
            self._session_of.append(-1)
        if begins or self._session_of[user] < 0:
            self._session_of[user] = self._sessions_begun
            self._sessions_begun += 1
        return self._session_of[user]

    def _miss(self, user: int, item: int) -> int:
        """Note the first click ever of an item; returns the item's position."""
        position = self._positions[item] = len(self._positions)
        if position == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self._rows[position] = item
        self._clicked.add(user, position)
        for ranks in self.by_learner.values():
            ranks.excluded.append(inf)
            ranks.allowed.append(inf)
        return position

    def _query(self, batch: Batch, k: int, user: int, position: int) -> bool:
        """Rank a click; returns whether its user had clicked the item before."""
        own, items = self._clicked.items(user), self._rows[: len(self._positions)]
        repeated = bool(np.any(own == position))
        view = self._view(batch, k, clicked=bool(len(own)))
        for name, ranks in self.by_learner.items():
            scores = self._learners.by_name[name].score(view, items)
            ranks.allowed.append(rank(scores, position, _NOTHING))
            ranks.excluded.append(np.nan if repeated else rank(scores, position, own))
            if self._on_query is not None and not repeated and name == next(iter(self.by_learner)):
                self._on_query(view, items, scores, position, own)
        if not repeated:
            self._clicked.add(user, position)
        return repeated

    def _view(self, batch: Batch, k: int, *, clicked: bool) -> UserView:
        """The user as a query just before event k."""
        row = int(batch.users[k])
        rows = {name: table.values[row].copy() for name, table in self._tables.items()}
        seen = seen_before(batch.seen, row, int(batch.seen_counts[k]))
        profile = self._users.profiles.at_row(row)
        known = bool(batch.seen_counts[k])
        return UserView(self._users.ids[row], known, rows, seen, clicked, int(batch.times_ms[k]), *profile)


def rank(scores: F32, position: int, left_out: I32) -> float:
    """The rank of `scores[position]` among `scores` (n,) without those at `left_out`; inf for NaN."""
    wanted, others = scores[position], scores[left_out]
    if np.isnan(wanted):
        return inf
    higher = np.count_nonzero(scores > wanted) - np.count_nonzero(others > wanted)
    equal = np.count_nonzero(scores == wanted) - np.count_nonzero(others == wanted) - 1
    return 1 + higher + equal / 2


def seen_before(seen: Seen, user: int, count: int) -> I32:
    """The item rows that counted as seen when the user had seen `count` items, just before the event."""
    page = seen.pages.shape[1]
    positions = np.arange(max(0, count - seen.window), count) % (page * seen.page_of.shape[1])
    items: I32 = seen.pages[seen.page_of[user, positions // page], positions % page]
    return items
