"""Repair: the rows of damaged files are fetched again from the embedded log or from Kafka, as far as these still have them.

`refetch` fetches; here it is decided what of it is certain. What cannot be brought back is named in the manifest, and the damaged
file is moved to the quarantine. Where the first copy of an event is gone with it, a second one that was dropped as its duplicate
takes its place.

Kafka may have more than a file had, of users who were removed since, or other events at the same offsets, in a topic that was
made anew. Its rows are taken if they are as many as the file had, because what was archived is among what it has; or if the
topic is known to be the same one, and all users who were removed are known, so that all rows that there are can be told.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import msgspec
import numpy as np

from streamer.core.arrays import I64
from streamer.core.events import ITEMS, LOG, USERS, TopicPartition
from streamer.core.protocols import KeptRecords
from streamer.core.settings import Settings
from streamer.storage.archive.archive import QUARANTINE, Archive
from streamer.storage.archive.manifest import File, Loss
from streamer.storage.archive.refetch import (
    Fetched,
    Key,
    Parts,
    Span,
    fetch,
    is_certain,
    offsets_in_whole_files,
    spans_of,
)
from streamer.storage.archive.removed import RemovedUsers
from streamer.storage.log import EmbeddedLog
from streamer.stream.removals import Removal


class Repaired(msgspec.Struct, frozen=True):
    """What became of the damaged files of one topic and day."""

    topic: str
    day: str
    files: dict[str, str]  # path -> what was wrong with it
    rows: int  # they held
    restored: int
    lost: Loss | None  # None: all rows are back
    place: str = ""  # where they are from: "the log"
    why: tuple[str, ...] = ()  # why others are not back, where that is known

    def sentence(self) -> str:
        """What became of them, and which offsets are gone."""
        if self.lost is None:
            return f"{', '.join(self.files)}: all {self.rows:,} rows are back, from {self.place}"
        if not self.lost.files:
            return f"{self.lost.sentence()}; a new archive begins with what comes next"
        why = f" ({'; '.join(self.why)})" if self.why else ""
        back = f"{self.restored:,} are back from {self.place}, " if self.place else ""
        return f"{self.lost.sentence()}{why}; {back}what is left of the files is in {QUARANTINE}"


class _Damaged(msgspec.Struct):
    """The damaged files of one topic and day."""

    key: Key
    files: list[File]
    spans: dict[TopicPartition, list[Span]]

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def day_ms(self) -> int:
        return int(np.datetime64(self.key[1], "ms").astype(np.int64))

    def low(self, at: TopicPartition) -> int:
        return min(low for low, _ in self.spans[at])

    def high(self, at: TopicPartition) -> int:
        return max(high for _, high in self.spans[at])


def repair(
    archive: Archive, settings: Settings, kept: KeptRecords | None, removals: Sequence[Removal]
) -> list[Repaired]:
    """Verify all files and repair the damaged ones; nobody else may write the archive meanwhile.

    `settings`: those that the state was made with. `kept`: where the records may still be; None: nowhere. `removals`: all that
    the state has learned; these users' earlier rows stay away. Raises BadState, OSError, SourceUnavailable, BadSettings; then
    the files are as they were. Cost: reading all files, and decoding what is between the offsets of the damaged ones.
    """
    archive.open()
    archive.verify()
    damaged = [file for file in archive.manifest.files if file.path in archive.damaged]
    if not damaged:
        return []
    groups = [_Damaged(key, list(files), {}) for key, files in groupby(sorted(damaged, key=_key), _key)]
    for group in groups:
        for file in group.files:
            for at, span in spans_of(archive, file).items():
                group.spans.setdefault(at, []).append(span)
    found, removed = Fetched(), RemovedUsers(removals)
    if kept is not None:
        found = fetch(archive, {group.key: group.spans for group in groups}, settings, kept, removed)
    done, mended = [], {}
    for group in groups:
        parts, why = _certain(archive, group, found, removed)
        restored = _count(parts)
        lost = None
        if restored < group.rows:
            offsets = _lost_offsets(archive, group, found, parts)
            lost = Loss(tuple(file.path for file in group.files), group.rows - restored, offsets)
        wrong, place = {file.path: archive.damaged[file.path] for file in group.files}, kept.place if kept else ""
        done.append(Repaired(*group.key, wrong, group.rows, restored, lost, place, why if lost else ()))
        mended[group.key] = list(_without_forgotten(archive, group.files, parts))
    archive.mend(mended, [one.lost for one in done if one.lost is not None])
    return done


def begin_anew(archive: Archive, log: EmbeddedLog | None) -> Repaired:
    """Begin an archive in the place of one that is missing, from what the log (None: Kafka) still has. Raises OSError."""
    begin = log.begin() if log is not None else 0
    lost = Loss((), -1, {-1: ((0, begin - 1),)} if begin else {})
    archive.begin_at({LOG: begin} if begin else {}, lost)
    return Repaired("", "", {str(archive.folder): "it is missing"}, -1, 0, lost)


def _key(file: File) -> Key:
    return file.topic, file.day


def _count(parts: Parts) -> int:
    return sum(part.num_rows for found in parts.values() for part in found)


def _certain(archive: Archive, group: _Damaged, found: Fetched, removed: RemovedUsers) -> tuple[Parts, tuple[str, ...]]:
    """Of the rows that were fetched those that the files certainly had, and why it is not all of them."""
    parts = dict(found.parts.get(group.key, {}))
    if LOG in group.spans or not found.extents:
        return parts, _reasons(group, found)
    topic, _ = group.key
    perhaps = found.perhaps.get(group.key, {})
    if perhaps and _count(parts) + _count(perhaps) == group.rows:
        parts |= {at: [*parts[at], *tables] for at, tables in perhaps.items()}
    there = not any(at in found.refused or found.extents[at].begin > group.low(at) for at in group.spans)
    complete = there and _count(parts) == group.rows
    why = list(_reasons(group, found))
    doubtful = [at for at in parts if not is_certain(archive, at, group.low(at), found.extents[at])]
    if doubtful and not (complete and _is_like(group, parts)):
        parts = {at: tables for at, tables in parts.items() if at not in doubtful}
        why.append(
            f"nothing says that the topic {topic} is still the one that was archived, as its id was not noted then"
        )
    if _count(parts) > group.rows:
        why.append(
            "there are more rows than these files had, and nothing says which of them are of users removed since"
        )
        parts = {}
    unsure = _names_others(parts) if topic == USERS else not complete and topic != ITEMS
    if unsure and parts and removed.may_have(group.day_ms):
        why.append(
            "some may be of users whose removal is no longer in the topic users, so that nothing says who they were"
        )
        parts = {}
    return parts, tuple(why)


def _reasons(group: _Damaged, found: Fetched) -> tuple[str, ...]:
    """Why some of the rows cannot be there."""
    refused = dict.fromkeys(found.refused[at] for at in group.spans if at in found.refused)
    late = [at for at in group.spans if at in found.gaps and found.extents[at].begin > group.low(at)]
    begins = ", ".join(f"{at.topic}/{at.partition} at {found.extents[at].begin}" for at in sorted(late))
    return (*refused, *([f"what is kept begins later: {begins}"] if late else []))


def _names_others(parts: Parts) -> bool:
    """Whether a profile names another user, who may be one that was removed. Profiles go before their removal does."""
    from streamer.storage.archive import parquet

    return any(parquet.naming_others(part).any() for found in parts.values() for part in found)


def _is_like(group: _Damaged, parts: Parts) -> bool:
    """Whether the newest row and the first and last offset of each partition are those that the files had."""
    from streamer.storage.archive import parquet

    if not all(file.spans for file in group.files):
        return False
    times = np.concatenate([parquet.numbers(part, "appended_ms") for found in parts.values() for part in found])
    ends = {at: _offsets(found) for at, found in parts.items()}
    spans = {at: (int(offsets.min()), int(offsets.max())) for at, offsets in ends.items() if len(offsets)}
    wanted = {at: (group.low(at), group.high(at)) for at in group.spans}
    return spans == wanted and int(times.max()) == max(file.newest_ms for file in group.files)


def _offsets(parts: Sequence[Any]) -> I64:
    from streamer.storage.archive import parquet

    return np.concatenate([np.empty(0, np.int64), *(parquet.numbers(part, "offset") for part in parts)])


def _lost_offsets(archive: Archive, group: _Damaged, found: Fetched, parts: Parts) -> dict[int, tuple[Span, ...]]:
    """Runs of offsets that the rows which are gone are among, by partition: bad events and duplicates may be among them too."""
    gone, missing = dict[TopicPartition, I64](), dict[TopicPartition, I64]()
    for at in group.spans:
        low, high = group.low(at), group.high(at)
        missing[at] = np.setdiff1d(np.arange(low, high + 1), offsets_in_whole_files(archive, at, low, high + 1))
        gaps = found.gaps.get(at, [(low, high)])
        was_read = at in parts or (at in found.gaps and at not in found.parts.get(group.key, {}))
        gone[at] = missing[at] if not was_read else np.intersect1d(missing[at], _numbers(gaps, low, high))
    if not any(len(offsets) for offsets in gone.values()):  # all are there, but rows of removed users
        gone = {at: np.setdiff1d(offsets, _offsets(parts.get(at, []))) for at, offsets in missing.items()}
    return {-1 if at == LOG else at.partition: _runs(offsets) for at, offsets in sorted(gone.items()) if len(offsets)}


def _numbers(spans: Sequence[Span], low: int, high: int) -> I64:
    """All offsets in these spans from `low` to `high`."""
    inside = [np.arange(max(first, low), min(last, high) + 1) for first, last in spans]
    return np.concatenate([np.empty(0, np.int64), *inside])


def _runs(offsets: I64) -> tuple[Span, ...]:
    """Runs of adjacent ascending offsets: the first and the last of each."""
    cuts = np.flatnonzero(np.diff(offsets) > 1) + 1
    return tuple((int(run[0]), int(run[-1])) for run in np.split(offsets, cuts) if len(run))


def _without_forgotten(
    archive: Archive, files: Sequence[File], parts: Mapping[TopicPartition, Sequence[Any]]
) -> Iterator[Any]:
    """The rows without those that are hidden in the damaged files: the new file has a number from which on nothing is hidden."""
    from streamer.storage.archive import parquet

    hidden = {user_id for file in files for user_id in archive.manifest.forgotten_in(file)}
    for found in parts.values():
        for part in found:
            yield parquet.without_users(part, hidden)
