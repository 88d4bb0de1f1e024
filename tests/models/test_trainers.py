"""Every trainer in the registry passes every check, each check catches a faulty trainer, and the kernel agrees with its twin."""

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import pytest

from streamer.checks.batches import Feed, FeedEvent, rating, sample_events
from streamer.checks.learners import CheckFailed, Make
from streamer.checks.trainers import TRAINER_CHECKS, MakeTrainer
from streamer.core.arrays import F64, Array
from streamer.core.batch import RATING, Batch
from streamer.core.errors import BadSettings, StreamerError
from streamer.core.protocols import OnlineLearner
from streamer.models import LEARNERS, REFITTED_BY, TRAINERS, learner, trainer
from streamer.models.als import AlternatingLeastSquares, AlternatingLeastSquaresParameters, solve_side
from streamer.models.hybrid.bayesian_hybrid import BayesianHybrid
from streamer.models.hybrid.joint_fit import JointFit, JointFitParameters
from streamer.models.hybrid.parameters import TUNED
from streamer.models.replay import Replay, ReplayParameters
from streamer.models.twins.ratings import twin_solve_side
from streamer.producers.oracle import expected
from streamer.producers.simulate import World
from streamer.producers.world import RATED


@cache
def made(name: str) -> tuple[MakeTrainer, Make]:
    """The same functions for all checks of a trainer, so that they share a fit."""
    return lambda: trainer(REFITTED_BY[name]), lambda seed: learner(name, seed=seed)


# One worker runs all checks of a trainer, one after the other.
@pytest.mark.parametrize("check", TRAINER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in REFITTED_BY])
def test_trainer_keeps_its_promises(name: str, check: Callable[[MakeTrainer, Make], None]) -> None:
    check(*made(name))


def test_every_entry_of_the_registry_exists() -> None:
    assert set(REFITTED_BY) <= set(LEARNERS)
    assert set(REFITTED_BY.values()) <= set(TRAINERS)
    with pytest.raises(
        BadSettings,
        match="no trainer 'sgd'; choose one of: als, click-factors, factors, gru4rec, joint-fit, network, replay",
    ):
        trainer("sgd")


class Toy:
    """A replay with one named fault, or with none."""

    name = "toy"
    parameters = ReplayParameters()

    def __init__(self, fault: str, calls: list[int]) -> None:
        self.fault, self.calls = fault, calls
        self._inner = Replay("toy", ReplayParameters())

    def fit(self, learner: OnlineLearner, history: Batch, on_progress: Callable[[float], None]) -> None:
        self.calls.append(1)
        part = history.part(0, min(len(history), 100)) if self.fault == "reads a part" else history
        self._inner.fit(learner, part, (lambda share: None) if self.fault == "says nothing" else on_progress)
        if self.fault == "writes into the history" and len(history):
            history.values[0] += 1

    def export(self) -> Mapping[str, Array]:
        found = dict(self._inner.export())
        match self.fault:
            case "other names":
                return {f"{name} new": values for name, values in found.items()}
            case "other types":
                return {name: values.astype(np.float16) for name, values in found.items()}
            case "not finite":
                found["item"][:1] = np.nan
            case "random":
                found["item"] = found["item"] + np.float32(0.001 * len(self.calls))
            case "another scale":
                found["item"] = found["item"] * np.float32(30)
            case "nothing":
                return {}
        return found


FAULTS = {
    "other names": "implements_the_trainer_protocol",
    "other types": "implements_the_trainer_protocol",
    "nothing": "implements_the_trainer_protocol",
    "not finite": "an_empty_history_is_fitted",
    "random": "fitting_is_deterministic",
    "reads a part": "fitting_reads_its_history",
    "writes into the history": "fitting_reads_its_history",
    "says nothing": "progress_is_reported",
    "another scale": "the_learner_continues",
}


@pytest.mark.parametrize(("fault", "check"), FAULTS.items())
def test_each_check_catches_a_trainer_that_breaks_it(fault: str, check: str) -> None:
    (chosen,) = [one for one in TRAINER_CHECKS if one.__name__ == check]
    calls: list[int] = []
    with pytest.raises(CheckFailed):
        chosen(lambda: Toy(fault, calls), lambda seed: learner("biased-mf", seed=seed))


@pytest.mark.parametrize("check", TRAINER_CHECKS, ids=lambda check: check.__name__)
def test_a_sound_toy_passes(check: Callable[[MakeTrainer, Make], None]) -> None:
    check(lambda: Toy("", []), lambda seed: learner("biased-mf", seed=seed))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 1e-5)])
def test_the_kernel_agrees_with_its_twin(dtype: type, tolerance: float) -> None:
    random = np.random.default_rng(1)
    users, items, dim, count = 40, 30, 7, 3000
    other = random.normal(0, 0.3, (items, dim + 2)).astype(dtype)
    starts = np.sort(random.integers(0, count, users + 1)).astype(np.int64)
    starts[0], starts[1], starts[-1] = 0, 0, count  # the first has no rating
    others = random.integers(0, items, count).astype(np.int32)
    z, weights = random.normal(0, 1, count), random.random(count)
    weights[starts[2] : starts[3]] = 0.0  # these of one row count nothing
    first = random.normal(0, 0.3, (users, dim + 2)).astype(dtype)
    mine, its = first.copy(), first.copy()
    solve_side(mine, other, starts, others, z, weights, 1.25, 2.0)
    twin_solve_side(its, other, starts, others, z, weights, 1.25, 2.0)
    np.testing.assert_allclose(mine, its, rtol=tolerance, atol=tolerance)
    assert np.array_equal(mine[[0, 2]], first[[0, 2]])
    assert not np.array_equal(mine[5], first[5])
    assert np.array_equal(mine[:, -1], first[:, -1])  # counts are not solved for


def checkerboard() -> Feed:
    """Even users like even items, odd users odd ones; no user has rated all of them."""
    feed = Feed(learner("biased-mf", seed=1, dim=2))
    events = [
        rating(f"u{u}", f"i{i}", 5.0 if (u + i) % 2 == 0 else 1.0)
        for u in range(8)
        for i in range(8)
        if (u * 3 + i * 5) % 7
    ]
    feed.learn([])
    feed.batch(events[:0])
    vars(feed)["events"] = events
    return feed


def fit_model(made: AlternatingLeastSquares) -> float:
    """RMSE on held-out ratings of a checkerboard."""
    feed = checkerboard()
    batch = feed.batch(vars(feed)["events"])
    made.fit(feed.learner, batch, lambda share: None)
    left = [
        rating(f"u{u}", f"i{i}", 5.0 if (u + i) % 2 == 0 else 1.0)
        for u in range(8)
        for i in range(8)
        if not (u * 3 + i * 5) % 7
    ]
    ahead = feed.batch(left)
    return float(np.sqrt(np.mean(np.square(feed.learner.predict(ahead).clip(1, 5) - ahead.values))))


def test_a_checkerboard_is_completed() -> None:
    loose = AlternatingLeastSquaresParameters(l2=0.05, bias_l2=0.5, sweeps=10)
    assert fit_model(AlternatingLeastSquares("als", loose)) < 0.5
    none = AlternatingLeastSquaresParameters(l2=100.0, bias_l2=0.5)
    assert fit_model(AlternatingLeastSquares("als", none)) > 1.5  # means and biases cannot tell


@pytest.mark.parametrize("chosen", [{"window_days": 1e-9}, {"half_life_days": 1e-6}])
def test_a_window_and_a_half_life_favour_the_last_events(chosen: dict[str, float]) -> None:
    """Tastes change in the middle, so a fit on the last half is better."""
    turned = [
        rating(f"u{u}", f"i{i}", 5.0 if (u + i + t) % 2 == 0 else 1.0)
        for t in (0, 1)
        for u in range(8)
        for i in range(8)
    ]
    errors = []
    for parameters in ({}, chosen):
        feed = Feed(learner("biased-mf", seed=1, dim=2))
        batch = feed.batch(turned)
        days = dict.fromkeys(parameters, 64 * 1000 / 86400000)
        AlternatingLeastSquares("als", AlternatingLeastSquaresParameters(l2=0.05, sweeps=10, **days)).fit(
            feed.learner, batch, lambda share: None
        )
        last = batch.part(64, 128)
        errors.append(float(np.mean(np.square(feed.learner.predict(last) - last.values))))
    assert errors[1] < 0.8 * errors[0]


def test_trainers_refuse_learners_that_they_cannot_fit() -> None:
    feed = Feed(learner("bias", seed=1))
    batch = feed.batch(sample_events(10))
    with pytest.raises(StreamerError, match="fits biased-mf, not bias"):
        trainer("als").fit(feed.learner, batch, lambda share: None)
    with pytest.raises(StreamerError, match="fits Bayesian hybrids, not bias"):
        trainer("joint-fit").fit(feed.learner, batch, lambda share: None)


def fitted(parameters: JointFitParameters, count: int = 600) -> tuple[Feed, Feed]:
    """A hybrid that has learned a small world, and one with the tables of a joint fit on the same history."""
    feed, again = (Feed(learner("bayesian-hybrid", seed=1)) for _ in range(2))
    feed.learner.learn(feed.batch(sample_events(count)))
    made = JointFit("joint-fit", parameters)
    made.fit(again.learner, again.batch(sample_events(count)), lambda share: None)
    for name, values in made.export().items():
        again.learner.tables()[name].values[:] = values
    return feed, again


def test_a_joint_fit_counts_every_event_once() -> None:
    feed, again = fitted(JointFitParameters(stages=(2,), held_share=0.0))
    for name, column in (("user", -1), ("item", 18)):
        counts = [one.learner.tables()[name].values[:, column] for one in (feed, again)]
        assert np.array_equal(*counts)
        assert counts[0].max() > 5
    streams = [one.learner.tables()["stream"].values[0] for one in (feed, again)]
    assert np.array_equal(streams[0][:4], streams[1][:4])
    assert not np.array_equal(*streams)


def history_of(turn: float, events: int = 9_000) -> tuple[list[FeedEvent], F64]:
    """The ratings of a world whose tastes turn by so many radians, and their expectations."""
    world = World(users=150, items=60, events=events, turn=turn).interactions()
    rated = np.flatnonzero(world.kinds == RATED)
    rows = zip(*(column[rated].tolist() for column in (world.users, world.items, world.halves)), strict=True)
    return [rating(f"u{u}", f"i{i}", half / 2) for u, i, half in rows], expected(world.means[rated])


def test_a_joint_fit_knows_more_than_learning_online() -> None:
    """In a world whose tastes stand still: the mean squared distance to the expected ratings after a refit, and without."""
    events, truth = history_of(0.0)
    cut, missed = len(events) * 3 // 4, []
    for refitted in (False, True):
        feed = Feed(learner("bayesian-hybrid", seed=1))
        history = feed.batch(events[:cut])
        if refitted:
            trainer("joint-fit").fit(feed.learner, history, lambda share: None)
        else:
            feed.learner.learn(history)
        ahead = feed.batch(events[cut:])
        missed.append(float(np.mean(np.square(feed.learner.learn(ahead) - truth[cut:]))))
    assert missed[1] < 0.9 * missed[0]


@pytest.mark.parametrize(("turn", "least", "most"), [(0.0, 0.0, 1.0), (6.0, 64.0, 1e4)])
def test_the_evidence_finds_how_fast_tastes_turn(turn: float, least: float, most: float) -> None:
    feed = Feed(learner("bayesian-hybrid", seed=1))
    made = JointFit("joint-fit", JointFitParameters(stages=(4, 3), last_sweeps=0, held_share=0.0))
    made.fit(feed.learner, feed.batch(history_of(turn)[0]), lambda share: None)
    assert least <= made.export()["tuned"][0, TUNED.index("latent_process")] <= most


def test_a_fit_that_predicts_worse_is_discarded() -> None:
    """One that forgets all but the last 100 ratings is: the result is that of learning online, bit by bit."""
    for days, taken in ((100 / 86_400, False), (None, True)):
        feed, online = (Feed(learner("bayesian-hybrid", seed=1)) for _ in range(2))
        events = history_of(0.0)[0]
        made = JointFit("joint-fit", JointFitParameters(stages=(4,), window_days=days))
        made.fit(feed.learner, feed.batch(events), lambda share: None)
        online.learner.learn(online.batch(events))
        tables = online.learner.tables().items()
        assert all(np.array_equal(made.export()[name], table.values) for name, table in tables) != taken, days


def test_the_tuned_constants_return_with_the_tables() -> None:
    feed = Feed(learner("bayesian-hybrid", seed=1))
    made = feed.learner
    assert isinstance(made, BayesianHybrid)
    before = made.model
    made.restored()
    assert made.model == before
    made.tuned.values[0, TUNED.index("latent_process")] = 100.0
    made.restored()
    assert made.model == before._replace(latent_process=100.0 * before.latent_process)


def test_with_a_window_those_without_late_events_stay_as_the_replay_left_them() -> None:
    early = [rating(f"early{n % 5}", f"old{n % 3}", 1.0 + n % 5) for n in range(50)]
    late = [rating(f"late{n % 5}", f"new{n % 3}", 1.0 + n % 5) for n in range(50)]
    feed, once = (Feed(learner("bayesian-hybrid", seed=1)) for _ in range(2))
    batch, first = feed.batch(early + late), once.batch(early + late)
    once.learner.learn(first)
    made = JointFit("joint-fit", JointFitParameters(window_days=40_000 / 86_400_000, held_share=0.0))
    made.fit(feed.learner, batch, lambda share: None)
    users = [made.export()["user"], once.learner.tables()["user"].values]
    assert np.array_equal(users[0][:5], users[1][:5])
    assert not np.array_equal(users[0][5:10], users[1][5:10])


def test_both_sides_grow_alike() -> None:
    """The length of a gradient step is that of the other side's factors, so neither side may grow at the other's cost."""
    feed, descended = (Feed(learner("biased-mf", seed=1, dim=8)) for _ in range(2))
    batch, again = feed.batch(sample_events(900)), descended.batch(sample_events(900))
    descended.learner.learn(again)
    trainer("als").fit(feed.learner, batch, lambda share: None)
    rated = batch.kinds == RATING
    grown = []
    for name, rows in (("user", np.unique(batch.users[rated])), ("item", np.unique(batch.items[rated]))):
        lengths = [np.square(one.learner.tables()[name].values[rows, :8]).sum() for one in (feed, descended)]
        grown.append(lengths[0] / lengths[1])
    assert grown[0] == pytest.approx(grown[1], rel=1e-4)
    assert grown[0] != pytest.approx(1.0, rel=0.01)
