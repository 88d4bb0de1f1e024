"""A thread that looks at a Kafka cluster every second, so that whoever reads from it never waits for an answer.

It makes missing topics, refuses those that would lose events, sees partitions come and offsets move, says what is
wrong, and commits offsets as a hint. It speaks to the cluster through `Cluster`, made anew after each failure.
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

LOOK_S = 1.0  # between two looks
MAKING_S = 0.1  # between two looks while topics are being made
MADE_S = 5.0  # how long topics may take to get leaders after they were made
SILENT_S = 10.0  # a look that takes longer means that nobody answers
BATCH_MAX_BYTES = RECEIVE_MAX_BYTES // 2  # largest max.message.bytes of a topic, so that an answer holds any batch


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the cluster describes it; `number` is its id, another one when it is made anew."""

    number: str
    partitions: tuple[int, ...]
    led: bool  # every partition has a broker that leads it


class Cluster(Protocol):
    """What is asked of a cluster. Every method may raise anything that the client library raises."""

    def topics(self, names: Sequence[str]) -> dict[str, Topic | None]:
        """None: there is no such topic."""

    def make(self, specifications: Mapping[str, Mapping[str, Any]]) -> None:
        """Make topics; one that is there already is no error."""

    def configs(self, topics: Sequence[str]) -> dict[str, dict[str, str]]:
        """cleanup.policy and max.message.bytes of each; nothing where we may not know."""

    def begins(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """First offsets that are there."""

    def ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Offsets that come next; what a transaction holds back is not there yet."""

    def commit(self, group: str, offsets: Offsets) -> None:
        """Set the group's offsets."""

    def close(self) -> None:
        """Whoever waits for an answer is told that there will be none."""


@dataclass(frozen=True, slots=True)
class Sight:
    """The cluster at one moment."""

    begins: Mapping[TopicPartition, int]  # of each partition, when it was first seen
    ends: Mapping[TopicPartition, int]


class Watch:
    """The thread and what it saw last."""

    def __init__(
        self, at: Connection, topics: Sequence[str], read: frozenset[str], connect: Callable[[], Cluster]
    ) -> None:
        """Of topics `read` there are stored offsets: they are never made anew."""
        self._at, self._topics, self._read, self._connect = at, tuple(topics), read, connect
        self.last: Sight | None = None
        self._trouble: StreamerError | None = None
        self._numbers: dict[str, str] = {}
        self._begins: dict[TopicPartition, int] = {}
        self._hinted: Offsets = {}
        self._cluster: Cluster | None = None
        self._made = -math.inf  # when we made topics last
        self._began = self._looked = time.monotonic()
        self._answered, self._wake, self._stop = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="kafka-watch", daemon=True)
        self._thread.start()

    def sight(self, timeout_s: float) -> Sight:
        """The newest; waits for the first. Raises what stands in its way, and at any time what cannot be mended."""
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
        """What is wrong now."""
        trouble = self._trouble
        if trouble is not None:
            return type(trouble)(*trouble.args)
        silent_s = time.monotonic() - self._looked
        if silent_s < SILENT_S:
            return None
        return SourceUnavailable(f"Kafka at {self._at.settings.kafka} has not answered for {silent_s:.0f} s: wait")

    def hint(self, offsets: Offsets) -> None:
        """Commit these at the next look."""
        self._hinted = offsets

    def close(self) -> None:
        """Commits the last hint if that is quick; takes up to 1.5 s when the cluster does not answer."""
        self._stop.set()
        self._wake.set()
        self._thread.join(0.5)
        cluster = self._cluster
        if self._thread.is_alive() and cluster is not None:
            cluster.close()
        self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            seen = False
            try:
                sight = self._look()
                if sight is not None:
                    self.last, self._trouble, seen = sight, None, True
                    self._commit()
            except Exception as error:  # whatever it is, it is said to who reads, and tried again
                self._disconnect()
                self._trouble, seen = explain(self._at, error), True
            self._looked = time.monotonic()
            if seen:
                self._answered.set()
            self._wake.wait(LOOK_S if seen else MAKING_S)
        self._commit()
        self._disconnect()

    def _disconnect(self) -> None:
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.close()

    def _look(self) -> Sight | None:
        """None while topics are being made, or have no leader yet."""
        if self._cluster is None:
            preflight(self._at)
            self._cluster = self._connect()
        topics = self._described(self._cluster)
        if topics is None:
            return None
        if not self._numbers:
            self._examine(self._cluster)
            self._numbers = {name: topic.number for name, topic in topics.items()}
        for name, topic in topics.items():
            if topic.number != self._numbers[name]:
                raise SourceLost(
                    f"topic {name!r} at {self._at.settings.kafka} was deleted and made anew while it was read: restore it, "
                    "or use another --data directory to learn again from what is there"
                )
        every = [TopicPartition(name, one) for name, topic in topics.items() for one in topic.partitions]
        added = [at for at in every if at not in self._begins]
        if added:
            self._begins |= self._cluster.begins(added)
        return Sight(dict(self._begins), self._cluster.ends(every))

    def _described(self, cluster: Cluster) -> dict[str, Topic] | None:
        found = cluster.topics([*self._topics, DEAD_LETTERS])
        missing = [name for name, topic in found.items() if topic is None]
        for name in missing:
            if name in self._numbers or name in self._read:
                raise SourceUnavailable(
                    f"topic {name!r}, which was read before, is not at {self._at.settings.kafka}: restore it, "
                    "or use another --data directory to learn again from what is there"
                )
        if missing and not self._numbers and self._at.settings.kafka_create_topics:
            replication = self._at.settings.kafka_replication
            cluster.make({name: topic_specification(name, replication) for name in missing})
            self._made = time.monotonic()
            return None
        needed = [name for name in self._topics if name in missing]
        if needed:
            raise missing_topics(self._at, needed)
        topics = {name: topic for name, topic in found.items() if topic is not None and name in self._topics}
        leaderless = [name for name, topic in topics.items() if not topic.led]
        if leaderless and time.monotonic() - self._made > MADE_S:
            raise SourceUnavailable(
                f"topic {leaderless[0]!r} at {self._at.settings.kafka} has partitions that no broker leads: start the others"
            )
        return None if leaderless else topics

    def _examine(self, cluster: Cluster) -> None:
        """Refuse settings of topics that would lose events: compaction, and batches larger than any answer."""
        found = cluster.configs(self._topics)
        for topic in self._topics:
            where, configs = f"topic {topic!r} at {self._at.settings.kafka}", found.get(topic)
            if not configs:
                raise NotAuthorised(
                    f"{where} does not say whether it is compacted: give the user the right DescribeConfigs on it"
                )
            if topic not in CATALOGUE_TOPICS and "compact" in configs["cleanup.policy"]:
                raise BadSettings(
                    f"{where} has cleanup.policy={configs['cleanup.policy']}: compaction keeps one event of each user and "
                    "loses the others; set cleanup.policy=delete on it"
                )
            if int(configs["max.message.bytes"]) > BATCH_MAX_BYTES:
                raise BadSettings(
                    f"{where} has max.message.bytes={configs['max.message.bytes']}, and what is larger than "
                    f"{BATCH_MAX_BYTES} cannot be read: set max.message.bytes=65536 on it"
                )

    def _commit(self) -> None:
        """Best effort: whatever goes wrong with a hint is no trouble, and the next one goes further."""
        offsets, self._hinted = self._hinted, {}
        if offsets and self._cluster is not None:
            with suppress(Exception):
                self._cluster.commit(self._at.settings.kafka_group, offsets)
