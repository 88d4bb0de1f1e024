"""The hybrid states how far a rating may be from its prediction: four of five are inside, wherever and however errors are."""

from dataclasses import replace

import numpy as np
import pytest

from streamer.checks.batches import Feed, sample_events
from streamer.core.arrays import F64
from streamer.models.hybrid.bayesian_hybrid import BayesianHybrid
from streamer.models.hybrid.calibration import initial_calibration
from streamer.models.hybrid.parameters import BayesianHybridParameters
from streamer.models.hybrid.spread import COVERED, FIRST, GAIN, GAUSSIAN, RATINGS, WIDTH, learn_spread, variance_of

MODEL = BayesianHybrid("hybrid", BayesianHybridParameters(), seed=1).model


def learned(errors: F64, predictions: F64, s: float = 1.0) -> F64:
    """The calibration's row after errors of predictions, which the filter expects to have the variance s."""
    calibration = np.array([initial_calibration(0.02)])
    for error, z in zip(errors.tolist(), predictions.tolist(), strict=True):
        learn_spread(z, s, error, calibration, MODEL)
    return calibration


def test_it_starts_with_what_the_filter_expects() -> None:
    calibration = np.array([initial_calibration(0.02)])
    assert [variance_of(z, s, calibration, MODEL) for z, s in ((-3.0, 0.5), (2.0, 0.9))] == [0.5, 0.9]
    assert calibration[0, WIDTH] == GAUSSIAN


def test_where_errors_are_smaller_it_states_less() -> None:
    """Errors have the variance .8 exp(-.4 z), and the filter expects 1."""
    random = np.random.default_rng(1)
    z = random.normal(size=8000)
    calibration = learned(random.normal(size=8000) * np.sqrt(0.8 * np.exp(-0.4 * z)), z)
    for at in (-1.5, 0.0, 1.5):
        assert variance_of(at, 1.0, calibration, MODEL) == pytest.approx(0.8 * np.exp(-0.4 * at), rel=0.15)
    # a constant variance v loses (ln v - mean of ln variances) / 2, with v = .8 exp(.08)
    assert calibration[0, GAIN] / 8000 == pytest.approx(0.04, abs=0.01)


@pytest.mark.parametrize("of", ["tails", "two values", "a skewed few"])
def test_four_of_five_are_inside_whatever_the_distribution(of: str) -> None:
    random, n = np.random.default_rng(1), 6000
    z = random.normal(0.0, 0.5, n)
    likely = 1 / (1 + np.exp(-2 * z))
    errors = {
        "tails": random.laplace(0.0, 0.7, n),
        "two values": np.where(random.random(n) < likely, 1.0, 0.0) - likely,
        "a skewed few": np.round(random.exponential(1.0, n)) - 0.7 + 0.1 * z,
    }[of]
    row = learned(errors, z)[0]
    assert row[RATINGS] == n
    assert row[COVERED] / n == pytest.approx(0.8, abs=0.02)


def test_no_error_takes_it_beyond_its_bounds() -> None:
    for error in (0.0, 4.0):
        row = learned(np.full(5000, error), np.full(5000, 4.0), 1e-6)[0]
        assert np.abs(row[FIRST : FIRST + 4]).max() <= 2.0
        assert GAUSSIAN / 2 <= row[WIDTH] <= GAUSSIAN * 2
    before = learned(np.ones(5), np.ones(5))
    after = before.copy()
    learn_spread(1.0, np.inf, 1.0, after, MODEL)
    learn_spread(1.0, 1.0, np.nan, after, MODEL)
    assert after.tobytes() == before.tobytes()


def test_what_it_counts_is_what_it_would_have_answered() -> None:
    """Each rating is held against the interval that a query just before it gets."""
    learner = BayesianHybrid("hybrid", BayesianHybridParameters(), seed=1)
    feed, inside, ratings = Feed(learner), 0, 0
    feed.learn(sample_events(40))
    counted = learner.stated
    for event in sample_events(500, seed=2):
        batch = feed.batch([event])
        predicted = float(learner.predict(batch)[0])
        if np.isfinite(predicted):
            view = replace(feed.view(event.user_id), now_ms=int(batch.times_ms[0]))
            inside += abs(float(batch.values[0]) - predicted) <= float(learner.half_widths(view, batch.items)[0])
            ratings += 1
        feed.step(batch)
    found = learner.stated
    assert found.ratings - counted.ratings == ratings > 200
    covered = found.coverage_80 * found.ratings - counted.coverage_80 * counted.ratings
    assert round(covered) == inside
