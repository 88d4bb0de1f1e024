"""The occasions of a renormalisation that nobody has to ask for: the schedule, and a drift of the errors."""

import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from streamer.core.errors import StreamerError
from streamer.core.settings import RenormalisationSettings
from streamer.monitoring.monitor import WINDOWS, Errors
from streamer.storage import generations
from streamer.stream.memory import Memory


class Asked(NamedTuple):
    """What somebody wants."""

    what: str  # renormalise, or promote
    of: str  # the trigger; the generation
    held: bool = False  # the stream waits for the swap: there is nothing to compare on
    candidate: str = ""  # what to train on
    better: bool = False  # of the candidates of one occasion the first must not be worse, the others better


class Triggers:
    """Says when it is time. The renormaliser's thread alone calls it."""

    def __init__(self, chosen: RenormalisationSettings, folder: Path, memory: Memory) -> None:
        self._chosen, self._folder = chosen, folder
        self.begin(memory)

    def begin(self, memory: Memory) -> None:
        """Count time and drifts from now on, of the memory that answers now."""
        self._since_s, self._drifts, self._worse = time.monotonic(), _champion(memory).drift.detections, False
        self._cut_events = 0
        with suppress(StreamerError):  # a record that nobody can read
            self._cut_events = generations.read_record(self._folder, memory.store.generation).cut_events

    def due(self, memory: Memory) -> str:
        """Why it is time for a retraining; empty if it is not. Cost: some us."""
        chosen, since_s = self._chosen, time.monotonic() - self._since_s
        self._look(_champion(memory))
        if memory.monitor.learned - self._cut_events < chosen.renormalise_min_events:
            return ""
        if chosen.renormalise_every_s is not None and since_s >= chosen.renormalise_every_s:
            return "schedule"
        drifted = chosen.renormalise_on_drift and self._worse
        return "drift" if drifted and since_s >= chosen.renormalise_min_interval_s else ""

    def _look(self, errors: Errors) -> None:
        """ADWIN finds a change either way; errors that fall, as they do while a stream is young, ask for nothing."""
        if errors.drift.detections > self._drifts:
            self._drifts = errors.drift.detections
            self._worse = errors.rmse(min(WINDOWS)) > errors.rmse(max(WINDOWS))


def _champion(memory: Memory) -> Errors:
    return memory.monitor.errors[memory.learners.champion("ratings").name]
