"""The state store: rows by table and key, and the offsets they cover, committed in one RocksDB write batch.

A stored key is `table NUL key`. What a table's rows are is the business of whoever owns it; the names are
`<generation>/<learner>/<table>` for learners, and `items`, `catalogue`, `users/...`, `dedupe`, `monitor`, `journal`,
`dead-letters`, `meta` outside generations. No key ever is a row number.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from streamer.errors import BadState
from streamer.events import Offsets, TopicPartition
from streamer.protocols import Row
from streamer.rocks import Rocks

FORMAT = 1
GENERATION = "g0"
OUTSIDE_DIGEST = ("journal", "dead-letters")
_NUL = b"\0"


class Meta(msgspec.Struct, frozen=True):
    """What the state depends on, recorded when it is made."""

    format: int
    generation: str
    settings: dict[str, object]


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

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        """Open or create the state in `folder`; raises BadState."""
        self._rocks = Rocks(folder / "state", read_only=read_only)
        self.folder = folder

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

    def commit(self, rows: Iterable[Row], offsets: Offsets) -> None:
        """See protocols.StateStore."""
        self._rocks.write(_encoded(rows, offsets))

    def sync(self) -> None:
        """Make the last commit survive a power cut; raises StoreUnavailable."""
        self._rocks.sync()

    def offsets(self) -> dict[TopicPartition, int]:
        """The next offsets that the committed rows cover."""
        found = {}
        for key, value in self.scan(f"{GENERATION}/offsets"):
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
                f"use the streamer that made it, or move {self.folder / 'state'} away to learn again from the log"
            )
        return meta

    def open_as(self, settings: Mapping[str, object]) -> None:
        """Record `settings` in a new state, or hold them against the recorded; raises BadState naming the one that differs."""
        meta = self.meta()
        if meta is None:
            made = Meta(FORMAT, GENERATION, dict(settings))
            self.commit([Row("meta", b"meta", msgspec.json.encode(made, order="deterministic"))], {})
            return
        wanted = msgspec.json.decode(msgspec.json.encode(settings))
        for name, found, given in _differences("", meta.settings, wanted):
            raise BadState(
                f"the state in {self.folder} was made with {name} {found}, the settings say {given}: use {found}, "
                f"or move {self.folder / 'state'} away to learn again from the log"
            )

    def sizes(self) -> Iterator[tuple[str, int]]:
        """Of each row its table and its bytes."""
        for stored, value in self._rocks.scan(b"", b"\xff"):
            yield stored.partition(_NUL)[0].decode(), len(stored) + len(value)

    def digest(self) -> Digest:
        """SHA-256 over the sorted (table, key, value) of the whole logical state, without journal and dead letters."""
        whole, learners = hashlib.sha256(), dict[str, "hashlib._Hash"]()
        prefix = f"{GENERATION}/"
        for stored, value in self._rocks.scan(b"", b"\xff"):
            table, _, key = stored.partition(_NUL)
            if table.decode() in OUTSIDE_DIGEST:
                continue
            row = b"".join(len(part).to_bytes(8, "big") + part for part in (table, key, value))
            whole.update(row)
            generation, _, rest = table.decode().partition("/")
            if f"{generation}/" == prefix and "/" in rest:
                learners.setdefault(rest.rpartition("/")[0], hashlib.sha256()).update(row)
        offsets = {f"{at.topic}/{at.partition}": offset for at, offset in self.offsets().items()}
        return Digest(whole.hexdigest(), {name: digest.hexdigest() for name, digest in learners.items()}, offsets)

    @property
    def size_bytes(self) -> int:
        """Bytes on disk."""
        return self._rocks.size_bytes

    def close(self) -> None:
        """Safe to call twice."""
        self._rocks.close()


def _encoded(rows: Iterable[Row], offsets: Offsets) -> Iterator[tuple[bytes, bytes | None]]:
    prefixes: dict[str, bytes] = {}
    for table, key, value in rows:
        prefix = prefixes.get(table)
        if prefix is None:
            prefix = prefixes[table] = table.encode() + _NUL
        yield prefix + key, value
    for at, offset in offsets.items():
        yield f"{GENERATION}/offsets\0{at.topic}/{at.partition}".encode(), offset.to_bytes(8, "big")


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
