"""Rows of damaged files, fetched again: what the log or Kafka still has between their offsets, decoded and compared anew.

A file of the archive holds the accepted events of one topic and day between two offsets of each partition, but for those in
other files. So what a damaged file held is what is kept there, without duplicates, and without what is in whole files.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from streamer.core.arrays import I64
from streamer.core.events import LOG, USERS, Record, TopicPartition
from streamer.core.protocols import Extent, KeptRecords
from streamer.core.settings import Settings
from streamer.storage.archive.archive import Archive
from streamer.storage.archive.manifest import File
from streamer.storage.archive.removed import RemovedUsers
from streamer.storage.archive.rows import Rows

CHUNK_RECORDS = 20_000  # records that are decoded at a time

Key: TypeAlias = tuple[str, str]  # a topic and a day
Span: TypeAlias = tuple[int, int]  # a first and a last offset
Spans: TypeAlias = Mapping[Key, Mapping[TopicPartition, Sequence[Span]]]  # what damaged files have rows between
Parts: TypeAlias = dict[TopicPartition, list[Any]]  # tables of rows, by sequence


@dataclass
class Fetched:
    """What was found of damaged files."""

    parts: dict[Key, Parts] = field(default_factory=dict)
    perhaps: dict[Key, Parts] = field(default_factory=dict)  # rows of removed users who may have come back
    gaps: dict[TopicPartition, list[Span]] = field(default_factory=dict)  # offsets that have no record any more
    refused: dict[TopicPartition, str] = field(default_factory=dict)  # why nothing of a sequence was read
    extents: Mapping[TopicPartition, Extent] = field(default_factory=dict)


def spans_of(archive: Archive, file: File) -> dict[TopicPartition, Span]:
    """The first and last offset that a file may have of each sequence."""
    if file.spans:
        return {LOG if n < 0 else TopicPartition(file.topic, n): span for n, span in file.spans.items()}
    sequences = {at: reached for at, reached in archive.offsets.items() if at == LOG or at.topic == file.topic}
    return {at: (0, reached - 1) for at, reached in sequences.items()}


def refusal(archive: Archive, at: TopicPartition, extent: Extent | None, place: str) -> str:
    """Why what is kept of a sequence is not, or cannot be known to be, what was archived; empty if it may be."""
    name = "" if at == LOG else f" of {at.topic}/{at.partition}"
    if extent is None:
        return f"{place} has nothing{name}"
    noted = archive.manifest.topics.get(at.topic)
    if noted is not None and extent.topic_id and extent.topic_id != noted.id:
        return f"the topic {at.topic} at {place} was deleted and made anew: what has these offsets now are other events"
    if extent.end < archive.offsets.get(at, 0):
        return (
            f"{place} ends at offset {extent.end}{name}, and the archive has read up to {archive.offsets[at]}: "
            "what has these offsets now may be other events"
        )
    return ""


def is_certain(archive: Archive, at: TopicPartition, low: int, extent: Extent) -> bool:
    """Whether the records from `low` on, if they are not refused, are those that were archived."""
    noted = archive.manifest.topics.get(at.topic)
    if at == LOG:
        return True
    return noted is not None and noted.id == extent.topic_id and low >= noted.since.get(at.partition, 0)


def fetch(archive: Archive, spans: Spans, settings: Settings, kept: KeptRecords, removed: RemovedUsers) -> Fetched:
    """Fetch the rows that only damaged files had; what `kept` has of removed users is left out.

    Raises SourceUnavailable, BadSettings, BadState. Cost: decoding what is between the offsets.
    """
    ranges = _ranges(spans)
    reached = {at: offset for at, offset in archive.offsets.items() if at.topic == USERS}
    found = Fetched(extents=kept.extents({*ranges, *reached}))
    whole = {at for at, extent in found.extents.items() if not refusal(archive, at, extent, "")}
    found.refused = {at: refusal(archive, at, found.extents.get(at), kept.place) for at in ranges if at not in whole}
    removed.read(kept, {at: found.extents[at] for at in whole}, reached, settings)
    first = {at: max(low, found.extents[at].begin) for at, (low, _) in ranges.items() if at in whole}
    rows = Rows(settings)
    rows.remember(archive.newest_event_ids(settings.state.dedupe_events, first))
    for at in first:
        low, stop = ranges[at]
        known = {key: offsets_in_whole_files(archive, at, low, stop, key) for key in spans if at in spans[key]}
        gaps = found.gaps[at] = [(low, first[at] - 1)] if low < first[at] else []
        expected = first[at]
        for records in _chunks(kept, at, first[at], stop):
            gaps += _gaps(records, expected)
            expected = records[-1].offset + 1
            rows.add(records)
            _collect(rows, at, found, spans, known, removed)
            rows.clear()
        if expected < stop:
            gaps.append((expected, stop - 1))
    return found


def _ranges(spans: Spans) -> dict[TopicPartition, Span]:
    """For each sequence the first offset and the offset behind the last one."""
    bounds: dict[TopicPartition, list[Span]] = {}
    for by_sequence in spans.values():
        for at, found in by_sequence.items():
            bounds.setdefault(at, []).extend(found)
    return {
        at: (min(low for low, _ in found), 1 + max(high for _, high in found)) for at, found in sorted(bounds.items())
    }


def _chunks(kept: KeptRecords, at: TopicPartition, first: int, stop: int) -> Iterator[list[Record]]:
    chunk: list[Record] = []
    for run in kept.between(at, first, stop) if first < stop else ():
        chunk += run
        if len(chunk) >= CHUNK_RECORDS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _gaps(records: Sequence[Record], expected: int) -> list[Span]:
    """Runs of offsets from `expected` on that these records, in order, do not have."""
    offsets = np.array([expected - 1, *(record.offset for record in records)])
    behind = np.flatnonzero(np.diff(offsets) > 1)
    return [(int(offsets[n]) + 1, int(offsets[n + 1]) - 1) for n in behind]


def _collect(
    rows: Rows,
    at: TopicPartition,
    found: Fetched,
    spans: Spans,
    known: Mapping[Key, I64],
    removed: RemovedUsers,
) -> None:
    """Add those rows that only damaged files had; all rows are of one sequence."""
    from streamer.storage.archive import parquet

    for parts in found.parts.values():
        if at in parts:
            parts[at] = [parquet.without_users(part, rows.forgotten) for part in parts[at]]
    for topic, table in rows.by_topic().items():
        for day, part in parquet.by_day(table):
            key = (topic, day)
            if at not in spans.get(key, {}):
                continue
            offsets = parquet.numbers(part, "offset")
            mask = ~np.isin(offsets, known[key])
            mask &= np.any([(offsets >= low) & (offsets <= high) for low, high in spans[key][at]], axis=0)
            theirs, perhaps = removed.split(parquet.masked(part, mask), at)
            found.parts.setdefault(key, {}).setdefault(at, []).append(theirs)
            if perhaps.num_rows:
                found.perhaps.setdefault(key, {}).setdefault(at, []).append(perhaps)


def offsets_in_whole_files(archive: Archive, at: TopicPartition, first: int, stop: int, key: Key | None = None) -> I64:
    """Offsets of a sequence with first <= offset < stop that undamaged files have: of one topic and day, or of all."""
    from streamer.storage.archive import parquet

    partition = -1 if at == LOG else at.partition
    found: list[I64] = [np.empty(0, np.int64)]
    for file in archive.manifest.files:
        low, high = file.spans.get(partition, (stop, first)) if file.spans else (first, stop)
        mine = (file.topic, file.day) == key if key is not None else at == LOG or file.topic == at.topic
        if mine and low < stop and high >= first and file.path not in archive.damaged:
            rows = parquet.read(archive.folder, file, ["partition", "offset"])
            found.append(parquet.numbers(parquet.between(rows, partition, first, stop), "offset"))
    return np.unique(np.concatenate(found))
