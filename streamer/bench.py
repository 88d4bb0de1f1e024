"""How fast this machine turns events into committed state: a simulated world through the log, the engine and the store.

The stream is made and appended beforehand, the catalogue first; kernels are loaded. The timed part runs from
reading the log (or Kafka) to the last commit, with commits at the service's interval and the error measured. The times of
the engine's parts come from a second pass over the same events, because the engine does not read the clock between its parts.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pkgutil import resolve_name
from typing import cast

import msgspec

from streamer.consumers import SOURCES
from streamer.core.errors import BadSettings, SourceUnavailable
from streamer.core.events import ITEMS, Message
from streamer.core.protocols import Sink, Source
from streamer.core.settings import SERVED_RECORDS, Settings
from streamer.models import learner
from streamer.producers import SINKS
from streamer.producers.simulate import World
from streamer.serving.opening import learners
from streamer.storage.log import EmbeddedLog, LogSource
from streamer.storage.state import RocksStore
from streamer.stream.engine import Engine, NullObserver
from streamer.stream.learners import Learners
from streamer.stream.memory import Memory

APPENDED = 1000  # events in an append
KAFKA_FIRST_S = 3.0  # how long to wait for events that the topics held before
STALLED_S = 60.0  # how long to wait for the next event


class Speed(msgspec.Struct, frozen=True):
    """Events a second of CPU time (of all threads of the process) and of wall time."""

    events: int
    events_per_second: float  # of CPU time
    events_per_second_wall: float


class Learned(msgspec.Struct, frozen=True):
    """The result of learning a stream, from the log to the committed state."""

    learners: list[str]
    dim: int | None
    speed: Speed
    rmse: float | None  # over the last 10,000 ratings; None without ratings
    parts_us: dict[str, float]  # CPU us an event by part of the engine; empty for Kafka


def world_messages(world: World) -> list[Message]:
    """All events of `world`, its catalogue first, as on a cold start that reads the catalogue first."""
    stream = world.stream(truth=False)
    messages = stream.messages(0, len(stream))
    messages.sort(key=lambda sent: sent.topic != ITEMS)
    return messages


class Watch:
    """Measures wall time and CPU time since it was made."""

    def __init__(self) -> None:
        self._began, self._cpu = time.perf_counter(), time.process_time()

    def speed(self, events: int) -> Speed:
        """The speed of this many events in that time."""
        wall, cpu = time.perf_counter() - self._began, time.process_time() - self._cpu
        return Speed(events, events / cpu, events / wall)


def append(sink: Sink, messages: Sequence[Message]) -> Speed:
    """Publish all messages durably, 1,000 at a time."""
    watch = Watch()
    for start in range(0, len(messages), APPENDED):
        sink.publish(messages[start : start + APPENDED])
    return watch.speed(len(messages))


def rating_champion(settings: Settings) -> Learners:
    """The ratings champion and no other learner."""
    learning = settings.learning
    made = learner(learning.rating_learner, seed=learning.seed, dim=learning.dim, latent_dim=learning.latent_dim)
    return Learners([made], {"ratings": made.name})


LEARNER_SETS: tuple[Callable[[Settings], Learners], ...] = (
    rating_champion,
    learners,
)  # the ratings champion only, then all learners of a service


def learn_log(log: EmbeddedLog, settings: Settings, made: Callable[[Settings], Learners], folder: Path) -> Learned:
    """Learn the whole log into a new state in `folder`, then once more into a temporary state, to time the parts."""
    source = LogSource(log)
    source.seek({})
    found = _learned(source, settings, made, log.end, folder)
    source.seek({})
    with tempfile.TemporaryDirectory(prefix="streamer-") as other, _memory(settings, made, Path(other)) as memory:
        return msgspec.structs.replace(found, parts_us=_parts(memory, source, settings))


def _learned(
    source: Source, settings: Settings, made: Callable[[Settings], Learners], events: int, folder: Path
) -> Learned:
    with _memory(settings, made, folder) as memory:
        watch = Watch()
        _drain(memory, source, settings, events)
        speed = watch.speed(events)
        errors = memory.monitor.errors[settings.learning.rating_learner]
        rmse = errors.rmse(10_000) if errors.ratings else None
        return Learned(list(memory.learners.by_name), settings.learning.dim, speed, rmse, {})


@contextmanager
def _memory(settings: Settings, made: Callable[[Settings], Learners], folder: Path) -> Iterator[Memory]:
    store = RocksStore(folder)
    try:
        yield Memory(made(settings), settings, store)
    finally:
        store.close()


def _drain(memory: Memory, source: Source, settings: Settings, events: int) -> None:
    interval_s = settings.state.commit_interval_s
    engine = Engine(
        source,
        memory,
        NullObserver(),
        max_records=settings.learning.max_records or SERVED_RECORDS,
        commit_interval_s=interval_s,
    )
    learned, due, since = 0, time.monotonic() + interval_s, time.monotonic()
    while learned < events:
        step = engine.step(0.1)
        learned += step
        now = time.monotonic()
        if now >= due:
            engine.commit()
            due = time.monotonic() + interval_s
        since = now if step else since
        if now - since > STALLED_S:
            raise SourceUnavailable(
                f"expected {events:,} events, and after {learned:,} none came for {STALLED_S:g} s: see the log of the broker"
            )
    engine.commit()


def _parts(memory: Memory, source: Source, settings: Settings) -> dict[str, float]:
    """CPU us an event of each step of the engine."""
    spent: dict[str, float] = {}
    last, events = time.process_time(), 0

    def charge(part: str) -> None:
        nonlocal last
        now = time.process_time()
        spent[part] = spent.get(part, 0.0) + now - last
        last = now

    due = time.monotonic() + settings.state.commit_interval_s
    while records := source.poll(settings.learning.max_records or SERVED_RECORDS, 0.0):
        charge("read")
        for part, batch in memory.encoder.encode(records, memory.commit):
            charge("decode and encode")
            predictions = {}
            for name, opinion in memory.learners.opinions(batch) if len(batch) else ():
                predictions[name] = opinion.predicted
                charge(f"learn {name}")
            memory.monitor.observe(batch, predictions)
            charge("observe")
            memory.ledger.advance(part)
            events += len(part)
        if time.monotonic() >= due:
            memory.commit()
            due = time.monotonic() + settings.state.commit_interval_s
            charge("commit")
    memory.commit()
    charge("commit")
    return {part: round(1e6 * seconds / events, 3) for part, seconds in spent.items()}


def learn_kafka(settings: Settings, messages: Sequence[Message]) -> tuple[Speed, list[Learned]]:
    """Publish to the broker of `settings`, then learn all of it with each of `LEARNER_SETS`; the topics must be empty.

    Raises BadSettings when they are not empty, SourceUnavailable when there is no broker.
    """
    kafka = settings.kafka
    source = cast(Source, resolve_name(SOURCES["kafka"])(kafka))
    sink = cast(Sink, resolve_name(SINKS["kafka"])(kafka))
    try:
        source.seek({})
        if source.poll(1, KAFKA_FIRST_S):
            raise BadSettings(
                f"the topics on {kafka.kafka} must be empty, but they hold events: use a broker without other data, as the bench writes to its topics"
            )
        published = append(sink, messages)
        found = []
        for made in LEARNER_SETS:
            source.seek({})
            with tempfile.TemporaryDirectory(prefix="streamer-") as folder:
                found.append(_learned(source, settings, made, len(messages), Path(folder)))
        return published, found
    finally:
        sink.close()
        source.close()
