"""How well a learner of clicks ranks what is clicked next: one query for each click, asked just before it is learned.

    rank = 1 + items scored higher + half of those scored the same
    HR@k = share of clicks whose item has rank <= k        NDCG@k = mean of 1 / log2(1 + rank) where rank <= k, else 0

The item is ranked among all items with an earlier click that its user has not clicked, never among sampled ones. The first
click ever of an item is a miss and counts; a click on what the user has clicked before asks nothing. A click is an event
whose weight as a click is above 0.
Cost: a score of each item ever clicked for each click. Memory: 4 bytes a click.

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

Heard = Callable[[UserView, I32, F32, int, I32], None]


class Ranking:
    """Learns as `learners` does, and asks the champion for clicks about each click before it is learned."""

    def __init__(self, learners: Learners, users: Users, heard: Heard | None = None) -> None:
        """`heard` is told each query that may be a hit: who asks, the item rows, their scores, and the places of the item clicked and of those left out."""
        self._learners, self._users, self._heard = learners, users, heard
        self._tables = learners.user_tables()
        self._items: I32 = np.zeros(64, dtype=np.int32)  # rows of the items with a click, in the order of the first
        self._spots: dict[int, int] = {}  # item row -> its place there
        self._clicked: dict[str, array[int]] = {}  # user -> places of the items clicked; user rows are recycled
        self.ranks: array[float] = array("d")  # of every query, inf for an item never clicked before
        self.clicks = 0
        self.seconds = 0.0  # CPU spent on queries alone

    def learn(self, batch: Batch) -> Mapping[str, F32]:
        """See Learners.learn: the same predictions, to the bit."""
        clicks = np.flatnonzero(batch.clicks > 0).tolist()
        self.clicks += len(clicks)
        parts, start = [], 0
        for k in clicks:
            if k > start:
                parts.append(self._learners.learn(batch.part(start, k)))
            began = process_time()
            self._ask(batch, k)
            self.seconds += process_time() - began
            start = k
        parts.append(self._learners.learn(batch.part(start, len(batch))))
        return {name: np.concatenate([part[name] for part in parts]) for name in self._learners.by_name}

    def _ask(self, batch: Batch, k: int) -> None:
        row, item = int(batch.users[k]), int(batch.items[k])
        user_id = self._users.ids[row]
        clicked = self._clicked.setdefault(user_id, array("i"))
        spot = self._spots.get(item)
        if spot is None:
            self.ranks.append(inf)
            clicked.append(self._admit(item))
            return
        own = np.frombuffer(clicked, dtype=np.int32)
        if np.any(own == spot):
            return
        rows = {name: table.values[row].copy() for name, (_, table) in self._tables.items()}
        seen = seen_before(batch.seen, row, int(batch.seen_counts[k]))
        said = self._users.profiles.at_row(row)
        view = UserView(user_id, bool(batch.seen_counts[k]), rows, seen, bool(len(own)), int(batch.times_ms[k]), *said)
        scores = self._learners.champion("clicks").score(view, self._items[: len(self._spots)])
        self.ranks.append(rank(scores, spot, own))
        if self._heard is not None:
            self._heard(view, self._items[: len(self._spots)], scores, spot, own)
        del own  # an array that is looked into cannot grow
        clicked.append(spot)

    def _admit(self, item: int) -> int:
        spot = self._spots[item] = len(self._spots)
        if spot >= len(self._items):
            grown = np.zeros(2 * len(self._items), dtype=np.int32)
            grown[:spot] = self._items
            self._items = grown
        self._items[spot] = item
        return spot

    def hit_rate(self, k: int) -> float | None:
        """HR@k, None where nothing was asked."""
        return sum(rank <= k for rank in self.ranks) / len(self.ranks) if self.ranks else None

    def ndcg(self, k: int) -> float | None:
        """NDCG@k with one relevant item a query, None where nothing was asked."""
        return sum(1 / log2(1 + rank) for rank in self.ranks if rank <= k) / len(self.ranks) if self.ranks else None


def rank(scores: F32, spot: int, left_out: I32) -> float:
    """The rank of `scores[spot]` among `scores` (n,) without those at `left_out`; a NaN ranks behind everything."""
    wanted, others = scores[spot], scores[left_out]
    if np.isnan(wanted):
        return inf
    higher = np.count_nonzero(scores > wanted) - np.count_nonzero(others > wanted)
    equal = np.count_nonzero(scores == wanted) - np.count_nonzero(others == wanted) - 1
    return 1 + higher + equal / 2


def seen_before(seen: Seen, user: int, count: int) -> I32:
    """The item rows that counted as seen when the user had seen `count` items: the view is of before the event, not of before the next batch."""
    page = seen.pages.shape[1]
    positions = np.arange(max(0, count - seen.window), count) % (page * seen.page_of.shape[1])
    items: I32 = seen.pages[seen.page_of[user, positions // page], positions % page]
    return items
