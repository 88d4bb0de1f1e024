"""The state of the generations for the metrics: the live one, the one being made, and the last that was made."""

import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from streamer.core.settings import RenormalisationSettings
from streamer.monitoring.metrics import GenerationReadings
from streamer.renormalise.stages import Stages
from streamer.storage import generations
from streamer.storage.generations import GenerationRecord, Stage
from streamer.stream.memory import Memory

_TRAINING = ("read", "train", "write")
_STEP: Mapping[Stage, str] = {"trained": "catch up", "catching up": "catch up", "gate": "gate", "live": "watch"}


def generation_readings(stages: Stages, memory: Memory, chosen: RenormalisationSettings) -> GenerationReadings:
    """The readings of this moment, from any thread; `memory` is the live generation's.

    Cost: some us; for each generation a small file is read once.
    """
    began_ms, cut_events = _cut(memory.store.folder, memory.store.generation)
    current = stages.current
    shown = current if current is not None and current.scores else stages.last
    return GenerationReadings(
        age_s=max(0.0, time.time() - began_ms / 1000),
        events=memory.monitor.learned - cut_events,
        step=step(current, stages.progress.step),
        outcomes=dict(stages.outcomes),
        shown=shown if shown is not None and shown.parent else None,
        every_s=chosen.renormalise_every_s,
        min_events=chosen.renormalise_min_events,
    )


@lru_cache(maxsize=8)  # a cut never changes, so a scrape need not read the file again
def _cut(folder: Path, generation: str) -> tuple[int, int]:
    """The time of a generation's cut, in milliseconds since 1970, and the events learned before it."""
    record = generations.read_record(folder, generation)
    return generations.made_at_ms(folder, record), record.cut_events


def step(current: GenerationRecord | None, training: str) -> str:
    """The step of metrics.STEPS that `current` is in; `training` is the step that the training process reports."""
    if current is None:
        return ""
    if current.stage == "cut":
        return training if training in _TRAINING else "write" if training == "done" else "cut"
    return _STEP.get(current.stage, "")
