"""Dead letters: the newest 10,000 rejected events, with reason, origin and the first KiB, committed with the state."""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from streamer.core.errors import BadEvent, SourceUnavailable, StoreUnavailable
from streamer.core.events import Message, Record
from streamer.core.protocols import Row, Sink, StateStore

KEPT = 10_000
SHOWN_BYTES = 1024


class DeadLetter(msgspec.Struct, frozen=True):
    """One rejected event."""

    number: int
    reason: str
    message: str
    topic: str
    partition: int
    offset: int
    value: bytes


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(DeadLetter)


class DeadLetters:
    """The newest dead letters; protocols.Persistent."""

    def __init__(self) -> None:
        self._number = 0
        self._uncommitted: dict[int, DeadLetter] = {}

    def put(self, record: Record, error: BadEvent) -> None:
        """Keep a rejected event; it takes the place of the oldest beyond 10,000."""
        value = (record.value or b"")[:SHOWN_BYTES]
        letter = DeadLetter(
            self._number,
            error.reason,
            str(error)[:SHOWN_BYTES],
            record.topic,
            record.partition,
            record.offset,
            value,
        )
        self._uncommitted[self._number % KEPT] = letter
        self._number += 1

    @property
    def count(self) -> int:
        """How many dead letters there ever were."""
        return self._number

    def restore(self, store: StateStore) -> None:
        """See protocols.Persistent."""
        (value,) = store.read("dead-letters", [b"count"])
        self._number = int.from_bytes(value, "little") if value else 0

    def changed(self) -> Sequence[Row]:
        """See protocols.Persistent."""
        if not self._uncommitted:
            return []
        rows = [
            Row("dead-letters", b"#%d" % slot, _ENCODER.encode(letter)) for slot, letter in self._uncommitted.items()
        ]
        return [Row("dead-letters", b"count", self._number.to_bytes(8, "little")), *rows]

    def committed(self) -> None:
        """See protocols.Persistent."""
        self._uncommitted.clear()


def dead_letters(store: StateStore) -> Iterator[DeadLetter]:
    """The dead letters in the store, the newest first."""
    found = [_DECODER.decode(value) for key, value in store.scan("dead-letters") if key.startswith(b"#")]
    yield from sorted(found, key=lambda letter: letter.number, reverse=True)


def deletions(letters: Iterable[DeadLetter]) -> list[Row]:
    """The rows that delete these letters. Commit them in the engine's thread, with nothing committed since they were read."""
    return [Row("dead-letters", b"#%d" % (letter.number % KEPT), None) for letter in letters]


class Mirror:
    """Publishes committed dead letters on the topic `dead-letters`, at least once, with topic/partition/offset as the key."""

    def __init__(self, letters: DeadLetters, store: StateStore, sink: Sink) -> None:
        self._letters, self._store, self._sink = letters, store, sink
        (value,) = store.read("dead-letters", [b"mirrored"])
        self._mirrored = int.from_bytes(value, "little") if value else 0

    def catch_up(self) -> None:
        """Publish what was committed since the last call. If the broker or the store cannot be reached, the next call tries again."""
        if self._letters.count == self._mirrored:
            return
        waiting = [letter for letter in dead_letters(self._store) if letter.number >= self._mirrored][::-1]
        messages = [
            Message(
                "dead-letters",
                f"{letter.topic}/{letter.partition}/{letter.offset}".encode(),
                msgspec.json.encode({**msgspec.structs.asdict(letter), "value": letter.value.decode(errors="replace")}),
            )
            for letter in waiting
        ]
        try:
            self._sink.publish(messages)
            self._mirrored = self._letters.count
            self._store.commit([Row("dead-letters", b"mirrored", self._mirrored.to_bytes(8, "little"))], {})
        except (SourceUnavailable, StoreUnavailable):
            return
