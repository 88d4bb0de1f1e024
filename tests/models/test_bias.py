"""The bias learner is the filter described at the top of its file, on any scale of ratings."""

import numpy as np
import pytest

from streamer.checks.batches import Feed, rating, sample_events
from streamer.models.bias import Bias, BiasParameters


def feed(**parameters: float) -> Feed:
    return Feed(Bias("bias", BiasParameters(**parameters), seed=1))


def test_biases_are_damped_means_when_nothing_drifts() -> None:
    still = feed(noise=1.0, user_prior=0.25, item_prior=0.0, user_process=0.0, item_process=0.0)
    still.learn([rating("other", "a", 3.0)])
    still.learner.tables()["stream"].values[0, 0] = 1e12  # the mean stays at 3
    still.learn([rating("u", "b", 5.0), rating("u", "c", 5.0), rating("u", "d", 5.0)])
    bias, variance = still.view("u").rows["bias"].tolist()
    assert bias == pytest.approx(3 * 2.0 / (3 + 1.0 / 0.25))  # three errors of 2, damped by noise / prior = 4
    assert variance == pytest.approx(1.0 / (3 + 1.0 / 0.25))


def test_an_old_bias_still_follows_a_change_only_with_process_noise() -> None:
    answers = []
    for process in (0.0, 0.01):
        one = feed(user_process=process)
        one.learn([rating(f"v{n % 50}", f"i{n}", 3.0) for n in range(3000)])
        one.learn([rating("u", f"i{n}", 4.0) for n in range(500)] + [rating("u", f"i{n}", 2.0) for n in range(50)])
        answers.append(float(one.learner.predict(one.batch([rating("u", "i999", 2.0)]))[0]))
    assert answers[0] > 3.5
    assert answers[1] < 2.6


def test_twice_the_ratings_give_twice_the_predictions() -> None:
    events = sample_events(1000)
    once, twice = feed().learn(events), feed().learn([event._replace(value=2 * event.value) for event in events])
    np.testing.assert_array_equal(2 * once, twice)


def test_refused_steps_are_counted() -> None:
    one = feed()
    one.learn([rating("u", "a", 3.0), rating("u", "a", float("nan")), rating("u", "a", float("inf"))])
    assert one.learner.tables()["stream"].values[0].tolist() == [1.0, 3.0, 2.0, 1.0]
