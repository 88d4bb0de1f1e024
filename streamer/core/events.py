"""Events and their topics, records, messages and offsets.

An event is one record, a JSON object in snake_case; fields that are not named here are ignored.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, NamedTuple, TypeAlias

import msgspec

BLANK = ""  # topic of an erased record of the embedded log: it keeps its offset and is skipped
RATINGS, CLICKS, ITEMS, USERS = "ratings", "clicks", "items", "users"
TOPICS = (RATINGS, CLICKS, ITEMS, USERS)
CATALOGUE_TOPICS = (ITEMS, USERS)
# Fields that may be whole numbers: {"user_id": 7} means user "7".
IDS = ("user_id", "item_id", "event_id", "session_id", "same_as")

Time: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]  # ms since 1970, within what JSON carries exactly
Id: TypeAlias = Annotated[
    str,
    msgspec.Meta(  # for the schemas; the decoder checks ids itself, because it counts bytes and says what is wrong
        description="1 to 256 bytes of UTF-8 without control characters",
        extra_json_schema={
            "minLength": 1,
            "maxLength": 256,
            "not": {"type": "string", "pattern": "[\\u0000-\\u001f\\u007f-\\u009f]"},
        },
    ),
]


class Rating(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A user's rating of an item, on any scale; topic `ratings`."""

    user_id: Id
    item_id: Id
    rating: float
    timestamp_ms: Time | None = None
    event_id: str | None = None


class Click(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A user did something with an item: `kind` is any configured kind; topic `clicks`."""

    user_id: Id
    item_id: Id
    kind: str = "click"
    timestamp_ms: Time | None = None
    event_id: str | None = None
    session_id: str | None = None
    recommendation_id: str | None = None


class ItemUpdate(msgspec.Struct, frozen=True, omit_defaults=True):
    """The catalogue's entry of an item, which replaces the one before; topic `items`, null removes the item."""

    item_id: Id
    title: str = ""
    categories: tuple[str, ...] = ()
    attributes: dict[str, str | float | bool | None] = {}
    available: bool = True


class UserUpdate(msgspec.Struct, frozen=True, omit_defaults=True):
    """A user's profile, which replaces the one before; topic `users`, null forgets the user."""

    user_id: Id
    attributes: dict[str, str | float | bool | None] = {}
    preferences: dict[str, float] = {}
    same_as: Id | None = None


class ItemRemoval(msgspec.Struct, frozen=True):
    """A null value on `items`."""

    item_id: Id


class UserRemoval(msgspec.Struct, frozen=True):
    """A null value on `users`."""

    user_id: Id


Event: TypeAlias = Rating | Click | ItemUpdate | UserUpdate | ItemRemoval | UserRemoval


class Record(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """An event as bytes, and where it came from. A `partition` below 0 means the embedded log: one sequence for all topics."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int  # when it was appended, by the clock of the log or the broker
    key: bytes | None
    value: bytes | None


class TopicPartition(NamedTuple):
    """One sequence of offsets."""

    topic: str
    partition: int


LOG = TopicPartition("log", 0)  # the one sequence of the embedded log

Offsets: TypeAlias = Mapping[TopicPartition, int]  # the NEXT offset to read of each sequence


def sequence_of(record: Record) -> TopicPartition:
    """The sequence to which the record's offset belongs."""
    return LOG if record.partition < 0 else TopicPartition(record.topic, record.partition)


class Message(msgspec.Struct, frozen=True, gc=False):
    """An event to publish, before it has an offset."""

    topic: str
    key: bytes | None
    value: bytes | None  # None: a removal
    timestamp_ms: int | None = None  # None: now


class MessageParts(NamedTuple):
    """n messages, as one sequence for each field."""

    topics: Sequence[str]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]


def parts(messages: Sequence[Message]) -> MessageParts:
    """The topics, keys and values of `messages`."""
    return MessageParts([m.topic for m in messages], [m.key for m in messages], [m.value for m in messages])


_ENCODER = msgspec.json.Encoder()
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_WHOLE = re.compile(rb"-?[0-9]{1,256}")
# The values of each topic, with ids that are texts.
DECODE: Mapping[str, Callable[[bytes], Rating | Click | ItemUpdate | UserUpdate]] = {
    RATINGS: msgspec.json.Decoder(Rating).decode,
    CLICKS: msgspec.json.Decoder(Click).decode,
    ITEMS: msgspec.json.Decoder(ItemUpdate).decode,
    USERS: msgspec.json.Decoder(UserUpdate).decode,
}


def decode_value(topic: str, value: bytes) -> Rating | Click | ItemUpdate | UserUpdate:
    """The event in a topic's value, whose ids may be whole numbers. Raises KeyError, msgspec.DecodeError, UnicodeDecodeError."""
    try:
        return DECODE[topic](value)
    except msgspec.ValidationError:
        texts = _with_texts(value)
        if texts is None:
            raise
        return DECODE[topic](texts)


def _with_texts(value: bytes) -> bytes | None:
    """The object with decimal texts in place of ids that are whole numbers; None if there are none."""
    with suppress(msgspec.DecodeError, UnicodeDecodeError):
        fields = _OBJECT.decode(value)
        numbers = {name: bytes(fields[name]) for name in IDS if name in fields}
        texts = {name: msgspec.Raw(b'"%d"' % int(one)) for name, one in numbers.items() if _WHOLE.fullmatch(one)}
        return _ENCODER.encode({**fields, **texts}) if texts else None
    return None


def message(event: Event) -> Message:
    """The event as a message of its topic: JSON without defaults, keyed by user (catalogue: by item).

    The record's time is set when it is appended: an event's own time may be years ago.
    """
    match event:
        case Rating():
            return Message(RATINGS, event.user_id.encode(), _ENCODER.encode(event))
        case Click():
            return Message(CLICKS, event.user_id.encode(), _ENCODER.encode(event))
        case ItemUpdate():
            return Message(ITEMS, event.item_id.encode(), _ENCODER.encode(event))
        case UserUpdate():
            return Message(USERS, event.user_id.encode(), _ENCODER.encode(event))
        case ItemRemoval():
            return Message(ITEMS, event.item_id.encode(), None)
        case UserRemoval():
            return Message(USERS, event.user_id.encode(), None)


def json_schema(topic: str) -> dict[str, Any]:
    """The JSON Schema of a topic's values; raises KeyError for an unknown topic."""
    kinds: dict[str, type] = {RATINGS: Rating, CLICKS: Click, ITEMS: ItemUpdate, USERS: UserUpdate}
    found = msgspec.json.schema(kinds[topic])
    for definition in found["$defs"].values():
        for name in IDS:
            field = definition["properties"].get(name, {})
            for part in (field, *field.get("anyOf", ())):
                if part.get("type") == "string":
                    part["type"] = ["string", "integer"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}
