"""Recommendations from a small memory that a person can check: which items, and from which source."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from recommending import LiveRecommender, clicks

from streamer.core.answers import Recommendation
from streamer.core.arrays import F32, I32
from streamer.core.batch import UserView
from streamer.core.events import Click, ItemRemoval, ItemUpdate, Rating, UserRemoval
from streamer.serving.recommend import POPULAR, POPULARITY, Recommender, top
from streamer.stream.memory import Memory


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveRecommender]:
    made = LiveRecommender(tmp_path)
    yield made
    made.store.close()


def test_an_empty_memory_gives_empty_answers(live: LiveRecommender) -> None:
    assert live.ids("u") == []
    assert live.recommender.similar_items("i", 5) == []
    assert live.recommender.predict("u", "i").source == "bayesian-hybrid (unknown user and item)"


def test_an_unknown_user_gets_popular_items_and_the_source_says_so(live: LiveRecommender) -> None:
    live.learn(ItemUpdate("a", "Alien"), *clicks("u1", "b", "a"), *clicks("u2", "b"), *clicks("u3", "b", "a", "c"))
    found = live.recommender.recommend("nobody", 2)
    assert [(one.item_id, one.title, one.source) for one in found] == [("b", "b", POPULAR), ("a", "Alien", POPULAR)]
    assert found[0].score > found[1].score
    assert live.ids("nobody") == ["b", "a", "c"]


def test_seen_items_are_left_out(live: LiveRecommender) -> None:
    live.learn(*clicks("u1", "a", "b", "c"), *clicks("u2", "a", "d"), Rating("u3", "a", 1.0), Rating("u3", "b", 5.0))
    assert set(live.ids("u1")) == {"d"}
    assert set(live.ids("u2")) == {"b", "c"}
    assert set(live.ids("u3")) == {"c", "d"}  # disliked or liked, they were seen
    live.learn(*clicks("u1", "d"))
    assert live.ids("u1") == []


def test_unavailable_items_are_never_shown(live: LiveRecommender) -> None:
    live.learn(*clicks("u1", "a", "b"), *clicks("u2", "a", "c"), ItemUpdate("a", available=False), ItemRemoval("b"))
    assert live.ids("nobody") == ["c"]
    assert live.ids("u1") == ["c"]
    assert live.ids("u2") == []
    assert [one.item_id for one in live.recommender.similar_items("c", 5)] == []
    live.learn(ItemUpdate("a"))
    assert "a" in live.ids("nobody")


def test_the_learner_that_answers_depends_on_the_users_events(live: LiveRecommender) -> None:
    live.learn(*clicks("u1", "a", "b"), Rating("u2", "a", 5.0), Rating("u3", "a", 1.0), Click("u4", "a", "dislike"))
    sources = {user: {one.source for one in live.recommender.recommend(user, 5)} for user in ("u1", "u2", "u3", "u4")}
    assert sources["u1"] == set()  # saw everything
    assert sources["u2"] == {"click-blend"}  # a high rating is a click
    assert sources["u3"] == {"bayesian-hybrid"}  # a low one says something too
    assert sources["u4"] == {POPULAR}


def test_two_groups_of_users_with_different_tastes_are_told_apart(live: LiveRecommender) -> None:
    """Two hundred users click within their group; a few clicks assign a new user to one."""
    random = np.random.default_rng(1)
    for n in range(200):
        side = "xy"[n % 2]
        live.learn(*clicks(f"u{n}", *[f"{side}{k}" for k in random.permutation(12)[:8]]))
    live.learn(*clicks("new", "x0", "x1", "x2", "x3"))
    assert [item[0] for item in live.ids("new", 6)] == ["x"] * 6
    assert [one.item_id[0] for one in live.recommender.similar_items("y0", 5)] == ["y"] * 5


def test_a_forgotten_user_is_unknown_again(live: LiveRecommender) -> None:
    live.learn(*clicks("u1", "a", "b"), *clicks("u2", "b", "c"), UserRemoval("u1"))
    assert set(live.ids("u1")) == {"a", "b", "c"}
    assert {one.source for one in live.recommender.recommend("u1", 5)} == {POPULAR}


def test_predictions_stay_within_the_ratings_seen(live: LiveRecommender) -> None:
    live.learn(*[Rating(f"u{n}", "good", 5.0) for n in range(30)], *[Rating(f"u{n}", "bad", 1.0) for n in range(30)])
    good, bad = (live.recommender.predict("u1", item) for item in ("good", "bad"))
    assert 1.0 <= bad.value < good.value <= 5.0
    assert good.source == "bayesian-hybrid"
    for one in (good, bad):
        assert one.low is not None
        assert one.high is not None
        assert 1.0 <= one.low <= one.value <= one.high <= 5.0
        assert one.high - one.low < 4.0
    assert live.recommender.predict("nobody", "good").source == "bayesian-hybrid (unknown user)"
    assert live.recommender.predict("u1", "nothing").source == "bayesian-hybrid (unknown item)"
    assert 1.0 <= live.recommender.predict("nobody", "nothing").value <= 5.0


def test_similar_items_leave_out_the_item_and_what_was_never_clicked(live: LiveRecommender) -> None:
    live.learn(ItemUpdate("silent"), *clicks("u1", "a", "b", "c"), *clicks("u2", "a", "b"))
    assert {one.item_id for one in live.recommender.similar_items("a", 9)} == {"b", "c"}
    assert all(-1.001 <= one.score <= 1.001 for one in live.recommender.similar_items("a", 9))
    for unknown in ("silent", "nothing"):
        found = live.recommender.similar_items(unknown, 9)
        assert {one.source for one in found} == {POPULAR}
        assert unknown not in {one.item_id for one in found}


class Arriving(dict[str, int]):
    """Item rows; a new item arrives just while its id is looked up."""

    def __init__(self, memory: Memory) -> None:
        super().__init__(memory.items.row_of)
        self.memory = memory

    def get(self, key: str, default: int = -1) -> int:  # type: ignore[override]  # narrower, for this one use
        self.memory.items.row_of = dict(self)
        self.memory.items.rows([key])
        return self.memory.items.row_of[key]


def test_similar_items_of_an_item_that_arrives_during_the_query(live: LiveRecommender) -> None:
    live.learn(*clicks("u1", "a", "b"))
    live.memory.items.row_of = Arriving(live.memory)
    assert {one.item_id for one in live.recommender.similar_items("new", 5)} == {"a", "b"}


def test_evicted_and_cached_users_get_the_same_answers(tmp_path: Path) -> None:
    wide, narrow = LiveRecommender(tmp_path / "wide"), LiveRecommender(tmp_path / "narrow", user_cache_bytes=0)
    random = np.random.default_rng(2)
    stream = [
        Click(f"u{n}", f"i{i}") if n % 3 else Rating(f"u{n}", f"i{i}", float(1 + i % 5))
        for n, i in zip(random.integers(0, 30, 900).tolist(), random.integers(0, 80, 900).tolist(), strict=True)
    ]
    for one in (wide, narrow):
        one.learn(*stream)
    assert (wide.memory.users.cached, narrow.memory.users.cached) == (30, 1)
    for n in range(32):
        assert wide.recommender.recommend(f"u{n}", 20) == narrow.recommender.recommend(f"u{n}", 20)
        assert wide.recommender.predict(f"u{n}", "i7") == narrow.recommender.predict(f"u{n}", "i7")
    assert narrow.memory.users.cached == 1  # looking brings nobody in
    for one in (wide, narrow):
        one.store.close()


def test_a_thousand_unknown_users_leave_the_digest_as_it_was(live: LiveRecommender) -> None:
    live.learn(*clicks("u1", "a", "b"), Rating("u2", "c", 5.0))
    live.engine.commit()
    before = live.store.digest()
    for n in range(1000):
        live.recommender.recommend(f"nobody {n}", 3)
        live.recommender.predict(f"nobody {n}", f"nothing {n}")
        live.recommender.similar_items(f"nothing {n}", 3)
    live.memory.commit()
    assert live.store.digest() == before


# Ranking.


def ranked(scores: Sequence[float], limit: int, hidden: Sequence[int] = ()) -> list[int]:
    shown = np.ones(len(scores), dtype=np.bool_)
    shown[list(hidden)] = False
    return list(top(np.array(scores, dtype=np.float32), shown, limit))


@pytest.mark.parametrize(
    ("scores", "limit", "wanted"),
    [
        ([1, 3, 2], 2, [1, 2]),
        ([1, 3, 2], 9, [1, 2, 0]),
        ([5, 5, 5, 5], 3, [0, 1, 2]),  # ties by arrival
        ([1, 5, 5, 9, 5], 3, [3, 1, 2]),
        ([np.nan, 1, np.nan, 2], 4, [3, 1]),
        ([np.nan] * 3, 2, []),
        ([-np.inf, np.inf, 0], 3, [1, 2, 0]),
        ([], 3, []),
        ([1, 2], 0, []),
    ],
)
def test_the_best_rank_first_and_nan_never_ranks(scores: list[float], limit: int, wanted: list[int]) -> None:
    assert ranked(scores, limit) == wanted


def test_hidden_items_are_not_ranked_whatever_their_score() -> None:
    assert ranked([9, 1, 2], 2, hidden=[0]) == [2, 1]


def test_ranking_is_that_of_a_full_sort() -> None:
    random = np.random.default_rng(3)
    for _ in range(200):
        n = int(random.integers(0, 40))
        scores = random.integers(-3, 3, n).astype(np.float32)
        scores[random.random(n) < 0.2] = np.nan
        hidden = [k for k in range(n) if random.random() < 0.2]
        limit = int(random.integers(0, 12))
        rest = [k for k in range(n) if k not in hidden and not np.isnan(scores[k])]
        assert ranked(scores.tolist(), limit, hidden) == sorted(rest, key=lambda k: (-scores[k], k))[:limit]


class Unsure:
    """A learner that cannot score every other item."""

    def __init__(self, score: Callable[[UserView, I32], F32]) -> None:
        self._score = score

    def score(self, user: UserView, items: I32) -> F32:
        return np.where(items % 2 == 0, self._score(user, items), np.nan).astype(np.float32)


def test_items_that_the_learner_cannot_score_are_not_recommended(live: LiveRecommender) -> None:
    live.learn(*clicks("u1", "a", "b", "c", "d"))
    popularity = live.memory.learners.by_name[POPULARITY]
    unsure = Recommender(live.memory, Unsure(popularity.score))  # type: ignore[arg-type]  # all that is asked of it
    found: list[Recommendation] = unsure.recommend("nobody", 9)
    assert {one.item_id for one in found} == {"a", "c"}
    assert not any(np.isnan(one.score) for one in found)


def test_a_session_offset_is_gone_when_its_session_is_over(live: LiveRecommender) -> None:
    """Scores, as predictions end at the ends of the scale."""
    start = 1_600_000_000_000
    live.learn(*[Rating(f"u{n % 7}", f"i{n % 11}", 2.0 + n % 4, start + n * 500_000) for n in range(300)])
    mood, learner = start + 300 * 500_000, live.memory.learners.champion("ratings")
    row = np.array([live.memory.items.row_of["i5"]], dtype=np.int32)

    def after(ms: int) -> float:
        return float(learner.score(dataclasses.replace(live.memory.users.view("u3"), now_ms=mood + ms), row)[0])

    before = after(0)
    live.learn(*[Rating("u3", f"i{n}", 1.0, mood + 1000 * n) for n in range(4)])
    assert after(4000) == after(90_000) == after(-1000)  # the session goes on for 100 s; a late question is no gap
    assert after(3_600_000) > after(4000) + 0.2
    assert after(3_600_000) < before  # and the ratings count all the same
    answered = Recommender(live.memory, live.memory.learners.by_name[POPULARITY], lambda: mood + 4000).predict(
        "u3", "i5"
    )
    assert answered.value == pytest.approx(max(1.0, after(4000)))
