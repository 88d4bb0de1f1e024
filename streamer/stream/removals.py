"""Receipts: for each removal of a user that was learned, how far the erasing of what stands about them is.

A receipt is opened in the write batch that removes the user's rows, so no crash comes between. While it is pending it holds
the id, because the work needs it; from then on it has a number and nothing of the user.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

from streamer.core.events import Record, TopicPartition, sequence_of
from streamer.core.protocols import Row, StateStore
from streamer.storage.state import REMOVALS_DONE, REMOVALS_UNDER_WAY

_NEWEST = b""  # of REMOVALS_DONE: the number that was given last

# pending: to be erased. erased: in no row and no record; files are written anew without it. complete: in no file.
Stage: TypeAlias = Literal["pending", "erased", "complete"]


class Removal(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of one removal."""

    number: int
    topic: str  # where the removal stands
    partition: int
    offset: int
    stage: Stage = "pending"
    user_id: str = ""  # while it is pending
    records: int = 0  # of the log, made blank
    dead_letters: int = 0
    event_ids: int = 0

    @property
    def at(self) -> TopicPartition:
        """The sequence that the removal stands in."""
        return TopicPartition(self.topic, self.partition)


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Removal)


class Removals:
    """Opens them; protocols.Persistent. The engine's thread calls it."""

    def __init__(self) -> None:
        self._newest = 0
        self._new: list[Removal] = []
        self.waiting = False  # some are committed and nobody has looked yet

    def put(self, removal: Record, user_id: str) -> None:
        """The user is removed by this record."""
        at = sequence_of(removal)
        self._newest += 1
        self._new.append(Removal(self._newest, at.topic, at.partition, removal.offset, user_id=user_id))

    def restore(self, store: StateStore) -> None:
        """See protocols.Persistent."""
        self._newest, self.waiting = newest(store), bool(unfinished(store))

    def changed(self) -> Sequence[Row]:
        """See protocols.Persistent."""
        given = [Row(REMOVALS_DONE, _NEWEST, self._newest.to_bytes(8, "big"))] if self._new else []
        return [*rows(self._new), *given]

    def committed(self) -> None:
        """See protocols.Persistent."""
        self.waiting = self.waiting or bool(self._new)
        self._new.clear()


def rows(removals: Sequence[Removal]) -> list[Row]:
    """The rows that say what these are now."""
    found = []
    for receipt in removals:
        key, value = receipt.number.to_bytes(8, "big"), _ENCODER.encode(receipt)
        done = receipt.stage == "complete"
        found += [
            Row(REMOVALS_DONE, key, value if done else None),
            Row(REMOVALS_UNDER_WAY, key, None if done else value),
        ]
    return found


def newest(store: StateStore) -> int:
    """The number that was given last, 0 for none."""
    (value,) = store.read(REMOVALS_DONE, [_NEWEST])
    return int.from_bytes(value, "big") if value else 0


def unfinished(store: StateStore) -> list[Removal]:
    """Those that are not complete, the oldest first."""
    return [_DECODER.decode(value) for _, value in store.scan(REMOVALS_UNDER_WAY)]


def receipt(store: StateStore, number: int) -> Removal | None:
    """The receipt with a number; None when it was never given."""
    key = number.to_bytes(8, "big")
    value = (
        store.read(REMOVALS_UNDER_WAY, [key])[0] or store.read(REMOVALS_DONE, [key])[0]
    )  # it moves from the one to the other
    return _DECODER.decode(value) if value else None
