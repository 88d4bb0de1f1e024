"""The overview of a running streamer: its status, and the readings of its metrics."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from streamer import __version__
from streamer.core.answers import (
    ArchiveStatus,
    DeadLetterCount,
    DriftDetections,
    EventCount,
    LearnerStatus,
    NextOffset,
    PartitionLag,
    RollingRmse,
    Status,
)
from streamer.core.freshness import Freshness
from streamer.core.protocols import Source
from streamer.core.settings import Settings
from streamer.monitoring.drift import DETECTOR
from streamer.monitoring.metrics import Readings
from streamer.monitoring.monitor import WINDOWS
from streamer.monitoring.scale import SCALE
from streamer.monitoring.stability import Stability
from streamer.renormalise.renormaliser import Renormaliser
from streamer.renormalise.status import generation_readings
from streamer.storage.archive.archiver import Archiver
from streamer.storage.log import EmbeddedLog
from streamer.stream.memory import Memory


class Health(NamedTuple):
    """What is wrong, of the process and of its files."""

    ready: Callable[[], tuple[bool, str]]  # see Answers
    damaged_files: Callable[[], Mapping[str, int]]  # by part


class Overview:
    """Reads the state of all parts. May be called from any thread."""

    def __init__(
        self,
        settings: Settings,
        memory: Callable[[], Memory],
        source: Source,
        log: EmbeddedLog | None,
        archiver: Archiver | None,
        renormaliser: Renormaliser,
        freshness: Freshness,
        health: Health,
    ) -> None:
        """`memory` returns the memory of the live generation."""
        self._settings, self._memory, self._source, self._log = settings, memory, source, log
        self._archiver, self._renormaliser, self._freshness, self._health = archiver, renormaliser, freshness, health
        self._started_ms = time.time_ns() // 1_000_000

    def status(self) -> Status:
        """See Answers."""
        memory = self._memory()
        monitor = memory.monitor
        ready, sentence = self._health.ready()
        lag = self._source.lag()
        behind = sum(count for partitions in lag.values() for count in partitions.values())
        return Status(
            version=__version__,
            state="paused" if not ready else "learning" if behind else "up to date",
            ingestion=sentence,
            started_ms=self._started_ms,
            uptime_s=time.time() - self._started_ms / 1000,
            generation=memory.store.generation,
            learners=tuple(self._learner(name) for name in memory.learners.by_name),
            events=tuple(
                EventCount(topic, what, n) for topic, counts in monitor.events.items() for what, n in counts.items()
            ),
            dead_letters=tuple(DeadLetterCount(reason, count) for reason, count in monitor.dead_letters.items()),
            lag=tuple(
                PartitionLag(topic, partition, n) for topic, counts in lag.items() for partition, n in counts.items()
            ),
            offsets=tuple(NextOffset(*at, offset) for at, offset in self._freshness.offsets.items()),
            users=memory.users.count,
            items=len(memory.items),
            state_bytes=memory.store.size_bytes,
            log_bytes=self._log.size_bytes if self._log else 0,
            archive=self._archiver.status() if self._archiver else None,
            renormalisation=self._renormaliser.describe(),
        )

    def _learner(self, name: str) -> LearnerStatus:
        found = self._memory().learners.by_name[name]
        errors = self._memory().monitor.errors.get(name)
        rmse = tuple(RollingRmse(n, _finite(errors.rmse(n))) for n in WINDOWS) if errors else ()
        monitor = self._memory().monitor
        counts = ((DETECTOR, errors.drift.detections), (SCALE, monitor.scale.changes)) if errors else ()
        drift = tuple(DriftDetections(detector, count) for detector, count in counts)
        champion = self._memory().learners.champion(found.kind).name == name
        promoted = name in self._memory().learners.promoted.values()
        return LearnerStatus(name, found.kind, champion, rmse, drift, promoted)

    def readings(self) -> Readings:
        """The readings for one scrape, all of one generation."""
        memory = self._memory()  # read once, as a swap may replace it meanwhile
        stability = Stability(memory.learners.by_name, memory.users.sample, memory.items)
        return Readings(
            generation=memory.store.generation,
            monitor=memory.monitor,
            lag=self._source.lag,
            log_bytes=lambda: self._log.size_bytes if self._log else 0,
            archive=lambda: self._archiver.status() if self._archiver else ArchiveStatus(),
            users_cached=lambda: memory.users.cached,
            users_forgotten=lambda: memory.users.forgotten_for_age,
            user_evictions=lambda: memory.users.evictions,
            items=lambda: len(memory.items),
            ingestion_up=lambda: self._health.ready()[0],
            damaged_files=self._health.damaged_files,
            refused=stability.refused,
            norms=stability.norms,
            widths=stability.widths,
            champions=self._champions,
            generations=lambda: generation_readings(self._renormaliser.stages, memory, self._settings.renormalisation),
        )

    def _champions(self) -> list[tuple[str, str, bool]]:
        learners = self._memory().learners
        return [(name, one.kind, learners.champion(one.kind).name == name) for name, one in learners.by_name.items()]


def _finite(value: float) -> float | None:
    return None if np.isnan(value) else value
