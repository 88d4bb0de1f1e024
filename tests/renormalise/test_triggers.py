"""When a renormalisation begins by itself: the schedule and a drift, each no sooner than it is worth it."""

import time
from pathlib import Path

import numpy as np
import pytest
from learning import learn, records, settings

from streamer.app import opened
from streamer.core.events import Rating
from streamer.core.settings import RenormalisationSettings
from streamer.renormalise.shadow import Live
from streamer.renormalise.triggers import Triggers
from streamer.storage import generations
from streamer.storage.generations import GenerationRecord, write_record
from streamer.stream.memory import Memory


@pytest.fixture
def live(tmp_path: Path) -> Live:
    """A state that has learned 50 ratings."""
    flags = {"rating_learner": "biased-mf", "click_learner": "popularity"}
    learn(tmp_path, records([Rating(f"u{n}", "i", 3.0, n) for n in range(50)]), **flags)
    return opened(settings(data=str(tmp_path), **flags))


def occasions(live: Live, **flags: object) -> Triggers:
    chosen: RenormalisationSettings = settings(
        **{"renormalise_every_s": 1e-6, "renormalise_min_interval_s": 0.0, "renormalise_min_events": 0, **flags}
    ).renormalisation
    return Triggers(chosen, live.memory.store.folder, live.memory)


def drift(memory: Memory) -> None:
    """Until the errors of the champion have drifted once more."""
    errors, seen = memory.monitor.errors["biased-mf"], memory.monitor.errors["biased-mf"].drift.detections
    for level in (0.1, 9.0):
        errors.observe(np.full(3000, level))
    assert errors.drift.detections > seen


def test_the_schedule_comes_round_and_begins_anew(live: Live) -> None:
    often, seldom = occasions(live), occasions(live, renormalise_every_s=3600.0)
    deadline = time.monotonic() + 60.0
    while not (why := often.due(live.memory)):
        assert time.monotonic() < deadline
    assert why == "schedule"
    assert seldom.due(live.memory) == ""
    assert occasions(live, renormalise_every_s=None).due(live.memory) == ""
    live.close()


def test_a_drift_is_an_occasion_once(live: Live) -> None:
    found = occasions(live, renormalise_every_s=None)
    assert found.due(live.memory) == ""
    drift(live.memory)
    assert found.due(live.memory) == "drift"
    found.begin(live.memory)  # one was made
    assert found.due(live.memory) == ""
    drift(live.memory)
    assert found.due(live.memory) == "drift"
    live.close()


def test_errors_that_fall_are_no_occasion(live: Live) -> None:
    found, errors = occasions(live, renormalise_every_s=None), live.memory.monitor.errors["biased-mf"]
    drift(live.memory)
    assert found.due(live.memory) == "drift"
    found.begin(live.memory)
    seen = errors.drift.detections
    errors.observe(np.full(3000, 0.1))
    assert errors.drift.detections > seen
    assert found.due(live.memory) == ""
    live.close()


def test_a_drift_is_none_where_it_is_not_wanted_or_too_soon(live: Live) -> None:
    none = occasions(live, renormalise_every_s=None, renormalise_on_drift=False)
    soon = occasions(live, renormalise_every_s=None, renormalise_min_interval_s=3600.0)
    drift(live.memory)
    assert none.due(live.memory) == soon.due(live.memory) == ""
    live.close()


def test_events_since_the_cut_of_the_live_one_must_be_worth_it(live: Live) -> None:
    folder = live.memory.store.folder
    assert occasions(live, renormalise_min_events=51).due(live.memory) == ""
    assert occasions(live, renormalise_min_events=50).due(live.memory) == "schedule"
    write_record(folder, GenerationRecord(id=generations.FIRST, cut_events=20).at_stage("live"))
    assert occasions(live, renormalise_min_events=31).due(live.memory) == ""
    assert occasions(live, renormalise_min_events=30).due(live.memory) == "schedule"
    live.close()


def test_a_record_that_nobody_can_read_stops_nothing(live: Live) -> None:
    where = generations.generation_folder(live.memory.store.folder, generations.FIRST)
    where.mkdir(parents=True)
    (where / "life.json").write_bytes(b"{")
    assert occasions(live).due(live.memory) == "schedule"
    live.close()
