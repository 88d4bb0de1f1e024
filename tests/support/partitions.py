"""The test stream as Kafka would return it: in order within each partition, in any order between partitions."""

from collections.abc import Mapping, Sequence

import numpy as np
from learning import events, records

from streamer.core.events import Offsets, Record, TopicPartition


class Shuffled:
    """A source that returns partitions in any order, as Kafka does, and the records of each partition in their order."""

    def __init__(self, partitions: Sequence[Sequence[Record]], seed: int) -> None:
        self._partitions, self._random = [list(partition) for partition in partitions], np.random.default_rng(seed)

    def seek(self, offsets: Offsets) -> None:
        assert not offsets

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        found: list[Record] = []
        while any(self._partitions) and len(found) < max_records:
            left = [partition for partition in self._partitions if partition]
            held = left[int(self._random.integers(len(left)))]
            count = min(int(self._random.integers(1, 20)), max_records - len(found))
            found += held[:count]
            del held[:count]
            if self._random.random() < 0.3:
                break
        return found

    def lag(self) -> Mapping[str, Mapping[int, int]]:
        return {}

    def close(self) -> None: ...


def partitioned(count: int, partitions: int = 4) -> list[list[Record]]:
    """The stream by topic and partition, chosen by key as Kafka's producers do, with gaps in the offsets."""
    found: dict[TopicPartition, list[Record]] = {}
    for record in records(events(count)):
        number = sum(record.key or b"") % partitions
        sequence = found.setdefault(TopicPartition(record.topic, number), [])
        sequence.append(Record(record.topic, number, 2 * len(sequence), record.timestamp_ms, record.key, record.value))
    return list(found.values())
