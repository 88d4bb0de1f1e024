"""Sources on a real broker: opened, read until they have what is expected, and administered beside."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from kafka import KafkaAdminClient

from streamer.consumers.kafka import KafkaSource
from streamer.core.errors import SourceUnavailable
from streamer.core.events import Message, Offsets, Record, TopicPartition, sequence_of
from streamer.core.settings import KafkaSettings
from streamer.producers.kafka import KafkaSink

DEADLINE_S = 60.0


@contextmanager
def opened(at: str, offsets: Offsets | None = None, **settings: object) -> Iterator[KafkaSource]:
    """A source after its first seek, as soon as the broker allows it."""
    source = KafkaSource(KafkaSettings(kafka=at, **settings))  # type: ignore[arg-type]  # any setting
    try:
        source.seek(offsets or {})
        yield source
    finally:
        source.close()


def refused(at: str, offsets: Offsets | None = None, **settings: object) -> None:
    """A seek that must raise."""
    with opened(at, offsets, **settings):
        pass


@contextmanager
def admin(at: str) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(bootstrap_servers=at, bootstrap_timeout_ms=10_000)
    try:
        yield client
    finally:
        client.close()


def until(source: KafkaSource, done: Callable[[list[Record]], bool], max_records: int = 500) -> list[Record]:
    """Poll until there are enough records."""
    records: list[Record] = []
    deadline = time.monotonic() + DEADLINE_S
    while not done(records):
        assert time.monotonic() < deadline, f"{len(records)} records came in {DEADLINE_S} s"
        with contextlib.suppress(SourceUnavailable):
            polled = source.poll(max_records, 0.1)
            assert len(polled) <= max_records
            records += polled
    return records


def drained(source: KafkaSource, count: int, max_records: int = 500) -> list[Record]:
    """Poll `count` records; fails if more arrive."""
    records = until(source, lambda records: len(records) >= count, max_records)
    assert list(source.poll(100, 0.5)) == []
    return records


def ratings(first: int, last: int, users: int = 40) -> list[Message]:
    return [Message("ratings", b"u%d" % (k % users), b"%d" % k) for k in range(first, last)]


def publish(at: str, messages: Sequence[Message]) -> Offsets:
    sink = KafkaSink(KafkaSettings(kafka=at))
    try:
        return sink.publish(messages)
    finally:
        sink.close()


def next_offsets(records: Sequence[Record]) -> dict[TopicPartition, int]:
    return {sequence_of(record): record.offset + 1 for record in records}


def values(records: Sequence[Record]) -> list[int]:
    return sorted(int(record.value or b"-1") for record in records)
