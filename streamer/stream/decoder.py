"""Decodes bytes to events. For a bad event the result is a `BadEvent`, as a value: it never stops the stream.

Messages of bad events are stored with the dead letters, so another wording is another state. Only `parse` has all checks: what it
refuses, the faster ways (`_decode_together`, `_decode_each`, `_decode_item`) must leave to it.
"""

import re
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from streamer.core.errors import BadEvent, Reason
from streamer.core.events import (
    BLANK,
    CLICKS,
    DECODE,
    ITEMS,
    PREFIX_BYTES,
    RATINGS,
    TOPICS,
    USERS,
    Click,
    Event,
    ItemRemoval,
    ItemUpdate,
    Rating,
    Record,
    UserRemoval,
    UserUpdate,
    decode_value,
    has_prefix,
    payload,
)
from streamer.core.kinds import Kinds
from streamer.core.settings import LearningSettings

ID_MAX_BYTES = 256
RUN_RECORDS = 128  # records decoded together
NESTED_MAX = 100  # deepest nesting in unknown fields; known fields need 2
_LEARNED = (Rating, Click)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)  # also matches strings, to skip brackets in them


def check_id(external_id: str, what: str) -> None:
    """Raise BadEvent unless the id has 1 to 256 bytes of UTF-8 without control characters; `what` names it in the message."""
    if not external_id:
        raise BadEvent(Reason.BAD_ID, f"{what} is empty; an id has 1 to {ID_MAX_BYTES} bytes")
    try:
        size = len(external_id.encode())
    except UnicodeEncodeError:  # impossible in an event, but possible on a command line
        raise BadEvent(Reason.BAD_ID, f"{what} {external_id!r} is not UTF-8") from None
    if size > ID_MAX_BYTES:
        raise BadEvent(Reason.BAD_ID, f"{what} has {size} bytes; an id has 1 to {ID_MAX_BYTES}")
    if _CONTROL.search(external_id):
        raise BadEvent(Reason.BAD_ID, f"{what} {external_id!r} has a control character")


def _is_plain_id(external_id: str) -> bool:
    """A fast check that is sufficient, but not necessary, for an id to pass `check_id`."""
    return 0 < len(external_id) <= ID_MAX_BYTES and external_id.isascii() and external_id.isprintable()


def opening_brackets(value: bytes) -> int:
    """How many opening brackets the event has, also inside strings: an upper bound of its nesting."""
    return value.count(b"[") + value.count(b"{")


def check_nesting(value: bytes) -> None:
    """Raise BadEvent beyond 100 levels: msgspec's own limit depends on the stack, and the result must be the same everywhere."""
    if opening_brackets(value) <= NESTED_MAX:
        return
    depth = 0
    for found in _BRACKETS.finditer(value):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(found[0], 0)
        if depth > NESTED_MAX:
            raise BadEvent(Reason.NOT_JSON, f"the event is nested more than {NESTED_MAX} deep")


class Decoder:
    """Decodes events that the settings accept. The same bytes always give the same event or the same BadEvent."""

    def __init__(self, settings: LearningSettings) -> None:
        self._kinds = Kinds(settings)
        self._low, self._high = settings.rating_min, settings.rating_max
        self._max_bytes = settings.event_max_bytes
        self._learned: dict[str, Callable[[bytes], Any]] = {
            topic: DECODE[topic] for topic in (RATINGS, CLICKS)
        }  # other topics are decoded by `parse`

    def decode(
        self, records: Sequence[Record], users: Collection[str], items: Collection[str]
    ) -> list[Event | BadEvent | None]:
        """For each record its event, a BadEvent, or None if it was erased. Ids in `users` and `items` need no check.

        Cost: .6 us a record; twice that in a run of `RUN_RECORDS` with a bad one.
        """
        if records and records[0].topic == records[-1].topic == ITEMS:  # a whole catalogue, read at the start
            return [self._decode_item(one) if one.topic == ITEMS else self._parse_or_error(one) for one in records]
        events: list[Event | BadEvent | None] = []
        for start in range(0, len(records), RUN_RECORDS):
            run = records[start : start + RUN_RECORDS]
            events.extend(self._decode_together(run, users, items) or self._decode_each(run, users, items))
        return events

    def _decode_together(
        self, records: Sequence[Record], users: Collection[str], items: Collection[str]
    ) -> list[Event | BadEvent | None] | None:
        """The events if all are good ratings or clicks; None otherwise, and then each must be checked by itself."""
        decode, values = self._learned, list[Any](record.value for record in records)
        try:
            longest = max(map(len, values))
            if longest > self._max_bytes or (
                longest > 2 * NESTED_MAX and max(map(opening_brackets, values)) > NESTED_MAX
            ):
                return None
            events: list[Any] = [decode[record.topic](value) for record, value in zip(records, values, strict=True)]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
            return None
        ratings = [e.rating for e in events if type(e) is Rating and e.rating is not None]  # none is NaN: JSON lacks it
        good = not ratings or (self._low <= min(ratings) and max(ratings) <= self._high)
        if len(ratings) < len(events):  # there are clicks, or ratings are withdrawn
            kinds = {event.kind for event in events if type(event) is Click}
            good = good and None not in map(self._kinds.weights.__getitem__, kinds)
        new = {event.user_id for event in events}.difference(users)
        new |= {event.item_id for event in events}.difference(items)
        return events if good and all(map(_is_plain_id, new)) else None

    def _decode_each(
        self, records: Sequence[Record], users: Collection[str], items: Collection[str]
    ) -> list[Event | BadEvent | None]:
        """Decode records one by one."""
        low, high, weights, limit = self._low, self._high, self._kinds.weights, self._max_bytes
        events: list[Event | BadEvent | None] = []
        checked: set[str] = set()  # new ids often occur several times in a row
        for record in records:
            event: Any = None
            try:
                value: Any = record.value
                event = decode_value(record.topic, value) if record.topic in self._learned else None
                good = event is not None and (
                    (event.user_id in users or event.user_id in checked)
                    and (event.item_id in items or event.item_id in checked)
                    and len(value) <= limit
                    and (len(value) <= 2 * NESTED_MAX or opening_brackets(value) <= NESTED_MAX)
                    and (
                        (event.rating is None or low <= event.rating <= high)
                        if type(event) is Rating
                        else weights[event.kind] is not None
                    )
                )
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError, AttributeError):
                good = False
            if not good:
                event = self._decode_item(record) if record.topic == ITEMS else self._parse_or_error(record)
                if isinstance(event, _LEARNED):
                    checked.update((event.user_id, event.item_id))
            events.append(event)
        return events

    def _decode_item(self, record: Record) -> Event | BadEvent | None:
        """Decode a catalogue record, by the fast way if nothing is wrong with it."""
        value = record.value
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if value is not None and len(value) <= self._max_bytes and opening_brackets(value) <= NESTED_MAX:
                event = DECODE[ITEMS](value)
                if isinstance(event, ItemUpdate) and _is_plain_id(event.item_id):
                    return event
        return self._parse_or_error(record)

    def _parse_or_error(self, record: Record) -> Event | BadEvent | None:
        if record.topic == BLANK:
            return None
        try:
            return self.parse(record.topic, record.key, record.value)
        except BadEvent as error:
            return error

    def parse(self, topic: str, key: bytes | None, value: bytes | None) -> Event:
        """Decode one event with all checks; raises BadEvent."""
        if topic not in DECODE:
            raise BadEvent(Reason.UNKNOWN_TOPIC, f"no topic {topic!r}; there are: {', '.join(TOPICS)}")
        if value is not None and len(value) > self._max_bytes:
            raise BadEvent(Reason.TOO_LARGE, f"the event has {len(value)} bytes; event_max_bytes is {self._max_bytes}")
        event = self._removal(topic, key) if value is None else self._event(topic, value)
        for name in ("user_id", "item_id", "same_as"):
            external_id = getattr(event, name, None)
            if external_id is not None:
                check_id(external_id, name)
        if isinstance(event, Rating) and event.rating is not None:
            self.check_rating(event.rating, "rating")
        if isinstance(event, UserUpdate):
            for category, stated in event.preferences.items():
                self.check_rating(stated, f"the preference for {category[:100]!r},")
        if isinstance(event, Click) and self._kinds.weights[event.kind] is None:
            raise BadEvent(
                Reason.UNKNOWN_KIND, f"kind {event.kind!r} has no weight; there are: {', '.join(self._kinds.names)}"
            )
        return event

    def check_rating(self, value: float, what: str) -> None:
        """Raise BadEvent unless a rating can have this value; `what` names it in the message."""
        if not self._low <= value <= self._high:  # true for NaN too
            raise BadEvent(Reason.OUT_OF_RANGE, f"{what} {value:g} is not within {self._low:g} to {self._high:g}")

    def _event(self, topic: str, value: bytes) -> Event:
        value = payload(value)
        if has_prefix(value):
            number = int.from_bytes(value[1:PREFIX_BYTES], "big")
            raise BadEvent(
                Reason.NO_SCHEMA,
                f"the event is in Avro or Protobuf, by schema {number} of a schema registry: have the producer send JSON",
            )
        check_nesting(value)
        try:
            event: Event = decode_value(topic, value)
        except msgspec.ValidationError as error:
            beyond = any(phrase in str(error) for phrase in ("`int` >=", "`int` <=", "out of range"))
            raise BadEvent(Reason.OUT_OF_RANGE if beyond else Reason.WRONG_TYPE, str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadEvent(Reason.NOT_JSON, str(error)) from None
        return event

    def _removal(self, topic: str, key: bytes | None) -> Event:
        if topic not in (ITEMS, USERS):
            raise BadEvent(Reason.NOT_JSON, f"the event has no value; on {topic} that means nothing")
        try:
            external_id = (key or b"").decode()
        except UnicodeDecodeError:
            raise BadEvent(Reason.BAD_ID, "the key of a removal is not UTF-8") from None
        check_id(external_id, "the key of a removal")
        return ItemRemoval(external_id) if topic == ITEMS else UserRemoval(external_id)
