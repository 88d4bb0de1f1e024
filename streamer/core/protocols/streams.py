"""Sources of records, sinks for events, and streams that are complete from the start."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol, runtime_checkable

from streamer.core.events import Message, MessageParts, Offsets, Record, TopicPartition


@runtime_checkable
class Source(Protocol):
    """Where records are read from. All methods but `lag` are called by one thread, the engine's."""

    def seek(self, offsets: Offsets) -> None:
        """Continue from `offsets`, the next offset of each sequence; a sequence not named starts at its beginning.

        Called once before the first `poll`. Raises SourceLost when an offset is no longer, or not yet, there.
        """

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """At most `max_records` records, in order within each sequence; empty, never None, when there are none.

        Never blocks longer than `timeout_s`. Raises SourceUnavailable when the source cannot be reached: nothing was
        consumed, call again. Each record is returned once, unless `seek` goes back.
        """

    def lag(self) -> Mapping[str, Mapping[int, int]]:
        """Records still to be returned, by topic and partition, as far as known without a request. May be called from any thread."""

    def close(self) -> None:
        """Release all resources; safe to call twice."""


@runtime_checkable
class Hinted(Protocol):
    """A source that publishes the progress for its tools (Kafka's consumer groups); streamer reads its own offsets from the store."""

    def hint(self, offsets: Offsets) -> None:
        """Everything before `offsets` is committed. Best effort: never blocks, never raises."""


@runtime_checkable
class Identified(Protocol):
    """A source whose topics may be deleted and made anew, so that the same offsets mean other events."""

    def topic_ids(self) -> Mapping[str, str]:
        """An id of each topic that is read, as far as the source has any; empty before `seek`. One made anew has another."""


class Extent(NamedTuple):
    """What is kept of a sequence."""

    begin: int
    end: int  # the next offset
    topic_id: str = ""  # see Identified; empty where there is none


class KeptRecords(Protocol):
    """Records that were read before, to be read again: the embedded log, or Kafka. Nothing is changed there."""

    @property
    def place(self) -> str:
        """Where they are, for sentences: "the log", "Kafka at 127.0.0.1:9092"."""

    def extents(self, wanted: Collection[TopicPartition]) -> Mapping[TopicPartition, Extent]:
        """What is kept of these sequences, without those that do not exist. Raises SourceUnavailable, BadSettings."""

    def between(self, at: TopicPartition, first: int, stop: int) -> Iterator[Sequence[Record]]:
        """The records of one sequence with first <= offset < stop, in order; both within its extent.

        Offsets may be missing: records that were compacted away, markers of transactions. Raises SourceUnavailable when they
        cannot all be read, and BadState.
        """


@runtime_checkable
class Sink(Protocol):
    """Where events are published. May be called from several threads."""

    def publish(self, messages: Sequence[Message]) -> Offsets:
        """Append the messages in order, and return once they are durable, with the next offset of each sequence written to.

        Raises SourceUnavailable when not all of them could be made durable; some may be.
        """

    def close(self) -> None:
        """Release all resources; safe to call twice."""


@runtime_checkable
class Stream(Protocol):
    """A complete sequence of events, numbered from row 0 in the order in which they are published: a file, a simulated world."""

    @property
    def sha256(self) -> str:
        """Identifies the stream: streams with the same text have the same rows in the same order."""

    def __len__(self) -> int:
        """The number of rows."""

    def messages(self, start: int, stop: int) -> list[Message]:
        """Rows start to stop - 1, fewer at the end, without `timestamp_ms`, which is set when they are appended."""

    def parts(self, start: int, stop: int) -> MessageParts:
        """The same messages by field, without the cost of a Message for each."""

    def times_ms(self, start: int, stop: int) -> list[int]:
        """When each of these rows happened, according to the stream; never the wall clock."""


@runtime_checkable
class Located(Protocol):
    """A stream that knows the lines of its file."""

    def locate(self, row: int) -> tuple[int, str]:
        """The line that a row is from, from 1, or 0; and why it can be no event, or "" where that is for the decoder to say."""


class Understood(NamedTuple):
    """How the ratings and clicks of a file are understood; nothing of a file whose format says it."""

    columns: Mapping[str, str] = MappingProxyType({})  # user, item, rating, kind, time -> the column's name
    time_unit: str = ""
    unread: Sequence[str] = ()  # the names of other columns


@runtime_checkable
class Noted(Protocol):
    """A stream that had to find out how its file is meant."""

    @property
    def notes(self) -> Sequence[str]:
        """Sentences about what was guessed, for the user."""

    @property
    def understood(self) -> Understood:
        """What each column is."""
