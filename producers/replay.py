"""Publishing a whole stream, a file or a simulated world, to wherever events are read from."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from streamer.core.events import Message, TopicPartition
from streamer.core.protocols import Sink, Stream

CHUNK_EVENTS = 500
CHUNK_BYTES = 256 * 1024  # of values: long events go fewer at a time

Progress = Callable[[int, int], None]  # rows that are durable, rows there are


@dataclass
class Replayed:
    """What a replay did."""

    topics: Counter[str] = field(default_factory=Counter)  # messages published, by topic
    offsets: dict[TopicPartition, int] = field(
        default_factory=dict
    )  # the next one of each sequence that was written to

    @property
    def messages(self) -> int:
        """Published in all."""
        return self.topics.total()


def replay(
    stream: Stream, sink: Sink, start: int = 0, progress: Progress | None = None, chunk: int = CHUNK_EVENTS
) -> Replayed:
    """Publish the rows of `stream` from `start` on, in order, `chunk` or fewer at a time.

    `progress` is told after each chunk how many rows are durable: where to go on when something was raised. Raises what
    the sink raises (SourceUnavailable); rows after the last progress may or may not have been published.
    """
    replayed, total = Replayed(), len(stream)
    for row in range(start, total, chunk):
        done = row
        for part in _parts(stream.messages(row, row + chunk)):
            replayed.offsets.update(sink.publish(part))
            replayed.topics.update(message.topic for message in part)
            done += len(part)
            if progress is not None:
                progress(done, total)
    return replayed


def _parts(messages: list[Message]) -> Iterator[list[Message]]:
    first, size = 0, 0
    for n, message in enumerate(messages):
        size += len(message.value or b"")
        if size > CHUNK_BYTES and n > first:
            yield messages[first:n]
            first, size = n, len(message.value or b"")
    if first < len(messages):
        yield messages[first:]
