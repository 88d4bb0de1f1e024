"""Events from Apache Kafka: one process reads all partitions of streamer's topics, from offsets in its own store.

There are two threads. The engine's thread polls and never waits for a reply. The watch's thread queries the cluster every
second for topics, partitions, end offsets and errors, so that `poll` knows why nothing arrives.
Only safe features of the client library are used: partitions assigned by hand, no group, bytes only, never "earliest".
After any error the consumer is created again at our offsets, because another poll might loop for ever.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer  # type: ignore[import-untyped]  # ships no types
from kafka.admin import ConfigResource, ConfigResourceType  # type: ignore[import-untyped]  # ships no types
from kafka.errors import (  # type: ignore[import-untyped]  # ships no types
    KafkaError,
    LogTruncationError,
    OffsetOutOfRangeError,
    RetriableError,
    TopicAlreadyExistsError,
    UnsupportedCodecError,
    for_code,
)
from kafka.net.compat import KafkaNetClient  # type: ignore[import-untyped]  # ships no types
from kafka.protocol.consumer import OffsetSpec  # type: ignore[import-untyped]  # ships no types
from kafka.structs import OffsetAndMetadata  # type: ignore[import-untyped]  # ships no types
from kafka.structs import TopicPartition as Partition

from streamer.consumers.kafka_watch import Snapshot, Topic, Watch
from streamer.core.errors import BadSettings, NotAuthorised, SourceLost, SourceUnavailable, StreamerError
from streamer.core.events import CATALOGUE_TOPICS, TOPICS, Offsets, Record, TopicPartition
from streamer.core.settings import KafkaSettings
from streamer.kafka.connection import RECEIVE_MAX_BYTES, Connection, build, connection, is_refusal

SEEK_TIMEOUT_S = 3.0  # how long `seek` waits for the cluster
STALL_S = 5.0  # how long nothing may arrive although there are records, before the consumer is created again
BOOTSTRAP_MS = 5_000

CONSUMER = {
    "group_id": None,
    "enable_auto_commit": False,
    "auto_offset_reset": "none",  # "earliest" would silently rewind from a bad offset, and learn everything twice
    "isolation_level": "read_committed",
    "fetch_max_wait_ms": 200,
    "fetch_max_bytes": RECEIVE_MAX_BYTES // 4,
    "max_partition_fetch_bytes": 2**20,
    "metadata_max_age_ms": 10_000,
    "metrics_enabled": False,
}
_UNKNOWN_TOPIC = 3


class KafkaSource:
    """protocols.Source, protocols.Hinted and protocols.Identified for Kafka."""

    def __init__(self, settings: KafkaSettings, topics: Sequence[str] = TOPICS) -> None:
        """Does not connect yet. Raises BadSettings."""
        self._at = connection(settings)
        self._topics = tuple(topics)
        self._watch: Watch | None = None
        self._from: dict[TopicPartition, int] = {}
        self._snapshot: Snapshot | None = None  # the newest that was applied
        self._next: dict[TopicPartition, int] = {}  # of all partitions, also those not assigned yet
        self._catalogue: dict[TopicPartition, int] = {}  # ends to reach before the first event
        self._consumer: KafkaConsumer | None = None
        self._idle_since: float | None = None

    def seek(self, offsets: Offsets) -> None:
        """See protocols.Source; creates missing topics if the settings allow it.

        If no event, or no catalogue record, was ever read, the catalogue is first read to its end. Waits up to SEEK_TIMEOUT_S;
        after SourceUnavailable call it again, or `poll`. Raises SourceLost, BadSettings (a compacted event topic),
        SourceUnavailable, NotAuthorised.
        """
        wanted = {at: offset for at, offset in offsets.items() if at.topic in self._topics and at.partition >= 0}
        if (
            self._watch is None or self._snapshot is not None or wanted != self._from
        ):  # otherwise the watch is already connecting
            self.close()
            self._from, self._snapshot, self._next, self._catalogue = wanted, None, {}, {}
            read = frozenset(at.topic for at in wanted)
            self._watch = Watch(self._at, self._topics, read, lambda: KafkaCluster(self._at))
        self._update(SEEK_TIMEOUT_S)

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """See protocols.Source. Raises SourceLost, SourceUnavailable, NotAuthorised, BadSettings."""
        until = time.monotonic() + timeout_s
        self._update(timeout_s)
        try:
            consumer = self._open_consumer()
            fetched = consumer.poll(max(0, int(1000 * (until - time.monotonic()))), max_records)
            if not fetched:
                self._check_silence(consumer)
                return []
        except (OffsetOutOfRangeError, LogTruncationError) as error:
            self._discard_consumer()
            raise self._lost_error(str(error)) from None
        except (KafkaError, OSError, RuntimeError, ValueError) as error:
            self._discard_consumer()
            raise self._read_error(error) from None
        self._idle_since = None
        records = []
        for part in fetched.values():
            records += [Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value) for r in part]
        for at, part in fetched.items():
            self._next[TopicPartition(*at)] = part[-1].offset + 1
        self._finish_catalogue()
        return records

    def _update(self, timeout_s: float) -> None:
        """Apply the watch's newest snapshot."""
        if self._watch is None:
            raise SourceUnavailable("`poll` was called before `seek`: call `seek` first")
        snapshot = self._watch.snapshot(timeout_s if self._snapshot is None else 0.0)
        if snapshot is self._snapshot:
            return
        if self._snapshot is None:
            self._check_offsets(snapshot)
        added = {at: snapshot.begins[at] for at in snapshot.ends if at not in self._next}
        if added:
            self._next |= added
            self._reassign()
        self._snapshot = snapshot

    def _check_offsets(self, snapshot: Snapshot) -> None:
        """Compare our offsets with the offsets in Kafka, and start from them."""
        for at, offset in self._from.items():
            if at not in snapshot.ends:
                raise self._lost_error(
                    f"partition {at.partition} of {at.topic!r}, read up to offset {offset}, is missing"
                )
            if not snapshot.begins[at] <= offset <= snapshot.ends[at]:
                raise self._lost_error(
                    f"wanted to continue at offset {offset} of {at.topic}/{at.partition}, and there are "
                    f"{snapshot.begins[at]} to {snapshot.ends[at]}"
                )
        self._next = {at: self._from.get(at, begin) for at, begin in snapshot.begins.items()}
        read = {at.topic for at in self._from}
        if not read.intersection(CATALOGUE_TOPICS) or not read.difference(CATALOGUE_TOPICS):
            ends = {at: end for at, end in snapshot.ends.items() if at.topic in CATALOGUE_TOPICS}
            self._catalogue = {at: end for at, end in ends.items() if self._next[at] < end}

    def _open_consumer(self) -> Any:
        if self._consumer is None:
            self._consumer = build(KafkaConsumer, KafkaNetClient, self._at.client() | CONSUMER)
            self._reassign()
        return self._consumer

    def _reassign(self) -> None:
        """Assign the partitions to read now, each at our offset."""
        if self._consumer is None:
            return
        wanted = [at for at in self._next if not self._catalogue or at.topic in CATALOGUE_TOPICS]
        self._consumer.assign([Partition(*at) for at in wanted])
        for at in wanted:
            self._consumer.seek(Partition(*at), self._next[at])

    def _discard_consumer(self) -> None:
        if self._consumer is not None:
            with suppress(KafkaError, RuntimeError):
                self._consumer.close(autocommit=False, timeout_ms=0)
        self._consumer, self._idle_since = None, None

    def _check_silence(self, consumer: Any) -> None:
        """Nothing arrived: find out whether there is nothing, offsets have gaps, Kafka is unavailable, or the consumer stalls."""
        assert self._watch is not None
        assert self._snapshot is not None
        trouble = self._watch.trouble()
        if trouble is not None:
            self._discard_consumer()  # the watch already tries to reconnect
            raise trouble
        behind = [at for at, end in self._snapshot.ends.items() if self._next[at] < end and self._reads(at)]
        for at in behind:  # offsets without records: transaction markers, or compacted records
            position = consumer.position(Partition(*at), timeout_ms=0)
            self._next[at] = max(self._next[at], position or 0)
        if not any(self._next[at] < self._snapshot.ends[at] for at in behind):
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = time.monotonic()
        elif time.monotonic() - self._idle_since > STALL_S:
            self._discard_consumer()
        self._finish_catalogue()

    def _reads(self, at: TopicPartition) -> bool:
        return not self._catalogue or at.topic in CATALOGUE_TOPICS

    def _finish_catalogue(self) -> None:
        if self._catalogue and all(self._next[at] >= end for at, end in self._catalogue.items()):
            self._catalogue = {}
            self._reassign()

    def _lost_error(self, what: str) -> SourceLost:
        return SourceLost(
            f"events not yet learned are no longer in Kafka at {self._at.settings.kafka}: {what}: retention deleted them, "
            "or the topic was recreated; restore the topic, or use another --data directory to learn again from what is "
            "there, and keep events longer (retention.ms) than this process may be down"
        )

    def _read_error(self, error: Exception) -> StreamerError:
        assert self._watch is not None
        trouble = self._watch.trouble()
        return trouble or unreadable(self._at, error)

    def lag(self) -> Mapping[str, Mapping[int, int]]:
        """See protocols.Source; end offsets come from the watch's last snapshot, about a second old."""
        snapshot = self._watch.last if self._watch else None
        lags: dict[str, dict[int, int]] = {}
        if snapshot is not None:
            for at, end in snapshot.ends.items():
                start = self._next.get(at, self._from.get(at, snapshot.begins[at]))
                lags.setdefault(at.topic, {})[at.partition] = max(0, end - start)
        return lags

    def hint(self, offsets: Offsets) -> None:
        """See protocols.Hinted; the watch commits the offsets to `kafka_group`."""
        if self._watch is not None:
            self._watch.hint({at: offset for at, offset in offsets.items() if at.topic in self._topics})

    def topic_ids(self) -> Mapping[str, str]:
        """See protocols.Identified."""
        return self._watch.topic_ids if self._watch is not None else {}

    def close(self) -> None:
        """See protocols.Source."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()
        self._discard_consumer()


def unreadable(at: Connection, error: Exception) -> SourceUnavailable:
    """An error with a helpful message for one that reading records raised, while the broker can be reached."""
    where = f"Kafka at {at.settings.kafka}"
    if is_refusal(error):
        return NotAuthorised(f"{where} refused access: {error}: give the user permission to read streamer's topics")
    if isinstance(error, UnsupportedCodecError):
        return SourceUnavailable(
            f"records at {where} use a compression that is not installed here: {error}: "
            "pip install 'kafka-python[lz4,snappy,zstd]'"
        )
    return SourceUnavailable(f"cannot read from {where}: {type(error).__name__}: {error}")


class KafkaCluster:
    """kafka_watch.Cluster by the library's admin client."""

    def __init__(self, at: Connection) -> None:
        """Connects, in up to BOOTSTRAP_MS. Raises KafkaError when no broker accepts the connection."""
        self._at = at
        self._admin: Any = build(KafkaAdminClient, KafkaNetClient, at.client() | {"bootstrap_timeout_ms": BOOTSTRAP_MS})

    def topics(self, names: Sequence[str]) -> dict[str, Topic | None]:
        """See Cluster; raises AuthorizationError."""
        topics: dict[str, Topic | None] = {}
        for found in self._admin.describe_topics(list(names)):
            code, name, partitions = found["error_code"], found["name"], found["partitions"]
            error = for_code(code)
            if is_refusal(error(name)):
                raise error(name)
            numbers = tuple(sorted(part["partition_index"] for part in partitions))
            has_leaders = bool(partitions) and all(part["leader_id"] >= 0 for part in partitions)
            topic_id = str(found["topic_id"] or "")
            topics[name] = None if code == _UNKNOWN_TOPIC else Topic(topic_id, numbers, has_leaders)
        return topics

    def create_topics(self, specifications: Mapping[str, Mapping[str, Any]]) -> None:
        """See Cluster; raises BadSettings when the brokers refuse to create them."""
        try:
            self._admin.create_topics(dict(specifications))
        except TopicAlreadyExistsError:
            return
        except KafkaError as error:
            if is_refusal(error) or isinstance(error, RetriableError):
                raise
            raise BadSettings(
                f"Kafka at {self._at.settings.kafka} did not create the topics {', '.join(specifications)} with replication factor "
                f"{self._at.settings.kafka_replication}: {type(error).__name__}: change kafka_replication, or create them by hand"
            ) from None

    def configs(self, topics: Sequence[str]) -> dict[str, dict[str, str]]:
        """See Cluster."""
        names = {"cleanup.policy": "", "max.message.bytes": ""}
        asked = [ConfigResource(ConfigResourceType.TOPIC, topic, names) for topic in topics]
        found = self._admin.describe_configs(asked, config_filter="all").get("topic", {})
        return {topic: {key: str(entry["value"]) for key, entry in configs.items()} for topic, configs in found.items()}

    def begins(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """See Cluster."""
        return self._offsets(partitions, OffsetSpec.EARLIEST)

    def ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """See Cluster."""
        return self._offsets(partitions, OffsetSpec.LATEST)

    def _offsets(self, partitions: Sequence[TopicPartition], which: OffsetSpec) -> dict[TopicPartition, int]:
        wanted = {Partition(*at): which for at in partitions}
        found = self._admin.list_partition_offsets(wanted, "read_committed")
        return {TopicPartition(*at): offset.offset for at, offset in found.items()}

    def commit(self, group: str, offsets: Offsets) -> None:
        """See Cluster."""
        wanted = {Partition(*at): OffsetAndMetadata(offset, "", None) for at, offset in offsets.items()}
        self._admin.alter_group_offsets(group, wanted)

    def close(self) -> None:
        """See Cluster."""
        self._admin.close()
