"""Session neighbours on clicks of single letters, whose votes can be counted by hand."""

from typing import Any

import numpy as np
import pytest

from streamer.checks.batches import Feed, FeedEvent, click, sample_events, with_changes
from streamer.models.sessions.neighbours import Neighbours, NeighboursParameters
from streamer.models.sessions.ring import HOSTED, NEXT, SERIALS, TURN, TURN_BEFORE
from streamer.models.twins.sessions import twin_neighbours

SHARE = 1e-9  # m: so little that only votes are left


def feed(**parameters: float) -> Feed:
    chosen: Any = {"pseudo_counts": SHARE, **parameters}
    return Feed(Neighbours("neighbours", NeighboursParameters(**chosen), seed=1))


def sessions(*paths: str) -> list[FeedEvent]:
    """A user for each path, who clicks its letters in turn."""
    return [click(f"{path} {n}", letter) for n, path in enumerate(paths) for letter in path]


def scored(one: Feed, user_id: str) -> dict[str, float]:
    """P(i | u) of each item for a user."""
    scores = one.learner.score(one.view(user_id), np.arange(len(one.item_rows), dtype=np.int32))
    return dict(zip(one.item_rows, np.exp(scores.astype(np.float64)).tolist(), strict=True))


def votes(one: Feed, clicked: str) -> dict[str, float]:
    """P(i | u) of each item for a new user who clicks these letters."""
    one.learn([click(clicked, letter) for letter in clicked])
    return scored(one, clicked)


def best(found: dict[str, float]) -> str:
    return max(found, key=lambda item_id: found[item_id])


def stored(one: Feed) -> list[str]:
    """All sessions in the order of their slots, as letters."""
    ids, table = list(one.item_rows), one.learner.tables()["sessions"].values
    rows = table[: len(ids)].reshape(-1, one.learner.parameters.length)  # type: ignore[attr-defined]
    return ["".join(ids[i] for i in row if i >= 0) for row in rows if row[0] >= 0]


def test_votes_fade_with_the_distance_from_the_match_and_count_less_before_it() -> None:
    one = feed(nearness=0.8, before=0.7, ageing=1.0)
    one.learn(sessions("dcabe"))
    found = votes(one, "a")
    scale = (1 - 0.8) / (1 + 0.7)  # v(1)
    assert [found[i] for i in "bedc"] == pytest.approx([scale, 0.8 * scale, 0.7 * 0.8 * scale, 0.7 * scale], rel=1e-4)
    assert found["a"] < 1e-6  # nobody's session votes for the match itself


def test_a_session_with_both_clicks_outweighs_two_with_one_of_them() -> None:
    one = feed(ageing=1.0, decay=1.0)
    one.learn(sessions("abx", "cby", "dby", "a", "a"))  # a and b are in three sessions each: the same idf
    found = votes(one, "ab")
    assert found["y"] / found["x"] == pytest.approx(2 * 0.5**1.5, rel=1e-4)


def test_a_click_on_a_rare_item_counts_for_more() -> None:
    one = feed(ageing=1.0, decay=1.0)
    one.learn(sessions("ax", "by", *"aaaa"))
    found = votes(one, "ab")
    assert found["y"] > found["x"]


def test_newer_sessions_count_for_more() -> None:
    one = feed()
    one.learn(sessions("ax", "ay"))
    assert best(votes(one, "a")) == "y"


def test_a_user_without_clicks_gets_recently_popular_items() -> None:
    one = feed(half_life=2.0)
    one.learn(sessions(*"aaaaabbb"))
    assert best(scored(one, "nobody")) == "b"


def test_a_long_session_is_followed_by_one_that_begins_with_its_last_clicks() -> None:
    one = feed(length=4, overlap=2)
    one.learn([click("u", letter) for letter in "abcdef"])
    assert stored(one) == ["abcd", "cdef"]


def test_a_click_again_keeps_its_place_in_the_session() -> None:
    one = feed()
    one.learn([click("u", letter) for letter in "abab"])
    assert stored(one) == ["ab"]
    assert one.learner.tables()["postings"].values[:2, 0].tolist() == [1, 1]


def test_a_dislike_leaves_the_session_and_the_last_clicks() -> None:
    one = feed()
    one.learn([*sessions("abc"), click("abc 0", "b", -1.0)])
    assert stored(one) == ["ac"]
    assert best(votes(one, "a")) == "c"
    assert votes(one, "b") == scored(one, "nobody")  # no session has b any more
    one.learn([click("v", "a"), click("v", "a", -1.0)])
    assert scored(one, "v") == scored(one, "nobody")


def test_the_oldest_sessions_are_overwritten_and_their_users_go_on() -> None:
    one = feed(overlap=2)
    one.learn([click("u", "a"), click("u", "b"), *(click(f"v{n}", "a") for n in range(2 * HOSTED))])
    assert "ab" not in stored(one)
    assert len(stored(one)) == 2 * HOSTED
    assert max(value for item, value in votes(one, "a").items() if item != "a") < 1e-6
    one.learn([click("u", "c")])
    assert stored(one)[2] == "abc"  # the next slot, with the last clicks once more


def test_the_kernel_agrees_with_its_twin_where_sessions_are_overwritten() -> None:
    parameters = NeighboursParameters(listed=8, length=4)
    made, other = (Neighbours("neighbours", parameters, seed=1) for _ in range(2))
    one, mirror = Feed(made), Feed(other)
    events = with_changes(sample_events(1500, users=200, items=3))
    outs = one.learn(events, 10)
    vars(other)["learn"] = lambda batch: twin_neighbours(other, batch)
    np.testing.assert_allclose(outs, mirror.learn(events, 10), rtol=1e-6, atol=1e-9)
    for name, table in made.tables().items():
        np.testing.assert_allclose(table.values, other.tables()[name].values, rtol=1e-12, atol=1e-12)
    assert made.stream.values[0, TURN_BEFORE] > 0  # at least two turns


def test_sessions_are_numbered_without_end() -> None:
    outs = []
    for first in (0, SERIALS - 100):
        one = feed(listed=8)
        one.learner.tables()["stream"].values[0, [NEXT, TURN, TURN_BEFORE]] = first
        outs.append(one.learn(sample_events(1500, users=200, items=3)))
    assert np.array_equal(*outs, equal_nan=True)
