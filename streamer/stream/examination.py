"""Looks at all events of a stream before anything is learned or sent: how many cannot be used, why, and an example of each reason."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from streamer.core.errors import BadEvent, Reason, StreamerError
from streamer.core.events import Event, Record
from streamer.core.protocols import Located, Stream
from streamer.core.settings import LearningSettings
from streamer.stream.decoder import Decoder

_SLICE = 4096
_SHOWN_CHARACTERS = 80


@dataclass(slots=True)
class Rejected:
    """The events that are rejected for one reason, and the first of them."""

    reason: str
    count: int
    row: int
    line: int  # of the file, 0 where the stream has no lines
    sentence: str
    text: str  # the first characters of the event


@dataclass(frozen=True, slots=True)
class Examination:
    """The result of `examine`."""

    events: int
    rejected: list[Rejected]

    @property
    def bad(self) -> int:
        """How many events cannot be used."""
        return sum(one.count for one in self.rejected)

    def sentences(self) -> list[str]:
        """For each reason how many events it concerns, and an example; empty if all events can be used."""
        return [
            f"{one.count:,} of {self.events:,} events cannot be used ({one.reason}), such as "
            f"{f'line {one.line:,}' if one.line else f'event {one.row + 1:,}'}, {one.text!r}: {one.sentence}"
            for one in sorted(self.rejected, key=lambda one: -one.count)
        ]

    def require(self, path: object, allowed_share: float) -> None:
        """Raise StreamerError if no event can be used, or more than `allowed_share` of them cannot."""
        if self.bad <= allowed_share * self.events and self.bad < self.events:
            return
        how_many = "none" if self.bad == self.events else f"only {self.events - self.bad:,}"
        said = (
            f"{how_many} of the {self.events:,} events of {path} can"
            if self.events > 1
            else f"the one event of {path} cannot"
        )
        share = -(-100 * self.bad // self.events) / 100  # rounded up, so that it is allowed when it is given back
        advice = "mend it" if self.bad == self.events else f"mend it, or go on without them with --allow-bad {share:g}"
        raise StreamerError("\n  ".join([f"{said} be used: {advice}", *self.sentences()]))


# What no streamer can use, whatever its settings are: other kinds of clicks and ratings may be fine where events are sent to.
UNREADABLE = frozenset({Reason.NOT_JSON, Reason.WRONG_TYPE, Reason.BAD_ID, Reason.UNKNOWN_TOPIC})


def examine(
    stream: Stream,
    learning: LearningSettings,
    reasons: Collection[Reason] = frozenset(Reason),
    on_event: Callable[[Event, Record], None] = lambda event, record: None,
) -> Examination:
    """Decode all events of a stream as the engine would, and count those rejected for `reasons`. Cost: about 2 us an event.

    `on_event` gets each good event with its record, whose offset is the row in the stream.
    """
    decoder, found = Decoder(learning), dict[str, Rejected]()
    located = stream if isinstance(stream, Located) else None
    for start in range(0, len(stream), _SLICE):
        messages = stream.messages(start, start + _SLICE)
        records = [
            Record(one.topic, -1, start + n, one.timestamp_ms or 0, one.key, one.value)
            for n, one in enumerate(messages)
        ]
        for record, event in zip(records, decoder.decode(records, (), ()), strict=True):
            if not isinstance(event, BadEvent):
                if event is not None:
                    on_event(event, record)
                continue
            if event.reason not in reasons:
                continue
            line, why = located.locate(record.offset) if located else (0, "")
            one = found.get(event.reason)
            if one is None or (line and not 0 < one.line <= line):  # the example is the first in the file
                text = (record.value or b"").decode(errors="replace")[:_SHOWN_CHARACTERS]
                example = Rejected(str(event.reason), 0, record.offset, line, why or str(event), text)
                example.count = one.count if one else 0
                one = found[event.reason] = example
            one.count += 1
    return Examination(len(stream), list(found.values()))
