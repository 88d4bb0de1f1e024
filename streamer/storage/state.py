"""The state store: rows by table and key, and the offsets they cover, committed in one RocksDB write batch.

A stored key is `table NUL key`. What a table's rows are is the business of whoever owns it; the names are
`learned/<learner>/<table>` for learners, and `offsets`, `items`, `catalogue`, `users/...`, `dedupe`, `monitor`, `journal`,
`dead-letters`, `champions`, `meta`. No key ever is a row number. Each generation has a state of its own.
"""

import hashlib
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
LEARNED = "learned"  # what the tables of learners begin with
PROMOTED = "champions"  # kind -> the learner that was promoted for it
REMOVALS_UNDER_WAY, REMOVALS_DONE = "forgetting", "receipts"  # tables of streamer.stream.removals
# A promotion changes answers, and nothing that is learned; a receipt is about files.
OUTSIDE_DIGEST = ("journal", "dead-letters", PROMOTED, REMOVALS_UNDER_WAY, REMOVALS_DONE)
_NUL = b"\0"


class Meta(msgspec.Struct, frozen=True):
    """What the state depends on, recorded when it is made."""

    format: int
    generation: str
    settings: dict[str, Any]
    champions: dict[Kind, str] = {}  # those that the settings named when it was opened last
    since: dict[str, dict[str, int]] = {}  # learners that began later than the state: the next offsets they began at


class Change(NamedTuple):
    """What another choice of learners does to a state."""

    begun: list[str]  # learners that begin now, with nothing learned
    forgotten: list[str]  # learners that are named no more, whose rows are deleted


class Digest(msgspec.Struct, frozen=True):
    """What `streamer inspect --digest --json` prints."""

    digest: str
    learners: dict[str, str]
    offsets: dict[str, int]

    def to_json(self) -> str:
        """One line."""
        return msgspec.json.encode(self).decode()


class RocksStore:
    """protocols.StateStore on RocksDB. No fsync: after a power cut rows and offsets go back together, and the log is read again."""

    def __init__(self, folder: Path, *, read_only: bool = False, generation: str | None = None) -> None:
        """Open the state of a generation in `folder`, by default of the live one; raises BadState. Only g0's is created."""
        wanted = generation or generations.live(folder)
        self.path = generations.state_folder(folder, wanted)
        if wanted != generations.FIRST and not (self.path / "CURRENT").exists():
            raise BadState(
                f"there is no state of generation {wanted} in {self.path}: make {folder / 'generation'} name one that is "
                "there, or restore a backup"
            )
        self._rocks = Rocks(self.path, read_only=read_only)
        self.folder, self._read_only = folder, read_only
        self.generation = self._written()  # by the state itself: one that a retraining works on is its parent's still

    def _written(self) -> str:
        (value,) = self.read("meta", [b"meta"])
        found = value and re.search(rb'"generation":"(g[0-9]+)"', value)
        return found[1].decode() if found else generations.FIRST

    def read(self, table: str, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """See protocols.StateStore."""
        prefix = table.encode() + _NUL
        return self._rocks.get_many([prefix + key for key in keys]) if keys else []

    def scan(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """See protocols.StateStore."""
        lower = table.encode() + _NUL
        cut = len(lower)
        for key, value in self._rocks.scan(lower, table.encode() + b"\1"):
            yield key[cut:], value

    def commit(self, rows: Iterable[Row | Rows], offsets: Offsets) -> None:
        """See protocols.StateStore. From any thread."""
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
        """What was recorded when the state was made; None for a new one. Raises BadState for a format that is not ours."""
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
                f"use the streamer that made it, or move {generations.state_paths(self.folder)} away to learn again from the log"
            )
        return meta

    def open_as(self, settings: Mapping[str, object], champions: Mapping[Kind, str] | None = None) -> Change:
        """Record `settings` in a new state, or hold them against the recorded; raises BadState naming the one that differs.

        Other learners may be named than before, in `settings["learners"]`: new ones begin now, and what those learned that
        are named no more is deleted, unless one of them is who answers. Read-only, nothing is written and all is said.
        """
        meta, wanted = self.meta(), msgspec.json.decode(msgspec.json.encode(settings))
        chosen = dict(champions or {})
        if meta is None:
            self._rocks.write(self._encoded([_row(Meta(FORMAT, self.generation, wanted, chosen))], {}))
            return Change([], [])
        found, given = meta.settings.get("learners", {}), wanted.get("learners", {})
        common = found.keys() & given.keys()
        for name, ours, theirs in _differences("", _only(meta.settings, common), _only(wanted, common)):
            raise BadState(
                f"the state in {self.folder} was made with {name} {ours}, the settings say {theirs}: "
                f"{_advice(name, ours, theirs)}, or move {generations.state_paths(self.folder)} away to learn again from the log"
            )
        for kind, name in {**meta.champions, **self.promoted()}.items():
            if name in found and name not in given:
                raise BadState(
                    f"{name} answers for {kind} in the state in {self.folder}, and the settings do not name it: what it "
                    f"learned would be lost; add --shadow {name} to keep it while another answers"
                )
        change = Change(sorted(given.keys() - found), sorted(found.keys() - given))
        if not self._read_only and (change != ([], []) or meta.champions != chosen):
            self._change(meta, wanted, chosen, change)
        return change

    def _change(self, meta: Meta, settings: dict[str, Any], champions: dict[Kind, str], change: Change) -> None:
        """In one batch, so that no crash leaves half of a learner."""
        offsets = {f"{at.topic}/{at.partition}": offset for at, offset in self.offsets().items()}
        since = {name: at for name, at in meta.since.items() if name not in change.forgotten}
        since |= dict.fromkeys(change.begun, offsets)
        gone = [
            (f"{table}/".encode(), f"{table}0".encode())  # 0 comes after /
            for name in change.forgotten
            for table in (f"{LEARNED}/{name}", f"monitor\0{name}")
        ]
        row = _row(Meta(FORMAT, meta.generation, settings, champions, since))
        self._rocks.write(self._encoded([row], {}), without=gone)
        for lower, upper in gone:
            self._rocks.delete_range(lower, upper)  # once more, for the room on the disk

    def checkpoint(self, path: Path) -> None:
        """A copy of what is committed, by hard links: some 0.1 s whatever its size. Raises StoreUnavailable."""
        self._rocks.checkpoint(path)

    def become(self, generation: str) -> Row:
        """The row that makes this the state of another generation: commit it with whatever makes that true."""
        meta = self.meta()
        assert meta is not None, "a state that a Memory was opened on"
        self.generation = generation
        return _row(msgspec.structs.replace(meta, generation=generation))

    def sweep(self) -> None:
        """See Rocks.sweep; raises StoreUnavailable."""
        self._rocks.sweep()

    @property
    def lean(self) -> bool:
        """See Rocks.lean."""
        return self._rocks.lean

    def promoted(self) -> dict[Kind, str]:
        """The learners that were promoted, by kind."""
        return {msgspec.convert(key.decode(), Kind): name.decode() for key, name in self.scan(PROMOTED)}

    def promote(self, kind: Kind, name: str | None) -> None:
        """Remember who was promoted for a kind, None: nobody. On the disk when it returns; raises StoreUnavailable."""
        self._rocks.write(self._encoded([Row(PROMOTED, kind.encode(), name.encode() if name else None)], {}), sync=True)

    def sizes(self) -> Iterator[tuple[str, int]]:
        """Of each row its table and its bytes."""
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

    @property
    def size_bytes(self) -> int:
        """Bytes on disk."""
        return self._rocks.size_bytes

    def close(self) -> None:
        """Safe to call twice."""
        self._rocks.close()


def _row(meta: Meta) -> Row:
    return Row("meta", b"meta", msgspec.json.encode(meta, order="deterministic"))


def _only(settings: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The settings with no learners but these."""
    parts = ("learners", "experts")
    return {**settings, **{p: {n: settings.get(p, {})[n] for n in settings.get(p, {}) if n in names} for p in parts}}


def _advice(name: str, ours: str, theirs: str) -> str:
    """What to do about a setting that differs."""
    part, _, rest = name.partition(" ")
    if part == "experts":  # of a learner that is made of the champion of a kind
        return f"use {ours}, add --shadow {theirs.strip(chr(34))} and promote it when it has learned"
    if part == "learners" and " " in rest and rest.rpartition(" ")[2] not in LearningSettings.__struct_fields__:
        return "use the streamer that made it"  # a constant of ours, which no setting reaches
    return f"use {ours}"


def _pairs(row: Row | Rows) -> Iterable[tuple[bytes, bytes | None]]:
    """Stored keys and values; of a run without a step in Python for each."""
    prefix = row.table.encode() + _NUL
    if isinstance(row, Rows):
        return zip([prefix + key for key in row.keys], row.values, strict=True)
    return ((prefix + row.key, row.value),)


def _differences(name: str, found: Mapping[str, object], given: Mapping[str, object]) -> Iterator[tuple[str, str, str]]:
    """What differs: its name, `learners biased-mf dim`, and both values."""
    if name and found.keys() != given.keys():
        yield name, ", ".join(sorted(found)), ", ".join(sorted(given))
        return
    for key in sorted({*found, *given}):
        ours, theirs = found.get(key), given.get(key)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            yield from _differences(f"{name} {key}".lstrip(), ours, theirs)
        elif ours != theirs:
            yield f"{name} {key}".lstrip(), msgspec.json.encode(ours).decode(), msgspec.json.encode(theirs).decode()
