"""A sink that publishes to Apache Kafka: acknowledged by all replicas, each event once, each user's events in order.

The key determines the partition, by the same hash (murmur2) as in Java's clients. Sizes are checked here, because a record
that a broker rejects as too large breaks the library's idempotent producer for good. After any failure the producer is
created again. A call takes a round trip or two, however many messages it has.
"""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from kafka import KafkaAdminClient, KafkaProducer  # type: ignore[import-untyped]  # ships no types
from kafka.errors import (  # type: ignore[import-untyped]  # ships no types
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAlreadyExistsError,
)
from kafka.net.compat import KafkaNetClient  # type: ignore[import-untyped]  # ships no types

from streamer.core.errors import BadEvent, Reason, SourceUnavailable, StreamerError
from streamer.core.events import TOPICS, Message, Offsets, TopicPartition
from streamer.core.settings import KafkaSettings
from streamer.kafka.connection import (
    DEAD_LETTERS,
    MESSAGE_MAX_BYTES,
    build,
    connection,
    explain,
    missing_topics,
    preflight,
    topic_specification,
)

DELIVERY_S = 8.0  # messages not acknowledged by then have failed
BOOTSTRAP_MS = 5_000
OVERHEAD_BYTES = 128  # for record and batch, without key and value: at most 93 by the format

_PRODUCER = {
    "acks": "all",
    "enable_idempotence": True,
    "allow_auto_create_topics": False,  # a broker would create them with one partition
    "batch_size": MESSAGE_MAX_BYTES // 4,
    "delivery_timeout_ms": int(1000 * DELIVERY_S),
    "max_block_ms": int(500 * DELIVERY_S),
    "metrics_enabled": False,
}
_UNKNOWN_TOPIC = 3


class KafkaSink:
    """protocols.Sink for Kafka."""

    def __init__(self, settings: KafkaSettings) -> None:
        """Does not connect yet. Raises BadSettings."""
        self._at = connection(settings)
        self._producer: Any = None
        self._missing: frozenset[str] = frozenset()  # topics that did not exist at the last look
        self._closed = False
        self._lock = threading.Lock()

    def publish(self, messages: Sequence[Message]) -> Offsets:
        """See protocols.Sink; takes at most DELIVERY_S, and a little more when it has to connect.

        Raises BadEvent, and publishes nothing, when a message is too large or lacks a key that it needs.
        Raises SourceUnavailable and NotAuthorised.
        """
        for message in messages:
            _check_size_and_key(message)
        if not messages:
            return {}
        producer = self._connected(messages)
        offsets: dict[TopicPartition, int] = {}
        try:
            sent = [
                producer.send(message.topic, message.value, message.key, timestamp_ms=message.timestamp_ms)
                for message in messages
            ]
            until = time.monotonic() + DELIVERY_S + 1.0
            for future in sent:
                done = future.get(max(0.0, until - time.monotonic()))
                at = TopicPartition(done.topic, done.partition)
                offsets[at] = max(offsets.get(at, 0), done.offset + 1)
        except (KafkaError, OSError, RuntimeError, ValueError) as error:
            self._discard(producer)
            raise self._explain(error) from None
        return offsets

    def _explain(self, error: Exception) -> StreamerError:
        if isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError):
            return BadEvent(Reason.TOO_LARGE, f"a topic's limit is too low: set max.message.bytes=65536 on it: {error}")
        return explain(self._at, error)

    def _connected(self, messages: Sequence[Message]) -> Any:
        with self._lock:
            if self._closed:
                raise SourceUnavailable("the connection to Kafka is closed: nothing can be published any more")
            wanted = {message.topic for message in messages}
            if self._producer is None or wanted & self._missing:
                try:
                    preflight(self._at)
                    self._missing = self._make_topics()
                except (KafkaError, OSError, RuntimeError) as error:
                    raise explain(self._at, error) from None
                if wanted & self._missing:
                    raise missing_topics(self._at, sorted(wanted & self._missing))
            if self._producer is None:
                self._producer = build(KafkaProducer, KafkaNetClient, self._at.client() | _PRODUCER)
            return self._producer

    def _make_topics(self) -> frozenset[str]:
        """Create missing topics if the settings allow it; returns those that are still missing."""
        admin = build(KafkaAdminClient, KafkaNetClient, self._at.client() | {"bootstrap_timeout_ms": BOOTSTRAP_MS})
        try:
            found = admin.describe_topics([*TOPICS, DEAD_LETTERS])
            missing = frozenset(topic["name"] for topic in found if topic["error_code"] == _UNKNOWN_TOPIC)
            if not missing or not self._at.settings.kafka_create_topics:
                return missing
            replication = self._at.settings.kafka_replication
            with suppress(TopicAlreadyExistsError):
                admin.create_topics({name: topic_specification(name, replication) for name in missing})
            admin.wait_for_topics(list(missing), timeout_ms=BOOTSTRAP_MS)
            return frozenset()
        finally:
            admin.close()

    def _discard(self, producer: Any) -> None:
        """Stop using a producer, and close it in the background, as other calls may still wait for their messages."""
        with self._lock:
            if self._producer is producer:
                self._producer = None
        threading.Thread(target=_close, args=(producer,), name="kafka-retired", daemon=True).start()

    def close(self) -> None:
        """See protocols.Sink."""
        with self._lock:
            producer, self._producer, self._closed = self._producer, None, True
        if producer is not None:
            _close(producer, 1.0)


def _check_size_and_key(message: Message) -> None:
    size = len(message.key or b"") + len(message.value or b"")
    if size > MESSAGE_MAX_BYTES - OVERHEAD_BYTES:
        raise BadEvent(
            Reason.TOO_LARGE,
            f"the event has {size} bytes with its key; Kafka's topics accept {MESSAGE_MAX_BYTES - OVERHEAD_BYTES}",
        )
    if message.key is None and message.value is None:
        raise BadEvent(Reason.BAD_ID, f"a removal on {message.topic!r} needs the id as its key")


def _close(producer: Any, timeout_s: float = DELIVERY_S) -> None:
    try:
        producer.close(timeout=timeout_s)
    except KafkaError:  # with unsent messages, it gives up before it stops its thread
        producer._sender.force_close()
