"""Automatic triggers of a renormalisation: the schedule, and a drift of the errors."""

import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from streamer.core.errors import StreamerError
from streamer.core.settings import RenormalisationSettings
from streamer.monitoring.monitor import WINDOWS, Errors
from streamer.storage import generations
from streamer.stream.memory import Memory


class Request(NamedTuple):
    """One request to the renormaliser."""

    action: str  # renormalise, or promote
    argument: str  # to renormalise: the trigger; to promote: the generation
    held: bool = False  # the stream waits for the swap, so there are no ratings to compare on
    candidate: str = ""  # how to train
    better: bool = False  # True: must be better than the live one, as all candidates of a trigger after the first


class Triggers:
    """Decides when a renormalisation is due. Only the renormaliser's thread calls it."""

    def __init__(self, chosen: RenormalisationSettings, folder: Path, memory: Memory) -> None:
        self._chosen, self._folder = chosen, folder
        self.reset(memory)

    def reset(self, memory: Memory) -> None:
        """Count time and drifts from now on; `memory` is the live generation's."""
        self._since_s, self._drifts, self._worse = time.monotonic(), _champion(memory).drift.detections, False
        self._cut_events = 0
        with suppress(StreamerError):  # for a record that cannot be read
            self._cut_events = generations.read_record(self._folder, memory.store.generation).cut_events

    def due(self, memory: Memory) -> str:
        """The trigger of the retraining that is due, "schedule" or "drift"; empty for none. Cost: some us."""
        chosen, since_s = self._chosen, time.monotonic() - self._since_s
        self._check_drift(_champion(memory))
        if memory.monitor.learned - self._cut_events < chosen.renormalise_min_events:
            return ""
        if chosen.renormalise_every_s is not None and since_s >= chosen.renormalise_every_s:
            return "schedule"
        drifted = chosen.renormalise_on_drift and self._worse
        return "drift" if drifted and since_s >= chosen.renormalise_min_interval_s else ""

    def _check_drift(self, errors: Errors) -> None:
        """ADWIN detects changes in both directions; only rising errors count, as errors fall while a stream is young."""
        if errors.drift.detections > self._drifts:
            self._drifts = errors.drift.detections
            self._worse = errors.rmse(min(WINDOWS)) > errors.rmse(max(WINDOWS))


def _champion(memory: Memory) -> Errors:
    """The errors of the ratings champion."""
    return memory.monitor.errors[memory.learners.champion("ratings").name]
