"""Automatic triggers: the schedule and a drift, both only after enough new events."""

import time
from pathlib import Path

import numpy as np
import pytest
from learning import learn, records, settings

from streamer.app import open_generation
from streamer.core.events import Rating
from streamer.core.settings import RenormalisationSettings
from streamer.renormalise.shadow import OpenGeneration
from streamer.renormalise.triggers import Triggers
from streamer.storage import generations
from streamer.storage.generations import GenerationRecord, write_record
from streamer.stream.memory import Memory


@pytest.fixture
def live(tmp_path: Path) -> OpenGeneration:
    """A state that has learned 50 ratings."""
    flags = {"rating_learner": "biased-mf", "click_learner": "popularity"}
    learn(tmp_path, records([Rating(f"u{n}", "i", 3.0, n) for n in range(50)]), **flags)
    return open_generation(settings(data=str(tmp_path), **flags))


def occasions(live: OpenGeneration, **flags: object) -> Triggers:
    chosen: RenormalisationSettings = settings(
        **{"renormalise_every_s": 1e-6, "renormalise_min_interval_s": 0.0, "renormalise_min_events": 0, **flags}
    ).renormalisation
    return Triggers(chosen, live.memory.store.folder, live.memory)


def drift(memory: Memory) -> None:
    """Feed errors until another drift of the champion is detected."""
    errors, seen = memory.monitor.errors["biased-mf"], memory.monitor.errors["biased-mf"].drift.detections
    for level in (0.1, 9.0):
        errors.observe(np.full(3000, level))
    assert errors.drift.detections > seen


def test_the_schedule_is_due_after_its_period_and_starts_again(live: OpenGeneration) -> None:
    often, seldom = occasions(live), occasions(live, renormalise_every_s=3600.0)
    deadline = time.monotonic() + 60.0
    while not (why := often.due(live.memory)):
        assert time.monotonic() < deadline
    assert why == "schedule"
    assert seldom.due(live.memory) == ""
    assert occasions(live, renormalise_every_s=None).due(live.memory) == ""
    live.close()


def test_a_drift_triggers_once(live: OpenGeneration) -> None:
    found = occasions(live, renormalise_every_s=None)
    assert found.due(live.memory) == ""
    drift(live.memory)
    assert found.due(live.memory) == "drift"
    found.reset(live.memory)  # one was made
    assert found.due(live.memory) == ""
    drift(live.memory)
    assert found.due(live.memory) == "drift"
    live.close()


def test_falling_errors_do_not_trigger(live: OpenGeneration) -> None:
    found, errors = occasions(live, renormalise_every_s=None), live.memory.monitor.errors["biased-mf"]
    drift(live.memory)
    assert found.due(live.memory) == "drift"
    found.reset(live.memory)
    seen = errors.drift.detections
    errors.observe(np.full(3000, 0.1))
    assert errors.drift.detections > seen
    assert found.due(live.memory) == ""
    live.close()


def test_a_drift_does_not_trigger_when_switched_off_or_too_soon(live: OpenGeneration) -> None:
    none = occasions(live, renormalise_every_s=None, renormalise_on_drift=False)
    soon = occasions(live, renormalise_every_s=None, renormalise_min_interval_s=3600.0)
    drift(live.memory)
    assert none.due(live.memory) == soon.due(live.memory) == ""
    live.close()


def test_too_few_events_since_the_cut_trigger_nothing(live: OpenGeneration) -> None:
    folder = live.memory.store.folder
    assert occasions(live, renormalise_min_events=51).due(live.memory) == ""
    assert occasions(live, renormalise_min_events=50).due(live.memory) == "schedule"
    write_record(folder, GenerationRecord(id=generations.FIRST, cut_events=20).at_stage("live"))
    assert occasions(live, renormalise_min_events=31).due(live.memory) == ""
    assert occasions(live, renormalise_min_events=30).due(live.memory) == "schedule"
    live.close()


def test_an_unreadable_record_stops_no_trigger(live: OpenGeneration) -> None:
    where = generations.generation_folder(live.memory.store.folder, generations.FIRST)
    where.mkdir(parents=True)
    (where / "life.json").write_bytes(b"{")
    assert occasions(live).due(live.memory) == "schedule"
    live.close()
