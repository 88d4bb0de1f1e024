"""The archive: every accepted event as Parquet, so that a retraining and other tools need neither log nor Kafka.

Exactly once: new files are written under other names, made durable, and become part of the archive together with the
offsets that they reach by one step, the replacement of the manifest; so do merged and rewritten ones. One process
writes, any may read beside it. Who feeds it is archiver.py; how files look is parquet.py.

Cost: see archiver.py for writing; reading back takes about .2 us an event.
"""

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from streamer.core.arrays import F64, I64, U64
from streamer.core.batch import CLICK, RATING, Events
from streamer.core.events import CATALOGUE_TOPICS, CLICKS, LOG, RATINGS, TOPICS, USERS, Offsets, TopicPartition
from streamer.core.seed import event_keys, sequence_key
from streamer.core.settings import LearningSettings
from streamer.storage.archive.manifest import File, Manifest, read_manifest, remove, remove_unlisted, write_manifest
from streamer.storage.files import link_or_copy

FOLDER = "archive"  # in the data directory
MERGED_FILES = 8  # files of a like size that become one
MERGED_ROWS = 1 << 22  # at most so many rows a merged file
DAY_MS = 86_400_000


class Forgotten(NamedTuple):
    """What `forget` did."""

    user_ids: list[str]  # the user and all aliases
    rows: int  # that were theirs


class Archive:
    """The files and the offsets that they reach. Writing is safe from several threads of one process."""

    def __init__(self, folder: Path) -> None:
        """Of the data directory `folder`; reads and changes nothing. Raises BadState."""
        self.folder = folder / FOLDER
        self._lock = threading.RLock()
        self._manifest = read_manifest(self.folder)

    @property
    def offsets(self) -> dict[TopicPartition, int]:
        """The next offset of each sequence that is not archived."""
        found = {}
        for name, offset in self._manifest.offsets.items():
            topic, _, partition = name.rpartition("/")
            found[TopicPartition(topic, int(partition))] = offset
        return found

    @property
    def size_bytes(self) -> int:
        """Bytes on disk."""
        return sum(file.bytes for file in self._manifest.files)

    @property
    def rows(self) -> int:
        """Records in it, those of the catalogue too."""
        return sum(file.rows for file in self._manifest.files)

    def open(self) -> None:
        """Become the one who writes: remove what a crash left. Raises OSError."""
        with self._lock:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_unlisted(self.folder, self._manifest)

    def commit(self, rows: Mapping[str, Any], offsets: Offsets, forgotten: Collection[str]) -> None:
        """Add rows by topic and go on at `offsets`; earlier rows of the users `forgotten` are as good as gone.

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
        """Merge one group of small files of a topic and day, if there is one: any of a day before `today`, otherwise 8 of a like size.

        Raises OSError and BadState.
        """
        with self._lock:
            group = next(_groups(self._manifest.files, today), None)
            if group is None:
                return False
            self._rewrite([group])
            return True

    def _rewrite(self, groups: Sequence[Sequence[File]]) -> int:
        """Each group of files as one, without whoever is as good as gone; returns how many rows fewer there are."""
        from streamer.storage.archive import parquet

        before = self._manifest
        number, files = before.next_number, {file.number: file for file in before.files}
        fewer = 0
        for group in groups:
            rows = (part for file in group for part in parquet.parts(self.folder, file, before.gone(file)))
            merged = parquet.write(self.folder, number, group[0].topic, group[0].day, rows)
            fewer += sum(files.pop(file.number).rows for file in group) - (merged.rows if merged else 0)
            if merged:
                files[number] = merged
            number += 1
        self._replace(msgspec.structs.replace(before, next_number=number, files=tuple(files.values())))
        return fewer

    def retain(self, older_than_ms: int) -> None:
        """Drop files whose newest event was appended before; the catalogue stays. Raises OSError."""
        with self._lock:
            files = self._manifest.files
            kept = [f for f in files if f.topic in CATALOGUE_TOPICS or f.newest_ms >= older_than_ms or f.newest_ms < 0]
            if len(kept) < len(files):
                self._replace(msgspec.structs.replace(self._manifest, files=tuple(kept)))

    def aliases(self, user_id: str) -> list[str]:
        """The user and everybody whom the archived profiles say to be the same (`same_as`), in either direction."""
        pairs = [pair for file in self._manifest.files if file.topic == USERS for pair in self._pairs(file)]
        found, count = {user_id}, 0
        while len(found) > count:
            count = len(found)
            found |= {other for pair in pairs if found.intersection(pair) for other in pair}
        return [user_id, *sorted(found - {user_id})]

    def _pairs(self, file: File) -> Iterator[tuple[str, str]]:
        from streamer.storage.archive import parquet

        for row in parquet.read(self.folder, file, ["user_id", "value"]).to_pylist():
            if row["value"] and '"same_as"' in row["value"]:
                same = msgspec.json.decode(row["value"], type=_Same).same_as
                if same is not None:
                    yield row["user_id"], same

    def forget(self, user_id: str) -> Forgotten:
        """Rewrite the files that hold the user or an alias, and those of users forgotten before, without them.

        Nothing of them is in any file when this returns. Raises OSError and BadState, after which it may be called again.
        Cost: a look at every file's users, some 10 ns an event, and half a microsecond for each event rewritten.
        """
        with self._lock:
            manifest = self._manifest
            user_ids = self.aliases(user_id)
            forgetting = manifest.forgetting | dict.fromkeys(user_ids, manifest.next_number)
            if any(self._holds(file, user_ids) for file in manifest.files):
                self._replace(msgspec.structs.replace(manifest, forgetting=forgetting))
            return Forgotten(user_ids, self.purge())

    def purge(self) -> int:
        """Rewrite the files that hold rows which are as good as gone; returns how many rows went. Raises OSError and BadState."""
        with self._lock:
            manifest = self._manifest
            if not manifest.forgetting:
                return 0
            held = [[file] for file in manifest.files if self._holds(file, manifest.gone(file))]
            gone = self._rewrite(held) if held else 0
            self._replace(msgspec.structs.replace(self._manifest, forgetting={}))
            return gone

    def _holds(self, file: File, user_ids: Collection[str]) -> bool:
        from streamer.storage.archive import parquet

        if not user_ids:
            return False
        rows = parquet.read(self.folder, file, ["user_id", "value"] if file.topic == USERS else ["user_id"])
        return not parquet.without(rows, user_ids).equals(rows)

    def snapshot(self, folder: Path) -> None:
        """The archive as it is now in the empty data directory `folder`, its files as hard links where the disk is the same. Raises OSError."""
        with self._lock:
            for file in self._manifest.files:
                place = folder / FOLDER / file.path
                place.parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(self.folder / file.path, place)
            (folder / FOLDER).mkdir(parents=True, exist_ok=True)
            write_manifest(folder / FOLDER, self._manifest)

    def newest_event_ids(self, window: int) -> dict[TopicPartition, list[str]]:
        """The `window` event_ids of each sequence that came last, oldest first. Raises BadState."""
        from streamer.storage.archive import parquet

        found: dict[TopicPartition, list[tuple[Any, list[str]]]] = {}
        files = sorted((file for file in self._manifest.files if file.named), key=lambda file: -file.newest_ms)
        enough = window * max(1, len(self._manifest.offsets))
        for file in files if window else ():
            rows = parquet.read(self.folder, file, ["partition", "offset", "event_id"]).drop_null()
            partitions, offsets = rows["partition"].to_numpy(), rows["offset"].to_numpy()
            ids = np.array(rows["event_id"].to_pylist(), dtype=object)
            for partition in np.unique(partitions).tolist():
                at = LOG if partition < 0 else TopicPartition(file.topic, partition)
                chosen = partitions == partition
                found.setdefault(at, []).append((offsets[chosen], ids[chosen]))
            enough -= len(ids)
            if enough <= 0:
                break
        newest = {}
        for at, parts in found.items():
            order = np.argsort(np.concatenate([offsets for offsets, _ in parts]), kind="stable")[-window:]
            newest[at] = list(np.concatenate([ids for _, ids in parts])[order])
        return newest

    def events(self, learning: LearningSettings, until: Offsets | None) -> Events:
        """Ratings and clicks before `until` (None: all) in the order in which they were learned; reads what is on the disk now.

        Ids are numbered by first appearance, so that the same log gives the same arrays, however files were cut and merged.
        Raises BadState. Cost: about .2 us an event.
        """
        from streamer.storage.archive import parquet

        columns = ["user_id", "item_id", "kind", "rating", "timestamp_ms"]
        rows, order, topics = parquet.in_order(self.folder, (RATINGS, CLICKS), columns, until)
        rated = topics[order] == TOPICS.index(RATINGS)
        named, kinds = parquet.texts(rows, "kind", order)
        weights: F64 = np.array([learning.kinds.get(kind, np.nan) for kind in named] + [np.nan])
        values = np.where(rated, parquet.numbers(rows, "rating")[order], weights[kinds])
        if np.isnan(values).any():  # clicks of a kind that has no weight any more
            order, rated, values = (found[~np.isnan(values)] for found in (order, rated, values))
        numbers = {name: parquet.numbers(rows, name)[order] for name in ("partition", "offset", "timestamp_ms")}
        user_ids, users = parquet.texts(rows, "user_id", order)
        item_ids, items = parquet.texts(rows, "item_id", order)
        return Events(
            user_ids, item_ids, users, items, np.where(rated, RATING, CLICK).astype(np.uint8),
            values.astype(np.float32), numbers["timestamp_ms"].astype(np.int64),
            _keys(learning.seed, topics[order], numbers["partition"], numbers["offset"]),
        )  # fmt: skip


class _Same(msgspec.Struct):
    same_as: str | None = None


def _groups(files: Sequence[File], today: str) -> Iterator[list[File]]:
    """Files to merge, in the order in which they were written."""
    ordered = sorted(files, key=lambda file: (file.topic, file.day, file.number))
    for (_, day), group in groupby(ordered, key=lambda file: (file.topic, file.day)):
        small = [file for file in group if file.rows < MERGED_ROWS]
        if day < today:
            yield from _filled(small)
            continue
        classes: dict[int, list[File]] = {}
        for file in small:
            classes.setdefault((file.rows.bit_length() - 1) // 3, []).append(file)
        yield from (alike for alike in classes.values() if len(alike) >= MERGED_FILES)


def _filled(small: Sequence[File]) -> Iterator[list[File]]:
    taken: list[File] = []
    for file in small:
        if taken and sum(one.rows for one in taken) + file.rows > MERGED_ROWS:
            if len(taken) > 1:
                yield taken
            taken = []
        taken.append(file)
    if len(taken) > 1:
        yield taken


def _keys(seed: int, topics: Any, partitions: Any, offsets: I64) -> U64:
    """What the encoder makes of (seed, sequence, offset)."""
    bases = np.empty(len(offsets), np.uint64)
    codes = np.where(partitions < 0, -1, topics.astype(np.int64) << 32 | np.maximum(partitions, 0))
    for code in np.unique(codes).tolist():
        at = LOG if code < 0 else TopicPartition(TOPICS[code >> 32], code & 0xFFFFFFFF)
        bases[codes == code] = np.uint64(sequence_key(seed, at))
    return event_keys(bases, offsets)
