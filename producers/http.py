"""A sink that publishes to a running streamer by HTTP.

Cost: one request for each 128 KiB of events, answered after the server's fsync.
"""

from collections.abc import Callable, Sequence
from threading import Event as Flag
from time import monotonic

import msgspec

from streamer.core.errors import BadEvent, NotAuthorised, Reason, SourceUnavailable
from streamer.core.events import (
    CLICKS,
    ITEMS,
    RATINGS,
    TOPICS,
    USERS,
    Click,
    Message,
    Offsets,
    Rating,
    TopicPartition,
    decode_value,
)
from streamer.core.freshness import parse
from streamer.producers.client import URL, Client, Published, TooLarge, Unreachable

REQUEST_BYTES = 128 * 1024  # half of the server's default limit

_KINDS = {RATINGS: b"rating", CLICKS: b"click", ITEMS: b"item", USERS: b"user"}
_REMOVALS = {ITEMS: ("remove_item", "item_id"), USERS: ("forget_user", "user_id")}


def event_json(message: Message) -> bytes:
    """The message as the JSON of an event in PublishRequest; raises BadEvent for one that cannot be an event.

    An event without a time of its own gets that of the message.
    """
    if message.topic not in TOPICS:
        raise BadEvent(Reason.UNKNOWN_TOPIC, f"unknown topic {message.topic!r}; the topics are: {', '.join(TOPICS)}")
    try:
        if message.value is None:
            if message.topic not in _REMOVALS:
                raise BadEvent(
                    Reason.NOT_JSON, f"the event has no value; only records on {ITEMS} and {USERS} may have none"
                )
            kind, name = _REMOVALS[message.topic]
            return msgspec.json.encode({kind: {name: (message.key or b"").decode()}})
        event = decode_value(message.topic, message.value)
    except msgspec.ValidationError as error:
        raise BadEvent(Reason.WRONG_TYPE, str(error)) from None
    except msgspec.DecodeError as error:
        raise BadEvent(Reason.NOT_JSON, str(error)) from None
    except UnicodeDecodeError as error:
        raise BadEvent(Reason.NOT_JSON if message.value else Reason.BAD_ID, str(error)) from None
    if isinstance(event, Rating | Click) and event.timestamp_ms is None and message.timestamp_ms is not None:
        event = msgspec.structs.replace(event, timestamp_ms=message.timestamp_ms)
    if isinstance(event, Rating) and event.rating is None:
        fields = {name: value for name, value in msgspec.structs.asdict(event).items() if value is not None}
        return msgspec.json.encode({"retract": fields})
    return b'{"%b":%b}' % (_KINDS[message.topic], msgspec.json.encode(event))


class HttpSink:
    """protocols.Sink: publishes to a running streamer, which writes the events to its own log.

    If the server becomes unavailable, requests are repeated for `patience_s`; if it was never reached, the error is raised at
    once. `on_rejected` is called with each event that the server refuses; the others are published.
    """

    def __init__(
        self,
        url: str = URL,
        *,
        token: str = "",
        patience_s: float = 60.0,
        on_rejected: Callable[[Message, str], None] | None = None,
    ) -> None:
        self._client = Client(url, token=token)
        self._patience_s = patience_s
        self._on_rejected = on_rejected
        self._closed = Flag()
        self._reached = False

    def publish(self, messages: Sequence[Message]) -> Offsets:
        """See `Sink.publish`. Events without an `event_id` may be stored twice if a request is repeated."""
        offsets: dict[TopicPartition, int] = {}
        chunk: list[tuple[Message, bytes]] = []
        size = 0
        for message in messages:
            try:
                event = event_json(message)
            except BadEvent as error:
                self._reject(message, f"{error.reason}: {error}")
                continue
            if chunk and size + len(event) > REQUEST_BYTES:
                self._publish(chunk, offsets)
                chunk, size = [], 0
            chunk.append((message, event))
            size += len(event) + 1
        if chunk:
            self._publish(chunk, offsets)
        return offsets

    def close(self) -> None:
        """Close the connection; calls that wait for the server raise SourceUnavailable."""
        self._closed.set()
        self._client.close()

    def _publish(self, chunk: Sequence[tuple[Message, bytes]], offsets: dict[TopicPartition, int]) -> None:
        try:
            done = self._publish_with_retries([event for _, event in chunk])
        except TooLarge as error:
            if len(chunk) == 1:
                self._reject(chunk[0][0], f"{Reason.TOO_LARGE}: {error}")
                return
            self._publish(chunk[: len(chunk) // 2], offsets)
            self._publish(chunk[len(chunk) // 2 :], offsets)
            return
        for rejected in done.rejected:
            self._reject(chunk[rejected.index][0], rejected.reason)
        for sequence, offset in parse(done.freshness_token).items():
            offsets[sequence] = max(offset, offsets.get(sequence, 0))

    def _publish_with_retries(self, events: Sequence[bytes]) -> Published:
        """Publish, repeating the request for `patience_s`; raises SourceUnavailable after that, or at once if repeating cannot help."""
        deadline, pause_s = monotonic() + self._patience_s, 0.1
        while True:
            try:
                done = self._client.publish(events)
            except NotAuthorised:
                raise
            except SourceUnavailable as error:
                if isinstance(error, Unreachable) and not self._reached:
                    raise
                if monotonic() + pause_s > deadline or self._closed.wait(pause_s):
                    raise
                pause_s = min(2 * pause_s, 5.0)
            else:
                self._reached = True
                return done

    def _reject(self, message: Message, reason: str) -> None:
        if self._on_rejected is not None:
            self._on_rejected(message, reason)
