"""Transitions on click sequences that can be counted by hand."""

import numpy as np
import pytest

from streamer.checks.batches import Feed, FeedEvent, click, rating
from streamer.models.transitions.lists import SUM_LARGEST, UNIT
from streamer.models.transitions.transitions import Transitions, TransitionsParameters


def feed(**parameters: float) -> Feed:
    return Feed(Transitions("transitions", TransitionsParameters(**parameters), seed=1))  # type: ignore[arg-type]  # ints are floats here


def best(one: Feed, user_id: str, count: int = 3) -> list[str]:
    """The items with the highest scores, best first."""
    ids = list(one.item_rows)
    scores = one.learner.score(one.view(user_id), np.arange(len(ids), dtype=np.int32))
    return [ids[row] for row in np.argsort(-scores, kind="stable")[:count]]


def after(one: Feed, item_id: str) -> dict[str, float]:
    """Counts in an item's list."""
    row, ids = one.learner.tables()["lists"].values[one.item_rows[item_id]], list(one.item_rows)
    rows, counts = row[1:].reshape(2, -1)
    return {ids[i]: float(count) / UNIT for i, count in zip(rows, counts, strict=True) if i >= 0}


def walks(*paths: str) -> list[FeedEvent]:
    """One user for each path, who clicks its letters in turn."""
    return [click(f"{path} {n}", letter) for n, path in enumerate(paths) for letter in path]


def test_what_followed_most_often_comes_first() -> None:
    one = feed(pseudo_counts=0.1)
    one.learn([*walks("ab", "ab", "ab", "ac"), click("u", "a")])
    assert best(one, "u", 2) == ["b", "c"]


def test_reverse_transitions_count_half_and_older_clicks_less() -> None:
    one = feed()
    one.learn(walks("abc"))
    assert after(one, "a") == pytest.approx({"b": 1.0, "c": 0.85}, abs=1e-3)
    assert after(one, "b") == pytest.approx({"a": 0.5, "c": 1.0})
    assert after(one, "c") == pytest.approx({"b": 0.5, "a": 0.425}, abs=1e-3)


@pytest.mark.parametrize("lag", [0, 1])
def test_how_much_each_of_the_last_clicks_says_is_learned(lag: int) -> None:
    """An answer is decided by its question, which comes right before it, or with one click of chance between them."""
    one, random, events = feed(pseudo_counts=1.0), np.random.default_rng(1), []
    for user in range(100):
        for _ in range(4):
            question = random.integers(6)
            chance = [f"chance {number}" for number in random.integers(6, size=lag)]
            events += [click(f"u{user}", item) for item in (f"question {question}", *chance, f"answer {question}")]
    one.learn(events)
    lags = one.learner.tables()["stream"].values[0, 3:]
    assert np.argmax(lags) == lag
    assert lags[lag] > 1.5 * lags[1 - lag]


def test_what_follows_the_next_item_comes_before_what_is_only_popular() -> None:
    """c never followed a, but followed b, which followed a; x is more popular than c."""
    one = feed(backwards=0.0, window=1, pseudo_counts=1.0)
    one.learn([*walks("ab", "bc", "x", "x", "x"), click("u", "a")])
    assert best(one, "u", 2) == ["b", "c"]
    p = np.exp(one.learner.score(one.view("u"), np.array([one.item_rows["b"], one.item_rows["c"]], dtype=np.int32)))
    left = 0.1 / 2 + 0.9 / 4  # for popularity: of what a's list leaves, and of what b's list leaves of the rest
    assert p.tolist() == pytest.approx([1 / 2 + left * 2 / 8, 0.9 / 4 + left * 1 / 8], rel=1e-2)


def test_a_user_without_clicks_gets_recently_popular_items() -> None:
    one = feed(half_life=2.0)
    one.learn(walks(*"aaaaabbb"))
    assert best(one, "nobody", 2) == ["b", "a"]


def test_a_dislike_reduces_counts_and_is_not_context() -> None:
    one = feed()
    one.learn([*walks("ab", "ab", "ac"), click("u", "a"), click("u", "b", -1.0)])
    assert after(one, "a") == pytest.approx({"b": 1.0, "c": 1.0})
    one.learn([click("u", "b", -5.0)])
    assert after(one, "a") == pytest.approx({"b": 0.0, "c": 1.0})
    one.learn([click("u", "a", -1.0)])
    assert best(one, "u", 1) == best(one, "nobody", 1)


def test_a_rating_that_is_no_like_is_context_and_counts_a_little() -> None:
    one = feed()
    one.learn([rating("u", "a", 2.0), click("u", "b"), rating("u", "c", 1.0)])
    assert after(one, "a") == pytest.approx({"b": 1.0, "c": 0.3 * 0.85}, abs=1e-3)
    assert after(one, "b") == pytest.approx({"a": 0.5, "c": 0.3}, abs=1e-3)
    assert one.learner.tables()["popularity"].values[: len(one.item_rows), 0].tolist() == [0.0, 1.0, 0.0]


def test_a_heavier_click_counts_for_more() -> None:
    one = feed()
    one.learn([*walks("ab", "ab"), click("v", "a"), click("v", "c", 4.0), click("u", "a")])
    assert best(one, "u", 1) == ["c"]


def test_in_a_full_list_a_new_item_replaces_the_least_frequent_and_inherits_its_count() -> None:
    one = feed(successors=2)
    one.learn(walks("ab", "ab", "ab", "ac", "ad"))
    assert after(one, "a") == pytest.approx({"b": 3.0, "d": 2.0})


def test_a_list_whose_sum_is_full_is_halved() -> None:
    one = feed()
    one.learn([click("u", "a"), *[click("u", letter, SUM_LARGEST / 2) for letter in "bcd"]])
    lists = one.learner.tables()["lists"].values
    assert 0 < int(lists[:, 0].max()) <= SUM_LARGEST * UNIT
    np.testing.assert_array_equal(lists[:, 0], lists[:, 129:].sum(axis=1))


def test_a_repeated_click_moves_to_the_front_and_does_not_follow_itself() -> None:
    one = feed()
    one.learn([click("u", letter) for letter in "aba"])
    assert "a" not in after(one, "a")
    row = one.learner.tables()["user"].values[one.user_rows["u"]]
    assert row[:3].tolist() == [one.item_rows["a"], one.item_rows["b"], -1]
