"""Records of removals: for each user whose removal was learned, how far the erasure of the user's data has come.

A record is committed in the write batch that removes the user's rows, so that a crash cannot separate the two. While it is
pending it has the user's id, which erasure needs; afterwards it has only a number, which the API calls a receipt.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

from streamer.core.events import Record, TopicPartition, sequence_of
from streamer.core.protocols import Row, StateStore
from streamer.storage.state import REMOVALS_DONE, REMOVALS_UNDER_WAY

_NEWEST = b""  # a key of REMOVALS_DONE: the newest number

# pending: not yet erased. erased: no row and no record has the user's data, but files may. complete: no file has it.
Stage: TypeAlias = Literal["pending", "erased", "complete"]


class Removal(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far one removal has come."""

    number: int
    topic: str  # topic, partition and offset of the removal's record
    partition: int
    offset: int
    stage: Stage = "pending"
    user_id: str = ""  # empty unless it is pending
    records: int = 0  # how many records of the log were blanked
    dead_letters: int = 0  # how many were deleted
    event_ids: int = 0  # how many were blanked in `dedupe`

    @property
    def at(self) -> TopicPartition:
        """The sequence of the removal's record."""
        return TopicPartition(self.topic, self.partition)


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Removal)


class Removals:
    """Adds records of removals as they are learned; protocols.Persistent. Only the engine's thread calls it."""

    def __init__(self) -> None:
        self._newest = 0
        self._new: list[Removal] = []
        self.waiting = False  # whether new ones were committed since the eraser last looked

    def put(self, removal: Record, user_id: str) -> None:
        """Add a removal: this record removes the user."""
        at = sequence_of(removal)
        self._newest += 1
        self._new.append(Removal(self._newest, at.topic, at.partition, removal.offset, user_id=user_id))

    def restore(self, store: StateStore) -> None:
        """See protocols.Persistent."""
        self._newest, self.waiting = newest_number(store), bool(unfinished(store))

    def changed(self) -> Sequence[Row]:
        """See protocols.Persistent."""
        given = [Row(REMOVALS_DONE, _NEWEST, self._newest.to_bytes(8, "big"))] if self._new else []
        return [*removal_rows(self._new), *given]

    def committed(self) -> None:
        """See protocols.Persistent."""
        self.waiting = self.waiting or bool(self._new)
        self._new.clear()


def removal_rows(removals: Sequence[Removal]) -> list[Row]:
    """The rows that store these removals as they are now."""
    found = []
    for removal in removals:
        key, value = removal.number.to_bytes(8, "big"), _ENCODER.encode(removal)
        done = removal.stage == "complete"
        found += [
            Row(REMOVALS_DONE, key, value if done else None),
            Row(REMOVALS_UNDER_WAY, key, None if done else value),
        ]
    return found


def newest_number(store: StateStore) -> int:
    """The newest number, 0 if there was no removal."""
    (value,) = store.read(REMOVALS_DONE, [_NEWEST])
    return int.from_bytes(value, "big") if value else 0


def unfinished(store: StateStore) -> list[Removal]:
    """Removals that are not complete, the oldest first."""
    return [_DECODER.decode(value) for _, value in store.scan(REMOVALS_UNDER_WAY)]


def every(store: StateStore) -> list[Removal]:
    """All removals that the state has learned; the user's id is known only of those that are pending."""
    done = [_DECODER.decode(value) for key, value in store.scan(REMOVALS_DONE) if key != _NEWEST]
    return [*done, *unfinished(store)]


def read_removal(store: StateStore, number: int) -> Removal | None:
    """The removal with this number; None when it was never given."""
    key = number.to_bytes(8, "big")
    value = (
        store.read(REMOVALS_UNDER_WAY, [key])[0] or store.read(REMOVALS_DONE, [key])[0]
    )  # once complete, it moves from the first table to the second
    return _DECODER.decode(value) if value else None
