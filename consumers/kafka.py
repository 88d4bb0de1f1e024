"""Events from Apache Kafka: all partitions of our topics, read by one process from offsets that are our own.

Two threads. The engine's polls, and never waits for an answer. A watch of its own looks at the cluster every second:
which topics and partitions there are, where they end, what is wrong. So `poll` knows why nothing comes.
The client library is kept to what is safe: partitions assigned by hand, no group, bytes only, never "earliest".
After any error it is made anew at our offsets, because a second poll after one may spin for ever.
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

from streamer.consumers.kafka_watch import Sight, Topic, Watch
from streamer.core.errors import BadSettings, NotAuthorised, SourceLost, SourceUnavailable, StreamerError
from streamer.core.events import CATALOGUE_TOPICS, TOPICS, Offsets, Record, TopicPartition
from streamer.core.settings import KafkaSettings
from streamer.kafka.connection import RECEIVE_MAX_BYTES, Connection, build, connection, is_refusal

ANSWER_S = 3.0  # how long `seek` waits for the cluster
STALL_S = 5.0  # how long nothing may come while there is something, before the consumer is made anew
BOOTSTRAP_MS = 5_000

_CONSUMER = {
    "group_id": None,
    "enable_auto_commit": False,
    "auto_offset_reset": "none",  # "earliest" would rewind a bad offset in silence, and learn everything twice
    "isolation_level": "read_committed",
    "fetch_max_wait_ms": 200,
    "fetch_max_bytes": RECEIVE_MAX_BYTES // 4,
    "max_partition_fetch_bytes": 2**20,
    "metadata_max_age_ms": 10_000,
    "metrics_enabled": False,
}
_UNKNOWN_TOPIC = 3


class KafkaSource:
    """protocols.Source and protocols.Hinted."""

    def __init__(self, settings: KafkaSettings, topics: Sequence[str] = TOPICS) -> None:
        """The broker need not be there. Raises BadSettings."""
        self._at = connection(settings)
        self._topics = tuple(topics)
        self._watch: Watch | None = None
        self._from: dict[TopicPartition, int] = {}
        self._sight: Sight | None = None  # the newest that was taken in
        self._next: dict[TopicPartition, int] = {}  # of every partition, those not assigned yet too
        self._catalogue: dict[TopicPartition, int] = {}  # ends to reach before the first event
        self._consumer: KafkaConsumer | None = None
        self._idle_since: float | None = None

    def seek(self, offsets: Offsets) -> None:
        """See protocols.Source; makes missing topics where that is allowed.

        A partition that is not named starts at its beginning. When no event was ever read, or nothing of the catalogue,
        the catalogue is read to its end first. Waits for up to ANSWER_S; after SourceUnavailable call it again, or `poll`.
        Raises SourceLost, BadSettings (a compacted event topic), SourceUnavailable, NotAuthorised.
        """
        wanted = {at: offset for at, offset in offsets.items() if at.topic in self._topics and at.partition >= 0}
        if self._watch is None or self._sight is not None or wanted != self._from:  # otherwise it is on its way
            self.close()
            self._from, self._sight, self._next, self._catalogue = wanted, None, {}, {}
            read = frozenset(at.topic for at in wanted)
            self._watch = Watch(self._at, self._topics, read, lambda: KafkaCluster(self._at))
        self._look(ANSWER_S)

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """See protocols.Source. Raises SourceLost, SourceUnavailable, NotAuthorised, BadSettings."""
        until = time.monotonic() + timeout_s
        self._look(timeout_s)
        try:
            consumer = self._assigned()
            fetched = consumer.poll(max(0, int(1000 * (until - time.monotonic()))), max_records)
            if not fetched:
                self._consider(consumer)
                return []
        except (OffsetOutOfRangeError, LogTruncationError) as error:
            self._drop()
            raise self._lost(str(error)) from None
        except (KafkaError, OSError, RuntimeError, ValueError) as error:
            self._drop()
            raise self._unreadable(error) from None
        self._idle_since = None
        records = []
        for part in fetched.values():
            records += [Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value) for r in part]
        for at, part in fetched.items():
            self._next[TopicPartition(*at)] = part[-1].offset + 1
        self._leave_catalogue()
        return records

    def _look(self, timeout_s: float) -> None:
        """Take in what the watch saw."""
        if self._watch is None:
            raise SourceUnavailable("nothing is read from Kafka before `seek`: call it first")
        sight = self._watch.sight(timeout_s if self._sight is None else 0.0)
        if sight is self._sight:
            return
        if self._sight is None:
            self._begin(sight)
        added = {at: sight.begins[at] for at in sight.ends if at not in self._next}
        if added:
            self._next |= added
            self._reassign()
        self._sight = sight

    def _begin(self, sight: Sight) -> None:
        """Hold our offsets against what is there, and start."""
        for at, offset in self._from.items():
            if at not in sight.ends:
                raise self._lost(f"partition {at.partition} of {at.topic!r}, read up to offset {offset}, is not there")
            if not sight.begins[at] <= offset <= sight.ends[at]:
                raise self._lost(
                    f"wanted to go on at offset {offset} of {at.topic}/{at.partition}, and there are "
                    f"{sight.begins[at]} to {sight.ends[at]}"
                )
        self._next = {at: self._from.get(at, begin) for at, begin in sight.begins.items()}
        read = {at.topic for at in self._from}
        if not read.intersection(CATALOGUE_TOPICS) or not read.difference(CATALOGUE_TOPICS):
            ends = {at: end for at, end in sight.ends.items() if at.topic in CATALOGUE_TOPICS}
            self._catalogue = {at: end for at, end in ends.items() if self._next[at] < end}

    def _assigned(self) -> Any:
        if self._consumer is None:
            self._consumer = build(KafkaConsumer, KafkaNetClient, self._at.client() | _CONSUMER)
            self._reassign()
        return self._consumer

    def _reassign(self) -> None:
        """Assign what is to be read now, each partition at our offset. What is fetched already is kept."""
        if self._consumer is None:
            return
        wanted = [at for at in self._next if not self._catalogue or at.topic in CATALOGUE_TOPICS]
        self._consumer.assign([Partition(*at) for at in wanted])
        for at in wanted:
            self._consumer.seek(Partition(*at), self._next[at])

    def _drop(self) -> None:
        if self._consumer is not None:
            with suppress(KafkaError, RuntimeError):
                self._consumer.close(autocommit=False, timeout_ms=0)
        self._consumer, self._idle_since = None, None

    def _consider(self, consumer: Any) -> None:
        """Nothing came: because there is nothing, because offsets have gaps, because Kafka is away, or for no reason."""
        assert self._watch is not None
        assert self._sight is not None
        trouble = self._watch.trouble()
        if trouble is not None:
            self._drop()  # the watch tries to connect, and one is enough
            raise trouble
        behind = [at for at, end in self._sight.ends.items() if self._next[at] < end and self._reads(at)]
        for at in behind:  # no records, and yet offsets: markers of transactions, compacted
            position = consumer.position(Partition(*at), timeout_ms=0)
            self._next[at] = max(self._next[at], position or 0)
        if not any(self._next[at] < self._sight.ends[at] for at in behind):
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = time.monotonic()
        elif time.monotonic() - self._idle_since > STALL_S:
            self._drop()
        self._leave_catalogue()

    def _reads(self, at: TopicPartition) -> bool:
        return not self._catalogue or at.topic in CATALOGUE_TOPICS

    def _leave_catalogue(self) -> None:
        if self._catalogue and all(self._next[at] >= end for at, end in self._catalogue.items()):
            self._catalogue = {}
            self._reassign()

    def _lost(self, what: str) -> SourceLost:
        return SourceLost(
            f"events that were to be learned are no longer in Kafka at {self._at.settings.kafka}: {what}: retention passed "
            "them, or the topic was made anew; restore the topic, or use another --data directory to learn again from "
            "what is there, and keep events longer (retention.ms) than this process may stand still"
        )

    def _unreadable(self, error: Exception) -> StreamerError:
        assert self._watch is not None
        trouble = self._watch.trouble()
        if trouble is not None:
            return trouble
        where = f"Kafka at {self._at.settings.kafka}"
        if is_refusal(error):
            return NotAuthorised(f"{where} refused us: {error}: give the user the right to read our topics")
        if isinstance(error, UnsupportedCodecError):
            return SourceUnavailable(
                f"records at {where} are compressed in a way that is not installed here: {error}: "
                "pip install 'kafka-python[lz4,snappy,zstd]'"
            )
        return SourceUnavailable(f"cannot read from {where}: {type(error).__name__}: {error}")

    def lag(self) -> Mapping[str, Mapping[int, int]]:
        """See protocols.Source; ends are those of the watch's last look, a second ago."""
        sight = self._watch.last if self._watch else None
        lags: dict[str, dict[int, int]] = {}
        if sight is not None:
            for at, end in sight.ends.items():
                start = self._next.get(at, self._from.get(at, sight.begins[at]))
                lags.setdefault(at.topic, {})[at.partition] = max(0, end - start)
        return lags

    def hint(self, offsets: Offsets) -> None:
        """See protocols.Hinted: offsets are committed to `kafka_group` by the watch."""
        if self._watch is not None:
            self._watch.hint({at: offset for at, offset in offsets.items() if at.topic in self._topics})

    def close(self) -> None:
        """See protocols.Source."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()
        self._drop()


class KafkaCluster:
    """kafka_watch.Cluster, by the library's client for administrators; takes up to BOOTSTRAP_MS to be made."""

    def __init__(self, at: Connection) -> None:
        """Raises KafkaError when no broker lets us in."""
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
            led = bool(partitions) and all(part["leader_id"] >= 0 for part in partitions)
            topics[name] = None if code == _UNKNOWN_TOPIC else Topic(str(found["topic_id"]), numbers, led)
        return topics

    def make(self, specifications: Mapping[str, Mapping[str, Any]]) -> None:
        """See Cluster; raises BadSettings for what the brokers refuse to make."""
        try:
            self._admin.create_topics(dict(specifications))
        except TopicAlreadyExistsError:
            return
        except KafkaError as error:
            if is_refusal(error) or isinstance(error, RetriableError):
                raise
            raise BadSettings(
                f"Kafka at {self._at.settings.kafka} did not make the topics {', '.join(specifications)}, with replication factor "
                f"{self._at.settings.kafka_replication}: {type(error).__name__}: change kafka_replication, or make them by hand"
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
