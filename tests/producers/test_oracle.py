"""The oracle's expectations of ratings, compared with simulated ratings and with a sum that can be checked by hand."""

from math import erf, sqrt

import numpy as np
import pytest

from streamer.producers.oracle import expected, variance
from streamer.producers.simulate import World
from streamer.producers.world import NOISE


@pytest.mark.parametrize("mean", [-1.0, 0.5, 1.1, 2.75, 3.3, 4.2, 5.0, 7.0])
def test_expectation_and_variance_are_those_of_ratings_drawn_as_the_world_draws_them(mean: float) -> None:
    n = 400_000
    noise = np.random.default_rng(5).standard_normal(n)
    ratings = np.clip(np.rint(2 * (mean + NOISE * noise)), 1, 10) / 2
    means = np.array([mean])
    assert expected(means)[0] == pytest.approx(ratings.mean(), abs=5 * ratings.std() / sqrt(n) + 1e-6)
    assert variance(means)[0] == pytest.approx(ratings.var(), rel=0.02, abs=1e-3)


def test_expectation_is_the_sum_over_half_stars() -> None:
    def below(rating: float) -> float:
        return 0.5 * (1 + erf((rating - mean) / NOISE / sqrt(2)))

    for mean in (2.0, 3.1234567, 4.9):
        edges = [-np.inf, *(0.75 + 0.5 * k for k in range(9)), np.inf]
        shares = [below(edges[k + 1]) - below(edges[k]) for k in range(10)]
        stars = [0.5 * (k + 1) for k in range(10)]
        by_hand = sum(p * star for p, star in zip(shares, stars, strict=True))
        assert sum(shares) == pytest.approx(1, abs=1e-12)
        assert expected(np.array([mean]))[0] == pytest.approx(by_hand, abs=1e-7)
        squares = sum(p * star**2 for p, star in zip(shares, stars, strict=True))
        assert variance(np.array([mean]))[0] == pytest.approx(squares - by_hand**2, abs=1e-6)


def test_far_outside_the_scale_the_variance_is_0() -> None:
    assert expected(np.array([-50.0, 60.0])) == pytest.approx([0.5, 5.0], abs=1e-9)
    assert variance(np.array([-50.0, 60.0])) == pytest.approx([0.0, 0.0], abs=1e-9)


def test_the_oracles_error_is_its_variance_and_below_that_of_simple_predictors() -> None:
    stream = World(users=500, items=300, events=100_000).stream()
    rated = stream.rated
    ratings, truth = stream.interactions.halves[rated] / 2, stream.interactions.means[rated].astype(np.float64)
    oracle = stream.oracle_rmse or np.inf
    assert oracle == pytest.approx(np.sqrt(variance(truth).mean()), rel=0.01)
    for other in (
        np.clip(truth, 0.5, 5),
        np.rint(2 * expected(truth)) / 2,
        expected(truth) + 0.02,
        expected(truth) - 0.02,
    ):
        assert np.sqrt(np.mean(np.square(ratings - other))) > oracle
    for constant in np.arange(0.5, 5.01, 0.25):
        assert np.sqrt(np.mean(np.square(ratings - constant))) > oracle + 0.1
