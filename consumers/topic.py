"""The first records of a topic as a stream, to look at without learning from them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from streamer.core.errors import NotAuthorised, SourceUnavailable, StreamerError
from streamer.core.events import Message, MessageParts, Record, parts
from streamer.core.protocols import Source

_POLLED, _POLL_S = 500, 0.5


@dataclass(frozen=True, slots=True)
class RecordStream:
    """protocols.Stream of records that were read."""

    records: Sequence[Record]
    sha256: str = ""  # what is read of a topic is not replayed

    def __len__(self) -> int:
        return len(self.records)

    def messages(self, start: int, stop: int) -> list[Message]:
        """See protocols.Stream; each with the record's own time."""
        return [Message(one.topic, one.key, one.value, one.timestamp_ms) for one in self.records[start:stop]]

    def parts(self, start: int, stop: int) -> MessageParts:
        """See protocols.Stream."""
        return parts(self.messages(start, stop))

    def times_ms(self, start: int, stop: int) -> list[int]:
        """See protocols.Stream."""
        return [one.timestamp_ms for one in self.records[start:stop]]


def read_topic(source: Source, topic: str, max_events: int, patience_s: float = 5.0) -> RecordStream:
    """The records of a topic from its beginning, at most `max_events`. Raises what the source raises, for longer than `patience_s`.

    Raises StreamerError for a topic without records.
    """
    records: list[Record] = []
    until, opened = time.monotonic() + patience_s, False
    while len(records) < max_events:
        try:
            if not opened:
                source.seek({})
                opened = True
            polled = source.poll(min(_POLLED, max_events - len(records)), _POLL_S)
        except SourceUnavailable as error:
            if isinstance(error, NotAuthorised) or time.monotonic() > until:
                raise
            continue
        records += polled
        if polled:
            until = time.monotonic() + patience_s
        elif not any(behind for partitions in source.lag().values() for behind in partitions.values()):
            break
    if not records:
        raise StreamerError(f"the topic {topic!r} has no records: look again when producers have sent some")
    return RecordStream(records)
