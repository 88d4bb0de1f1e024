"""Users who differ in ratings or preferences are answered differently, in catalogues of several sizes."""

from collections.abc import Callable

import numpy as np
import pytest
from recommending import LiveRecommender, genres

from streamer.core.events import Event, ItemUpdate, Rating, UserUpdate

MANY = tuple(f"c{n}" for n in range(90))  # more than users have weights for, and more than have bits of their own


def worlds() -> dict[str, list[Event]]:
    """Catalogues and ratings of several sizes; `c3` to `c89` have few items each."""
    many: list[Event] = [ItemUpdate(f"m{n}", categories=(MANY[n],)) for n in range(90)]
    two = [Rating("a", "i0", 4.0, 1), Rating("b", "i1", 2.0, 2)]
    return {
        "two ratings": [*genres(0), *two],
        "without a catalogue": [Rating(f"u{n % 7}", f"i{n * n % 5}", 1.0 + n % 5, n) for n in range(30)],
        "many categories": [*many, *genres(200), *two],
        "a wide scale": [Rating(f"u{n % 7}", f"i{n * n % 11}", 10.0 * (n % 10), n) for n in range(60)],
    }


def answers(live: LiveRecommender, user_id: str) -> list[float]:
    """The predictions for the user, of every item."""
    return [live.recommender.predict(user_id, item_id).value for item_id in live.memory.items.ids]


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
def test_users_with_different_ratings_get_different_predictions(
    make: Callable[..., LiveRecommender], world: str, one: list[tuple[str, float]], other: list[tuple[str, float]]
) -> None:
    live = make()
    live.learn(*worlds()[world])
    for user_id, said in (("one", one), ("other", other)):
        live.learn(*(Rating(user_id, item, value, 1_700_000_000_000) for item, value in said))
    assert answers(live, "one") != answers(live, "other")


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
def test_users_with_different_preferences_get_different_predictions(
    make: Callable[..., LiveRecommender], one: dict[str, float], other: dict[str, float], ratings: int
) -> None:
    live = make()
    live.learn(*worlds()["many categories"], UserUpdate("one", preferences=one), UserUpdate("other", preferences=other))
    for user_id in ("one", "other"):
        live.learn(*(Rating(user_id, f"i{n}", 3.0, 1_700_000_000_000) for n in range(ratings)))
    assert answers(live, "one") != answers(live, "other")
    asked = [live.recommender.recommend_for_preferences(said, {}, 200) for said in (one, other)]
    assert asked[0] != asked[1]


@pytest.mark.parametrize("number", [45, 80])
def test_a_preference_for_a_category_without_a_weight_moves_its_items_more_than_others(
    make: Callable[..., LiveRecommender], number: int
) -> None:
    live = make()
    live.learn(*worlds()["many categories"], UserUpdate("fan", preferences={f"c{number}": 5.0}))
    moved = np.subtract(answers(live, "fan"), answers(live, "nobody"))
    own = moved[live.memory.items.row_of[f"m{number}"]]
    assert own > 0.05
    assert own > np.percentile(moved, 90)
