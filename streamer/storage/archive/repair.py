"""Repair: the rows of damaged files are fetched again from the embedded log, as far as it still has them.

A file of the archive holds the accepted events of one topic and day between two offsets, but for those in other files. So what a
damaged file held is what the log has there, decoded anew, without what is in whole files. What cannot be brought back is
named in the manifest, and the damaged file is moved to the quarantine. Where the first copy of an event is gone with it, a second
one that was dropped as its duplicate takes its place.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import msgspec
import numpy as np

from streamer.core.arrays import I64
from streamer.core.events import LOG, Record
from streamer.core.settings import Settings
from streamer.storage.archive.archive import QUARANTINE, Archive
from streamer.storage.archive.manifest import File, Loss
from streamer.storage.archive.rows import Rows
from streamer.storage.log import EmbeddedLog

CHUNK_RECORDS = 20_000  # records that are decoded at a time

_Key = tuple[str, str]  # a topic and a day


class Repaired(msgspec.Struct, frozen=True):
    """What became of the damaged files of one topic and day."""

    topic: str
    day: str
    files: dict[str, str]  # path -> what was wrong with it
    rows: int  # they held
    restored: int
    lost: Loss | None  # None: all rows are back

    def sentence(self) -> str:
        """What became of them, and which offsets are gone."""
        if self.lost is None:
            return f"{', '.join(self.files)}: all {self.rows:,} rows are back, from the log"
        if not self.lost.files:
            return f"{self.lost.sentence()}; a new archive begins with what comes next"
        return f"{self.lost.sentence()}; {self.restored:,} are back from the log, what is left of the files is in {QUARANTINE}"


def repair(archive: Archive, settings: Settings, log: EmbeddedLog | None, removed: Mapping[str, int]) -> list[Repaired]:
    """Verify all files and repair the damaged ones; nobody else may write the archive meanwhile.

    `settings`: those that the state was made with. `log`: None without an embedded log. `removed`: users whose removal was
    learned and whose data may still be in the log, each with the offset of the removal's record; their earlier rows stay away.
    Raises BadState, OSError. Cost: reading all files, and decoding the log between the offsets of the damaged ones.
    """
    archive.open()
    archive.verify()
    damaged = [file for file in archive.manifest.files if file.path in archive.damaged]
    if not damaged:
        return []
    groups = {key: list(files) for key, files in groupby(sorted(damaged, key=_key), _key)}
    found = _fetch(archive, groups, settings, log, removed) if log is not None else {}
    begin = log.begin() if log is not None else None
    done, mended = [], {}
    for key, files in groups.items():
        parts, rows = found.get(key, []), sum(file.rows for file in files)
        restored = sum(part.num_rows for part in parts)
        lost = None
        if restored < rows:
            offsets = _lost_offsets(archive, files, parts, begin)
            lost = Loss(tuple(file.path for file in files), rows - restored, offsets)
        done.append(Repaired(*key, {file.path: archive.damaged[file.path] for file in files}, rows, restored, lost))
        mended[key] = list(_without_forgotten(archive, files, parts))
    archive.mend(mended, [one.lost for one in done if one.lost is not None])
    return done


def begin_anew(archive: Archive, log: EmbeddedLog | None) -> Repaired:
    """Begin an archive in the place of one that is missing, from what the log (None: Kafka) still has. Raises OSError."""
    begin = log.begin() if log is not None else 0
    lost = Loss((), -1, {-1: ((0, begin - 1),)} if begin else {})
    archive.begin_at({LOG: begin} if begin else {}, lost)
    return Repaired("", "", {str(archive.folder): "it is missing"}, -1, 0, lost)


def _key(file: File) -> _Key:
    return file.topic, file.day


def _span(file: File, archive: Archive) -> tuple[int, int] | None:
    """The first and last offset of the log that a file may have; None for a file of Kafka's records."""
    if not file.spans:
        reached = archive.offsets.get(LOG)
        return None if reached is None else (0, reached - 1)
    return file.spans.get(-1)


def _fetch(
    archive: Archive,
    groups: Mapping[_Key, Sequence[File]],
    settings: Settings,
    log: EmbeddedLog,
    removed: Mapping[str, int],
) -> dict[_Key, list[Any]]:
    """The rows of damaged files that the log still has, by topic and day, in order."""
    spans = {key: [span for file in files if (span := _span(file, archive))] for key, files in groups.items()}
    bounds = [bound for found in spans.values() for bound in found]
    if not bounds:
        return {}
    first = max(log.begin(), min(low for low, _ in bounds))
    stop = max(high for _, high in bounds) + 1
    known = {key: _offsets_in_whole_files(archive, first, stop, key) for key in groups}
    rows = Rows(settings)
    rows.remember(archive.newest_event_ids(settings.state.dedupe_events, first))
    kept: dict[_Key, list[Any]] = {}
    for records in _chunks(log, first, stop):
        rows.add(records)
        _collect(rows, kept, spans, known, removed)
        rows.clear()
    return kept


def _chunks(log: EmbeddedLog, first: int, stop: int) -> Iterator[list[Record]]:
    chunk: list[Record] = []
    for run in log.read(first):
        chunk += [record for record in run if record.offset < stop]
        if len(chunk) >= CHUNK_RECORDS:
            yield chunk
            chunk = []
        if run[-1].offset >= stop:
            break
    if chunk:
        yield chunk


def _collect(
    rows: Rows,
    kept: dict[_Key, list[Any]],
    spans: Mapping[_Key, Sequence[tuple[int, int]]],
    known: Mapping[_Key, I64],
    removed: Mapping[str, int],
) -> None:
    """Add to `kept` those rows that only damaged files had."""
    from streamer.storage.archive import parquet

    for key, parts in kept.items():
        kept[key] = [parquet.without_users(part, rows.forgotten) for part in parts]
    for topic, table in rows.by_topic().items():
        for day, part in parquet.by_day(table):
            if (key := (topic, day)) not in spans:
                continue
            offsets = parquet.numbers(part, "offset")
            mask = ~np.isin(offsets, known[key])
            mask &= np.any([(offsets >= low) & (offsets <= high) for low, high in spans[key]], axis=0)
            for user_id, offset in removed.items():
                mask &= ~(parquet.of_user(part, user_id) & (offsets <= offset))
            kept.setdefault(key, []).append(parquet.masked(part, mask))


def _offsets_in_whole_files(archive: Archive, first: int, stop: int, key: _Key | None = None) -> I64:
    """Offsets of the log, of at least `first` and below `stop`, that undamaged files have: of one topic and day, or of all."""
    from streamer.storage.archive import parquet

    found: list[I64] = [np.empty(0, np.int64)]
    for file in archive.manifest.files:
        if file.path not in archive.damaged and key in (None, _key(file)):
            rows = parquet.logged_between(parquet.read(archive.folder, file, ["partition", "offset"]), first, stop)
            found.append(parquet.numbers(rows, "offset"))
    return np.unique(np.concatenate(found))


def _lost_offsets(
    archive: Archive, files: Sequence[File], parts: Sequence[Any], begin: int | None
) -> dict[int, tuple[tuple[int, int], ...]]:
    """Runs of offsets that the rows which are gone are among, by partition: bad events and duplicates may be among them too."""
    from streamer.storage.archive import parquet

    found: dict[int, list[tuple[int, int]]] = {}
    for file in files:
        for partition, span in file.spans.items():
            if partition >= 0:
                found.setdefault(partition, []).append(span)
    logged = [covered for file in files if (covered := _span(file, archive))]
    if logged:
        low, high = min(low for low, _ in logged), max(high for _, high in logged)
        stop = begin if begin is not None and low < begin <= high else high + 1
        missing = np.arange(low, stop)
        there = [parquet.numbers(part, "offset") for part in parts]
        missing = np.setdiff1d(missing, np.concatenate([_offsets_in_whole_files(archive, low, stop), *there]))
        found[-1] = _runs(missing)
    return {partition: tuple(sorted(runs)) for partition, runs in found.items()}


def _runs(offsets: I64) -> list[tuple[int, int]]:
    """Runs of adjacent ascending offsets: the first and the last of each."""
    cuts = np.flatnonzero(np.diff(offsets) > 1) + 1
    return [(int(run[0]), int(run[-1])) for run in np.split(offsets, cuts) if len(run)]


def _without_forgotten(archive: Archive, files: Sequence[File], parts: Sequence[Any]) -> Iterator[Any]:
    """The rows without those that are hidden in the damaged files: the new file has a number from which on nothing is hidden."""
    from streamer.storage.archive import parquet

    hidden = {user_id for file in files for user_id in archive.manifest.forgotten_in(file)}
    for part in parts:
        yield parquet.without_users(part, hidden)
