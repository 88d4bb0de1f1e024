"""Churn: alignment finds a known rotation, and every measure has its hand-computed value."""

import numpy as np
import pytest

from streamer.checks.batches import Feed, click, rating, sample_events
from streamer.models import learner
from streamer.renormalise.churn import (
    PANEL_USERS,
    cosine,
    measure_churn,
    overlap,
    relative_moves,
    residual,
    rotation,
    top_rows,
)

RANDOM = np.random.default_rng(1)
ROWS = RANDOM.normal(size=(50, 4))
TURN = np.linalg.qr(RANDOM.normal(size=(4, 4)))[0]
ONES = np.ones(50)


def test_a_rotation_is_found_and_undone() -> None:
    found = rotation(ROWS, ROWS @ TURN, ONES)
    np.testing.assert_allclose(found, TURN.T, atol=1e-12)
    np.testing.assert_allclose(ROWS @ TURN @ found, ROWS, atol=1e-12)


def test_the_alignment_is_a_rotation() -> None:
    found = rotation(ROWS, RANDOM.normal(size=(50, 4)), ONES)
    np.testing.assert_allclose(found @ found.T, np.eye(4), atol=1e-12)


def test_rows_with_more_events_weigh_more_in_the_rotation() -> None:
    new = ROWS @ TURN
    new[25:] = RANDOM.normal(size=(25, 4))
    found = rotation(ROWS, new, np.where(np.arange(50) < 25, 1000.0, 1e-6))
    np.testing.assert_allclose(found, TURN.T, atol=1e-6)


def test_measures_of_rows_that_stay_and_that_double() -> None:
    assert cosine(ROWS, ROWS, ONES) == pytest.approx(1.0)
    assert residual(ROWS, ROWS, ONES) == 0.0
    assert cosine(ROWS, 2 * ROWS, ONES) == pytest.approx(1.0)
    assert residual(ROWS, 2 * ROWS, ONES) == pytest.approx(1.0)
    np.testing.assert_allclose(relative_moves(ROWS, 1.5 * ROWS), 0.5)
    assert cosine(ROWS, -ROWS, ONES) == pytest.approx(-1.0)


def test_rows_without_events_do_not_count() -> None:
    new, counts = ROWS.copy(), np.ones(50)
    new[:10], counts[:10] = -ROWS[:10], 0.0
    assert cosine(ROWS, new, counts) == pytest.approx(1.0)
    assert residual(ROWS, new, counts) == 0.0


def test_overlap_is_the_share_of_the_list_that_stays() -> None:
    a, b, none = (np.array(rows, dtype=np.int32) for rows in ([1, 2, 3, 4], [4, 3, 9, 8], []))
    assert overlap([a, a], [a, b]) == 0.75
    assert overlap([a], [none]) == 0.0
    assert overlap([none], [a]) == 1.0  # nothing that could stay


def test_top_tens_leave_out_seen_items() -> None:
    feed = Feed(learner("popularity", seed=1))
    events = [click("u0", "i0"), *[click(f"u{n}", f"i{n % 3}") for n in range(1, 9)], click("u9", "i3")]
    batch = feed.batch(events)
    feed.learner.learn(batch)
    users, items = np.array([0, 9], dtype=np.int32), np.arange(4, dtype=np.int32)
    found = top_rows(feed.learner, batch, users, items, 3)
    assert [rows.tolist() for rows in found] == [[1, 2, 3], [0, 1, 2]]


def test_a_learner_compared_with_itself_has_no_churn() -> None:
    feeds = [Feed(learner("biased-mf", seed=1, dim=4)) for _ in range(2)]
    batches = [feed.batch(sample_events(800)) for feed in feeds]
    for feed, batch in zip(feeds, batches, strict=True):
        feed.learner.learn(batch)
    found = measure_churn(feeds[0].learner, feeds[1].learner, batches[0], len(feeds[0].item_rows))
    assert (found.top_ten_overlap, found.panel_users) == (1.0, len(feeds[0].user_rows))
    assert found.panel_users <= PANEL_USERS
    assert found.item_cosine == pytest.approx(1.0)
    assert (found.procrustes_residual, found.move_p95) == (pytest.approx(0.0, abs=1e-9), pytest.approx(0.0, abs=1e-9))
    assert (found.user_norm, found.item_norm) == (1.0, 1.0)
    assert found.rmse_before == found.rmse_after


def test_a_learner_that_learned_less_has_churn() -> None:
    feeds = [Feed(learner("biased-mf", seed=1, dim=4)) for _ in range(2)]
    batches = [feed.batch(sample_events(800)) for feed in feeds]
    feeds[0].learner.learn(batches[0])
    feeds[1].learner.learn(batches[1].part(0, 200))
    found = measure_churn(feeds[0].learner, feeds[1].learner, batches[0], len(feeds[0].item_rows))
    assert found.top_ten_overlap < 0.9
    assert found.item_cosine is not None
    assert found.item_cosine < 0.99
    assert found.rmse_before is not None
    assert found.rmse_after is not None
    assert found.rmse_before < found.rmse_after


def test_a_learner_without_vectors_and_ratings_has_no_such_measures() -> None:
    feed = Feed(learner("popularity", seed=1))
    batch = feed.batch([rating("u", "i", 5.0), click("u", "j")])
    found = measure_churn(feed.learner, feed.learner, batch, 2)
    assert (found.item_cosine, found.rmse_before, found.user_norm) == (None, None, None)


def test_rows_of_length_0_have_no_relative_move() -> None:
    before, after = (Feed(learner("biased-mf", seed=1)) for _ in range(2))
    history = after.batch(sample_events(100))
    after.step(history)
    before.batch(sample_events(100))
    before.learner.tables()["item"].values[:] = 0.0
    found = measure_churn(before.learner, after.learner, history, len(after.ids("item")))
    assert found.move_p50 is None
    assert found.move_p95 is None
