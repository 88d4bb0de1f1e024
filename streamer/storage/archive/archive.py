"""The archive: every accepted event as Parquet, so that a retraining and other tools need neither log nor Kafka.

Each event is archived exactly once: new, merged and rewritten files are first made durable, and become part of the archive
together with the offsets that they reach in one step, the replacement of the manifest. One process writes; other processes
may read at the same time. archiver.py feeds the archive, parquet.py defines the files. A damaged file is never read as
something else, merged or dropped: it stays in the list until repair.py has dealt with it.

Cost: see archiver.py for writing; reading back takes about .2 us an event.
"""

import shutil
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from streamer.core.arrays import F64
from streamer.core.batch import CLICK, RATING, RETRACTED, Events
from streamer.core.errors import DamagedFile
from streamer.core.events import CATALOGUE_TOPICS, CLICKS, LOG, RATINGS, TOPICS, USERS, Offsets, Record, TopicPartition
from streamer.core.kinds import Kinds
from streamer.core.settings import LearningSettings
from streamer.core.superseded import mark_repeated
from streamer.storage.archive.manifest import (
    File,
    Loss,
    Manifest,
    Topic,
    damage_at_a_glance,
    is_listed,
    read_manifest,
    remove,
    remove_unlisted,
    renew_manifest,
    write_manifest,
)
from streamer.storage.archive.merging import mergeable_groups
from streamer.storage.files import link_or_copy

FOLDER = "archive"  # in the data directory
QUARANTINE = "_damaged"  # in the archive's folder: damaged files whose rows could not all be brought back
DAY_MS = 86_400_000


class Archive:
    """The files, and the offsets that they reach. Several threads of one process may write."""

    def __init__(self, folder: Path) -> None:
        """The archive of the data directory `folder`, read-only until `open`. Raises BadState."""
        self.folder = folder / FOLDER
        self._lock = threading.RLock()
        self._manifest = read_manifest(self.folder)
        self.damaged = damage_at_a_glance(self.folder, self._manifest)  # path of a file -> what is wrong with it
        self._verified = -1  # the number of the file that `verify` looked at last

    @property
    def offsets(self) -> dict[TopicPartition, int]:
        """The next offset to archive of each sequence."""
        found = {}
        for name, offset in self._manifest.offsets.items():
            topic, _, partition = name.rpartition("/")
            found[TopicPartition(topic, int(partition))] = offset
        return found

    @property
    def exists(self) -> bool:
        """Whether there is an archive, be it empty."""
        return is_listed(self.folder)

    @property
    def manifest(self) -> Manifest:
        """The list of files as it is now."""
        return self._manifest

    @property
    def size_bytes(self) -> int:
        """Bytes on disk."""
        return sum(file.bytes for file in self._manifest.files)

    @property
    def rows(self) -> int:
        """Archived records, those of the catalogue included."""
        return sum(file.rows for file in self._manifest.files)

    def open(self) -> None:
        """Prepare for writing: remove files that a crash left, and write the list anew if it or its copy is damaged. Raises OSError."""
        with self._lock:
            self.folder.mkdir(parents=True, exist_ok=True)
            renew_manifest(self.folder, self._manifest)
            remove_unlisted(self.folder, self._manifest)

    def commit(self, rows: Mapping[str, Any], offsets: Offsets, forgotten: Collection[str]) -> None:
        """Add rows by topic and advance to `offsets`; earlier rows of the users `forgotten` are hidden from readers at once.

        Raises OSError, after which nothing has changed and it may be tried again.
        """
        from streamer.storage.archive import parquet

        with self._lock:
            before = self._manifest
            number, files = before.next_number, list[File]()
            try:
                for topic, table in rows.items():
                    for day, part in parquet.by_day(table):
                        file = parquet.write(self.folder, number, topic, day, [part])
                        number += 1
                        files += [file] if file else []
            except OSError:
                remove(self.folder, files)
                raise
            reached = before.offsets | {f"{at.topic}/{at.partition}": offset for at, offset in offsets.items()}
            forgetting = before.forgetting | dict.fromkeys(forgotten, before.next_number)
            self._replace(
                msgspec.structs.replace(
                    before, next_number=number, offsets=reached, files=(*before.files, *files), forgetting=forgetting
                )
            )

    def _replace(self, manifest: Manifest) -> None:
        write_manifest(self.folder, manifest)
        old, self._manifest = self._manifest, manifest
        kept = {file.number for file in manifest.files}
        remove(self.folder, [file for file in old.files if file.number not in kept])

    def compact(self, today: str) -> bool:
        """Merge one group of small files of the same topic and day; return whether there was one. Raises OSError and BadState.

        A group is all small files of a day before `today`, or 8 files of similar size of `today`. Damaged files stay as they are.
        """
        with self._lock:
            group = next(mergeable_groups(self._whole(), today), None)
            if group is None:
                return False
            try:
                self._rewrite([group])
            except DamagedFile:
                self._verify(group, note=True)
            return True

    def _whole(self) -> list[File]:
        """The files that are not known to be damaged."""
        return [file for file in self._manifest.files if file.path not in self.damaged]

    def verify(self, most_bytes: int | None = None, *, note: bool = True) -> None:
        """Read all files, or the next ones of `most_bytes` in all, round and round; afterwards `damaged` says which are.

        Files without a digest get the one of what they hold now, unless `note` is False, for who only reads.
        Raises OSError and BadState. Cost: 1 s for some 1 GB.
        """
        with self._lock:
            if most_bytes is None:
                self._verify(self._manifest.files, note)
                return
            chosen, left = list[File](), most_bytes
            for file in sorted(self._manifest.files, key=lambda file: file.number):
                if file.number > self._verified and left > 0:
                    chosen.append(file)
                    left -= file.bytes
            self._verified = chosen[-1].number if left <= 0 else -1
            self._verify(chosen, note)

    def _verify(self, files: Sequence[File], note: bool) -> None:
        from streamer.storage.archive import parquet

        described = {}
        for file in files:
            try:
                if file.sha256:
                    parquet.verify(self.folder, file)
                else:
                    described[file.number] = parquet.described(self.folder, file)
                self.damaged.pop(file.path, None)  # not before, as other threads look at it
            except DamagedFile as error:
                self.damaged[file.path] = str(error)
        if described and note:
            kept = tuple(described.get(file.number, file) for file in self._manifest.files)
            self._replace(msgspec.structs.replace(self._manifest, files=kept))

    def _rewrite(self, groups: Sequence[Sequence[File]]) -> None:
        """Replace each group of files by one file without the rows of forgotten users."""
        from streamer.storage.archive import parquet

        before = self._manifest
        number, files = before.next_number, {file.number: file for file in before.files}
        for group in groups:
            rows = (part for file in group for part in parquet.parts(self.folder, file, before.forgotten_in(file)))
            merged = parquet.write(self.folder, number, group[0].topic, group[0].day, rows)
            for file in group:
                del files[file.number]
            if merged:
                files[number] = merged
            number += 1
        self._replace(msgspec.structs.replace(before, next_number=number, files=tuple(files.values())))

    def retain(self, older_than_ms: int) -> None:
        """Drop files whose newest event was appended before `older_than_ms`; the catalogue stays. Raises OSError."""
        with self._lock:
            files = self._manifest.files
            kept = [f for f in files if f.topic in CATALOGUE_TOPICS or f.newest_ms >= older_than_ms or f.newest_ms < 0]
            if len(kept) < len(files):
                self._replace(msgspec.structs.replace(self._manifest, files=tuple(kept)))

    def purge(self) -> None:
        """Rewrite the files that have rows of forgotten users, without those rows.

        When this returns, no file has anything of them. Raises OSError and BadState, after which it may be called again: a
        damaged file cannot be rewritten. Cost: reading the user ids of all files, some 10 ns an event, and half a
        microsecond for each event rewritten.
        """
        with self._lock:
            manifest = self._manifest
            if not manifest.forgetting:
                return
            held = [[file] for file in self._whole() if self._mentions(file, manifest.forgotten_in(file))]
            if held:
                self._rewrite(held)
            for file in self._manifest.files:
                if file.path in self.damaged and self._manifest.forgotten_in(file):
                    raise DamagedFile(f"rows of forgotten users may be in a damaged file: {self.damaged[file.path]}")
            shutil.rmtree(self.folder / QUARANTINE, ignore_errors=True)  # nobody can tell whose rows are in there
            self._replace(msgspec.structs.replace(self._manifest, forgetting={}))

    def _mentions(self, file: File, user_ids: Collection[str]) -> bool:
        from streamer.storage.archive import parquet

        if not user_ids:
            return False
        try:
            rows = parquet.read(self.folder, file, ["user_id", "value"] if file.topic == USERS else ["user_id"])
        except DamagedFile:
            self._verify([file], note=False)
            return False
        return not parquet.without_users(rows, user_ids).equals(rows)

    def note_topics(self, topic_ids: Mapping[str, str]) -> list[str]:
        """Note the ids of the topics that are read from now on; returns those that had another one. Raises OSError."""
        with self._lock:
            was, reached = self._manifest.topics, self.offsets
            new = {name: found for name, found in topic_ids.items() if name not in was or was[name].id != found}
            since = {name: {at.partition: reached[at] for at in reached if at.topic == name} for name in new}
            if new:
                noted = was | {name: Topic(found, since[name]) for name, found in new.items()}
                self._replace(msgspec.structs.replace(self._manifest, topics=noted))
            return [name for name in new if name in was]

    def begin_at(self, offsets: Offsets, lost: Loss) -> None:
        """Go on from later offsets than it reaches, because what is `lost` cannot be had any more. Raises OSError."""
        with self._lock:
            reached = self._manifest.offsets | {f"{at.topic}/{at.partition}": offset for at, offset in offsets.items()}
            was = self._manifest
            self.folder.mkdir(parents=True, exist_ok=True)
            self._replace(msgspec.structs.replace(was, offsets=reached, lost=(*was.lost, lost)))

    def mend(self, mended: Mapping[tuple[str, str], Sequence[Any]], lost: Sequence[Loss]) -> None:
        """Put rows in the place of the damaged files, by topic and day; the files named in `lost` go to the quarantine.

        Raises OSError, after which nothing has changed.
        """
        from streamer.storage.archive import parquet

        with self._lock:
            before, moved = self._manifest, {path for loss in lost for path in loss.files}
            number, files = before.next_number, [file for file in before.files if file.path not in self.damaged]
            for (topic, day), rows in mended.items():
                file = parquet.write(self.folder, number, topic, day, rows)
                number += 1
                files += [file] if file else []
            for path in moved:
                if (self.folder / path).exists():
                    aside = self.folder / QUARANTINE / Path(path).name
                    aside.parent.mkdir(exist_ok=True)
                    aside.unlink(missing_ok=True)  # of a repair that was interrupted
                    link_or_copy(self.folder / path, aside)
            self._replace(
                msgspec.structs.replace(before, next_number=number, files=tuple(files), lost=(*before.lost, *lost))
            )
            self.damaged = {}

    def snapshot(self, folder: Path) -> None:
        """Copy the present archive to the empty data directory `folder`, on the same disk by hard links.

        Raises OSError, and DamagedFile when a file is damaged. Cost: hashing every file.
        """
        with self._lock:
            self._verify(self._manifest.files, note=False)
            self.refuse_damaged("not backed up")
            for file in self._manifest.files:
                place = folder / FOLDER / file.path
                place.parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(self.folder / file.path, place)
            (folder / FOLDER).mkdir(parents=True, exist_ok=True)
            write_manifest(folder / FOLDER, self._manifest)

    def refuse_damaged(self, so: str) -> None:
        """Raise DamagedFile if a file is known to be damaged: `so`, what follows from that, and the first of them."""
        for sentence in self.damaged.values():
            raise DamagedFile(f"{so}: {sentence}")

    def newest_event_ids(self, window: int, before: Offsets | None = None) -> dict[TopicPartition, list[str]]:
        """The last `window` event_ids of each sequence, oldest first. Raises BadState.

        `before`: only of the sequences that it names, of records with lower offsets, and in undamaged files.
        """
        from streamer.storage.archive import parquet

        found: dict[TopicPartition, list[tuple[Any, list[str]]]] = {}
        named = self._manifest.files if before is None else self._whole()
        files = sorted((file for file in named if file.named), key=lambda file: -file.newest_ms)
        enough = window * max(1, len(self._manifest.offsets))
        for file in files if window else ():
            rows = parquet.read(self.folder, file, ["partition", "offset", "event_id"]).drop_null()
            partitions, offsets = rows["partition"].to_numpy(), rows["offset"].to_numpy()
            ids = np.array(rows["event_id"].to_pylist(), dtype=object)
            for partition in np.unique(partitions).tolist():
                at = LOG if partition < 0 else TopicPartition(file.topic, partition)
                chosen = partitions == partition
                if before is not None:
                    chosen &= offsets < before.get(at, 0)
                found.setdefault(at, []).append((offsets[chosen], ids[chosen]))
                enough -= int(chosen.sum())
            if enough <= 0:
                break
        newest = {}
        for at, parts in found.items():
            order = np.argsort(np.concatenate([offsets for offsets, _ in parts]), kind="stable")[-window:]
            newest[at] = list(np.concatenate([ids for _, ids in parts])[order])
        return newest

    def records(self, first: int, stop: int) -> Iterator[Record]:
        """The archived records of the embedded log with first <= offset < stop, in order, from undamaged files only.

        When it ends, `damaged` names the files that were left out. Forgotten users are left out too, and so is what is never
        archived: bad events, duplicates and removals of users. A record has the JSON that `streamer.core.events.message`
        gives its event, with its time. Memory: some 100 bytes a record. Cost: about 3 us a record.
        """
        from streamer.storage.archive.records import records

        return records(self.folder, self._manifest, first, stop, self.damaged)

    def events(self, learning: LearningSettings, until: Offsets | None) -> Events:
        """Ratings and clicks before `until` (None: all) in the order in which they were learned, read from disk.

        Ids are numbered by first appearance, so that the same log gives the same arrays, however files were split and merged.
        What says nothing new is marked as REPEATED, as by the encoder; of ratings replaced by later ones all are there, see
        `superseded.current`. Raises BadState. Cost: about .3 us an event.
        """
        from streamer.storage.archive import parquet
        from streamer.storage.archive.records import event_keys_of

        columns = ["user_id", "item_id", "kind", "rating", "timestamp_ms", "appended_ms"]
        rows, order, topics = parquet.in_order(self.folder, (RATINGS, CLICKS), columns, until)
        rated = topics[order] == TOPICS.index(RATINGS)
        named, numbers_of = parquet.encode_texts(rows, "kind", order)
        known = Kinds(learning)
        weights: F64 = np.array([*map(known.weights.__getitem__, named), None], np.float64)  # NaN for None
        codes = np.array([*map(known.codes.__getitem__, named), 0], np.int32)[numbers_of]
        values = np.where(rated, parquet.numbers(rows, "rating")[order], weights[numbers_of])
        weightless = np.isnan(values) & ~rated
        if weightless.any():  # clicks of a kind that no longer has a weight
            order, rated, values, codes = (found[~weightless] for found in (order, rated, values, codes))
        kinds = np.where(rated, np.where(np.isnan(values), RETRACTED, RATING), CLICK).astype(np.uint8)
        values[np.isnan(values)] = 0.0
        numbers = {
            name: parquet.numbers(rows, name)[order] for name in ("partition", "offset", "timestamp_ms", "appended_ms")
        }
        user_ids, users = parquet.encode_texts(rows, "user_id", order)
        item_ids, items = parquet.encode_texts(rows, "item_id", order)
        times_ms = numbers["timestamp_ms"].astype(np.int64)
        window_ms = round(1000 * learning.click_window_s)
        timed = times_ms != numbers["appended_ms"]  # an event without a time of its own has that of its record
        mark_repeated(users, items, codes, values.astype(np.float32), times_ms, timed, kinds, window_ms)
        return Events(
            user_ids, item_ids, users, items, kinds, values.astype(np.float32), times_ms,
            event_keys_of(learning.seed, topics[order], numbers["partition"], numbers["offset"]),
        )  # fmt: skip
