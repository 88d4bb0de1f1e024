"""Where records come from and where events go."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from streamer.core.events import Message, MessageParts, Offsets, Record


@runtime_checkable
class Source(Protocol):
    """Where records are read. One thread, the engine's, calls it."""

    def seek(self, offsets: Offsets) -> None:
        """Go on from `offsets`: the next offset of each sequence; a sequence not named starts at its beginning.

        Called once before the first `poll`. Raises SourceLost when an offset is no longer (or not yet) there.
        """

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """At most `max_records` records, in order within each sequence; empty, never None, when there are none.

        Never blocks past `timeout_s`. Raises SourceUnavailable when the source is away: nothing was consumed, call again.
        Each record is handed out once, and is not read again unless `seek` says so.
        """

    def lag(self) -> Mapping[str, Mapping[int, int]]:
        """Records still to be handed out, by topic and partition, as far as is known without asking anybody. From any thread."""

    def close(self) -> None:
        """Let go of everything; safe to call twice."""


@runtime_checkable
class Hinted(Protocol):
    """A source whose tools like to know how far we are; our own offsets are in the store."""

    def hint(self, offsets: Offsets) -> None:
        """Everything before `offsets` is committed; best effort, never blocks, never raises."""


@runtime_checkable
class Sink(Protocol):
    """Where events are published; safe from several threads."""

    def publish(self, messages: Sequence[Message]) -> Offsets:
        """Append them in order; answers when they are durable, with the next offset of each sequence written to.

        Raises SourceUnavailable when they could not be made durable; some may have been.
        """

    def close(self) -> None:
        """Let go of everything; safe to call twice."""


@runtime_checkable
class Stream(Protocol):
    """Events that are all there from the start, numbered from row 0 in the order they are published in: a file, a simulated world."""

    @property
    def sha256(self) -> str:
        """Which stream this is: the same text, the same rows in the same order."""

    def __len__(self) -> int:
        """How many rows."""

    def messages(self, start: int, stop: int) -> list[Message]:
        """Rows start to stop - 1, fewer at the end. Their time is left to whoever appends them."""

    def parts(self, start: int, stop: int) -> MessageParts:
        """The parts of the same messages, for who needs no message."""

    def times_ms(self, start: int, stop: int) -> list[int]:
        """When each of these rows happened, by the stream itself; never the wall clock."""
