"""Records in a list: a source and a sink for tests, with crashes and ends of input as entries of the list.

    MemorySource([first, second, Abort(), third, EndOfFile(), fourth])

returns two records, raises Abort once, returns the third after a restart, then seems to be at its end, and returns the
fourth after another restart. Modelled on bytewax's TestingSource.
"""

import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from streamer.core.errors import SourceLost
from streamer.core.events import LOG, Message, Offsets, Record, TopicPartition, sequence_of


class Abort(Exception):
    """A crash: the poll that reaches this entry raises it, once. It is no StreamerError, so that nothing handles it."""

    spent = False


class EndOfFile:
    """The end of input for this run: the source returns nothing more until the next `seek`; another source continues."""

    spent = False


Entry: TypeAlias = Record | Abort | EndOfFile


class MemorySource:
    """protocols.Source over a list that may grow (a MemorySink's `records`). Each marker works once, for the first source."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self._next = 0  # index into `entries`
        self._from: Offsets = {}
        self._ended = False

    def seek(self, offsets: Offsets) -> None:
        """See protocols.Source; raises SourceLost for an offset before the first or beyond the next of its sequence."""
        first: dict[TopicPartition, int] = {}
        end: dict[TopicPartition, int] = {}
        for entry in self.entries:
            if isinstance(entry, Record):
                first.setdefault(sequence_of(entry), entry.offset)
                end[sequence_of(entry)] = entry.offset + 1
        for sequence, offset in offsets.items():
            if not first.get(sequence, 0) <= offset <= end.get(sequence, 0):
                raise SourceLost(
                    f"wanted to continue at offset {offset} of {sequence.topic}/{sequence.partition}, and there are "
                    f"{first.get(sequence, 0)} to {end.get(sequence, 0)}: give the records that were read before"
                )
        self._from, self._next, self._ended = dict(offsets), 0, False

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """See protocols.Source; returns at once. Raises Abort where the list has one."""
        records: list[Record] = []
        while len(records) < max_records and self._next < len(self.entries) and not self._ended:
            entry = self.entries[self._next]
            if isinstance(entry, EndOfFile) and not entry.spent:
                entry.spent = self._ended = True
                break
            if isinstance(entry, Abort) and not entry.spent:
                if records:
                    break  # first return the records before it
                entry.spent = True
                raise entry
            self._next += 1
            if isinstance(entry, Record) and entry.offset >= self._from.get(sequence_of(entry), 0):
                records.append(entry)
        return records

    def lag(self) -> Mapping[str, Mapping[int, int]]:
        """See protocols.Source; counts records up to the next EndOfFile."""
        left: Counter[TopicPartition] = Counter()
        for entry in self.entries:
            if isinstance(entry, Record):
                left[sequence_of(entry)] += 0
        for entry in self.entries[self._next :] if not self._ended else ():
            if isinstance(entry, EndOfFile) and not entry.spent:
                break
            if isinstance(entry, Record) and entry.offset >= self._from.get(sequence_of(entry), 0):
                left[sequence_of(entry)] += 1
        lags: dict[str, dict[int, int]] = {}
        for sequence, count in left.items():
            lags.setdefault(sequence.topic, {})[sequence.partition] = count
        return lags

    def close(self) -> None:
        """Do nothing: no resources are held."""


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class MemorySink:
    """protocols.Sink into `records`, a list that a MemorySource may read."""

    def __init__(self, partitions: int = 0, now_ms: Callable[[], int] = _now_ms) -> None:
        """`partitions` for each topic, chosen by key as in Kafka; 0: one sequence for all topics, as in the embedded log."""
        self.records: list[Record] = []
        self._partitions, self._now_ms = partitions, now_ms
        self._ends: Counter[TopicPartition] = Counter()
        self._lock = threading.Lock()

    def publish(self, messages: Sequence[Message]) -> Offsets:
        """See protocols.Sink; records last as long as the process."""
        written: dict[TopicPartition, int] = {}
        with self._lock:
            for message in messages:
                partition = zlib.crc32(message.key or b"") % self._partitions if self._partitions else -1
                sequence = TopicPartition(message.topic, partition) if self._partitions else LOG
                at_ms = self._now_ms() if message.timestamp_ms is None else message.timestamp_ms
                offset = self._ends[sequence]
                self.records.append(Record(message.topic, partition, offset, at_ms, message.key, message.value))
                written[sequence] = self._ends[sequence] = offset + 1
        return written

    def close(self) -> None:
        """Do nothing: no resources are held."""
