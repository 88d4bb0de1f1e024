"""What `streamer train` says of models that rank what is clicked next."""

from math import sqrt

import numpy as np
import pytest

from streamer.checks.offline import world
from streamer.train import Plan, Trained, interval, train


def trained(name: str, seed: int = 1) -> Trained:
    return train(name, world(), Plan(seed=seed), lambda named, epoch: None).trained


def test_the_interval_is_that_of_resampled_users() -> None:
    differences = np.repeat([-1.0, 0.0, 1.0], [40, 100, 60])
    low, high = interval(differences, 1)
    drawn = np.random.default_rng(5)
    plain = [drawn.choice(differences, len(differences)).mean() for _ in range(10_000)]
    assert (low, high) == pytest.approx(tuple(np.quantile(plain, [0.025, 0.975])), abs=0.006)
    deviation = sqrt(np.var(differences) / len(differences))
    assert (low, high) == pytest.approx((0.1 - 1.96 * deviation, 0.1 + 1.96 * deviation), abs=0.006)
    assert interval(differences, 1) == (low, high)


def test_a_model_is_set_beside_one_pass_transitions_on_the_same_users() -> None:
    found, counted = trained("popularity"), trained("transitions")
    assert found.hit_rate_10 == found.popularity_hit_rate_10 == counted.popularity_hit_rate_10
    assert found.transitions_hit_rate_10 == counted.hit_rate_10
    assert found.hit_rate_10_over_transitions == pytest.approx(found.hit_rate_10 - counted.hit_rate_10)
    low, high = found.hit_rate_10_over_transitions_interval
    assert low < found.hit_rate_10_over_transitions < high


def test_transitions_are_as_good_as_themselves_for_sure() -> None:
    found = trained("transitions")
    assert (found.hit_rate_10_over_transitions, found.hit_rate_10_over_transitions_interval) == (0.0, (0.0, 0.0))


def test_a_model_of_ratings_says_nothing_of_transitions() -> None:
    assert trained("bias").hit_rate_10_over_transitions_interval is None
