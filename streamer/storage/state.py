"""The state store: rows by table and key, and the offsets that they cover, committed in one RocksDB write batch.

A stored key is `table NUL key`. The owner of a table defines the format of its rows. Tables are named
`learned/<learner>/<table>` for learners, and `offsets`, `items`, `catalogue`, `users/...`, `dedupe`, `monitor`, `journal`,
`dead-letters`, `champions`, `meta`. Keys are never row numbers. Each generation has a state of its own.
"""

import hashlib
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from streamer.core.errors import BadState
from streamer.core.events import Offsets, TopicPartition
from streamer.core.protocols import Kind, Row, Rows
from streamer.core.settings import LearningSettings
from streamer.storage import generations
from streamer.storage.rocks import Rocks

FORMAT = 2
LEARNED = "learned"  # prefix of the learners' tables
PROMOTED = "champions"  # kind -> the learner that was promoted for it
REMOVALS_UNDER_WAY, REMOVALS_DONE = "forgetting", "receipts"  # tables of streamer.stream.removals
ADDED_LATER = ("click_window_s",)  # settings that a state of an earlier version lacks; it takes those of its next start
# Not part of the digest: they are not learned. A promotion changes only answers; the record of a removal is about files.
OUTSIDE_DIGEST = ("journal", "dead-letters", PROMOTED, REMOVALS_UNDER_WAY, REMOVALS_DONE)
FREE = "unknown_kinds"  # a setting that may change: it is recorded, and not compared
_NUL = b"\0"
_LOGGER = logging.getLogger("streamer.state")


class Meta(msgspec.Struct, frozen=True):
    """The settings on which a state depends, recorded when it is created."""

    format: int
    generation: str
    settings: dict[str, Any]
    champions: dict[Kind, str] = {}  # those that the settings named when the state was last opened
    since: dict[str, dict[str, int]] = {}  # for learners added later: the next offsets at which they began


class Change(NamedTuple):
    """How a new choice of learners changes a state."""

    added: list[str]  # learners that begin now, with nothing learned
    removed: list[str]  # learners no longer in the settings, whose rows are deleted


class Digest(msgspec.Struct, frozen=True):
    """The output of `streamer inspect --digest --json`."""

    digest: str
    learners: dict[str, str]
    offsets: dict[str, int]

    def to_json(self) -> str:
        """One line."""
        return msgspec.json.encode(self).decode()


class RocksStore:
    """protocols.StateStore on RocksDB, without fsync: a power cut takes rows and offsets back together, and the log is read again."""

    def __init__(self, folder: Path, *, read_only: bool = False, generation: str | None = None) -> None:
        """Open the state of a generation in `folder`, by default the live one; only g0's is created. Raises BadState."""
        wanted = generation or generations.live(folder)
        self.path = generations.state_folder(folder, wanted)
        if wanted != generations.FIRST and not (self.path / "CURRENT").exists():
            raise BadState(
                f"there is no state of generation {wanted} in {self.path}: write the id of one that exists to "
                f"{folder / 'generation'}, or restore a backup"
            )
        self._rocks = Rocks(self.path, read_only=read_only)
        self.folder, self._read_only = folder, read_only
        if self._rocks.found.dropped_batches and not read_only:
            _LOGGER.warning(
                "the write-ahead log of the state in %s is damaged: its last %d commits are lost, and learned again from the "
                "events", self.path, self._rocks.found.dropped_batches,
            )  # fmt: skip
        self.generation = self._recorded_generation()  # a copy that is being retrained still has its parent's id

    def _recorded_generation(self) -> str:
        (value,) = self.read("meta", [b"meta"])
        found = value and re.search(rb'"generation":"(g[0-9]+)"', value)
        return found[1].decode() if found else generations.FIRST

    def read(self, table: str, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """See protocols.StateStore."""
        prefix = table.encode() + _NUL
        return self._rocks.get_many([prefix + key for key in keys]) if keys else []

    def scan(self, table: str, first: bytes = b"", before: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """See protocols.StateStore; only the keys from `first` on, and below `before`."""
        lower = table.encode() + _NUL
        cut = len(lower)
        for key, value in self._rocks.scan(lower + first, table.encode() + b"\1" if before is None else lower + before):
            yield key[cut:], value

    def commit(self, rows: Iterable[Row | Rows], offsets: Offsets) -> None:
        """See protocols.StateStore. May be called from any thread."""
        self._rocks.write(self._encoded(rows, offsets))

    def sync(self) -> None:
        """Make the last commit survive a power cut; raises StoreUnavailable."""
        self._rocks.sync()

    def offsets(self) -> dict[TopicPartition, int]:
        """The next offsets that the committed rows cover."""
        found = {}
        for key, value in self.scan("offsets"):
            topic, _, partition = key.decode().rpartition("/")
            found[TopicPartition(topic, int(partition))] = int.from_bytes(value, "big")
        return found

    def meta(self) -> Meta | None:
        """The settings recorded with the state; None for a new one. Raises BadState for another format."""
        (value,) = self.read("meta", [b"meta"])
        if value is None:
            return None
        try:
            meta = msgspec.json.decode(value, type=Meta)
        except msgspec.DecodeError as error:
            raise BadState(f"the record of settings in {self.folder} cannot be read: {error}") from None
        if meta.format != FORMAT:
            raise BadState(
                f"the state in {self.folder} has format {meta.format}, this streamer writes format {FORMAT}: "
                f"use the version that made it, or move {generations.state_paths(self.folder)} away to learn again from the log"
            )
        return meta

    def open_as(self, settings: Mapping[str, object], champions: Mapping[Kind, str] | None = None) -> Change:
        """Record `settings` in a new state, or compare them with the recorded ones; raises BadState for one that differs.

        The learners in `settings["learners"]` may differ: added learners begin now, and the rows of removed learners are deleted.
        `unknown_kinds` and the limits of ratings may differ too, as they concern later events only.
        A champion cannot be removed (BadState). If the store is read-only, the change is returned and nothing is written.
        """
        meta, wanted = self.meta(), msgspec.json.decode(msgspec.json.encode(settings))
        chosen = dict(champions or {})
        if meta is None:
            self._rocks.write(self._encoded([_row(Meta(FORMAT, self.generation, wanted, chosen))], {}))
            return Change([], [])
        found, given = meta.settings.get("learners", {}), wanted.get("learners", {})
        common = found.keys() & given.keys()
        recorded = _with_limits(meta.settings, wanted)
        unknown = [name for name in ADDED_LATER if name in wanted and name not in meta.settings]
        recorded = {**recorded, **{name: wanted[name] for name in unknown}}
        for name, ours, theirs in _differences("", _restricted_to(recorded, common), _restricted_to(wanted, common)):
            raise BadState(
                f"the state in {self.folder} was made with {name} {ours}, the settings say {theirs}: "
                f"{_advice(name, ours, theirs)}, or move {generations.state_paths(self.folder)} away to learn again from the log"
            )
        for kind, name in {**meta.champions, **self.promoted()}.items():
            if name in found and name not in given:
                raise BadState(
                    f"{name} is the champion for {kind} in the state in {self.folder}, and the settings do not name it: "
                    f"what it learned would be lost; add --shadow {name} to keep it while another one answers"
                )
        change = Change(sorted(given.keys() - found), sorted(found.keys() - given))
        later = meta.settings.get(FREE) != wanted.get(FREE) or recorded != meta.settings
        if not self._read_only and (change != ([], []) or meta.champions != chosen or later):
            self._change(meta, wanted, chosen, change)
        return change

    def _change(self, meta: Meta, settings: dict[str, Any], champions: dict[Kind, str], change: Change) -> None:
        """Apply a change of learners in one batch, so that a crash cannot leave half of it."""
        offsets = {f"{at.topic}/{at.partition}": offset for at, offset in self.offsets().items()}
        since = {name: at for name, at in meta.since.items() if name not in change.removed}
        since |= dict.fromkeys(change.added, offsets)
        deleted = [
            (f"{table}/".encode(), f"{table}0".encode())  # 0 comes after /
            for name in change.removed
            for table in (f"{LEARNED}/{name}", f"monitor\0{name}")
        ]
        row = _row(Meta(FORMAT, meta.generation, settings, champions, since))
        self._rocks.write(self._encoded([row], {}), delete_ranges=deleted)
        for lower, upper in deleted:
            self._rocks.delete_range(lower, upper)  # once more, to free the disk space

    def checkpoint(self, path: Path) -> None:
        """Copy everything committed, by hard links: some 0.1 s for any size. Raises StoreUnavailable."""
        self._rocks.checkpoint(path)

    def become(self, generation: str) -> Row:
        """The row that makes this the state of another generation, to be committed together with that generation's rows."""
        meta = self.meta()
        assert meta is not None, "a state that a Memory was opened on"
        self.generation = generation
        return _row(msgspec.structs.replace(meta, generation=generation))

    def sweep(self) -> None:
        """See `Rocks.sweep`; raises StoreUnavailable."""
        self._rocks.sweep()

    @property
    def has_only_live_files(self) -> bool:
        """See `Rocks.has_only_live_files`."""
        return self._rocks.has_only_live_files

    def promoted(self) -> dict[Kind, str]:
        """The promoted learners, by kind."""
        return {msgspec.convert(key.decode(), Kind): name.decode() for key, name in self.scan(PROMOTED)}

    def promote(self, kind: Kind, name: str | None) -> None:
        """Record the promoted learner of a kind, None for none. Durable when it returns; raises StoreUnavailable.

        It is in a table then, and not only in the write-ahead log: RocksDB drops a damaged end of that without a word, and nothing
        would read the promotion again.
        """
        self._rocks.write(self._encoded([Row(PROMOTED, kind.encode(), name.encode() if name else None)], {}), sync=True)
        self._rocks.flush()

    def sizes(self) -> Iterator[tuple[str, int]]:
        """The table and the bytes of each row."""
        for stored, value in self._rocks.scan(b"", b"\xff"):
            yield stored.partition(_NUL)[0].decode(), len(stored) + len(value)

    def digest(self) -> Digest:
        """SHA-256 over the sorted (table, key, value) of the whole logical state, without journal and dead letters."""
        whole, learners = hashlib.sha256(), dict[str, "hashlib._Hash"]()
        prefix = f"{LEARNED}/"
        for stored, value in self._rocks.scan(b"", b"\xff"):
            table, _, key = stored.partition(_NUL)
            if table.decode() in OUTSIDE_DIGEST:
                continue
            row = b"".join(len(part).to_bytes(8, "big") + part for part in (table, key, value))
            whole.update(row)
            if table.decode().startswith(prefix):
                learners.setdefault(table.decode().removeprefix(prefix).rpartition("/")[0], hashlib.sha256()).update(
                    row
                )
        offsets = {f"{at.topic}/{at.partition}": offset for at, offset in self.offsets().items()}
        return Digest(whole.hexdigest(), {name: digest.hexdigest() for name, digest in learners.items()}, offsets)

    def _encoded(self, rows: Iterable[Row | Rows], offsets: Offsets) -> Iterator[tuple[bytes, bytes | None]]:
        ends = ((f"offsets\0{at.topic}/{at.partition}".encode(), n.to_bytes(8, "big")) for at, n in offsets.items())
        return chain(chain.from_iterable(map(_pairs, rows)), ends)

    def verify(self) -> int:
        """Read every row, with the checksum of its block; returns how many. Raises BadState. Cost: about 1 us a row."""
        return sum(1 for _ in self._rocks.scan(b"", b"\xff"))

    @property
    def size_bytes(self) -> int:
        """Bytes on disk."""
        return self._rocks.size_bytes

    def close(self) -> None:
        """Close it; safe to call twice."""
        self._rocks.close()


def _row(meta: Meta) -> Row:
    return Row("meta", b"meta", msgspec.json.encode(meta, order="deterministic"))


def _restricted_to(settings: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The settings, restricted to these learners."""
    parts = ("learners", "experts")
    compared = {name: value for name, value in settings.items() if name != FREE}
    return {**compared, **{p: {n: settings.get(p, {})[n] for n in settings.get(p, {}) if n in names} for p in parts}}


def _with_limits(settings: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, with the limits of ratings that are wanted."""
    limits = {name: wanted[name] for name in ("rating_min", "rating_max") if name in settings and name in wanted}
    return {**settings, **limits}


def _advice(name: str, ours: str, theirs: str) -> str:
    """What to do about a setting that differs."""
    part, _, rest = name.partition(" ")
    if part == "experts":  # the settings name another champion for a learner that combines champions
        return f"use {ours}, add --shadow {theirs.strip(chr(34))} and promote it when it has learned"
    if part == "learners" and " " in rest and rest.rpartition(" ")[2] not in LearningSettings.__struct_fields__:
        return "use the version of streamer that made it"  # a constant in the code, not a setting
    return f"use {ours}"


def _pairs(row: Row | Rows) -> Iterable[tuple[bytes, bytes | None]]:
    """Stored keys and values; those of Rows without Python code for each row."""
    prefix = row.table.encode() + _NUL
    if isinstance(row, Rows):
        return zip([prefix + key for key in row.keys], row.values, strict=True)
    return ((prefix + row.key, row.value),)


def _differences(name: str, found: Mapping[str, object], given: Mapping[str, object]) -> Iterator[tuple[str, str, str]]:
    """Each setting that differs: its name (such as `learners biased-mf dim`) and both values."""
    if name and found.keys() != given.keys():
        yield name, ", ".join(sorted(found)), ", ".join(sorted(given))
        return
    for key in sorted({*found, *given}):
        ours, theirs = found.get(key), given.get(key)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            yield from _differences(f"{name} {key}".lstrip(), ours, theirs)
        elif ours != theirs:
            yield f"{name} {key}".lstrip(), msgspec.json.encode(ours).decode(), msgspec.json.encode(theirs).decode()
