"""Answers: retrieve all items, filter, score with a champion, rank. Reads the live tables and changes nothing.

A `Recommender` is of one generation for good, so an answer never mixes two.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from streamer.core.answers import Prediction, Recommendation
from streamer.core.arrays import F32, I32, Array, Bool
from streamer.core.batch import UserView
from streamer.core.errors import StreamerError
from streamer.core.protocols import Conditioned, ItemVectors, OnlineLearner
from streamer.serving.rerank import Reranker
from streamer.stream.memory import Memory

POPULAR = "popular"  # the source of answers that know nothing of the user
POPULARITY = "popularity-recent"  # the learner that gives them


def wall_clock_ms() -> int:
    """Milliseconds since 1970. Learning never asks; a query may, as answers are for now."""
    return time.time_ns() // 1_000_000


class Recommender:
    """Answers queries from a memory that goes on learning; from any thread."""

    def __init__(
        self, memory: Memory, popularity: OnlineLearner, now_ms: Callable[[], int] = wall_clock_ms,
        reranker: Reranker | None = None,
    ) -> None:  # fmt: skip
        """`popularity` answers for users without clicks; `now_ms` says when an answer is wanted, in ms since 1970.

        `reranker` orders anew what `recommend` answers by a champion.
        """
        self._memory, self._popularity, self._now_ms, self._reranker = memory, popularity, now_ms, reranker
        self.generation = memory.store.generation

    def recommend(self, user_id: str, limit: int) -> list[Recommendation]:
        """At most `limit` items that the user has not seen, best first.

        A user without clicks is answered by the ratings champion, if it was told anything by ratings or a profile; one of
        whom nothing is known gets popular items. With a re-ranker, the first candidates of a champion are in its order, if it was in
        time; popular items stay as they are.

        Cost: a score and a look at each item, about 0.1 us an item, and what the re-ranker takes.
        """
        items = self._items()
        user = self._memory.users.view(user_id, self._now_ms())
        shown = self._available(len(items))
        shown[user.seen[user.seen < len(items)]] = False
        scores, source = self._scores(user, items)
        if self._reranker is None or source in (POPULAR, self._reranker.name):
            return self._ranked(scores, shown, limit, source)
        return self._reranked(self._reranker, user, scores, shown, limit, source)

    def _reranked(
        self, reranker: Reranker, user: UserView, scores: F32, shown: Bool, limit: int, source: str
    ) -> list[Recommendation]:
        """The first candidates in the re-ranker's order and with its scores, then the others in the given one with theirs."""
        rows = np.array(top(scores, shown, max(limit, reranker.candidates)), dtype=np.int32)
        first, others = rows[: reranker.candidates], rows[reranker.candidates :]
        said = reranker.scores(self._memory.learners.by_name[reranker.name], user, first) if len(first) else None
        if said is None:
            return self._named(rows[:limit], scores[rows[:limit]], source)
        order = np.argsort(-said, kind="stable")[:limit]
        anew = self._named(first[order], said[order], f"{reranker.name} (re-ranked {source})")
        return anew + self._named(others, scores[others], source)[: limit - len(anew)]

    def _scores(self, user: UserView, items: I32) -> tuple[F32, str]:
        """What `recommend` ranks by, (len(items),), and where it comes from."""
        learners = self._memory.learners
        if user.clicked:
            learner = learners.champion("clicks")
            return learner.score(user, items), learner.name
        learner, rater_with_belief = learners.champion("ratings"), learners.rater_with_belief()
        if isinstance(rater_with_belief, Conditioned) and (user.preferences or user.known):
            unmoved = rater_with_belief.belief(
                replace(user, rows={rater_with_belief.name: self._fresh(rater_with_belief)}, preferences={})
            )
            if not np.array_equal(rater_with_belief.belief(user), unmoved):
                return learner.score(user, items), learner.name
        return self._popularity.score(user, items), POPULAR

    def _fresh(self, learner: OnlineLearner) -> Array:
        return self._memory.users.unknown(learner.name)

    def recommend_for_preferences(
        self, preferences: Mapping[str, float], ratings: Mapping[str, float], limit: int
    ) -> list[Recommendation]:
        """At most `limit` items for somebody of whom no more is known: ratings by category, and by item id.

        Ranked by what the ratings champion (or the first of its experts that can be told) expects of a new user who said
        this; popular ones where nothing was said, or nothing that it could learn from. Raises UnknownCategory, unless no
        category is known, and BadEvent for a value that no rating can have.

        Cost: that of `recommend`, and some 5 us for each preference and rating.
        """
        memory = self._memory
        for name, value in (*preferences.items(), *ratings.items()):
            memory.encoder.check_rating(value, f"the rating of {name[:100]!r}")
        names = preferences if memory.categories.names else {}
        said = {number: value for name, value in sorted(names.items()) for number in memory.categories.named(name)}
        rated = sorted(ratings)
        rows = np.array([memory.items.row_of.get(item_id, -1) for item_id in rated], dtype=np.int32)
        values = np.array([ratings[item_id] for item_id in rated], dtype=np.float32)
        items = self._items()
        shown = self._available(len(items))
        shown[rows[(rows >= 0) & (rows < len(items))]] = False
        learner = memory.learners.rater_with_belief()
        if (said or ratings) and isinstance(learner, Conditioned):
            fresh = self._fresh(learner)
            told = learner.condition(fresh, said, rows, values)
            if not np.array_equal(told, learner.condition(fresh, {}, rows[:0], values[:0])):
                return self._ranked(learner.score_row(told, items), shown, limit, learner.name)
        return self._ranked(self._popularity.score(_NOBODY, items), shown, limit, POPULAR)

    def predict(self, user_id: str, item_id: str) -> Prediction:
        """The rating that the user would give the item, within the range of ratings seen so far; ids never seen are answered too."""
        user = self._memory.users.view(user_id, self._now_ms())
        row = self._memory.items.row_of.get(item_id, -1)
        learner = self._memory.learners.champion("ratings")
        value = float(learner.score(user, np.array([row], dtype=np.int32))[0])
        low, high = self._memory.encoder.low, self._memory.encoder.high
        if low <= high:
            value = min(max(value, low), high)
        unknown = [name for name, known in (("user", user.known), ("item", row >= 0)) if not known]
        return Prediction(value, learner.name + (f" (unknown {' and '.join(unknown)})" if unknown else ""))

    def similar_items(self, item_id: str, limit: int) -> list[Recommendation]:
        """The items nearest to one by the angle between their vectors, without itself; popular ones for an item never clicked.

        Cost: one product with the item matrix.
        """
        row = self._memory.items.row_of.get(item_id, -1)  # first: a new one may arrive now
        items = self._items()
        shown = self._available(len(items))
        counts = self._popularity.score(_NOBODY, items)
        learner = self._memory.learners.champion("clicks")
        if row < 0 or counts[row] <= 0 or not isinstance(learner, ItemVectors):
            shown[row if row >= 0 else slice(0)] = False
            return self._ranked(counts, shown, limit, POPULAR)
        shown[row] = False
        shown &= counts > 0
        vectors = learner.vectors()[: len(items)].astype(np.float32)
        norms = np.maximum(np.linalg.norm(vectors, axis=1), np.float32(1e-12))
        return self._ranked(vectors @ vectors[row] / norms / norms[row], shown, limit, learner.name)

    def item_vectors(self) -> tuple[list[str], F32]:
        """Ids and vectors (items, dim) of all items ever clicked, as `similar_items` goes by, the most clicked first.

        Raises StreamerError where who answers for clicks has none.
        """
        learner = self._memory.learners.champion("clicks")
        counts = self._popularity.score(_NOBODY, self._items())
        rows = np.flatnonzero(counts > 0)
        rows = rows[np.argsort(-counts[rows], kind="stable")]
        found = learner.vectors()[rows].astype(np.float32) if isinstance(learner, ItemVectors) else _NONE
        if not found.shape[1]:
            raise StreamerError(
                f"{learner.name}, which answers for clicks, has no item vectors: skip-gram and click-blend have"
            )
        return [self._memory.items.ids[row] for row in rows], found

    def _items(self) -> I32:
        return np.arange(len(self._memory.items), dtype=np.int32)

    def _available(self, count: int) -> Bool:
        return np.not_equal(self._memory.items.available[:count], 0)

    def _ranked(self, scores: F32, shown: Bool, limit: int, source: str) -> list[Recommendation]:
        rows = np.array(top(scores, shown, limit), dtype=np.int32)
        return self._named(rows, scores[rows], source)

    def _named(self, rows: I32, scores: F32, source: str) -> list[Recommendation]:
        items = self._memory.items
        return [
            Recommendation(items.ids[row], items.title(items.ids[row]), score, source)
            for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
        ]


_NONE = np.empty((0, 0), dtype=np.float32)
_NOBODY = UserView("", False, {}, np.empty(0, dtype=np.int32), False)


def top(scores: F32, shown: Bool, limit: int) -> Sequence[int]:
    """The `limit` rows with the highest scores among those shown, best first, ties by arrival; NaN is never ranked."""
    rows = np.flatnonzero(shown & ~np.isnan(scores))
    if 0 < limit < len(rows):
        chosen = scores[rows]
        worst = np.partition(chosen, len(rows) - limit)[len(rows) - limit]
        rows = rows[chosen >= worst]
    order = np.lexsort((rows, -scores[rows]))[: max(0, limit)]
    best: list[int] = rows[order].tolist()
    return best
