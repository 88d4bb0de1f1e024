"""Who says a little gets an answer that follows from it, and from nothing beside what was learned."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import numpy as np
import pytest
from learning import Nobody, records, settings
from recommending import GENRES, Told, genre_of, genres

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
from streamer.stream.engine import Engine
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
        """The first ten for who says this, over HTTP."""
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
    engine = Engine(FileSource(movielens, 1), memory, Nobody(), max_records=1000, commit_interval_s=3600.0)
    while engine.step(0.0):
        pass
    yield Films(memory)
    store.close()


def test_who_says_documentary_5_gets_documentaries(films: Films) -> None:
    assert sum("Documentary" in categories for categories in films.categories({"Documentary": 5.0})) >= 8


def test_who_says_comedy_5_and_horror_1_gets_comedies_and_no_horror(films: Films) -> None:
    best = films.categories({"Comedy": 5.0, "Horror": 1.0})
    assert sum("Comedy" in categories for categories in best) >= 8
    assert not any("Horror" in categories for categories in best)


def test_who_says_nothing_gets_the_popular_list(films: Films) -> None:
    found = films.ask({})
    assert [item["itemId"] for item in found] == [one.item_id for one in films.recommender.recommend("nobody", 10)]
    assert {item["source"] for item in found} == {POPULAR}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Told]]:
    made: list[Told] = []

    def told(**flags: object) -> Told:
        made.append(Told(tmp_path / str(len(made)), **flags))
        return made[-1]

    yield told
    for one in made:
        one.store.close()


def test_what_is_said_in_a_request_is_ranked_by_the_learner_and_kept_nowhere(make: Callable[..., Told]) -> None:
    told = make()
    told.tell(*genres(1000))
    before = told.store.digest()
    told.memory.commit()
    learned = told.store.digest()
    found = told.recommender.recommend_for_preferences({"Comedy": 5.0, "Horror": 1.0}, {}, 20)
    assert {genre_of(one.item_id) for one in found} == {"Comedy"}
    assert {one.source for one in found} == {"bayesian-hybrid"}
    told.memory.commit()
    assert told.store.digest() == learned != before


def test_three_ratings_in_a_request_are_a_posterior_of_three_ratings(make: Callable[..., Told]) -> None:
    told = make()
    told.tell(*genres(2000))
    rated = {"i1": 5.0, "i4": 5.0, "i2": 1.0}
    asked = {one.item_id: one.score for one in told.recommender.recommend_for_preferences({}, rated, 60)}
    assert set(asked) == {f"i{n}" for n in range(60)} - set(rated)  # what was rated is known
    assert {genre_of(item_id) for item_id in list(asked)[:10]} == {"Comedy"}
    unsaid = {f"i{n}": told.recommender.predict("nobody", f"i{n}").value for n in range(60)}
    told.tell(*(Rating("new", item_id, value, 1_700_003_000_000) for item_id, value in sorted(rated.items())))
    moved = []
    for item_id, score in asked.items():
        learned = told.recommender.predict("new", item_id).value
        assert learned == pytest.approx(min(max(score, 2.0), 5.0), abs=0.2)
        moved.append(abs(learned - unsaid[item_id]))
    assert max(moved) > 0.5


def test_a_category_is_found_in_any_case_and_one_that_is_not_there_is_refused_with_near_ones(
    make: Callable[..., Told],
) -> None:
    told = make()
    assert told.first({"Comedy": 5.0}, {}) == []  # nothing is known at all
    told.tell(*genres(1000))
    assert told.first({"comedy": 5.0}, {}) == told.first({"Comedy": 5.0}, {})
    with pytest.raises(UnknownCategory, match=r"no item is of category 'Comdy'; did you mean 'Comedy'\?"):
        told.first({"Comdy": 5.0}, {})
    with pytest.raises(UnknownCategory, match="'Ballet'; there are: Drama, Comedy, Horror"):
        told.first({"Ballet": 5.0}, {})
    for preferences, ratings in (({"Comedy": 1e9}, {}), ({"Comedy": float("nan")}, {}), ({}, {"i1": -1e9})):
        with pytest.raises(BadEvent, match="is not within -100 to 100"):
            told.first(preferences, ratings)


def test_a_learner_that_cannot_be_told_things_answers_with_what_is_popular(make: Callable[..., Told]) -> None:
    told = make(rating_learner="bias")
    told.tell(*genres(300))
    found = told.recommender.recommend_for_preferences({"Comedy": 5.0}, {"i1": 5.0}, 5)
    assert {one.source for one in found} == {POPULAR}
    assert "i1" not in {one.item_id for one in found}


# Profiles: what the topic `users` says.


def state(told: Told) -> str:
    """The digest of all that the hybrid learned."""
    told.memory.commit()
    return told.store.digest().learners["bayesian-hybrid"]


def rated(user_id: str, count: int = 3) -> list[Event]:
    return [Rating(user_id, f"i{n}", 5.0 if n % 3 == 0 else 2.0, 1_700_001_000_000 + n) for n in range(count)]


def test_a_user_with_a_profile_and_no_events_is_answered_as_who_says_the_same_in_a_request(
    make: Callable[..., Told],
) -> None:
    told = make()
    told.tell(*genres(1000), UserUpdate("fan", preferences={"Comedy": 5.0, "Horror": 1.0}))
    found = told.recommender.recommend("fan", 20)
    asked = told.recommender.recommend_for_preferences({"Comedy": 5.0, "Horror": 1.0}, {}, 20)
    assert [one.item_id for one in found] == [one.item_id for one in asked]
    np.testing.assert_allclose([one.score for one in found], [one.score for one in asked], rtol=1e-5)
    assert {genre_of(one.item_id) for one in found} == {"Comedy"}
    assert {one.source for one in found} == {"bayesian-hybrid"}
    comedy, horror, nobody = (told.recommender.predict(*who) for who in (("fan", "i1"), ("fan", "i2"), ("x", "i1")))
    assert comedy.value > nobody.value > horror.value
    told.tell(UserRemoval("fan"))
    assert {one.source for one in told.recommender.recommend("fan", 5)} == {POPULAR}
    assert told.recommender.predict("fan", "i1").value == nobody.value


def test_no_posterior_is_claimed_before_ratings_differ(make: Callable[..., Told]) -> None:
    told = make()
    told.tell(ItemUpdate("i0", "Item", ("Comedy",)), UserUpdate("fan", preferences={"Comedy": 5.0}))
    for alike in range(3):
        told.memory.commit()
        assert posterior(told.memory, "fan") is None
        assert {one.source for one in told.recommender.recommend("fan", 5)} == {POPULAR}
        told.tell(Rating(f"u{alike}", "i0", 4.0, 1_700_000_000_000))
    told.tell(*genres(100))
    told.memory.commit()
    assert posterior(told.memory, "fan") is not None


def test_a_profile_is_heard_before_the_first_rating_is_predicted(make: Callable[..., Told]) -> None:
    """The error of the first rating is that of who said so, not that of a stranger."""
    errors = []
    for said in ({}, {"Drama": 5.0, "Comedy": 2.0}):
        told = make(rating_learner="bayesian-hybrid")
        told.tell(*genres(1000), UserUpdate("new", preferences=said))
        before = told.memory.monitor.errors["bayesian-hybrid"].squared
        told.tell(*rated("new", 1))
        errors.append(told.memory.monitor.errors["bayesian-hybrid"].squared - before)
    assert errors[1] < errors[0] / 2


def test_a_profile_that_changes_replaces_what_was_said_without_a_trace(make: Callable[..., Told]) -> None:
    """It may come again and again, and earlier or later, as compacted topics do: nothing counts twice."""
    comedy = UserUpdate("fan", preferences={"Comedy": 5.0})
    horror = UserUpdate("fan", preferences={"Horror": 5.0, "Drama": 1.0})
    histories: list[list[Event]] = [
        [comedy, *rated("fan")],
        [horror, comedy, comedy, *rated("fan")],
        [comedy, horror, UserUpdate("fan"), UserRemoval("fan"), comedy, *rated("fan")],
    ]
    found = []
    for history in histories:
        told = make()
        told.tell(*genres(500), *history)
        found.append(state(told))
    assert found[0] == found[1] == found[2]
    told = make()
    told.tell(*genres(500), horror, *rated("fan"))
    assert state(told) != found[0]


def test_what_ratings_taught_stays_when_a_profile_comes_and_goes(make: Callable[..., Told]) -> None:
    told = make()
    told.tell(*genres(1000), *rated("fan", 9))
    plain = [told.recommender.predict("fan", f"i{n}").value for n in range(60)]
    told.tell(UserUpdate("fan", preferences={"Horror": 5.0}))
    moved = [told.recommender.predict("fan", f"i{n}").value for n in range(60)]
    assert np.mean(np.subtract(moved, plain)[2::3]) > 0.3
    told.tell(UserUpdate("fan"))
    assert [told.recommender.predict("fan", f"i{n}").value for n in range(60)] == plain


def test_preferences_go_with_the_ratings_as_one_posterior(make: Callable[..., Told]) -> None:
    """Said before or after the ratings makes no difference but for what the items learned meanwhile."""
    answers = []
    for order in (0, 1):
        told = make()
        told.tell(*genres(1000))
        profile = UserUpdate("fan", preferences={"Comedy": 5.0, "Horror": 1.0})
        for event in ([profile], rated("fan", 6))[:: 1 - 2 * order]:
            told.tell(*event)
        answers.append([told.recommender.predict("fan", f"i{n}").value for n in range(60)])
    before, after = np.array(answers)[:, 6:]  # of what was not rated
    assert np.abs(before - after).mean() < 0.1


def test_a_preference_waits_for_its_category(make: Callable[..., Told]) -> None:
    told = make()
    told.tell(UserUpdate("early", preferences={"Western": 5.0}), *genres(500))
    assert {one.source for one in told.recommender.recommend("early", 5)} == {POPULAR}
    told.tell(*rated("early", 1))  # from here on in memory
    told.tell(ItemUpdate("w", "Once Upon a Time in the West", ("Western",)))
    assert told.recommender.predict("early", "w").value > told.recommender.predict("nobody", "w").value + 0.3


def test_with_ratings_but_without_a_click_the_ratings_rank(make: Callable[..., Told]) -> None:
    told = make()
    told.tell(*genres(1000), *(Rating("critic", f"i{n}", 1.0 if n % 3 else 3.0, n) for n in range(12)))
    found = told.recommender.recommend("critic", 10)
    assert {one.source for one in found} == {"bayesian-hybrid"}
    assert {genre_of(one.item_id) for one in found} == {"Drama"}


# Groups of users.


def circles(count: int, *, users: int = 300) -> list[Event]:
    """Writers love dramas and painters comedies; what they are is all that is known of new ones. Nobody rates more than a few."""
    random = np.random.default_rng(2)
    found: list[Event] = [ItemUpdate(f"i{n}", f"Item {n}", (GENRES[n % 3],)) for n in range(60)]
    found += [UserUpdate(f"u{u}", {"job": ("writer", "painter")[u % 2], "zip": str(u)}) for u in range(users + 2)]
    for n in range(count):
        u, i = int(users * n / count), int(random.integers(0, 60))
        liked = i % 3 == u % 2
        found.append(Rating(f"u{u}", f"i{i}", (4.5 if liked else 2.5) + 0.5 * int(random.integers(0, 2)), n * 1000))
    return found


def test_new_users_begin_where_their_groups_are(make: Callable[..., Told]) -> None:
    told = make()
    told.tell(*circles(1500))
    writer, painter = ([told.recommender.predict(f"u{u}", f"i{n}").value for n in range(60)] for u in (300, 301))
    stranger = [told.recommender.predict("nobody", f"i{n}").value for n in range(60)]
    for who, kind in ((writer, 0), (painter, 1)):
        assert np.mean(np.subtract(who, stranger)[kind::3]) > 0.3
        assert np.mean(np.subtract(who, stranger)[1 - kind :: 3]) < -0.3
    assert {one.source for one in told.recommender.recommend("u300", 5)} == {POPULAR}  # nothing is known of this one


def test_groups_are_bounded_and_the_same_after_a_restart(tmp_path: Path) -> None:
    store = RocksStore(tmp_path)
    chosen = settings()
    memory = Memory(learners(chosen), chosen, store)
    for n in range(600):
        memory.users.put(UserUpdate(f"u{n}", {"zip": str(n), "age": float(n % 90), f"odd {n}": True, "none": None}))
    profiles = memory.users.profiles
    assert len(profiles.group_of) == 256
    assert sum(name.startswith('["zip"') for name in profiles.group_of) == 64
    assert [name for name in profiles.group_of if name.startswith('["age"')] == [
        f'["age","{10 * n}"]' for n in range(9)
    ]
    crowded = UserUpdate("x", {f"odd {n}": True for n in range(600)})
    assert len(profiles.read(crowded)[1]) == 8
    memory.commit()
    again = Memory(learners(chosen), chosen, store)
    assert again.users.profiles.group_of == profiles.group_of
    assert again.users.view("u7").groups == profiles.read(memory.users.profile("u7"))[1] != ()
    again.users.put(UserUpdate("late", {"zip": "another", "shoe": 43.0}))
    assert again.users.profiles.group_of == profiles.group_of
    store.close()


# Whoever differs is answered differently.

MANY = tuple(f"c{n}" for n in range(90))  # more than users have weights for, and more than have bits of their own


def worlds() -> dict[str, list[Event]]:
    """Catalogues and ratings, from hardly any to many; `c3` to `c89` are of few items each."""
    many: list[Event] = [ItemUpdate(f"m{n}", categories=(MANY[n],)) for n in range(90)]
    two = [Rating("a", "i0", 4.0, 1), Rating("b", "i1", 2.0, 2)]
    return {
        "two ratings": [*genres(0), *two],
        "without a catalogue": [Rating(f"u{n % 7}", f"i{n * n % 5}", 1.0 + n % 5, n) for n in range(30)],
        "many categories": [*many, *genres(200), *two],
        "a wide scale": [Rating(f"u{n % 7}", f"i{n * n % 11}", 10.0 * (n % 10), n) for n in range(60)],
    }


def answers(told: Told, user_id: str) -> list[float]:
    """What the user is told of every item."""
    return [told.recommender.predict(user_id, item_id).value for item_id in told.memory.items.ids]


GIVEN: list[tuple[list[tuple[str, float]], list[tuple[str, float]]]] = [
    ([("i0", 5.0)], [("i0", 1.0)]),
    ([("i0", 4.5)], [("i0", 4.0)]),
    ([("i0", 4.0)], [("i1", 4.0)]),
    ([("new x", 3.0)], [("new y", 3.0)]),  # items that nobody else has rated, and that the catalogue does not have
    ([("i0", 5.0), ("i1", 1.0)], [("i0", 1.0), ("i1", 5.0)]),
    ([("i0", 5.0)], []),
]


@pytest.mark.parametrize("world", worlds())
@pytest.mark.parametrize(("one", "other"), GIVEN)
def test_two_users_whose_ratings_differ_are_told_different_things(
    make: Callable[..., Told], world: str, one: list[tuple[str, float]], other: list[tuple[str, float]]
) -> None:
    told = make()
    told.tell(*worlds()[world])
    for user_id, said in (("one", one), ("other", other)):
        told.tell(*(Rating(user_id, item, value, 1_700_000_000_000) for item, value in said))
    assert answers(told, "one") != answers(told, "other")


SAID: list[tuple[dict[str, float], dict[str, float]]] = [
    ({"c1": 5.0}, {"c1": 4.5}),
    ({"c1": 5.0}, {"c2": 5.0}),
    ({"c1": 5.0}, {}),
    ({"c45": 5.0}, {"c46": 5.0}),  # beyond those with weights
    ({"c45": 5.0}, {"c45": 1.0}),
    ({"c80": 5.0}, {"c81": 5.0}),  # beyond those with bits of their own
    ({"c80": 5.0}, {"c80": 4.0}),
    ({"c80": 5.0, "c81": 1.0}, {"c80": 1.0, "c81": 5.0}),
    ({"c1": -50.0}, {"c1": 60.0}),  # off the scale
]


@pytest.mark.parametrize(("one", "other"), SAID)
@pytest.mark.parametrize("ratings", [0, 2])
def test_two_users_whose_preferences_differ_are_told_different_things(
    make: Callable[..., Told], one: dict[str, float], other: dict[str, float], ratings: int
) -> None:
    told = make()
    told.tell(*worlds()["many categories"], UserUpdate("one", preferences=one), UserUpdate("other", preferences=other))
    for user_id in ("one", "other"):
        told.tell(*(Rating(user_id, f"i{n}", 3.0, 1_700_000_000_000) for n in range(ratings)))
    assert answers(told, "one") != answers(told, "other")
    asked = [told.recommender.recommend_for_preferences(said, {}, 200) for said in (one, other)]
    assert asked[0] != asked[1]


@pytest.mark.parametrize("number", [45, 80])
def test_what_is_said_of_a_category_without_a_weight_moves_its_items_more_than_others(
    make: Callable[..., Told], number: int
) -> None:
    told = make()
    told.tell(*worlds()["many categories"], UserUpdate("fan", preferences={f"c{number}": 5.0}))
    moved = np.subtract(answers(told, "fan"), answers(told, "nobody"))
    own = moved[told.memory.items.row_of[f"m{number}"]]
    assert own > 0.05
    assert own > np.percentile(moved, 90)


# In words.


def test_a_posterior_is_said_in_words_with_who_is_most_alike(make: Callable[..., Told]) -> None:
    told = make()
    told.tell(*genres(3000), UserUpdate("fan", preferences={"Comedy": 5.0, "Horror": 1.0}))
    told.memory.commit()
    found = posterior(told.memory, "u1")
    assert found is not None
    assert (found.likes[0].category, found.likes[0].sure) == ("Comedy", "surely")
    assert {one.category for one in found.dislikes} == {"Drama", "Horror"}
    assert [int(one.user_id[1:]) % 3 for one in found.precedents] == [1, 1, 1]  # comedy fans
    assert all(one.likes[0].category == "Comedy" and len(one.favourites) == 2 for one in found.precedents)
    assert found.ratings == sum(isinstance(e, Rating) and e.user_id == "u1" for e in genres(3000))
    (first, likes, dislikes, *rest) = found.sentences()
    assert first.startswith(f"bayesian-hybrid: {found.ratings} ratings; rates 0.")
    assert likes.startswith("  likes: Comedy +")
    assert "surely" in likes
    assert "Horror -" in dislikes
    assert f"{found.precedents[0].user_id!r}, {found.precedents[0].likeness:.0%} alike" in rest[1]
    said = posterior(told.memory, "fan")
    assert said is not None
    assert (said.ratings, said.likes[0].category, said.dislikes[0].category) == (0, "Comedy", "Horror")
    assert {int(one.user_id[1:]) % 3 for one in said.precedents} == {1}
    assert said.doubt > found.doubt
    assert posterior(told.memory, "nobody") is None
    assert posterior(make(rating_learner="bias").memory, "u1") is None


# New items.


def test_a_new_item_begins_where_items_of_the_very_same_categories_are(make: Callable[..., Told]) -> None:
    """Dramas and comedies are both middling, dramatic comedies are loved: neither category says so, their kin do."""
    kinds = (("Drama",), ("Comedy",), ("Drama", "Comedy"))
    random = np.random.default_rng(1)
    told = make()
    told.tell(*(ItemUpdate(f"i{n}", categories=kinds[n % 3]) for n in range(90)))
    for n, (u, i) in enumerate(zip(random.integers(0, 60, 2500), random.integers(0, 87, 2500), strict=True)):
        told.tell(Rating(f"u{u}", f"i{i}", (2.0, 2.5, 5.0)[i % 3], n))
    drama, comedy, both = (told.recommender.predict("nobody", f"i{n}").value for n in (87, 88, 89))
    alone = [told.recommender.predict("nobody", "i89").value]
    told.tell(ItemUpdate("i89", categories=("Drama", "Comedy", "New")))  # it has no kin any more
    alone.append(told.recommender.predict("nobody", "i89").value)
    assert both > alone[1] + 0.1
    assert both > max(drama, comedy) + 0.5
    told.tell(ItemUpdate("i89", categories=("Comedy", "Drama")))
    assert told.recommender.predict("nobody", "i89").value == both == alone[0]
    ranked = [one.item_id for one in told.recommender.recommend_for_preferences({}, {"i0": 2.0}, 90)]
    assert ranked.index("i89") < min(ranked.index("i87"), ranked.index("i88"))


def test_the_eldest_of_a_set_is_the_same_however_the_catalogue_came_about() -> None:
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


def test_attributes_gain_where_they_say_something_and_cost_nothing_where_they_do_not(make: Callable[..., Told]) -> None:
    errors = []
    for shuffled in (None, False, True):
        told, random = make(), np.random.default_rng(3)
        for event in circles(3000, users=600):
            if isinstance(event, UserUpdate) and shuffled:
                event = UserUpdate(
                    event.user_id, {"job": ("writer", "painter")[int(random.integers(0, 2))], "zip": "1"}
                )
            if shuffled is not None or not isinstance(event, UserUpdate):
                told.entries += records([event], len(told.entries))
        told.tell()
        errors.append(told.memory.monitor.errors["bayesian-hybrid"].rmse())
    plain, groups, noise = errors
    assert groups < 0.95 * plain
    assert noise < 1.005 * plain
