"""Popularity counts clicks, of all time or recent ones."""

import numpy as np

from streamer.checks.batches import Feed, click, rating
from streamer.core.arrays import I32
from streamer.models.popularity import Popularity, RecentPopularity

A, B = 0, 1
ITEMS: I32 = np.array([A, B, -1], dtype=np.int32)


def test_popularity_sums_weights_of_clicks_and_likes_but_not_of_dislikes() -> None:
    feed = Feed(Popularity("popularity", Popularity.Parameters(), seed=1))
    feed.learn(
        [click("u", "a", 4.0), click("v", "b"), rating("w", "b", 5.0), rating("w", "a", 2.0), click("w", "a", -1)]
    )
    assert feed.learner.score(feed.view("u"), ITEMS).tolist() == [4.0, 2.0, 0.0]


def test_popularity_predicts_the_share_of_earlier_clicks() -> None:
    feed = Feed(Popularity("popularity", Popularity.Parameters(), seed=1))
    out = feed.learn([click("u", "a"), click("u", "a"), click("v", "a", 2.0), click("v", "b"), click("u", "a")])
    assert out.tolist() == [0.0, 1.0, 1.0, 0.0, np.float32(0.8)]


def test_recent_popularity_halves_after_its_half_life_of_clicks() -> None:
    feed = Feed(RecentPopularity("recent", RecentPopularity.Parameters(half_life=2), seed=1))
    feed.learn([click("u", "a"), click("u", "b"), rating("u", "b", 1.0), click("v", "b")])
    a, b, unknown = feed.learner.score(feed.view("u"), ITEMS).tolist()
    assert a == np.float32(0.5 ** (3 / 2))
    assert b == np.float32(0.5 ** (2 / 2) + 0.5 ** (1 / 2))
    assert unknown == 0.0


def test_recent_shares_of_all_items_add_up_to_one() -> None:
    feed = Feed(RecentPopularity("recent", RecentPopularity.Parameters(half_life=3), seed=1))
    feed.learn([click("u", item) for item in "abcabaacdabca"])
    shares = [float(feed.learner.predict(feed.batch([click("u", item)]))[0]) for item in "abcd"]
    np.testing.assert_allclose(sum(shares), 1.0, rtol=1e-6)
