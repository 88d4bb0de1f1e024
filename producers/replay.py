"""Publishes a whole stream, such as a file or a simulated world, to a sink."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from streamer.core.events import Message, TopicPartition
from streamer.core.protocols import Sink, Stream

CHUNK_EVENTS = 500
CHUNK_BYTES = 256 * 1024  # limit for the values of one chunk

Progress = Callable[[int, int], None]  # called with the number of durable rows, and of all rows


@dataclass
class ReplayResult:
    """What a replay published."""

    topics: Counter[str] = field(default_factory=Counter)  # messages published, by topic
    offsets: dict[TopicPartition, int] = field(default_factory=dict)  # the next offset of each sequence written to

    @property
    def messages(self) -> int:
        """How many messages were published in all."""
        return self.topics.total()


def replay(
    stream: Stream, sink: Sink, start: int = 0, progress: Progress | None = None, chunk: int = CHUNK_EVENTS
) -> ReplayResult:
    """Publish the rows of `stream` from `start` on, in order, at most `chunk` at a time.

    `progress` is called after each chunk with the number of durable rows, from which a replay can continue after an error.
    Raises the sink's errors (SourceUnavailable); rows after the last progress may or may not have been published.
    """
    replayed, total = ReplayResult(), len(stream)
    for row in range(start, total, chunk):
        done = row
        for part in _split(stream.messages(row, row + chunk)):
            replayed.offsets.update(sink.publish(part))
            replayed.topics.update(message.topic for message in part)
            done += len(part)
            if progress is not None:
                progress(done, total)
    return replayed


def _split(messages: list[Message]) -> Iterator[list[Message]]:
    first, size = 0, 0
    for n, message in enumerate(messages):
        size += len(message.value or b"")
        if size > CHUNK_BYTES and n > first:
            yield messages[first:n]
            first, size = n, len(message.value or b"")
    if first < len(messages):
        yield messages[first:]
