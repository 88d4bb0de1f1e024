"""A thread that queries a Kafka cluster every second, so that the thread that reads from Kafka never waits for a reply.

It creates missing topics, refuses topics that would lose events, notices new partitions and end offsets, reports errors,
and commits offsets as a hint. It uses the cluster through `Cluster`, which it creates again after each failure.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from streamer.core.errors import BadSettings, NotAuthorised, SourceLost, SourceUnavailable, StreamerError
from streamer.core.events import CATALOGUE_TOPICS, Offsets, TopicPartition
from streamer.kafka.connection import (
    DEAD_LETTERS,
    RECEIVE_MAX_BYTES,
    Connection,
    explain,
    missing_topics,
    preflight,
    topic_specification,
)

INTERVAL_S = 1.0  # between two queries
CREATING_INTERVAL_S = 0.1  # between two queries while topics are being created
LEADER_TIMEOUT_S = 5.0  # how long new topics may take to get leaders
SILENT_S = 10.0  # a query that takes longer means that the cluster does not respond
BATCH_MAX_BYTES = RECEIVE_MAX_BYTES // 2  # largest max.message.bytes of a topic, so that any batch fits into a response


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the cluster describes it; a recreated topic has another `topic_id`."""

    topic_id: str  # empty before Kafka 2.8
    partitions: tuple[int, ...]
    has_leaders: bool  # every partition has a broker that leads it


class Cluster(Protocol):
    """The operations that the watch needs. All methods may raise any error of the client library."""

    def topics(self, names: Sequence[str]) -> dict[str, Topic | None]:
        """Topics by name, None for one that does not exist."""

    def create_topics(self, specifications: Mapping[str, Mapping[str, Any]]) -> None:
        """Create topics; one that already exists is no error."""

    def configs(self, topics: Sequence[str]) -> dict[str, dict[str, str]]:
        """cleanup.policy and max.message.bytes of each topic; empty without the permission to read them."""

    def begins(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The first offsets that exist."""

    def ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The next offsets, without records of open transactions."""

    def commit(self, group: str, offsets: Offsets) -> None:
        """Set the group's offsets."""

    def close(self) -> None:
        """Close the connection; pending calls fail."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The offsets of the cluster at one moment."""

    begins: Mapping[TopicPartition, int]  # of each partition, as of when it was first seen
    ends: Mapping[TopicPartition, int]


class Watch:
    """The thread, its last snapshot and the present error."""

    def __init__(
        self, at: Connection, topics: Sequence[str], read: frozenset[str], connect: Callable[[], Cluster]
    ) -> None:
        """`read` are the topics with stored offsets; these are never created."""
        self._at, self._topics, self._read, self._connect = at, tuple(topics), read, connect
        self.last: Snapshot | None = None
        self._trouble: StreamerError | None = None
        self._topic_ids: dict[str, str] = {}
        self._begins: dict[TopicPartition, int] = {}
        self._hinted: Offsets = {}
        self._cluster: Cluster | None = None
        self._created_at = -math.inf  # when topics were last created
        self._began = self._looked = time.monotonic()
        self._answered, self._wake, self._stop = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="kafka-watch", daemon=True)
        self._thread.start()

    def snapshot(self, timeout_s: float) -> Snapshot:
        """The newest snapshot; waits for the first one. Raises the error that prevents it, and at any time a permanent error."""
        self._answered.wait(timeout_s)
        trouble, last = self._trouble, self.last
        if trouble is not None and (last is None or not isinstance(trouble, SourceUnavailable)):
            raise type(trouble)(*trouble.args)
        if last is None:
            raise SourceUnavailable(
                f"Kafka at {self._at.settings.kafka} has not answered for {time.monotonic() - self._began:.0f} s: wait"
            )
        return last

    def trouble(self) -> StreamerError | None:
        """The present error, None if all is well."""
        trouble = self._trouble
        if trouble is not None:
            return type(trouble)(*trouble.args)
        silent_s = time.monotonic() - self._looked
        if silent_s < SILENT_S:
            return None
        return SourceUnavailable(f"Kafka at {self._at.settings.kafka} has not answered for {silent_s:.0f} s: wait")

    @property
    def topic_ids(self) -> Mapping[str, str]:
        """The id of each topic, once there is a snapshot; empty for brokers that have none."""
        return {name: found for name, found in self._topic_ids.items() if found}

    def hint(self, offsets: Offsets) -> None:
        """Commit these offsets after the next query."""
        self._hinted = offsets

    def close(self) -> None:
        """Commit the last hint, and stop; takes up to 1.5 s when the cluster does not respond."""
        self._stop.set()
        self._wake.set()
        self._thread.join(0.5)
        cluster = self._cluster
        if self._thread.is_alive() and cluster is not None:
            cluster.close()
        self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            reached = False
            try:
                snapshot = self._take_snapshot()
                if snapshot is not None:
                    self.last, self._trouble, reached = snapshot, None, True
                    self._commit()
            except Exception as error:  # report any error to the reader, and try again
                self._disconnect()
                self._trouble, reached = explain(self._at, error), True
            self._looked = time.monotonic()
            if reached:
                self._answered.set()
            self._wake.wait(INTERVAL_S if reached else CREATING_INTERVAL_S)
        self._commit()
        self._disconnect()

    def _disconnect(self) -> None:
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.close()

    def _take_snapshot(self) -> Snapshot | None:
        """Query the cluster; None while topics are being created or have no leader yet."""
        if self._cluster is None:
            preflight(self._at)
            self._cluster = self._connect()
        topics = self._describe_topics(self._cluster)
        if topics is None:
            return None
        if not self._topic_ids:
            self._check_configs(self._cluster)
            self._topic_ids = {name: topic.topic_id for name, topic in topics.items()}
        for name, topic in topics.items():
            if topic.topic_id != self._topic_ids[name]:
                raise SourceLost(
                    f"topic {name!r} at {self._at.settings.kafka} was deleted and recreated while it was read: restore it, "
                    "or use another --data directory to learn again from what is there"
                )
        every = [TopicPartition(name, one) for name, topic in topics.items() for one in topic.partitions]
        added = [at for at in every if at not in self._begins]
        if added:
            self._begins |= self._cluster.begins(added)
        return Snapshot(dict(self._begins), self._cluster.ends(every))

    def _describe_topics(self, cluster: Cluster) -> dict[str, Topic] | None:
        found = cluster.topics([*self._topics, DEAD_LETTERS])
        missing = [name for name, topic in found.items() if topic is None]
        for name in missing:
            if name in self._topic_ids or name in self._read:
                raise SourceUnavailable(
                    f"topic {name!r}, which was read before, is missing at {self._at.settings.kafka}: restore it, "
                    "or use another --data directory to learn again from what is there"
                )
        if missing and not self._topic_ids and self._at.settings.kafka_create_topics:
            replication = self._at.settings.kafka_replication
            cluster.create_topics({name: topic_specification(name, replication) for name in missing})
            self._created_at = time.monotonic()
            return None
        needed = [name for name in self._topics if name in missing]
        if needed:
            raise missing_topics(self._at, needed)
        topics = {name: topic for name, topic in found.items() if topic is not None and name in self._topics}
        leaderless = [name for name, topic in topics.items() if not topic.has_leaders]
        if leaderless and time.monotonic() - self._created_at > LEADER_TIMEOUT_S:
            raise SourceUnavailable(
                f"topic {leaderless[0]!r} at {self._at.settings.kafka} has partitions without a leader: start the other brokers"
            )
        return None if leaderless else topics

    def _check_configs(self, cluster: Cluster) -> None:
        """Refuse topic settings that would lose events: compaction, and batches too large for a response."""
        found = cluster.configs(self._topics)
        for topic in self._topics:
            where, configs = f"topic {topic!r} at {self._at.settings.kafka}", found.get(topic)
            if not configs:
                raise NotAuthorised(
                    f"cannot see whether {where} is compacted: give the user the permission DescribeConfigs on it"
                )
            if topic not in CATALOGUE_TOPICS and "compact" in configs["cleanup.policy"]:
                raise BadSettings(
                    f"{where} has cleanup.policy={configs['cleanup.policy']}: compaction keeps one event of each user and "
                    "loses the others; set cleanup.policy=delete on it"
                )
            if int(configs["max.message.bytes"]) > BATCH_MAX_BYTES:
                raise BadSettings(
                    f"{where} has max.message.bytes={configs['max.message.bytes']}, but batches over {BATCH_MAX_BYTES} bytes "
                    "cannot be read: set max.message.bytes=65536 on it"
                )

    def _commit(self) -> None:
        """Commit the hinted offsets. Errors are ignored, because the next hint replaces this one."""
        offsets, self._hinted = self._hinted, {}
        if offsets and self._cluster is not None:
            with suppress(Exception):
                self._cluster.commit(self._at.settings.kafka_group, offsets)
