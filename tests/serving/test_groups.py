"""Groups of users: a new user begins with the taste of those who share an attribute."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from learning import records, settings
from recommending import GENRES, LiveRecommender

from streamer.core.events import Event, ItemUpdate, Rating, UserUpdate
from streamer.serving.opening import learners
from streamer.serving.recommend import POPULAR
from streamer.storage.state import RocksStore
from streamer.stream.memory import Memory


def circles(count: int, *, users: int = 300) -> list[Event]:
    """Writers love dramas and painters love comedies; of new users only the occupation is known. Nobody rates more than a few items."""
    random = np.random.default_rng(2)
    found: list[Event] = [ItemUpdate(f"i{n}", f"Item {n}", (GENRES[n % 3],)) for n in range(60)]
    found += [UserUpdate(f"u{u}", {"job": ("writer", "painter")[u % 2], "zip": str(u)}) for u in range(users + 2)]
    for n in range(count):
        u, i = int(users * n / count), int(random.integers(0, 60))
        liked = i % 3 == u % 2
        found.append(Rating(f"u{u}", f"i{i}", (4.5 if liked else 2.5) + 0.5 * int(random.integers(0, 2)), n * 1000))
    return found


def test_new_users_begin_with_the_taste_of_their_groups(make: Callable[..., LiveRecommender]) -> None:
    live = make()
    live.learn(*circles(1500))
    writer, painter = ([live.recommender.predict(f"u{u}", f"i{n}").value for n in range(60)] for u in (300, 301))
    stranger = [live.recommender.predict("nobody", f"i{n}").value for n in range(60)]
    for who, kind in ((writer, 0), (painter, 1)):
        assert np.mean(np.subtract(who, stranger)[kind::3]) > 0.3
        assert np.mean(np.subtract(who, stranger)[1 - kind :: 3]) < -0.3
    assert {one.source for one in live.recommender.recommend("u300", 5)} == {POPULAR}  # nothing is known of this one


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


def test_attributes_help_where_they_are_informative_and_cost_nothing_where_they_are_not(
    make: Callable[..., LiveRecommender],
) -> None:
    errors = []
    for shuffled in (None, False, True):
        live, random = make(), np.random.default_rng(3)
        for event in circles(3000, users=600):
            if isinstance(event, UserUpdate) and shuffled:
                event = UserUpdate(
                    event.user_id, {"job": ("writer", "painter")[int(random.integers(0, 2))], "zip": "1"}
                )
            if shuffled is not None or not isinstance(event, UserUpdate):
                live.entries += records([event], len(live.entries))
        live.learn()
        errors.append(live.memory.monitor.errors["bayesian-hybrid"].rmse())
    plain, groups, noise = errors
    assert groups < 0.95 * plain
    assert noise < 1.005 * plain
