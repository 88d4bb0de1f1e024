"""Regret: 0 for a learner that predicts the expectations, in units of RMSE, and invisible to learners."""

import json
from math import isnan, nan, sqrt
from pathlib import Path

import msgspec
import numpy as np
import pytest
from commands import run
from learning import digest, events, learn, records, settings
from process import streamer

from streamer.consumers.files import FileSource
from streamer.consumers.memory import MemorySource
from streamer.consumers.stream import StreamSource
from streamer.core.arrays import F32, I32, U8
from streamer.core.batch import RATING, Batch, UserView
from streamer.core.events import Click, Rating, Record
from streamer.core.protocols import Kind, Source
from streamer.core.tables import Table
from streamer.models import LEARNERS
from streamer.models.popularity import AllTimeParameters
from streamer.monitoring.regret import Regret
from streamer.producers.simulate import Simulation, World
from streamer.study.evaluate import Evaluation, evaluate

SMALL = World(users=60, items=40, events=3_000, days=10, duplicates=0.02, late=0.02, bad=0.02)


def rated(*expected: object) -> tuple[list[Record], U8]:
    """Ratings of 3 with these expectations; None: the rating carries none."""
    values = [
        b'{"user_id":"u","item_id":"i","rating":3'
        + (b"" if said is None else b',"expected":%b' % str(said).encode())
        + b"}"
        for said in expected
    ]
    records = [Record("ratings", -1, n, 0, b"u", value) for n, value in enumerate(values)]
    return records, np.full(len(values), RATING, np.uint8)


def test_figures_of_three_ratings_by_hand() -> None:
    regret = Regret()
    regret.note_expected(*rated(3.5, 2.0, 4.0))
    values = np.array([4.0, 2.0, 3.0])  # errors of the oracle: .5, 0, -1
    regret.observe(values, {"oracle": np.array([3.5, 2.0, 4.0]), "flat": np.array([3.0, 3.0, 3.0])})
    oracle = sqrt(1.25 / 3)
    assert regret.oracle_rmse() == regret.oracle_rmse(1000) == pytest.approx(oracle)
    assert regret.above_oracle("oracle") == 0
    assert regret.above_oracle("flat", 1000) == pytest.approx(sqrt(oracle**2 + (0.25 + 1 + 1) / 3) - oracle)
    assert regret.oracle_rmse(1) == 1
    assert regret.above_oracle("flat", 1) == pytest.approx(sqrt(2) - 1)


def test_there_is_no_regret_before_the_first_rating_and_on_real_data() -> None:
    regret = Regret()
    regret.note_expected(*rated(None, None))
    regret.observe(np.array([3.0, 3.0]), {"flat": np.array([3.0, 3.0])})
    assert regret.ratings == 0
    assert not regret.watching
    assert isnan(regret.oracle_rmse())
    assert isnan(regret.above_oracle("flat"))


@pytest.mark.parametrize("said", ['"much"', "null", "[1]", "1e400", "1e308", "-1e300", None, "{"])
def test_an_unreadable_expectation_does_not_make_an_event_bad(said: object) -> None:
    regret = Regret()
    regret.watching = True
    regret.note_expected(*rated(said, 3.5))
    regret.observe(np.array([3.0, 4.0]), {"flat": np.array([3.0, nan])})
    assert regret.ratings == 1
    assert regret.oracle_rmse() == 0.5
    assert isnan(regret.above_oracle("flat"))  # it predicted nothing where something was to be expected


def test_windows_wrap_around_the_ring() -> None:
    regret, ones = Regret(), np.ones(1)
    for n in range(10_400):
        regret.note_expected(*rated(2.0))
        regret.observe(ones * (3.0 if n >= 10_300 else 2.0), {"flat": ones * (4.0 if n >= 10_300 else 2.0)})
    assert regret.ratings == 10_400
    assert regret.oracle_rmse(100) == 1
    assert regret.above_oracle("flat", 100) == pytest.approx(sqrt(5) - 1)
    assert regret.oracle_rmse(1_000) == pytest.approx(sqrt(0.1))
    assert regret.oracle_rmse(10_000) == pytest.approx(0.1)


class Oracle:
    """Predicts the expectation, from a table by the time of the event; real learners cannot."""

    kind: Kind = "ratings"
    Parameters = AllTimeParameters
    expected: dict[int, float] = {}  # noqa: RUF012  # filled by the test, before it is made

    def __init__(self, name: str, parameters: AllTimeParameters, *, seed: int) -> None:
        self.name, self.parameters = name, parameters

    def tables(self) -> dict[str, Table]:
        return {}

    def learn(self, batch: Batch) -> F32:
        return np.array([self.expected[at] for at in batch.times_ms.tolist()], dtype=np.float32)

    def predict(self, batch: Batch) -> F32:
        return self.learn(batch)

    def score(self, user: UserView, items: I32) -> F32:
        return np.zeros(len(items), dtype=np.float32)


def evaluated(source: Source, name: str = "bias", **flags: object) -> Evaluation:
    return evaluate(name, settings(**flags), lambda: source, rank=False, progress=lambda done, of: None)


def simulated(world: World = SMALL) -> tuple[Source, Simulation]:
    stream = world.stream(catalogue_first=True)
    return StreamSource(stream), stream


def rows(stream: Simulation) -> list[Record]:
    """All records of a stream."""
    both = zip(stream.messages(0, len(stream)), stream.times_ms(0, len(stream)), strict=True)
    return [Record(sent.topic, -1, n, at, sent.key, sent.value) for n, (sent, at) in enumerate(both)]


def test_an_oracle_learner_has_no_regret_and_every_other_learner_has_some(monkeypatch: pytest.MonkeyPatch) -> None:
    source, stream = simulated()
    happened = stream.interactions.times_ms.tolist()
    monkeypatch.setattr(Oracle, "expected", dict(zip(happened, stream.expected.tolist(), strict=True)))
    monkeypatch.setitem(LEARNERS, "oracle", f"{__name__}:Oracle")
    best = evaluated(source, "oracle")
    assert best.oracle_rmse == pytest.approx(stream.oracle_rmse, abs=1e-5)
    assert best.regret == pytest.approx(0, abs=3e-3)  # but for being clipped to the ratings seen so far
    for name in ("bias", "biased-mf", "bayesian-hybrid"):
        found = evaluated(simulated()[0], name)
        assert found.oracle_rmse == best.oracle_rmse
        assert found.regret is not None
        assert found.rmse is not None
        assert found.rmse > (best.rmse or np.inf)
        assert found.regret > 0.05
        assert found.regret == pytest.approx(found.rmse - (best.oracle_rmse or 0), abs=0.05)  # some 900 ratings


def test_real_streams_have_no_regret_in_their_evaluation() -> None:
    found = evaluated(MemorySource(records(events(300))))
    assert found.rmse is not None
    assert found.oracle_rmse is found.regret is None


def test_ratings_without_an_expectation_are_left_out_wherever_they_come() -> None:
    stream = SMALL.stream(catalogue_first=True)
    world = rows(stream)
    plain = records([Rating("somebody", "i1", 3.0), Click("somebody", "i2"), Rating("somebody", "i3", 1.0)])
    mixed = [*world[:40], *plain, *world[40:]]  # the first rating of the first batch is a plain one
    found = evaluated(MemorySource([msgspec.structs.replace(record, offset=n) for n, record in enumerate(mixed)]))
    assert found.ratings == stream.rated.sum() + 2
    assert found.oracle_rmse == pytest.approx(stream.oracle_rmse, abs=1e-5)


def test_learning_is_the_same_with_and_without_expectations_in_the_events(tmp_path: Path) -> None:
    for name, truth in (("with", True), ("without", False)):
        learn(tmp_path / name, rows(SMALL.stream(truth=truth)))
    assert digest(tmp_path / "with") == digest(tmp_path / "without")


def test_the_service_shows_regret_while_it_runs_a_simulated_world(tmp_path: Path) -> None:
    with streamer(tmp_path / "d", "--simulate") as process:
        process.wait_for('streamer_oracle_rmse{window="10000"}', 0.7)
        process.wait_for('streamer_regret{learner="bayesian-hybrid",window="1000"}', 0.01)
        shown = process.metrics()
        assert 0.7 < shown['streamer_oracle_rmse{window="1000"}'] < 0.9
        assert not any("streamer_regret" in name and "skip-gram" in name for name in shown)


def test_a_file_of_a_simulated_world_is_evaluated_like_the_world(tmp_path: Path) -> None:
    stream, path = SMALL.stream(), tmp_path / "world.jsonl"
    path.write_bytes(b"\n".join(sent.value or b"" for sent in stream.messages(0, 9_999)))
    both = [evaluated(source) for source in (FileSource(path), simulated()[0])]
    first, second = (msgspec.structs.replace(found, events_per_second=None, wall_seconds=0) for found in both)
    assert first == second
    assert first.duplicates == first.dead_letters == 60
    assert first.regret is not None


def test_the_command_evaluates_a_simulated_world(tmp_path: Path) -> None:
    options = ("--simulate", "--learner", "bias", "--no-ranking")
    found = json.loads(run("evaluate", *options, "--json", cwd=tmp_path))
    assert found["events"] == 60_000
    assert found["oracle_rmse"] == pytest.approx(0.774, abs=1e-3)
    assert 0.1 < found["regret"] < 0.3
    assert f"{found['regret']:.4f}" in run("evaluate", *options, cwd=tmp_path)
