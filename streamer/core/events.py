"""Events and their topics, records, messages and offsets.

An event is one record, a JSON object in snake_case; fields that are not named here are ignored. The types below are what
ordinary events have. `decode_value` is the one place for what else producers send: ids that are whole numbers, ratings that are
texts, times in another unit or as a date, or under the name `timestamp`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeAlias

import msgspec

from streamer.core.times import LATEST, MILLISECONDS_BELOW, SECONDS_BELOW, milliseconds, stated_milliseconds

BLANK = ""  # topic of an erased record of the embedded log: it keeps its offset and is skipped
RATINGS, CLICKS, ITEMS, USERS = "ratings", "clicks", "items", "users"
TOPICS = (RATINGS, CLICKS, ITEMS, USERS)
CATALOGUE_TOPICS = (ITEMS, USERS)
PREFIX_BYTES = 5  # of a value that was serialised with a schema registry
# Fields that may be whole numbers: {"user_id": 7} and {"user_id": 7.0} mean user "7".
IDS = ("user_id", "item_id", "event_id", "session_id", "same_as")

# Milliseconds since 1970. Smaller and larger numbers may be in another unit, which `decode_value` finds out.
Time: TypeAlias = Annotated[int, msgspec.Meta(ge=SECONDS_BELOW, lt=MILLISECONDS_BELOW)]
STATED_TIME = (
    "milliseconds since 1970; in another unit where only that makes it a time of 1990 to 2100; or a date in ISO 8601"
)
OTHER_TIME = "instead of timestamp_ms: a date in ISO 8601, or a number of seconds, milli-, micro- or nanoseconds"
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
    """A user's rating of an item, on any scale, in place of an earlier one; null withdraws it. Topic `ratings`."""

    user_id: Id
    item_id: Id
    rating: float | None
    timestamp_ms: Time | None = None
    event_id: str | None = None
    timestamp: None = None  # another name for the time, which `decode_value` reads as `timestamp_ms`


class Click(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A user did something with an item: `kind` is any configured kind; topic `clicks`."""

    user_id: Id
    item_id: Id
    kind: str = "click"
    timestamp_ms: Time | None = None
    event_id: str | None = None
    session_id: str | None = None
    recommendation_id: str | None = None
    timestamp: None = None  # as in Rating


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
# Decoders of ordinary events, by topic.
DECODE: Mapping[str, Callable[[bytes], Rating | Click | ItemUpdate | UserUpdate]] = {
    RATINGS: msgspec.json.Decoder(Rating).decode,
    CLICKS: msgspec.json.Decoder(Click).decode,
    ITEMS: msgspec.json.Decoder(ItemUpdate).decode,
    USERS: msgspec.json.Decoder(UserUpdate).decode,
}


def decode_value(topic: str, value: bytes) -> Rating | Click | ItemUpdate | UserUpdate:
    """The event in a topic's value, ordinary or not. Raises KeyError, msgspec.DecodeError, UnicodeDecodeError.

    Cost: .5 us for an ordinary event, 3 us for another one.
    """
    try:
        return DECODE[topic](value)
    except msgspec.ValidationError:
        found: Rating | Click | ItemUpdate | UserUpdate = _DECODE_FREELY[topic](value)
        return found
    except msgspec.DecodeError:
        if payload(value) is value:
            raise
        return decode_value(topic, payload(value))


def payload(value: bytes) -> bytes:
    """What follows the prefix that serialisers with a schema registry write (a byte 0, four of a schema's number), if it is JSON."""
    return value[PREFIX_BYTES:] if has_prefix(value) and value[PREFIX_BYTES:].lstrip()[:1] == b"{" else value


def has_prefix(value: bytes) -> bool:
    """Whether a value begins like one of a serialiser with a schema registry. No JSON does."""
    return value[:1] == b"\0" and len(value) > PREFIX_BYTES


def id_text(found: str | float, value: bytes) -> str:
    """An id in the JSON `value` as text: 7 and 7.0 are "7". Raises msgspec.ValidationError."""
    if isinstance(found, str):
        return found
    if isinstance(found, float):
        if not found.is_integer() or abs(found) >= 2**53:
            raise msgspec.ValidationError(f"the id {found} is no whole number that is exact: send ids as texts")
        if b"%d." % int(found) not in value:
            raise msgspec.ValidationError(
                f"an id is in scientific notation, {found}: different ids may have become one; send ids as texts"
            )
    return str(int(found))


def _rating(found: float | str, value: bytes) -> float:
    if not isinstance(found, str):
        return found
    if not _NUMBER.fullmatch(found):
        raise msgspec.ValidationError(f"the rating {found[:100]!r} is no number")
    return float(found)


def _stated_time(found: object, value: bytes) -> int:
    return _time(stated_milliseconds, found)


def _any_time(found: object, value: bytes) -> int:
    return _time(milliseconds, found)


def _time(read: Callable[[float | str], int], found: object) -> int:
    try:
        if not isinstance(found, int | float | str) or isinstance(found, bool):
            raise ValueError(f"the time {str(found)[:100]} is neither a number nor a text")
        return read(found)
    except ValueError as error:
        raise msgspec.ValidationError(str(error)) from None


_NUMBER = re.compile(r"\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?\s*")
_ANY_ID, _ANY_TIME = str | int | float, int | float | str | None
# For each field that may have other types than ordinary events, these types, and how it is read.
_FREE: Mapping[str, tuple[Any, Callable[[Any, bytes], Any]]] = {
    **dict.fromkeys(IDS, (_ANY_ID, id_text)),
    "rating": (float | str | None, _rating),
    "timestamp_ms": (_ANY_TIME, _stated_time),
    "timestamp": (Any, _any_time),
}


class _FreeDecoder:
    """Decodes events of one kind whose fields may have the types in `_FREE`."""

    def __init__(self, kind: type[Any]) -> None:
        fields = [(field.name, *self._field(field)) for field in msgspec.structs.fields(kind)]
        self._decoder = msgspec.json.Decoder(msgspec.defstruct(f"Free{kind.__name__}", fields, gc=False))
        names = kind.__struct_fields__
        self._kind, self._timed = kind, "timestamp" in names
        self._readers = [(names.index(name), how) for name, (_, how) in _FREE.items() if name in names]
        self._time = names.index("timestamp_ms") if self._timed else 0

    @staticmethod
    def _field(field: msgspec.structs.FieldInfo) -> tuple[Any, ...]:
        kind = _FREE[field.name][0] if field.name in _FREE else field.type
        if field.required:
            return (kind,)
        if field.default is None:
            return kind | None, None
        if field.default_factory is not msgspec.NODEFAULT:
            return kind, msgspec.field(default_factory=field.default_factory)
        return kind, field.default

    def __call__(self, value: bytes) -> Any:
        """Raises like `decode_value`."""
        values = list(msgspec.structs.astuple(self._decoder.decode(value)))
        if self._timed and values[self._time] is not None:
            values[-1] = None  # `timestamp` does not count beside `timestamp_ms`
        for position, how in self._readers:
            if values[position] is not None:
                values[position] = how(values[position], value)
        if self._timed:
            other = values.pop()
            values[self._time] = other if values[self._time] is None else values[self._time]
        return self._kind(*values)


def as_ordinary(fields: Mapping[str, Any], value: bytes) -> dict[str, Any]:
    """The fields of an event, decoded from the JSON `value`, with the types of an ordinary event.

    Fields that are not in question stay as they are. Raises msgspec.ValidationError.
    """
    found = dict(fields)
    for name, one in fields.items():
        if name in _FREE and isinstance(one, str | int | float) and not isinstance(one, bool):
            found[name] = _FREE[name][1](one, value)
    time = found.pop("timestamp", None)
    if found.get("timestamp_ms") is None and time is not None:
        found["timestamp_ms"] = time
    return found


_KINDS: Mapping[str, type[Any]] = {RATINGS: Rating, CLICKS: Click, ITEMS: ItemUpdate, USERS: UserUpdate}
_DECODE_FREELY = {topic: _FreeDecoder(kind) for topic, kind in _KINDS.items()}


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
    found = msgspec.json.schema(_KINDS[topic])
    time = {"anyOf": [{"type": "number", "exclusiveMinimum": -LATEST, "exclusiveMaximum": LATEST}, {"type": "string"}, {"type": "null"}]}  # fmt: skip
    for definition in found["$defs"].values():
        properties = definition["properties"]
        for name in IDS:
            field = properties.get(name, {})
            for part in (field, *field.get("anyOf", ())):
                if part.get("type") == "string":
                    part["type"] = ["string", "integer"]
        if "rating" in properties:
            properties["rating"] = {"type": ["number", "string", "null"], "pattern": f"^{_NUMBER.pattern}$"}
        if "timestamp" in properties:
            properties["timestamp_ms"] = {**time, "default": None, "description": STATED_TIME}
            properties["timestamp"] = {**time, "default": None, "description": OTHER_TIME}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}
