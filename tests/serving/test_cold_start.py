"""Cold start: a few preferences or ratings in a request lead to fitting answers, and nothing of the request is kept."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import numpy as np
import pytest
from learning import settings
from recommending import LiveRecommender, genre_of, genres

from streamer.api.memory import MemoryAnswers
from streamer.api.thread import serving
from streamer.consumers.files import FileSource
from streamer.core.answers import Recommendation
from streamer.core.errors import BadEvent, UnknownCategory
from streamer.core.events import Event, ItemUpdate, Rating, UserRemoval, UserUpdate
from streamer.core.settings import SecuritySettings, ServerSettings
from streamer.serving.opening import learners
from streamer.serving.posterior import posterior
from streamer.serving.recommend import POPULAR, POPULARITY, Recommender
from streamer.storage.state import RocksStore
from streamer.stream.catalogue.category_sets import CategorySets
from streamer.stream.engine import Engine, NullObserver
from streamer.stream.memory import Memory

PREFERENCES = "/streamer.v1.RecommendationService/RecommendForPreferences"


class Films(MemoryAnswers):
    """The endpoint over all of ml-latest-small, learned as the service learns."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.memory, self.recommender = memory, Recommender(memory, memory.learners.by_name[POPULARITY])

    def recommend_for_preferences(
        self, preferences: Mapping[str, float], ratings: Mapping[str, float], limit: int
    ) -> list[Recommendation]:
        return self.recommender.recommend_for_preferences(preferences, ratings, limit)

    def ask(self, likes: dict[str, float]) -> list[dict[str, str]]:
        """The first ten recommendations for these preferences and ratings, over HTTP."""
        with serving(self, ServerSettings(port=0), SecuritySettings()) as url:
            answer = httpx.post(url + PREFERENCES, json={"preferences": likes}, timeout=20)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, str]] = answer.json()["items"]
        assert len(found) == 10
        return found

    def categories(self, likes: dict[str, float]) -> list[tuple[str, ...]]:
        return [self.memory.items.catalogue[item["itemId"]].categories for item in self.ask(likes)]


@pytest.fixture(scope="module")
def films(movielens: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Films]:
    chosen = settings()
    store = RocksStore(tmp_path_factory.mktemp("films"))
    memory = Memory(learners(chosen), chosen, store)
    engine = Engine(FileSource(movielens, 1), memory, NullObserver(), max_records=1000, commit_interval_s=3600.0)
    while engine.step(0.0):
        pass
    yield Films(memory)
    store.close()


def test_a_preference_of_5_for_documentary_brings_documentaries(films: Films) -> None:
    assert sum("Documentary" in categories for categories in films.categories({"Documentary": 5.0})) >= 8


def test_comedy_5_and_horror_1_bring_comedies_and_no_horror(films: Films) -> None:
    best = films.categories({"Comedy": 5.0, "Horror": 1.0})
    assert sum("Comedy" in categories for categories in best) >= 8
    assert not any("Horror" in categories for categories in best)


def test_a_request_without_preferences_or_ratings_gets_popular_items(films: Films) -> None:
    found = films.ask({})
    assert [item["itemId"] for item in found] == [one.item_id for one in films.recommender.recommend("nobody", 10)]
    assert {item["source"] for item in found} == {POPULAR}


def test_preferences_of_a_request_are_ranked_by_the_learner_and_kept_nowhere(
    make: Callable[..., LiveRecommender],
) -> None:
    live = make()
    live.learn(*genres(1000))
    before = live.store.digest()
    live.memory.commit()
    learned = live.store.digest()
    found = live.recommender.recommend_for_preferences({"Comedy": 5.0, "Horror": 1.0}, {}, 20)
    assert {genre_of(one.item_id) for one in found} == {"Comedy"}
    assert {one.source for one in found} == {"bayesian-hybrid"}
    live.memory.commit()
    assert live.store.digest() == learned != before


def test_three_ratings_in_a_request_give_the_posterior_of_a_user_with_three_ratings(
    make: Callable[..., LiveRecommender],
) -> None:
    live = make()
    live.learn(*genres(2000))
    rated = {"i1": 5.0, "i4": 5.0, "i2": 1.0}
    asked = {one.item_id: one.score for one in live.recommender.recommend_for_preferences({}, rated, 60)}
    assert set(asked) == {f"i{n}" for n in range(60)} - set(rated)  # what was rated is known
    assert {genre_of(item_id) for item_id in list(asked)[:10]} == {"Comedy"}
    unsaid = {f"i{n}": live.recommender.predict("nobody", f"i{n}").value for n in range(60)}
    live.learn(*(Rating("new", item_id, value, 1_700_003_000_000) for item_id, value in sorted(rated.items())))
    moved = []
    for item_id, score in asked.items():
        learned = live.recommender.predict("new", item_id).value
        assert learned == pytest.approx(min(max(score, 2.0), 5.0), abs=0.2)
        moved.append(abs(learned - unsaid[item_id]))
    assert max(moved) > 0.5


def test_categories_ignore_case_and_an_unknown_one_is_refused_with_suggestions(
    make: Callable[..., LiveRecommender],
) -> None:
    live = make()
    assert live.first({"Comedy": 5.0}, {}) == []  # nothing is known at all
    live.learn(*genres(1000))
    assert live.first({"comedy": 5.0}, {}) == live.first({"Comedy": 5.0}, {})
    with pytest.raises(UnknownCategory, match=r"no item has the category 'Comdy'; did you mean 'Comedy'\?"):
        live.first({"Comdy": 5.0}, {})
    with pytest.raises(UnknownCategory, match="'Ballet'; there are: Drama, Comedy, Horror"):
        live.first({"Ballet": 5.0}, {})
    for preferences, ratings in (({"Comedy": 1e9}, {}), ({"Comedy": float("nan")}, {}), ({}, {"i1": -1e9})):
        with pytest.raises(BadEvent, match=r"is not within -1e\+06 to 1e\+06"):
            live.first(preferences, ratings)


def test_with_a_learner_without_beliefs_preferences_get_popular_items(make: Callable[..., LiveRecommender]) -> None:
    live = make(rating_learner="bias")
    live.learn(*genres(300))
    found = live.recommender.recommend_for_preferences({"Comedy": 5.0}, {"i1": 5.0}, 5)
    assert {one.source for one in found} == {POPULAR}
    assert "i1" not in {one.item_id for one in found}


# Profiles: what the topic `users` says.


def state(live: LiveRecommender) -> str:
    """The digest of all rows of the hybrid learner."""
    live.memory.commit()
    return live.store.digest().learners["bayesian-hybrid"]


def rated(user_id: str, count: int = 3) -> list[Event]:
    return [Rating(user_id, f"i{n}", 5.0 if n % 3 == 0 else 2.0, 1_700_001_000_000 + n) for n in range(count)]


def test_a_profile_without_events_gets_the_same_answer_as_a_request_with_its_preferences(
    make: Callable[..., LiveRecommender],
) -> None:
    live = make()
    live.learn(*genres(1000), UserUpdate("fan", preferences={"Comedy": 5.0, "Horror": 1.0}))
    found = live.recommender.recommend("fan", 20)
    asked = live.recommender.recommend_for_preferences({"Comedy": 5.0, "Horror": 1.0}, {}, 20)
    assert [one.item_id for one in found] == [one.item_id for one in asked]
    np.testing.assert_allclose([one.score for one in found], [one.score for one in asked], rtol=1e-5)
    assert {genre_of(one.item_id) for one in found} == {"Comedy"}
    assert {one.source for one in found} == {"bayesian-hybrid"}
    comedy, horror, nobody = (live.recommender.predict(*who) for who in (("fan", "i1"), ("fan", "i2"), ("x", "i1")))
    assert comedy.value > nobody.value > horror.value
    live.learn(UserRemoval("fan"))
    assert {one.source for one in live.recommender.recommend("fan", 5)} == {POPULAR}
    assert live.recommender.predict("fan", "i1").value == nobody.value


def test_there_is_no_posterior_before_ratings_differ(make: Callable[..., LiveRecommender]) -> None:
    live = make()
    live.learn(ItemUpdate("i0", "Item", ("Comedy",)), UserUpdate("fan", preferences={"Comedy": 5.0}))
    for alike in range(3):
        live.memory.commit()
        assert posterior(live.memory, "fan") is None
        assert {one.source for one in live.recommender.recommend("fan", 5)} == {POPULAR}
        live.learn(Rating(f"u{alike}", "i0", 4.0, 1_700_000_000_000))
    live.learn(*genres(100))
    live.memory.commit()
    assert posterior(live.memory, "fan") is not None


def test_a_profile_counts_before_the_first_rating_is_predicted(make: Callable[..., LiveRecommender]) -> None:
    """The error of the first rating is that of a user with this profile, not that of an unknown user."""
    errors = []
    for said in ({}, {"Drama": 5.0, "Comedy": 2.0}):
        live = make(rating_learner="bayesian-hybrid")
        live.learn(*genres(1000), UserUpdate("new", preferences=said))
        before = live.memory.monitor.errors["bayesian-hybrid"].squared
        live.learn(*rated("new", 1))
        errors.append(live.memory.monitor.errors["bayesian-hybrid"].squared - before)
    assert errors[1] < errors[0] / 2


def test_a_changed_profile_replaces_the_old_one_without_a_trace(make: Callable[..., LiveRecommender]) -> None:
    """A profile may arrive repeatedly, earlier or later, as from compacted topics: nothing counts twice."""
    comedy = UserUpdate("fan", preferences={"Comedy": 5.0})
    horror = UserUpdate("fan", preferences={"Horror": 5.0, "Drama": 1.0})
    histories: list[list[Event]] = [
        [comedy, *rated("fan")],
        [horror, comedy, comedy, *rated("fan")],
        [comedy, horror, UserUpdate("fan"), UserRemoval("fan"), comedy, *rated("fan")],
    ]
    found = []
    for history in histories:
        live = make()
        live.learn(*genres(500), *history)
        found.append(state(live))
    assert found[0] == found[1] == found[2]
    live = make()
    live.learn(*genres(500), horror, *rated("fan"))
    assert state(live) != found[0]


def test_what_was_learned_from_ratings_stays_when_a_profile_comes_and_goes(
    make: Callable[..., LiveRecommender],
) -> None:
    live = make()
    live.learn(*genres(1000), *rated("fan", 9))
    plain = [live.recommender.predict("fan", f"i{n}").value for n in range(60)]
    live.learn(UserUpdate("fan", preferences={"Horror": 5.0}))
    moved = [live.recommender.predict("fan", f"i{n}").value for n in range(60)]
    assert np.mean(np.subtract(moved, plain)[2::3]) > 0.3
    live.learn(UserUpdate("fan"))
    assert [live.recommender.predict("fan", f"i{n}").value for n in range(60)] == plain


def test_preferences_and_ratings_make_one_posterior(make: Callable[..., LiveRecommender]) -> None:
    """Preferences before or after the ratings make no difference but for what the items learned in between."""
    answers = []
    for order in (0, 1):
        live = make()
        live.learn(*genres(1000))
        profile = UserUpdate("fan", preferences={"Comedy": 5.0, "Horror": 1.0})
        for event in ([profile], rated("fan", 6))[:: 1 - 2 * order]:
            live.learn(*event)
        answers.append([live.recommender.predict("fan", f"i{n}").value for n in range(60)])
    before, after = np.array(answers)[:, 6:]  # of what was not rated
    assert np.abs(before - after).mean() < 0.1


def test_a_preference_takes_effect_when_its_category_appears(make: Callable[..., LiveRecommender]) -> None:
    live = make()
    live.learn(UserUpdate("early", preferences={"Western": 5.0}), *genres(500))
    assert {one.source for one in live.recommender.recommend("early", 5)} == {POPULAR}
    live.learn(*rated("early", 1))  # from here on in memory
    live.learn(ItemUpdate("w", "Once Upon a Time in the West", ("Western",)))
    assert live.recommender.predict("early", "w").value > live.recommender.predict("nobody", "w").value + 0.3


def test_the_ratings_champion_ranks_for_a_user_with_ratings_and_no_clicks(make: Callable[..., LiveRecommender]) -> None:
    live = make()
    live.learn(*genres(1000), *(Rating("critic", f"i{n}", 1.0 if n % 3 else 3.0, n) for n in range(12)))
    found = live.recommender.recommend("critic", 10)
    assert {one.source for one in found} == {"bayesian-hybrid"}
    assert {genre_of(one.item_id) for one in found} == {"Drama"}


# In words.


def test_a_posterior_is_shown_in_words_with_the_most_similar_users(make: Callable[..., LiveRecommender]) -> None:
    live = make()
    live.learn(*genres(3000), UserUpdate("fan", preferences={"Comedy": 5.0, "Horror": 1.0}))
    live.memory.commit()
    found = posterior(live.memory, "u1")
    assert found is not None
    assert (found.likes[0].category, found.likes[0].certainty) == ("Comedy", "surely")
    assert {one.category for one in found.dislikes} == {"Drama", "Horror"}
    assert [int(one.user_id[1:]) % 3 for one in found.precedents] == [1, 1, 1]  # comedy fans
    assert all(one.likes[0].category == "Comedy" and len(one.favourites) == 2 for one in found.precedents)
    assert found.ratings == len({e.item_id for e in genres(3000) if isinstance(e, Rating) and e.user_id == "u1"})
    (first, likes, dislikes, *rest) = found.sentences()
    assert first.startswith(f"bayesian-hybrid: {found.ratings} ratings; rates 0.")
    assert likes.startswith("  likes: Comedy +")
    assert "surely" in likes
    assert "Horror -" in dislikes
    assert f"{found.precedents[0].user_id!r}, {found.precedents[0].likeness:.0%} alike" in rest[1]
    said = posterior(live.memory, "fan")
    assert said is not None
    assert (said.ratings, said.likes[0].category, said.dislikes[0].category) == (0, "Comedy", "Horror")
    assert {int(one.user_id[1:]) % 3 for one in said.precedents} == {1}
    assert said.doubt > found.doubt
    assert posterior(live.memory, "nobody") is None
    assert posterior(make(rating_learner="bias").memory, "u1") is None


# New items.


def test_a_new_item_begins_with_the_bias_of_items_of_exactly_its_categories(
    make: Callable[..., LiveRecommender],
) -> None:
    """Dramas and comedies are rated average, dramatic comedies high: only items of the same set of categories show that."""
    kinds = (("Drama",), ("Comedy",), ("Drama", "Comedy"))
    random = np.random.default_rng(1)
    live = make()
    live.learn(*(ItemUpdate(f"i{n}", categories=kinds[n % 3]) for n in range(90)))
    for n, (u, i) in enumerate(zip(random.integers(0, 60, 2500), random.integers(0, 87, 2500), strict=True)):
        live.learn(Rating(f"u{u}", f"i{i}", (2.0, 2.5, 5.0)[i % 3], n))
    drama, comedy, both = (live.recommender.predict("nobody", f"i{n}").value for n in (87, 88, 89))
    alone = [live.recommender.predict("nobody", "i89").value]
    live.learn(ItemUpdate("i89", categories=("Drama", "Comedy", "New")))  # no other item has exactly these categories
    alone.append(live.recommender.predict("nobody", "i89").value)
    assert both > alone[1] + 0.1
    assert both > max(drama, comedy) + 0.5
    live.learn(ItemUpdate("i89", categories=("Comedy", "Drama")))
    assert live.recommender.predict("nobody", "i89").value == both == alone[0]
    ranked = [one.item_id for one in live.recommender.recommend_for_preferences({}, {"i0": 2.0}, 90)]
    assert ranked.index("i89") < min(ranked.index("i87"), ranked.index("i88"))


def test_the_representative_of_a_category_set_does_not_depend_on_the_order_of_updates() -> None:
    live, random = CategorySets(), np.random.default_rng(1)
    live.sets.reserve(50)
    live.sets.values[:] = -1
    bits = np.zeros(50, dtype=int)
    for row, word in zip(random.integers(0, 50, 1000).tolist(), random.integers(0, 5, 1000).tolist(), strict=True):
        live.put(row, word)
        bits[row] = word
    again = CategorySets()
    again.sets.reserve(50)
    again.sets.values[:] = -1
    for row in random.permutation(50).tolist():
        again.put(row, int(bits[row]))
    for category_sets in (live, again):
        for row in range(50):
            number = category_sets.sets.values[row, 0]
            representatives = int(category_sets.representatives[number]) if number >= 0 else -1
            assert representatives == (int(np.flatnonzero(bits == bits[row])[0]) if bits[row] else -1)
