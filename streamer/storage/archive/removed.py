"""Users who were removed: which of the records that are read again are theirs, from before the removal.

In the embedded log a removal has its place among all other records, and erasure has blanked what is older. Kafka keeps records
until its retention, and its partitions have no common order. So removals are read from `users` once more, and rows of these
users that were appended before count as theirs, up to a day later only perhaps: an archive that was behind may have read these
first. The records of old removals are compacted away in the end; then only a time is known until which they were made.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from streamer.core.arrays import Bool
from streamer.core.events import USERS, TopicPartition, UserRemoval
from streamer.core.protocols import Extent, KeptRecords
from streamer.core.settings import Settings
from streamer.stream.decoder import Decoder
from streamer.stream.removals import Removal

BEHIND_MS = 86_400_000  # how far the archive may have been behind in one partition when it read another


class _Last(NamedTuple):
    """A user's last removal."""

    at: TopicPartition
    offset: int
    time_ms: float  # infinite if it is not known


class RemovedUsers:
    """The users, and until when others were removed."""

    def __init__(self, removals: Sequence[Removal]) -> None:
        """`removals`: all that the state has learned; for the embedded log they say everything."""
        self._removals = removals
        self._last = {one.user_id: _Last(one.at, one.offset, math.inf) for one in removals if one.user_id}
        self._unknown_until_ms = -1.0

    def read(self, kept: KeptRecords, extents: Mapping[TopicPartition, Extent], reached: Mapping[TopicPartition, int], settings: Settings) -> None:  # fmt: skip
        """Read the removals that Kafka still has below `reached`, the next offsets to archive in `users`. Cost: reading that topic."""
        decoder = Decoder(settings.learning)
        found, there = dict[str, _Last](), set[tuple[TopicPartition, int]]()
        offsets, times = dict[TopicPartition, list[int]](), dict[TopicPartition, list[int]]()
        for at in reached.keys() & extents.keys():
            offsets[at], times[at] = [], []
            for records in kept.between(at, min(extents[at].begin, reached[at]), reached[at]):
                for record, event in zip(records, decoder.decode(records, {}, {}), strict=True):
                    offsets[at].append(record.offset)
                    times[at].append(record.timestamp_ms)
                    if isinstance(event, UserRemoval):
                        there.add((at, record.offset))
                        time_ms = record.timestamp_ms if record.timestamp_ms >= 0 else math.inf
                        if event.user_id not in found or found[event.user_id].time_ms <= time_ms:
                            found[event.user_id] = _Last(at, record.offset, time_ms)
        self._last |= found
        for one in self._removals:
            if not one.user_id and one.topic == USERS and (one.at, one.offset) not in there:
                behind = int(np.searchsorted(offsets.get(one.at, []), one.offset, "right"))
                later = times.get(one.at, [])[behind:]
                self._unknown_until_ms = max(self._unknown_until_ms, later[0] if later else math.inf)

    def may_have(self, day_ms: int) -> bool:
        """Whether rows appended on a day, which begins at `day_ms`, may be of removed users of whom nothing is known any more."""
        return day_ms <= self._unknown_until_ms + BEHIND_MS

    def split(self, rows: Any, at: TopicPartition) -> tuple[Any, Any]:
        """The rows of a sequence that are not removed users' from before their removals, and those that perhaps are not."""
        from streamer.storage.archive import parquet

        chosen = np.flatnonzero(parquet.of_users(rows, self._last)) if self._last else np.empty(0, np.int64)
        kept: Bool = np.ones(rows.num_rows, np.bool_)
        perhaps: Bool = np.zeros(rows.num_rows, np.bool_)
        user_ids = parquet.select(rows, "user_id", chosen).to_pylist() if len(chosen) else []
        offsets, times_ms = parquet.numbers(rows, "offset"), parquet.numbers(rows, "appended_ms")
        for row, user_id in zip(chosen.tolist(), user_ids, strict=True):
            last = self._last[user_id]
            if last.at == at:
                kept[row] = offsets[row] > last.offset
            else:
                kept[row] = times_ms[row] > last.time_ms + BEHIND_MS
                perhaps[row] = last.time_ms < times_ms[row] <= last.time_ms + BEHIND_MS
        named = [user_id for user_id, last in self._last.items() if at.topic == USERS]
        certain, uncertain = parquet.masked(rows, kept), parquet.masked(rows, perhaps)
        return (parquet.without_aliases_to(certain, named) if named else certain), uncertain
