"""How well a learner of clicks ranks the next click: one query for each click, just before it is learned.

    rank = 1 + items scored higher + half of those scored the same
    HR@k = share of clicks whose item has rank <= k        NDCG@k = mean of 1 / log2(1 + rank) where rank <= k, else 0

The item is ranked among all items with an earlier click that its user has not clicked, never among a sample. The first
click ever of an item counts as a miss; a click on an item that the user has clicked before makes no query. A click is an event
whose weight as a click is above 0.
Cost: for each click, a score of each item ever clicked. Memory: 4 bytes a click.

Krichene, Rendle (2020), On sampled metrics for item recommendation, KDD.
"""

from array import array
from collections.abc import Callable, Mapping
from math import inf, log2
from time import process_time

import numpy as np

from streamer.core.arrays import F32, I32
from streamer.core.batch import Batch, Seen, UserView
from streamer.stream.learners import Learners
from streamer.stream.users import Users

OnQuery = Callable[[UserView, I32, F32, int, I32], None]


class Ranking:
    """Learns as `learners` does, and before each click ranks it with the champion for clicks."""

    def __init__(self, learners: Learners, users: Users, on_query: OnQuery | None = None) -> None:
        """`on_query` gets each query that may be a hit.

        Its arguments are the user's view, item rows, their scores, and the positions of the clicked item and of excluded ones.
        """
        self._learners, self._users, self._on_query = learners, users, on_query
        self._tables = learners.user_tables()
        self._items: I32 = np.zeros(64, dtype=np.int32)  # rows of the items with a click, ordered by their first click
        self._positions: dict[int, int] = {}  # item row -> its position there
        self._clicked: dict[str, array[int]] = {}  # user id -> positions of the items clicked (user rows are recycled)
        self.ranks: array[float] = array("d")  # one for each query, inf for an item never clicked before
        self.clicks = 0
        self.seconds = 0.0  # CPU time of the queries alone

    def learn(self, batch: Batch) -> Mapping[str, F32]:
        """As Learners.learn, with the same predictions bit for bit."""
        clicks = np.flatnonzero(batch.clicks > 0).tolist()
        self.clicks += len(clicks)
        parts, start = [], 0
        for k in clicks:
            if k > start:
                parts.append(self._learners.learn(batch.part(start, k)))
            began = process_time()
            self._query(batch, k)
            self.seconds += process_time() - began
            start = k
        parts.append(self._learners.learn(batch.part(start, len(batch))))
        return {name: np.concatenate([part[name] for part in parts]) for name in self._learners.by_name}

    def _query(self, batch: Batch, k: int) -> None:
        row, item = int(batch.users[k]), int(batch.items[k])
        user_id = self._users.ids[row]
        clicked = self._clicked.setdefault(user_id, array("i"))
        position = self._positions.get(item)
        if position is None:
            self.ranks.append(inf)
            clicked.append(self._add_item(item))
            return
        own = np.frombuffer(clicked, dtype=np.int32)
        if np.any(own == position):
            return
        rows = {name: table.values[row].copy() for name, (_, table) in self._tables.items()}
        seen = seen_before(batch.seen, row, int(batch.seen_counts[k]))
        profile = self._users.profiles.at_row(row)
        view = UserView(
            user_id, bool(batch.seen_counts[k]), rows, seen, bool(len(own)), int(batch.times_ms[k]), *profile
        )
        scores = self._learners.champion("clicks").score(view, self._items[: len(self._positions)])
        self.ranks.append(rank(scores, position, own))
        if self._on_query is not None:
            self._on_query(view, self._items[: len(self._positions)], scores, position, own)
        del own  # the array cannot grow while NumPy has a view of it
        clicked.append(position)

    def _add_item(self, item: int) -> int:
        position = self._positions[item] = len(self._positions)
        if position >= len(self._items):
            grown = np.zeros(2 * len(self._items), dtype=np.int32)
            grown[:position] = self._items
            self._items = grown
        self._items[position] = item
        return position

    def hit_rate(self, k: int) -> float | None:
        """HR@k; None without queries."""
        return sum(rank <= k for rank in self.ranks) / len(self.ranks) if self.ranks else None

    def ndcg(self, k: int) -> float | None:
        """NDCG@k with one relevant item for each query; None without queries."""
        return sum(1 / log2(1 + rank) for rank in self.ranks if rank <= k) / len(self.ranks) if self.ranks else None


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
