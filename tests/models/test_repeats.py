"""Repeats on clicks of single letters, and on streams with a known law of repetition."""

import math

import numpy as np
import pytest

from streamer.checks.batches import Feed, FeedEvent, click
from streamer.core.arrays import F64
from streamer.models.repeats import FLOOR, Repeats, RepeatsParameters


def feed(**parameters: int) -> Feed:
    return Feed(Repeats("repeats", RepeatsParameters(**parameters), seed=1))


def walk(path: str, user_id: str = "u") -> list[FeedEvent]:
    return [click(user_id, letter) for letter in path]


def odds(one: Feed, user_id: str) -> F64:
    """P(i | u) / (1 - rho) of each item, FLOOR for those that are not on the list."""
    scores = one.learner.score(one.view(user_id), np.arange(len(one.item_rows), dtype=np.int32))
    return np.exp(scores.astype(np.float64))


def shares(one: Feed, user_id: str = "u") -> dict[str, float]:
    """P(i | repeat) of each item."""
    found = odds(one, user_id)
    on_list = found > 1.5 * FLOOR
    found[on_list] /= found[on_list].sum()
    return dict(zip(one.item_rows, found.tolist(), strict=True))


def rate(one: Feed, user_id: str = "u") -> float:
    """rho of the user."""
    found = odds(one, user_id)
    together = float(found[found > 1.5 * FLOOR].sum())
    return together / (1.0 + together)


def world(events: int, law: dict[int, float], *, users: int = 20, items: int = 200) -> list[FeedEvent]:
    """Users who in 6 of 10 clicks repeat an item that they clicked last n clicks ago, with weight law[n]; others are random."""
    random, walks, found = np.random.default_rng(1), [list[int]() for _ in range(users)], []
    for _ in range(events):
        mine = walks[u := int(random.integers(users))]
        gaps = [n for n in law if n <= len(mine) and mine[-n] not in mine[len(mine) - n + 1 :]]
        if gaps and random.random() < 0.6:
            weights = np.array([law[n] for n in gaps])
            i = mine[-int(random.choice(gaps, p=weights / weights.sum()))]
        else:
            i = int(random.integers(items))
        mine.append(i)
        found.append(click(f"u{u}", f"i{i}"))
    return found


def test_what_was_never_clicked_gets_the_floor_and_the_rest_shares_one() -> None:
    one = feed()
    one.learn([*walk("abc"), *walk("d", "v")])
    found = shares(one)
    assert found["d"] == pytest.approx(FLOOR, rel=1e-4)
    assert found["a"] + found["b"] + found["c"] == pytest.approx(1.0, rel=1e-5)
    assert found["c"] == pytest.approx(2 * found["b"], rel=1e-5)  # before any repeat: 1 / gap
    assert max(shares(one, "nobody").values()) == pytest.approx(FLOOR, rel=1e-4)


def test_the_law_of_the_gap_is_learned_from_the_stream() -> None:
    one = feed()
    one.learn(world(4000, {2: 1.0, 3: 3.0}))
    one.learn(walk("abcd", "new"))
    found = shares(one, "new")
    assert found["b"] / found["c"] == pytest.approx(3.0, rel=0.2)
    assert found["b"] + found["c"] > 0.95


def test_items_that_are_often_repeated_are_repeated_first() -> None:
    one, other = feed(), feed()
    for n in range(60):  # of the two only the song is heard again, whichever of them was the newer one
        pair = ("film", "song") if n % 2 else ("song", "film")
        one.learn([click(f"v{n}", item_id) for item_id in (*pair, f"x{n}", "song")])
    for each in (one, other):
        each.learn([click("u", "song"), click("u", "film")])
    assert shares(one)["song"] > shares(one)["film"]
    assert shares(other)["song"] < shares(other)["film"]


def test_what_the_user_clicked_often_counts_for_more_where_users_are_like_that() -> None:
    one = feed()
    one.learn([click(f"v{n}", letter) for n in range(60) for letter in "aabbbxb"])
    one.learn([*walk("cccde", "new"), *walk("ccde", "newer"), *walk("cde", "newest")])
    assert shares(one, "new")["c"] > shares(one, "newest")["c"]


def test_a_user_has_a_rate_of_repeats_of_their_own_and_a_new_one_that_of_all() -> None:
    one = feed()
    one.learn([*walk("abababababab", "again"), *walk("abcdefghijkl", "never")])
    assert rate(one, "again") > 0.7
    assert rate(one, "never") < 0.2
    assert rate(one, "nobody") == 0.0
    one.learn([click(f"once {n}", "a") for n in range(100)])  # whose only click could not be a repeat
    one.learn(walk("a", "new"))
    assert rate(one, "new") == pytest.approx(11 / 32, rel=0.01)  # 10 of 22 clicks, and 1 of 10 before them
    assert rate(one, "never") < rate(one, "new") < rate(one, "again")


def test_a_prediction_is_the_rate_times_the_share_or_the_rest_times_popularity() -> None:
    one = feed()
    one.learn([*walk("abcab"), *walk("d", "v")])
    share = rate(one) * shares(one)["c"]
    batch = one.batch([click("u", "c")])
    assert one.step(batch)[0] == pytest.approx(share, rel=1e-5)
    new = (1 - rate(one)) * 1 / 7  # one of 7 clicks was on d
    assert one.step(one.batch([click("u", "d")]))[0] == pytest.approx(new, rel=2e-3)


def test_only_the_last_items_are_listed() -> None:
    one = feed(listed=3)
    one.learn(walk("abcd"))
    assert shares(one)["a"] == pytest.approx(FLOOR, rel=1e-4)
    assert shares(one)["b"] > FLOOR


def test_a_dislike_takes_the_item_off_the_list() -> None:
    one = feed()
    one.learn([*walk("abc"), click("u", "b", -1.0)])
    found = shares(one)
    assert found["b"] == pytest.approx(FLOOR, rel=1e-4)
    assert found["a"] + found["c"] == pytest.approx(1.0, rel=1e-5)
    assert math.isfinite(rate(one))
