"""Recommendations and predictions: retrieve all items, filter, score with a champion, rank. The live tables are only read.

A `Recommender` belongs to one generation for its whole life, so an answer never mixes two generations.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from streamer.core.answers import Prediction, Recommendation
from streamer.core.arrays import F32, I32, Array, Bool
from streamer.core.batch import UserView
from streamer.core.errors import StreamerError
from streamer.core.protocols import Conditioned, ItemVectors, OnlineLearner, Stating
from streamer.serving.rerank import Reranker
from streamer.stream.memory import Memory

POPULAR = "popular"  # the `source` of answers that do not depend on the user
POPULARITY = "popularity-recent"  # the learner that gives them


def wall_clock_ms() -> int:
    """Milliseconds since 1970. Only queries read the clock; learning depends on the events' own times."""
    return time.time_ns() // 1_000_000


class Recommender:
    """Answers queries from a memory that is being learned into; from any thread."""

    def __init__(
        self, memory: Memory, popularity: OnlineLearner, now_ms: Callable[[], int] = wall_clock_ms,
        reranker: Reranker | None = None,
    ) -> None:  # fmt: skip
        """`popularity` scores items for unknown users; `now_ms()` is the time of a query, in ms since 1970.

        `reranker` reorders the first items that a champion ranked for `recommend`.
        """
        self._memory, self._popularity, self._now_ms, self._reranker = memory, popularity, now_ms, reranker
        self.generation = memory.store.generation

    def recommend(self, user_id: str, limit: int) -> list[Recommendation]:
        """At most `limit` items that the user has not seen, best first.

        The click champion ranks for a user with clicks, else the ratings champion if it has learned anything from the user's
        ratings or profile; other users get popular items. With a re-ranker, the first candidates of a champion are
        reordered if it is in time; popular items never are.

        Cost: about 0.1 us an item to score and filter, and the time of the re-ranker.
        """
        items = self._items()
        user = self._memory.users.view(user_id, self._now_ms())
        shown = self._available(len(items))
        shown[user.seen[user.seen < len(items)]] = False
        scores, source = self._scores(user, items)
        if self._reranker is None or source in (POPULAR, self._reranker.name):
            return self._rank(scores, shown, limit, source)
        return self._rerank(self._reranker, user, scores, shown, limit, source)

    def _rerank(
        self, reranker: Reranker, user: UserView, scores: F32, shown: Bool, limit: int, source: str
    ) -> list[Recommendation]:
        """The first candidates in the re-ranker's order with its scores, then the others as they were."""
        rows = np.array(top(scores, shown, max(limit, reranker.candidates)), dtype=np.int32)
        first, others = rows[: reranker.candidates], rows[reranker.candidates :]
        rescored = reranker.scores(self._memory.learners.by_name[reranker.name], user, first) if len(first) else None
        if rescored is None:
            return self._recommendations(rows[:limit], scores[rows[:limit]], source)
        order = np.argsort(-rescored, kind="stable")[:limit]
        reranked = self._recommendations(first[order], rescored[order], f"{reranker.name} (re-ranked {source})")
        return reranked + self._recommendations(others, scores[others], source)[: limit - len(reranked)]

    def _scores(self, user: UserView, items: I32) -> tuple[F32, str]:
        """The scores that `recommend` ranks by, (len(items),), and their source."""
        learners = self._memory.learners
        if user.clicked:
            learner = learners.champion("clicks")
            return learner.score(user, items), learner.name
        learner, rater = learners.champion("ratings"), learners.rater_with_belief()
        if isinstance(rater, Conditioned) and (user.preferences or user.known):
            nobody = replace(user, rows={rater.name: self._unknown_row(rater)}, preferences={})
            if not np.array_equal(rater.belief(user), rater.belief(nobody)):
                return learner.score(user, items), learner.name
        return self._popularity.score(user, items), POPULAR

    def _unknown_row(self, learner: OnlineLearner) -> Array:
        """The learner's row of a user never seen."""
        return self._memory.users.unseen_row(learner.name)

    def recommend_for_preferences(
        self, preferences: Mapping[str, float], ratings: Mapping[str, float], limit: int
    ) -> list[Recommendation]:
        """At most `limit` items for somebody without a user id, given `preferences` (category to rating) and `ratings` by item id.

        Ranked by the ratings that the ratings champion (or the first of its experts that keeps beliefs) expects of a new user with this
        input; popular items where there is no input, or none that it could learn from. Raises UnknownCategory, unless no
        category is known at all, and BadEvent for a value that no rating can have.

        Cost: that of `recommend`, and some 5 us for each preference and rating.
        """
        memory = self._memory
        for name, value in (*preferences.items(), *ratings.items()):
            memory.encoder.check_rating(value, f"the rating of {name[:100]!r}")
        names = preferences if memory.categories.names else {}
        by_category = {
            number: value for name, value in sorted(names.items()) for number in memory.categories.resolve(name)
        }
        rated = sorted(ratings)
        rows = np.array([memory.items.row_of.get(item_id, -1) for item_id in rated], dtype=np.int32)
        values = np.array([ratings[item_id] for item_id in rated], dtype=np.float32)
        items = self._items()
        shown = self._available(len(items))
        shown[rows[(rows >= 0) & (rows < len(items))]] = False
        learner = memory.learners.rater_with_belief()
        if (by_category or ratings) and isinstance(learner, Conditioned):
            unknown = self._unknown_row(learner)
            belief = learner.condition(unknown, by_category, rows, values)
            if not np.array_equal(belief, learner.condition(unknown, {}, rows[:0], values[:0])):
                return self._rank(learner.score_row(belief, items), shown, limit, learner.name)
        return self._rank(self._popularity.score(_UNKNOWN_USER, items), shown, limit, POPULAR)

    def predict(self, user_id: str, item_id: str) -> Prediction:
        """The rating that the user would give the item, within the range of ratings seen so far; unknown ids are answered too.

        The interval around it is that of a `Stating` champion, within the same range.
        """
        user = self._memory.users.view(user_id, self._now_ms())
        row = self._memory.items.row_of.get(item_id, -1)
        learner = self._memory.learners.champion("ratings")
        rows, scale = np.array([row], dtype=np.int32), self._memory.encoder.scale
        value = float(learner.score(user, rows)[0])
        half = float(learner.half_widths(user, rows)[0]) if isinstance(learner, Stating) else np.nan
        value, *ends = (
            min(max(one, scale.low), scale.high) if scale.low <= scale.high else one
            for one in (value, value - half, value + half)
        )
        stated = ends if half > 0 and np.isfinite(half) else (None, None)  # no width: all ratings so far are equal
        unknown = [name for name, known in (("user", user.known), ("item", row >= 0)) if not known]
        return Prediction(value, learner.name + (f" (unknown {' and '.join(unknown)})" if unknown else ""), *stated)

    def similar_items(self, item_id: str, limit: int) -> list[Recommendation]:
        """At most `limit` items, the most similar first by the cosine of their vectors; popular items for an item never clicked.

        Cost: one product with the item matrix.
        """
        row = self._memory.items.row_of.get(item_id, -1)  # before `_items`: a new item may arrive between the two
        items = self._items()
        shown = self._available(len(items))
        counts = self._popularity.score(_UNKNOWN_USER, items)
        learner = self._memory.learners.champion("clicks")
        if row < 0 or counts[row] <= 0 or not isinstance(learner, ItemVectors):
            shown[row if row >= 0 else slice(0)] = False
            return self._rank(counts, shown, limit, POPULAR)
        shown[row] = False
        shown &= counts > 0
        vectors = learner.vectors()[: len(items)].astype(np.float32)
        norms = np.maximum(np.linalg.norm(vectors, axis=1), np.float32(1e-12))
        return self._rank(vectors @ vectors[row] / norms / norms[row], shown, limit, learner.name)

    def item_vectors(self) -> tuple[list[str], F32]:
        """Ids and vectors (items, dim) of all items ever clicked, as `similar_items` compares them, the most clicked first.

        Raises StreamerError where the click champion has no item vectors.
        """
        learner = self._memory.learners.champion("clicks")
        counts = self._popularity.score(_UNKNOWN_USER, self._items())
        rows = np.flatnonzero(counts > 0)
        rows = rows[np.argsort(-counts[rows], kind="stable")]
        vectors = learner.vectors()[rows].astype(np.float32) if isinstance(learner, ItemVectors) else _NO_VECTORS
        if not vectors.shape[1]:
            raise StreamerError(
                f"the click champion, {learner.name}, has no item vectors: skip-gram and click-blend have them"
            )
        return [self._memory.items.ids[row] for row in rows], vectors

    def _items(self) -> I32:
        return np.arange(len(self._memory.items), dtype=np.int32)

    def _available(self, count: int) -> Bool:
        return np.not_equal(self._memory.items.available[:count], 0)

    def _rank(self, scores: F32, shown: Bool, limit: int, source: str) -> list[Recommendation]:
        rows = np.array(top(scores, shown, limit), dtype=np.int32)
        return self._recommendations(rows, scores[rows], source)

    def _recommendations(self, rows: I32, scores: F32, source: str) -> list[Recommendation]:
        items = self._memory.items
        return [
            Recommendation(items.ids[row], items.title(items.ids[row]), score, source)
            for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
        ]


_NO_VECTORS = np.empty((0, 0), dtype=np.float32)
_UNKNOWN_USER = UserView("", False, {}, np.empty(0, dtype=np.int32), False)


def top(scores: F32, shown: Bool, limit: int) -> Sequence[int]:
    """The `limit` rows with the highest scores among those `shown`, best first; ties in row order, NaN never ranked."""
    rows = np.flatnonzero(shown & ~np.isnan(scores))
    if 0 < limit < len(rows):
        chosen = scores[rows]
        worst = np.partition(chosen, len(rows) - limit)[len(rows) - limit]
        rows = rows[chosen >= worst]
    order = np.lexsort((rows, -scores[rows]))[: max(0, limit)]
    best: list[int] = rows[order].tolist()
    return best
