"""How fast events become committed state, on this machine: a simulated world through the log, the engine and the store.

The stream is made and appended beforehand, the catalogue first; kernels are loaded. What is timed is everything from
reading the log (or Kafka) to the last commit, with commits on the service's timer and the error measured. The parts are
of a second pass over the same events, because looking at a watch between them is not what the engine does.
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

APPENDED = 1000  # events an append
KAFKA_FIRST_S = 3.0  # how long to look for events that were there before
STALLED_S = 60.0  # how long to wait for the next event


class Speed(msgspec.Struct, frozen=True):
    """Events a second, of the CPU that all threads of the process used and of the time that passed."""

    events: int
    events_per_second: float  # CPU
    events_per_second_wall: float


class Learned(msgspec.Struct, frozen=True):
    """From the log to the committed state."""

    learners: list[str]
    dim: int | None
    speed: Speed
    rmse: float | None  # over the last 10,000 ratings
    parts_us: dict[str, float]  # CPU us an event; not taken through Kafka


def world_messages(world: World) -> list[Message]:
    """Everything that happens in `world`, its catalogue first, as where a catalogue is read before a cold start."""
    stream = world.stream(truth=False)
    messages = stream.messages(0, len(stream))
    messages.sort(key=lambda sent: sent.topic != ITEMS)
    return messages


class Watch:
    """Time since it was made, on the clock and of CPU."""

    def __init__(self) -> None:
        self._began, self._cpu = time.perf_counter(), time.process_time()

    def speed(self, events: int) -> Speed:
        """So many events in that time."""
        wall, cpu = time.perf_counter() - self._began, time.process_time() - self._cpu
        return Speed(events, events / cpu, events / wall)


def append(sink: Sink, messages: Sequence[Message]) -> Speed:
    """Publish all of them, durably, in runs of 1,000."""
    watch = Watch()
    for start in range(0, len(messages), APPENDED):
        sink.publish(messages[start : start + APPENDED])
    return watch.speed(len(messages))


def alone(settings: Settings) -> Learners:
    """The champion for ratings and nothing else."""
    learning = settings.learning
    made = learner(learning.rating_learner, seed=learning.seed, dim=learning.dim, latent_dim=learning.latent_dim)
    return Learners([made], {"ratings": made.name})


LEARNED_BY: tuple[Callable[[Settings], Learners], ...] = (alone, learners)  # the ratings learner, and all that serve


def learn_log(log: EmbeddedLog, settings: Settings, made: Callable[[Settings], Learners], folder: Path) -> Learned:
    """Learn all of the log into a new state in `folder`, and once more, part by part, into one that goes away."""
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
            raise SourceUnavailable(f"wanted {events:,} events, and nothing came after {learned:,} for {STALLED_S:g} s")
    engine.commit()


def _parts(memory: Memory, source: Source, settings: Settings) -> dict[str, float]:
    """CPU us an event of each step of the engine."""
    spent: dict[str, float] = {}
    last, events = time.process_time(), 0

    def booked(part: str) -> None:
        nonlocal last
        now = time.process_time()
        spent[part] = spent.get(part, 0.0) + now - last
        last = now

    due = time.monotonic() + settings.state.commit_interval_s
    while records := source.poll(settings.learning.max_records or SERVED_RECORDS, 0.0):
        booked("read")
        for part, batch in memory.encoder.encode(records, memory.commit):
            booked("decode and encode")
            predictions = {}
            for name, said in memory.learners.opinions(batch) if len(batch) else ():
                predictions[name] = said.predicted
                booked(f"learn {name}")
            memory.monitor.observe(batch, predictions)
            booked("observe")
            memory.ledger.advance(part)
            events += len(part)
        if time.monotonic() >= due:
            memory.commit()
            due = time.monotonic() + settings.state.commit_interval_s
            booked("commit")
    memory.commit()
    booked("commit")
    return {part: round(1e6 * seconds / events, 3) for part, seconds in spent.items()}


def learn_kafka(settings: Settings, messages: Sequence[Message]) -> tuple[Speed, list[Learned]]:
    """Publish to the broker of `settings`, then learn all of it by each of `LEARNED_BY`; the topics must be empty.

    Raises BadSettings where they are not, SourceUnavailable where there is no broker.
    """
    kafka = settings.kafka
    source = cast(Source, resolve_name(SOURCES["kafka"])(kafka))
    sink = cast(Sink, resolve_name(SINKS["kafka"])(kafka))
    try:
        source.seek({})
        if source.poll(1, KAFKA_FIRST_S):
            raise BadSettings(
                f"the topics on {kafka.kafka} hold events already: give a broker of its own, the bench writes to its topics"
            )
        published = append(sink, messages)
        found = []
        for made in LEARNED_BY:
            source.seek({})
            with tempfile.TemporaryDirectory(prefix="streamer-") as folder:
                found.append(_learned(source, settings, made, len(messages), Path(folder)))
        return published, found
    finally:
        sink.close()
        source.close()
