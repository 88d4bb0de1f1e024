"""The blend of click learners: its weights follow the experts that are right, and its items are drawn as described."""

import numpy as np
import pytest

from streamer.checks.batches import Feed, FeedEvent, click, rating
from streamer.core.batch import Batch
from streamer.models.click_blend import RING, WEIGHTS, ClickBlend, ClickBlendParameters, feature, learn_click_blend

ITEMS = 60


def feed(**parameters: object) -> Feed:
    return Feed(ClickBlend("click-blend", ClickBlendParameters(**parameters), seed=1), users=4096)  # type: ignore[arg-type]


def weights(one: Feed) -> dict[str, float]:
    made = one.learner
    assert isinstance(made, ClickBlend)
    return dict(zip(made.experts, made.stream.values[0, WEIGHTS : WEIGHTS + 3].tolist(), strict=True))


def test_the_expert_that_is_right_gains_weight() -> None:
    """All users go round a circle of items: transitions predict every click, popularity none."""
    events = []
    for n in range(300):
        events += [click(f"u{n}", f"i{(n * 7 + step) % ITEMS}") for step in range(8)]
    one = feed(every=1, prior=10.0, weights=(0.1, 0.3, 0.5))
    one.learn(events)
    assert weights(one)["transitions"] > 0.3


def test_an_expert_that_is_not_probed_keeps_its_weight() -> None:
    events: list[FeedEvent] = []
    for n in range(200):
        events += [rating(f"u{n}", f"i{n % ITEMS}", 1.0 + n % 5), click(f"u{n}", f"i{(n + 1) % ITEMS}")]
    one = feed(every=1, prior=10.0)
    one.learn(events)  # the champion for ratings is `bias` here, which is not Probed
    assert weights(one)["ratings"] == pytest.approx(0.5, abs=1e-6)


def test_a_predicted_rating_counts_the_same_on_every_scale() -> None:
    """Three stars on a scale from 1 to 5 equal six on one from 2 to 10; without a range they count 0."""
    ratings, none = np.array([1], dtype=np.int32), np.zeros(1)
    worth = [
        feature(stars, 0, 0.5, ratings, none, np.array([[0.0, width, 0.0]]))
        for stars, width in ((3, 4), (6, 8), (3, 0))
    ]
    assert worth == [3.0, 3.0, 0.0]


def test_clicks_are_compared_with_recent_items_that_the_user_has_not_seen() -> None:
    one = feed(every=1, probes=32)
    one.learn([click(f"u{n}", f"i{n % 40}") for n in range(100)])
    one.learn([click("u", f"i{n}") for n in range(10)])
    made = one.learner
    assert isinstance(made, ClickBlend)
    batch: Batch = one.batch([click("u", "i10")])
    probes = made.probes(batch)
    assert probes[0, 0] == one.item_rows["i10"]
    drawn = probes[0, 1:][probes[0, 1:] >= 0]
    assert len(drawn) > 5
    assert set(drawn.tolist()).isdisjoint(one.item_rows[f"i{n}"] for n in range(11))
    assert set(drawn.tolist()) <= set(made.ring.values[0].tolist())


def test_one_click_in_so_many_is_learned_from() -> None:
    one = feed(every=4, probes=2)
    one.learn([click("first", "i0")])
    made = one.learner
    assert isinstance(made, ClickBlend)
    probes = made.probes(one.batch([click(f"u{n}", f"i{n % 40}") for n in range(800)]))
    assert 150 < np.count_nonzero(probes[:, 0] >= 0) < 250


def test_the_ring_forgets_its_oldest_and_is_counted_anew_after_a_restart() -> None:
    one = feed()
    one.learn([click(f"u{n}", "old") for n in range(10)])
    one.learn([click(f"u{n}", f"i{n % 50}") for n in range(RING)], 1000)
    made, again = (
        one.learner,
        one.restart(ClickBlend("click-blend", ClickBlendParameters(), seed=1), backwards=True),
    )
    assert isinstance(made, ClickBlend)
    assert isinstance(again.learner, ClickBlend)
    assert one.item_rows["old"] not in made.ring.values[0]
    items = np.arange(len(one.item_rows), dtype=np.int32)
    np.testing.assert_array_equal(made.score(one.view("u1"), items), again.learner.score(again.view("u1"), items))


def one_click(*scores: float) -> np.ndarray:
    """The stream of a blend of one expert after a click on item 0, beside item 1, clicked three times of five, and item 2, once."""
    stream, in_ring = np.array([[5.0, 0.0, 0.0, 0.0, 1000.0]]), np.array([1, 3, 1], dtype=np.int32)
    ring, touched = np.full((1, RING), -1, dtype=np.int32), np.zeros(1, dtype=np.uint8)
    item, one, none = np.zeros(1, dtype=np.int32), np.ones(1, dtype=np.float32), np.zeros(1, dtype=np.int32)
    learn_click_blend(
        stream, touched, ring, touched, in_ring, item, one, np.full(1, -np.inf, np.float32), np.full(1, np.inf, np.float32),
        np.array([[0, 1, 2]], dtype=np.int32), np.array([[scores]], dtype=np.float32), none, np.zeros(1), 1000.0, 1.0,
    )  # fmt: skip
    return stream


def test_a_click_moves_a_weight_as_the_equations_say() -> None:
    """Both others score 1 more. Of what is drawn, an item counts by the inverse of its share: 3.5 / 6 and 1.5 / 6."""
    total = 1 + 1 / (2 * 3.5 / 6) + 1 / (2 * 1.5 / 6)  # the weight is 0: every exp is 1
    reliability, slope = 1 / total / (1 / total + 0.001), (total - 1) / total
    curvature = 1000.0 + reliability * (slope - slope**2)
    assert one_click(0.0, 1.0, 1.0)[0].tolist() == pytest.approx(
        [6.0, 0.0, 0.0, -reliability * slope / curvature, curvature]
    )


def test_a_score_far_from_that_of_the_clicked_item_counts_as_20() -> None:
    np.testing.assert_array_equal(one_click(0.0, 20.0, -20.0), one_click(0.0, 1e6, -1e6))
    assert not np.array_equal(one_click(0.0, 20.0, -20.0), one_click(0.0, 19.0, -20.0))
