"""Records that are still in Kafka, read again between two offsets. Nothing is created or changed there, and no offset is committed."""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from kafka import KafkaConsumer  # type: ignore[import-untyped]  # ships no types
from kafka.errors import KafkaError, OffsetOutOfRangeError  # type: ignore[import-untyped]  # ships no types
from kafka.net.compat import KafkaNetClient  # type: ignore[import-untyped]  # ships no types
from kafka.structs import TopicPartition as Partition  # type: ignore[import-untyped]  # ships no types

from streamer.consumers.kafka import CONSUMER, KafkaCluster, unreadable
from streamer.core.errors import SourceUnavailable
from streamer.core.events import Record, TopicPartition
from streamer.core.protocols import Extent
from streamer.core.settings import KafkaSettings
from streamer.kafka.connection import build, connection, explain, preflight

POLL_MS, POLL_RECORDS = 200, 5_000
SILENT_S = 20.0  # how long nothing may come although there is more


class KafkaRecords:
    """protocols.KeptRecords for Kafka; for one thread."""

    def __init__(self, settings: KafkaSettings) -> None:
        """Does not connect yet."""
        self._settings = settings
        self._consumer: Any = None

    @property
    def place(self) -> str:
        """See protocols.KeptRecords."""
        return f"Kafka at {self._settings.kafka}"

    def extents(self, wanted: Collection[TopicPartition]) -> Mapping[TopicPartition, Extent]:
        """See protocols.KeptRecords. Raises SourceUnavailable also for a Kafka that has none of the topics: it is the wrong one."""
        at = connection(self._settings)
        try:
            preflight(at)
            cluster = KafkaCluster(at)
            try:
                return self._extents(cluster, wanted)
            finally:
                cluster.close()
        except Exception as error:
            raise explain(at, error) from None

    def _extents(self, cluster: KafkaCluster, wanted: Collection[TopicPartition]) -> dict[TopicPartition, Extent]:
        names = sorted({at.topic for at in wanted})
        topics = {name: topic for name, topic in cluster.topics(names).items() if topic is not None} if names else {}
        if names and not topics:
            raise SourceUnavailable(
                f"{self.place} does not have {_listed(names)}: give the address of the one that was read"
            )
        for name, topic in topics.items():
            if not topic.has_leaders:
                raise SourceUnavailable(
                    f"topic {name!r} at {self._settings.kafka} has partitions without a leader: start the other brokers"
                )
        there = [at for at in wanted if at.topic in topics and at.partition in topics[at.topic].partitions]
        if not there:
            return {}
        begins, ends = cluster.begins(there), cluster.ends(there)
        return {at: Extent(begins[at], ends[at], topics[at.topic].topic_id) for at in there}

    def between(self, at: TopicPartition, first: int, stop: int) -> Iterator[Sequence[Record]]:
        """See protocols.KeptRecords."""
        partition, until = Partition(*at), time.monotonic() + SILENT_S
        consumer = self._assigned(partition, first)
        position = first
        while position < stop:
            fetched, reached = self._poll(consumer, partition)
            records = [Record(*at, r.offset, r.timestamp, r.key, r.value) for r in fetched if r.offset < stop]
            if records:
                yield records
            if reached > position:
                position, until = reached, time.monotonic() + SILENT_S
            elif time.monotonic() > until:
                raise SourceUnavailable(
                    f"{self.place} has given nothing of {at.topic}/{at.partition} from offset {position} on for {SILENT_S:.0f} s, "
                    f"though it has offsets up to {stop - 1}: wait until it answers"
                )

    def _assigned(self, partition: Partition, first: int) -> Any:
        at = connection(self._settings)
        try:
            if self._consumer is None:
                self._consumer = build(KafkaConsumer, KafkaNetClient, at.client() | CONSUMER)
            self._consumer.assign([partition])
            self._consumer.seek(partition, first)
        except (KafkaError, OSError, RuntimeError, ValueError) as error:
            raise explain(at, error) from None
        return self._consumer

    def _poll(self, consumer: Any, partition: Partition) -> tuple[Sequence[Any], int]:
        """The next records, and the offset behind them and behind what has no record."""
        try:
            fetched = consumer.poll(POLL_MS, POLL_RECORDS).get(partition, [])
            return fetched, fetched[-1].offset + 1 if fetched else consumer.position(partition, timeout_ms=0) or 0
        except OffsetOutOfRangeError:
            raise SourceUnavailable(
                f"records of {partition.topic}/{partition.partition} were deleted at {self.place} while they were read: try again"
            ) from None
        except (KafkaError, OSError, RuntimeError, ValueError) as error:
            at = connection(self._settings)
            preflight(at)
            raise unreadable(at, error) from None

    def close(self) -> None:
        """Release all resources; safe to call twice."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with suppress(KafkaError, RuntimeError):
                consumer.close(autocommit=False, timeout_ms=0)


def _listed(names: Sequence[str]) -> str:
    return f"the topic{'s' * (len(names) > 1)} {', '.join(names)}"
