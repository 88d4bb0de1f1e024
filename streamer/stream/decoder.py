"""Bytes to events. What is wrong with an event is said by a `BadEvent`, which is a value here: it never stops the stream."""

import re
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from streamer.core.errors import BadEvent, Reason
from streamer.core.events import (
    BLANK,
    CLICKS,
    ITEMS,
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
)
from streamer.core.settings import LearningSettings

ID_MAX_BYTES = 256
RUN = 128  # records decoded in one go
NESTED_MAX = 100  # of unknown fields; ours need 2
_LEARNED = (Rating, Click)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)  # texts too, to pass over them


def check_id(external_id: str, what: str) -> None:
    """Raises BadEvent unless it is 1 to 256 bytes of UTF-8 without control characters."""
    if not external_id:
        raise BadEvent(Reason.BAD_ID, f"{what} is empty; an id has 1 to {ID_MAX_BYTES} bytes")
    try:
        size = len(external_id.encode())
    except UnicodeEncodeError:  # not from an event, but a command line may hold it
        raise BadEvent(Reason.BAD_ID, f"{what} {external_id!r} is not UTF-8") from None
    if size > ID_MAX_BYTES:
        raise BadEvent(Reason.BAD_ID, f"{what} has {size} bytes; an id has 1 to {ID_MAX_BYTES}")
    if _CONTROL.search(external_id):
        raise BadEvent(Reason.BAD_ID, f"{what} {external_id!r} has a control character")


def _plain(external_id: str) -> bool:
    """Whether it is an id that `check_id` says nothing against, at a look."""
    return 0 < len(external_id) <= ID_MAX_BYTES and external_id.isascii() and external_id.isprintable()


def brackets(value: bytes) -> int:
    """How many brackets open in the event, those in texts too: at least how deep it is nested."""
    return value.count(b"[") + value.count(b"{")


def check_nesting(value: bytes) -> None:
    """Raises BadEvent beyond 100 levels: how much msgspec bears depends on the stack it is called on, and events must not."""
    if brackets(value) <= NESTED_MAX:
        return
    depth = 0
    for found in _BRACKETS.finditer(value):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(found[0], 0)
        if depth > NESTED_MAX:
            raise BadEvent(Reason.NOT_JSON, f"the event is nested more than {NESTED_MAX} deep")


class Decoder:
    """Decodes what the settings accept. Pure: the same bytes always give the same event or the same complaint."""

    def __init__(self, settings: LearningSettings) -> None:
        self._kinds = settings.kinds
        self._low, self._high = settings.rating_min, settings.rating_max
        self._max_bytes = settings.event_max_bytes
        self._decode: dict[str, Callable[[bytes], Any]] = {
            RATINGS: msgspec.json.Decoder(Rating).decode,
            CLICKS: msgspec.json.Decoder(Click).decode,
            ITEMS: msgspec.json.Decoder(ItemUpdate).decode,
            USERS: msgspec.json.Decoder(UserUpdate).decode,
        }
        self._learned = {topic: self._decode[topic] for topic in (RATINGS, CLICKS)}  # the others take the careful way

    def decode(
        self, records: Sequence[Record], users: Collection[str], items: Collection[str]
    ) -> list[Event | BadEvent | None]:
        """Each record's event, or what is wrong with it, None for an erased one; ids in `users` and `items` are known to be good.

        Cost: .6 us a record; twice that in a run of `RUN` where one is bad.
        """
        if records and records[0].topic == records[-1].topic == ITEMS:  # the catalogue, read as a whole at the start
            return [self._item(one) if one.topic == ITEMS else self._careful(one) for one in records]
        events: list[Event | BadEvent | None] = []
        for start in range(0, len(records), RUN):
            run = records[start : start + RUN]
            events.extend(self._all(run, users, items) or self._each(run, users, items))
        return events

    def _all(
        self, records: Sequence[Record], users: Collection[str], items: Collection[str]
    ) -> list[Event | BadEvent | None] | None:
        """The events where all are ratings or clicks and nothing is wrong with any; None otherwise: then each is looked at."""
        decode, values = self._learned, list[Any](record.value for record in records)
        try:
            longest = max(map(len, values))
            if longest > self._max_bytes or (longest > 2 * NESTED_MAX and max(map(brackets, values)) > NESTED_MAX):
                return None
            events: list[Any] = [decode[record.topic](value) for record, value in zip(records, values, strict=True)]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
            return None
        ratings = [event.rating for event in events if type(event) is Rating]  # none is NaN: no JSON
        good = not ratings or (self._low <= min(ratings) and max(ratings) <= self._high)
        if len(ratings) < len(events):
            good = good and {event.kind for event in events if type(event) is Click} <= self._kinds.keys()
        new = {event.user_id for event in events}.difference(users)
        new |= {event.item_id for event in events}.difference(items)
        return events if good and all(map(_plain, new)) else None

    def _each(
        self, records: Sequence[Record], users: Collection[str], items: Collection[str]
    ) -> list[Event | BadEvent | None]:
        """One by one."""
        decode, low, high, kinds, limit = self._learned, self._low, self._high, self._kinds, self._max_bytes
        events: list[Event | BadEvent | None] = []
        checked: set[str] = set()  # new ids come in bursts
        for record in records:
            event: Any = None
            try:
                value: Any = record.value
                event = decode[record.topic](value)
                good = (
                    (event.user_id in users or event.user_id in checked)
                    and (event.item_id in items or event.item_id in checked)
                    and len(value) <= limit
                    and (len(value) <= 2 * NESTED_MAX or brackets(value) <= NESTED_MAX)
                    and (low <= event.rating <= high if type(event) is Rating else event.kind in kinds)
                )
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError, AttributeError):
                good = False
            if not good:
                event = self._item(record) if record.topic == ITEMS else self._careful(record)
                if isinstance(event, _LEARNED):
                    checked.update((event.user_id, event.item_id))
            events.append(event)
        return events

    def _item(self, record: Record) -> Event | BadEvent | None:
        """Of the catalogue: decoded once where nothing is wrong with it."""
        value = record.value
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if value is not None and len(value) <= self._max_bytes and brackets(value) <= NESTED_MAX:
                event: ItemUpdate = self._decode[ITEMS](value)
                if _plain(event.item_id):
                    return event
        return self._careful(record)

    def _careful(self, record: Record) -> Event | BadEvent | None:
        if record.topic == BLANK:
            return None
        try:
            return self.parse(record.topic, record.key, record.value)
        except BadEvent as error:
            return error

    def parse(self, topic: str, key: bytes | None, value: bytes | None) -> Event:
        """One event with every check; raises BadEvent."""
        if topic not in self._decode:
            raise BadEvent(Reason.UNKNOWN_TOPIC, f"no topic {topic!r}; there are: {', '.join(TOPICS)}")
        if value is not None and len(value) > self._max_bytes:
            raise BadEvent(Reason.TOO_LARGE, f"the event has {len(value)} bytes; event_max_bytes is {self._max_bytes}")
        event = self._removal(topic, key) if value is None else self._event(topic, value)
        for name in ("user_id", "item_id", "same_as"):
            external_id = getattr(event, name, None)
            if external_id is not None:
                check_id(external_id, name)
        if isinstance(event, Rating):
            self.check_rating(event.rating, "rating")
        if isinstance(event, UserUpdate):
            for category, stated in event.preferences.items():
                self.check_rating(stated, f"the preference for {category[:100]!r},")
        if isinstance(event, Click) and event.kind not in self._kinds:
            raise BadEvent(
                Reason.UNKNOWN_KIND, f"kind {event.kind!r} has no weight; there are: {', '.join(self._kinds)}"
            )
        return event

    def check_rating(self, value: float, what: str) -> None:
        """Raises BadEvent unless a rating can have this value; `what` says whose it is."""
        if not self._low <= value <= self._high:  # NaN is not within either
            raise BadEvent(Reason.OUT_OF_RANGE, f"{what} {value:g} is not within {self._low:g} to {self._high:g}")

    def _event(self, topic: str, value: bytes) -> Event:
        check_nesting(value)
        try:
            event: Event = self._decode[topic](value)
        except msgspec.ValidationError as error:
            beyond = any(said in str(error) for said in ("`int` >=", "`int` <=", "out of range"))
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
