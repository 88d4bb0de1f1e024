"""`streamer bench` runs and reports all figures; their values depend on the machine and are not tested."""

import json
from pathlib import Path

import pytest
from process import run


def test_a_tiny_run_measures_everything_and_keeps_nothing(tmp_path: Path) -> None:
    size = ("--events", "2000", "--users", "50", "--items", "30", "--seconds", "2", "--rate", "500")
    printed = run("bench", *size, "--json", cwd=tmp_path)
    assert printed.count("\n") == 1
    found = json.loads(printed)
    alone, serving = found["learned"]
    assert alone["learners"] == ["biased-mf"]
    assert serving["learners"] == [
        "biased-mf", "transitions", "neighbours", "skip-gram", "popularity-now",
        "popularity-recent", "popularity", "repeats", "click-blend",
    ]  # fmt: skip
    for learned in (alone, serving):
        assert learned["dim"] == 64
        assert learned["speed"]["events"] == 2030  # the catalogue too
        assert learned["speed"]["events_per_second"] > 0
        assert learned["parts_us"].keys() >= {"read", "decode and encode", "learn biased-mf", "observe", "commit"}
    assert alone["rmse"] == pytest.approx(serving["rmse"], abs=0)  # the same events, learned the same way
    assert 0 < found["start_s"] < 60
    assert 0 < found["start_with_state_s"] < 60
    asked = found["recommend"]
    assert asked["requests"] > 0
    assert 0 < asked["p50_ms"] <= asked["p99_ms"] <= asked["largest_ms"]
    assert asked["learned_per_second"] > 0
    assert found["kafka_learned"] == []
    assert found["compile_s"] is None
    assert list(tmp_path.iterdir()) == []


def test_a_bad_setting_gives_a_sentence(tmp_path: Path) -> None:
    said = run("bench", "--rating-learner", "biased-fm", "--events", "1000", "--no-serve", code=78, cwd=tmp_path)
    assert "no learner 'biased-fm'; choose one of" in said
