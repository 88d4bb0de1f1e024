"""The hybrid's calibration learns what the filter gets wrong again and again, and leaves the filter alone."""

import numpy as np

from streamer.checks.batches import Feed, sample_events
from streamer.core.arrays import F64
from streamer.models.hybrid.bayesian_hybrid import BayesianHybrid
from streamer.models.hybrid.calibration import (
    INPUTS,
    OWN,
    calibrated,
    calibration_of,
    initial_calibration,
    learn_calibration,
)
from streamer.models.hybrid.parameters import BayesianHybridParameters

CALIBRATED = BayesianHybrid("hybrid", BayesianHybridParameters(), seed=1).model


class Learned:
    """A calibration of predictions z, of a user with 50 ratings and a session's bias s."""

    def __init__(self) -> None:
        self.calibration = np.array([initial_calibration(CALIBRATED.calibration_prior)])
        self.user, self.own, self.inputs = np.zeros(9, dtype=np.float32), np.empty(OWN), np.empty(INPUTS)
        self.user[-1] = 50.0

    def predict(self, z: float, s: float = 0.0) -> float:
        self.user[1] = s
        calibration_of(self.user, 1.0, self.calibration, CALIBRATED, self.own)
        return calibrated(self.own, z, 0.0, CALIBRATED)

    def learn(self, predictions: F64, ratings: F64, sessions: F64) -> None:
        for z, y, s in zip(predictions.tolist(), ratings.tolist(), sessions.tolist(), strict=True):
            error = y - self.predict(z, s)
            learn_calibration(self.own, z, 0.0, error, self.calibration, CALIBRATED, self.inputs)


def test_it_starts_as_the_filter() -> None:
    assert [Learned().predict(z, 0.5) for z in (-5.0, 0.0, 1.5)] == [-5.0, 0.0, 1.5]


def test_high_predictions_are_straightened_where_ratings_end() -> None:
    learned, random = Learned(), np.random.default_rng(1)
    z = random.normal(size=5000)
    learned.learn(z, np.where(z > 0, 0.6 * z, z) + 0.5 * random.normal(size=5000), np.zeros(5000))
    assert abs(learned.predict(2.0) - 1.2) < 0.1
    assert abs(learned.predict(-2.0) + 2.0) < 0.1


def test_a_sessions_bias_counts_as_much_as_it_proves_to_count() -> None:
    random = np.random.default_rng(1)
    liking, session, noise = random.normal(size=(3, 5000)) * np.array([[1.0], [0.4], [0.5]])
    with_sessions, without = Learned(), Learned()
    with_sessions.learn(liking + session, liking + session + noise, session)
    without.learn(liking + session, liking + noise, session)
    assert abs(with_sessions.predict(0.8, 0.8) - 0.8) < 0.1
    assert abs(without.predict(0.8, 0.8)) < 0.1


def test_the_filter_learns_as_if_there_were_no_calibration() -> None:
    feeds = [
        Feed(BayesianHybrid("hybrid", BayesianHybridParameters(calibration_prior=prior), seed=1))
        for prior in (0.02, 0.0)
    ]
    events = sample_events(600)
    once, never = (feed.learn(events) for feed in feeds)
    assert np.nanmax(np.abs(once - never)) > 0.01
    for table in ("user", "item", "stream", "groups"):
        values, others = (feed.learner.tables()[table].values for feed in feeds)
        assert values.tobytes() == others.tobytes()
