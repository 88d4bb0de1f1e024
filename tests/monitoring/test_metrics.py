"""The metrics page: complete from the start, right in its counts, and accepted by the real promtool."""

import subprocess
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from streamer.core.answers import ArchiveStatus, Refusal, Score
from streamer.core.batch import RATING
from streamer.core.errors import Reason
from streamer.core.events import Record
from streamer.monitoring.metrics import CODES, STEPS, GenerationReadings, Histogram, Metrics, Readings
from streamer.monitoring.monitor import RESTATED, Monitor
from streamer.monitoring.stability import Reading
from streamer.renormalise.status import step
from streamer.storage.generations import GenerationRecord, Stage

METHODS = ("Recommend", "Predict", "Publish")
Series = dict[str, float]


GENERATIONS = GenerationReadings(
    age_s=600.0,
    events=70,
    step="",
    outcomes={"promoted": 0, "rejected": 0, "rolled back": 0, "failed": 0},
    shown=None,
    every_s=86400.0,
    min_events=10_000,
)


def made(monitor: Monitor | None = None, generations: GenerationReadings = GENERATIONS) -> Metrics:
    readings = Readings(
        generation="g1",
        monitor=monitor or Monitor([("bias", "ratings"), ("skip-gram", "clicks")]),
        lag=lambda: {"ratings": {0: 7, 1: 0}, "clicks": {0: 1}},
        log_bytes=lambda: 4096,
        archive=lambda: ArchiveStatus(2048, 30, 4),
        users_cached=lambda: 5,
        users_forgotten=lambda: 3,
        user_evictions=lambda: 2,
        items=lambda: 9,
        champions=lambda: [("bias", "ratings", True), ("biased-mf", "ratings", False)],
        ingestion_up=lambda: True,
        damaged_files=lambda: {"archive": 2, "generations": 0},
        refused=lambda: {"bias": 3},
        norms=lambda: [Reading("bias", "user", "p50", 0.25)],
        widths=lambda: [Reading("bias", "item", "bias", 0.5)],
        generations=lambda: generations,
    )
    return Metrics(lambda: readings, METHODS, "1.2.3")


def page(metrics: Metrics) -> Series:
    text, kind = metrics.render()
    assert kind.startswith("text/plain; version=0.0.4")
    lines = [line.rpartition(" ") for line in text.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_promtool_finds_no_fault(promtool: str) -> None:
    metrics = made()
    metrics.commit(0.1)
    metrics.request("Recommend", "ok", 0.001)
    done = subprocess.run([promtool, "check", "metrics"], input=metrics.render()[0], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_every_known_label_value_has_a_series_before_the_first_event() -> None:
    series = page(made())
    for topic in ("ratings", "clicks", "items", "users"):
        for outcome in ("learned", "duplicate", "dead_letter"):
            assert series[f'streamer_events_total{{outcome="{outcome}",topic="{topic}"}}'] == 0
        for what in RESTATED:
            assert series[f'streamer_restated_events_total{{topic="{topic}",what="{what}"}}'] == 0
    for reason in Reason:
        assert series[f'streamer_dead_letters_total{{reason="{reason}"}}'] == 0
    for window in ("1000", "10000"):
        assert np.isnan(series[f'streamer_rolling_rmse{{learner="bias",window="{window}"}}'])
    assert series['streamer_drift_detections_total{detector="adwin",generation="g1",learner="bias"}'] == 0
    assert not any("skip-gram" in name for name in series)
    for method in METHODS:
        for code in CODES:
            assert series[f'streamer_request_seconds_count{{code="{code}",method="{method}"}}'] == 0
    assert series["streamer_commit_seconds_count"] == 0
    assert series["streamer_event_to_answer_seconds_count"] == 0


def test_readings_are_read_at_each_scrape() -> None:
    series = page(made())
    assert series['streamer_consumer_lag_events{partition="0",topic="ratings"}'] == 7
    assert series['streamer_consumer_lag_events{partition="1",topic="ratings"}'] == 0
    assert series["streamer_log_bytes"] == 4096
    assert [series[f"streamer_archive_{what}"] for what in ("bytes", "events", "lag_events")] == [2048, 30, 4]
    assert series["streamer_users_cached"] == 5
    assert series['streamer_user_evictions_total{generation="g1"}'] == 2
    assert series['streamer_users_forgotten_for_age_total{generation="g1"}'] == 3
    assert series["streamer_items"] == 9
    assert series["streamer_ingestion_up"] == 1
    assert series['streamer_steps_refused_total{generation="g1",learner="bias"}'] == 3
    assert series['streamer_row_norm{at="p50",learner="bias",side="user"}'] == 0.25
    assert series['streamer_posterior_width{learner="bias",of="bias",side="item"}'] == 0.5
    assert series['streamer_champion{kind="ratings",learner="bias"}'] == 1
    assert series['streamer_champion{kind="ratings",learner="biased-mf"}'] == 0
    assert series['streamer_build_info{version="1.2.3"}'] == 1
    assert series["process_resident_memory_bytes"] > 0


def test_the_monitors_numbers_are_shown() -> None:
    monitor = Monitor([("bias", "ratings")])
    monitor.errors["bias"].observe(np.asarray([1.0, 4.0, np.nan]))
    monitor.dead_letter("clicks", Reason.NOT_JSON)
    monitor.repeated_input.observe(np.array([True, False, True]))
    monitor.unlikely_times.observe(np.array([True, False, True]), np.array([5, 1_700_000_000_000, 6]))
    monitor.unknown_kinds.observe(["wink", "Wink", *(f'"{n}"' for n in range(100))])
    series = page(made(monitor))
    assert series['streamer_unknown_kinds_total{kind="wink"}'] == 2
    assert series['streamer_unknown_kinds_total{kind="other"}'] == 81  # producers cannot create labels without end
    assert series['streamer_rolling_rmse{learner="bias",window="1000"}'] == pytest.approx(2.5**0.5)
    assert series['streamer_squared_error_total{generation="g1",learner="bias"}'] == 5
    assert series['streamer_ratings_predicted_total{generation="g1",learner="bias"}'] == 2
    assert series['streamer_ratings_unpredicted_total{generation="g1",learner="bias"}'] == 1
    assert series['streamer_dead_letters_total{reason="not_json"}'] == 1
    assert series["streamer_refed_events_total"] == 2
    assert series["streamer_unlikely_times_total"] == 2
    assert series['streamer_events_total{outcome="dead_letter",topic="clicks"}'] == 1


def test_regret_is_shown_from_the_first_simulated_rating_on() -> None:
    monitor = Monitor([("bias", "ratings")])
    metrics = made(monitor)
    assert not any("regret" in name or "oracle" in name for name in page(metrics))
    record = Record("ratings", -1, 0, 0, b"u", b'{"user_id":"u","item_id":"i","rating":4,"expected":3}')
    monitor.regret.note_expected([record], np.array([RATING], np.uint8))
    monitor.regret.observe(np.asarray([4.0]), {"bias": np.asarray([5.0])})
    series = page(metrics)
    for window in ("1000", "10000"):
        assert series[f'streamer_oracle_rmse{{window="{window}"}}'] == 1
        assert series[f'streamer_regret{{learner="bias",window="{window}"}}'] == pytest.approx(5**0.5 - 1)


def test_the_live_generation_is_shown_and_all_outcomes_are_0_before_the_first_renormalisation() -> None:
    series = page(made())
    assert series['streamer_generation_info{generation="g1"}'] == 1
    assert series["streamer_generation_age_seconds"] == 600
    assert series["streamer_generation_events"] == 70
    assert series["streamer_renormalise_every_seconds"] == 86400
    assert series["streamer_renormalise_min_events"] == 10_000
    for outcome in ("promoted", "rejected", "rolled_back", "failed"):
        assert series[f'streamer_renormalisations_total{{outcome="{outcome}"}}'] == 0
    for stage in ("cut", "read", "train", "write", "catch_up", "gate", "swap", "watch"):
        assert series[f'streamer_renormalisation_stage{{stage="{stage}"}}'] == 0
    assert not any(name.startswith("streamer_renormalisation_rmse") for name in series)
    never = page(made(generations=replace(GENERATIONS, every_s=None)))
    assert "streamer_renormalise_every_seconds" not in never, "no alert without a schedule"


def test_a_renormalisation_is_shown_by_step_learner_and_measure() -> None:
    score = Score(learner="bias", ratings=2000, before_rmse=0.9, after_rmse=0.8, difference=-0.17)
    record = GenerationRecord(
        id="g2",
        parent="g1",
        seconds={"train": 12.5, "catch up": 3.0},
        scores=(score,),
        watched=(msgspec.structs.replace(score, after_rmse=0.85),),
        churn={"bias top_ten_overlap": 0.75},
    )
    outcomes = {**GENERATIONS.outcomes, "rolled back": 2}
    series = page(made(generations=replace(GENERATIONS, step="catch up", outcomes=outcomes, shown=record)))
    assert [
        stage for stage in STEPS if series[f'streamer_renormalisation_stage{{stage="{stage.replace(" ", "_")}"}}']
    ] == ["catch up"]
    assert series['streamer_renormalisations_total{outcome="rolled_back"}'] == 2
    assert series['streamer_renormalisation_step_seconds{step="train"}'] == 12.5
    assert series['streamer_renormalisation_step_seconds{step="catch_up"}'] == 3
    for at, of, rmse in (("gate", "before", 0.9), ("gate", "after", 0.8), ("watch", "after", 0.85)):
        assert series[f'streamer_renormalisation_rmse{{at="{at}",learner="bias",of="{of}"}}'] == rmse
    assert series['streamer_renormalisation_churn{learner="bias",measure="top_ten_overlap"}'] == 0.75


@pytest.mark.parametrize(
    ("stage", "training", "shown"),
    [
        ("cut", "", "cut"), ("cut", "train", "train"), ("cut", "done", "write"), ("trained", "done", "catch up"),
        ("catching up", "", "catch up"), ("gate", "", "gate"), ("live", "", "watch"), ("rejected", "", ""),
    ],
)  # fmt: skip
def test_every_stage_maps_to_a_step(stage: Stage, training: str, shown: str) -> None:
    assert step(GenerationRecord(id="g1").at_stage(stage), training) == shown
    assert step(None, training) == ""


def test_times_added_together_or_one_by_one_fall_into_the_same_buckets() -> None:
    edges = (0.001, 0.01, 0.1)
    times = np.asarray([0.0005, 0.001, 0.0011, 0.01, 0.05, 0.1, 0.2, -3.0])
    together, apart = Histogram(edges), Histogram(edges)
    together.observe(times)
    for time in times.tolist():
        apart.observe(time)
    assert together.read()[0] == apart.read()[0] == [("0.001", 3), ("0.01", 5), ("0.1", 7), ("+Inf", 8)]
    assert together.read()[1] == pytest.approx(0.3626)


def test_times_go_to_their_own_histogram() -> None:
    metrics = made()
    metrics.commit(0.02)
    metrics.event_to_answer(np.asarray([0.2, 0.3]))
    metrics.event_to_answer(np.empty(0))
    metrics.request("Predict", "ok", 0.0004)
    series = page(metrics)
    assert series["streamer_commit_seconds_sum"] == 0.02
    assert series['streamer_commit_seconds_bucket{le="0.01"}'] == 0
    assert series['streamer_commit_seconds_bucket{le="0.025"}'] == 1
    assert series["streamer_event_to_answer_seconds_count"] == 2
    assert series["streamer_event_to_answer_seconds_sum"] == 0.5
    assert series['streamer_request_seconds_bucket{code="ok",le="0.0005",method="Predict"}'] == 1
    assert series['streamer_request_seconds_bucket{code="ok",le="0.00025",method="Predict"}'] == 0


def test_what_the_endpoint_refuses_is_counted_by_reason() -> None:
    metrics = made()
    metrics.refused(Refusal.FLOOD)
    series = page(metrics)
    assert series['streamer_http_refused_total{reason="flood"}'] == 1
    assert series['streamer_http_refused_total{reason="no_head"}'] == 0


def test_clients_cannot_create_method_labels() -> None:
    metrics = made()
    for k in range(100):
        metrics.request(f"Made/Up{k}", "unimplemented", 0.001)
    series = page(metrics)
    assert series['streamer_request_seconds_count{code="unimplemented",method="other"}'] == 100
    assert not any("Made" in name for name in series)


def test_every_metric_is_documented() -> None:
    text = Path("docs/metrics.md").read_text(encoding="utf-8")
    types = [line.split()[2] for line in made().render()[0].decode().splitlines() if line.startswith("# TYPE")]
    ours = {name for name in types if name.startswith("streamer_")}
    assert len(ours) > 15
    assert {name for name in ours if f"`{name}" not in text} == set()
