"""The smoother of the hybrid's refit equals the joint Gaussian of all steps, conditioned at once."""

import numpy as np
import pytest

from streamer.models.hybrid.joint_fit import is_better
from streamer.models.hybrid.smoother import Dynamics, Ratings, smooth
from streamer.models.twins.smoothing import twin_smooth


@pytest.mark.parametrize("segment", [256, 4])
def test_a_row_is_smoothed_without_each_of_its_ratings(segment: int) -> None:
    """Three dense weights, the second of which fades, and three sparse ones; also when a row is smoothed from checkpoints."""
    random = np.random.default_rng(1)
    count, rows, n, d = 11, 2, 6, 3
    starts = np.array([0, 2, count], np.int64)
    order = random.permutation(count).astype(np.int64)
    sparse, sparse_counts = np.array([[3, 5], [4, -1], [-1, -1]], np.int32), np.array([2, 1, 0], np.int32)
    ratings = Ratings(
        starts, order, random.normal(0, 1, (count, d)).astype(np.float32), random.integers(0, 3, count).astype(np.int32),
        sparse, sparse_counts, np.array([0.7, 1.0, 1.0]), random.normal(0, 1, count),
        (0.5 + random.random(count)).astype(np.float32), random.random(count),
    )  # fmt: skip
    dynamics = Dynamics(
        random.normal(0, 0.3, (rows, n)), 0.1 + random.random(n), np.array([0.1, 0.0, 0.02]), 1, np.array([2, 0], np.int64), 1e9, segment
    )  # fmt: skip
    states, told = np.zeros((rows, n + n * (n + 1) // 2)), np.zeros((count, 2), np.float32)
    predictions, spreads, evidence = (
        np.zeros(count, np.float32),
        np.zeros(count, np.float32),
        np.zeros((count, 2), np.float32),
    )
    sums, squares, informed = np.zeros(n), np.zeros((n, n)), np.zeros((n, n))
    smooth(ratings, dynamics, states, told, predictions, spreads, evidence, sums, squares, informed, True)
    expected = np.zeros(n), np.zeros((n, n)), np.zeros((n, n))
    for row in range(rows):
        chosen = order[starts[row] : starts[row + 1]]
        found = twin_smooth(ratings, dynamics, row)
        for mine, its in zip((told[chosen], predictions[chosen], spreads[chosen]), found, strict=False):
            np.testing.assert_allclose(mine, its, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(states[row, :n], found.mean, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(states[row, n:], found.covariance[np.tril_indices(n)], rtol=1e-9, atol=1e-9)
        for total, one in zip(expected, (found.moved, np.outer(found.moved, found.moved), found.informed), strict=True):
            total += one
    for mine, its in zip((sums, squares, informed), expected, strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-9, atol=1e-9)


def test_one_user_does_not_decide_that_a_fit_is_better() -> None:
    users = np.repeat(np.arange(21, dtype=np.int32), [300, *[5] * 20])
    before = np.random.default_rng(1).uniform(0.5, 1.5, len(users))
    better, of_one = before - 0.1, before + np.where(users == 0, -0.1, 0.01)
    assert is_better(before, better, users, 2.0)
    assert not is_better(before, before + 0.1, users, 2.0)
    assert not is_better(before, of_one, users, 0.0)
    shaken = before + np.where(users % 3 > 0, -0.1, 0.15) * (users > 0)
    assert is_better(before, shaken, users, 0.0)
    assert not is_better(before, shaken, users, 2.0)  # by chance
