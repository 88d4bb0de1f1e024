"""Protocol buffers as JSON, strictly: an unknown field in a request is an error and not ignored.

The shape is checked here before protobuf-py reads it: its reader silently takes the last of two members of a oneof, and a
deeply nested list in place of a message overflows its stack, which ends the process.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from difflib import get_close_matches
from functools import cache
from typing import Literal, NamedTuple, TypeAlias, TypeVar

import msgspec
from connectrpc.errors import ConnectError
from protobuf import (
    DescField,
    DescFieldValueList,
    DescFieldValueMap,
    DescFieldValueMessage,
    DescMessage,
    Message,
)

from streamer.api.errors import LOG, internal, invalid
from streamer.core.events import IDS, as_ordinary

M = TypeVar("M", bound=Message)
Json: TypeAlias = "dict[str, Json] | list[Json] | str | float | int | bool | None"

_FREE = "google.protobuf.Struct"  # any object is allowed, and protobuf-py bounds its depth
_PUBLISH = "streamer.v1.PublishRequest"  # the events of one that can be read are stored although others cannot
_CLASS = re.compile(r"<class '(\w+)'>")
_CLASSES = {"int": "a number", "float": "a number", "str": "a text", "bool": "a boolean", "NoneType": "null",
            "dict": "an object", "list": "a list"}  # fmt: skip

# In the context of a request: for each event of a PublishRequest that could not be read its index, and what is wrong.
UNREADABLE: ContextVar[Mapping[int, str]] = ContextVar("unreadable", default={})  # noqa: B039  # never changed in place

# Names in camelCase of the fields whose types may be others on a topic too.
_SNAKE = {name.replace("_i", "I").replace("_m", "M").replace("_a", "A"): name for name in (*IDS, "timestamp_ms")}

_WORDS: dict[type, str] = {dict: "an object", list: "a list", str: "a text", bool: "a boolean"}


class _Field(NamedTuple):
    name: str  # as error messages show it
    shape: Literal["one", "list", "map"]
    message: DescMessage | None  # None: a scalar
    oneof: str | None


@cache
def _fields(message: DescMessage) -> Mapping[str, _Field]:
    """The fields by both their names, as in `itemId` and `item_id`."""
    fields: dict[str, _Field] = {}
    for field in message.fields:
        fields[field.name] = fields[field.json_name] = _field(field)
    return fields


def _field(field: DescField) -> _Field:
    match field.value:
        case DescFieldValueList(element=DescMessage() as element):
            return _Field(field.json_name, "list", element, None)
        case DescFieldValueList():
            return _Field(field.json_name, "list", None, None)
        case DescFieldValueMap(value=value):
            return _Field(field.json_name, "map", value if isinstance(value, DescMessage) else None, None)
        case DescFieldValueMessage(message=message, oneof=oneof):
            return _Field(field.json_name, "one", message, oneof.name if oneof else None)
        case value:
            return _Field(field.json_name, "one", None, value.oneof.name if value.oneof else None)


def _check(value: Json, message: DescMessage, path: str) -> None:
    """Raise invalid_argument unless `value` has the shape of `message`. Cost: a look-up a field."""
    name = message.type_name.rpartition(".")[2]
    if not isinstance(value, dict):
        raise invalid(f"{path or 'the body'} must be an object, a {name}, and is {_type_name(value)}")
    if message.type_name == _FREE:
        return
    fields, chosen = _fields(message), dict[str, str]()
    for key, found in value.items():
        field = fields.get(key)
        if field is None:
            raise invalid(_unknown(key, name, message, path))
        here = f"{path}.{field.name}" if path else field.name
        if field.oneof is not None and found is not None and chosen.setdefault(field.oneof, field.name) != field.name:
            raise invalid(
                f"{path or name} can have only one of {chosen[field.oneof]!r} and {field.name!r}: leave one out"
            )
        _check_field(found, field, here)


def _check_field(value: Json, field: _Field, path: str) -> None:
    if value is None:
        return
    if field.shape == "one":
        _check_one(value, field, path)
        return
    if field.shape == "list":
        if not isinstance(value, list):
            raise invalid(f"{path} must be a list and is {_type_name(value)}")
        for index, element in enumerate(value):
            _check_one(element, field, f"{path}[{index}]")
        return
    if not isinstance(value, dict):
        raise invalid(f"{path} must be an object and is {_type_name(value)}")
    for key, element in value.items():
        _check_one(element, field, f"{path}[{key!r}]")


def _check_one(value: Json, field: _Field, path: str) -> None:
    if field.message is not None:
        _check(value, field.message, path)
    elif isinstance(value, dict | list):
        raise invalid(f"{path} must be a single value and is {_type_name(value)}")


def _type_name(value: Json) -> str:
    return "null" if value is None else _WORDS.get(type(value), "a number")


def _unknown(key: str, name: str, message: DescMessage, path: str) -> str:
    names = [field.json_name for field in message.fields]
    where = f" (at {path})" if path else ""
    if not names:
        return f"{name} has no field {key[:100]!r}{where}; it has none at all"
    spellings = {other.lower().replace("_", ""): other for other in names}
    near = get_close_matches(key[:100].lower().replace("_", ""), spellings, n=1, cutoff=0.5)
    hint = f"; did you mean {spellings[near[0]]!r}?" if near else ";"
    return f"{name} has no field {key[:100]!r}{where}{hint} There are: {', '.join(names)}".replace("; There", "; there")


def _read(value: Json, data: bytes | bytearray, message_class: type[M]) -> M:
    """The message in `data`, whose JSON is `value`; raises invalid_argument."""
    _check(value, message_class.desc(), "")
    try:
        return message_class.from_json(data)
    except Exception as error:
        sentence = _CLASS.sub(lambda found: _CLASSES.get(found[1], found[1]), str(error))
        raise invalid(f"the body cannot be read as {message_class.desc().type_name}: {sentence}") from None


def _without_unreadable_events(value: Json, data: bytes | bytearray, message_class: type[M]) -> M:
    """A PublishRequest with an empty event in place of each one that cannot be read; `UNREADABLE` says what is wrong with them.

    Ids that are numbers, ratings that are texts and other times than `timestampMs` are read as on a topic.
    Raises invalid_argument for a body whose events are no list, or that has other faults.
    """
    events = value.get("events") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(events, list):
        return _read(value, data, message_class)
    kept, unreadable = list(events), dict[int, str]()
    for index, event in enumerate(events):
        try:
            kept[index] = _readable(event, bytes(data), f"events[{index}]", message_class)
        except ConnectError as error:
            kept[index], unreadable[index] = {}, error.message.replace("events[0]", f"events[{index}]")
    UNREADABLE.set(unreadable)
    found = {**value, "events": kept}
    return _read(found, msgspec.json.encode(found), message_class)


def _readable(event: Json, data: bytes, path: str, message_class: type[M]) -> Json:
    """The event as it is, or with the types of an ordinary one. Raises invalid_argument if neither can be read."""
    with suppress(ConnectError):
        _read({"events": [event]}, msgspec.json.encode({"events": [event]}), message_class)
        return event
    found = _ordinary(event, data, path)
    _read({"events": [found]}, msgspec.json.encode({"events": [found]}), message_class)
    return found


def _ordinary(event: Json, data: bytes, path: str) -> Json:
    """An event of a PublishRequest with the types of an ordinary one. Raises invalid_argument."""
    if not isinstance(event, dict):
        return event
    found = dict(event)
    for kind, fields in event.items():
        if isinstance(fields, dict):
            try:
                found[kind] = as_ordinary({_SNAKE.get(name, name): one for name, one in fields.items()}, data)
            except msgspec.ValidationError as error:
                raise invalid(f"{path}.{kind}: {error}") from None
    return found


class StrictJSON:
    """The codec `json`. It writes every field in camelCase, and reads camelCase and snake_case without unknown fields."""

    def name(self) -> str:
        """The name in the content type `application/json`."""
        return "json"

    def encode(self, message: Message) -> bytes:
        """Cost: 3 us for ten recommendations."""
        try:
            return message.to_json(always_emit_implicit=True).encode()
        except Exception:
            LOG.exception("an answer cannot be written as JSON")
            raise internal() from None

    def decode(self, data: bytes | bytearray, message_class: type[M]) -> M:
        """Raises invalid_argument with the path of the fault."""
        if not data.strip():
            raise invalid('the body is empty: send a JSON object, {} or {"userId": "u1"}')
        try:
            value = msgspec.json.decode(data)
        except RecursionError:
            raise invalid("the body is nested too deeply to be read: no request needs that") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise invalid(f"the body is not JSON: {error}") from None
        UNREADABLE.set({})
        try:
            return _read(value, data, message_class)
        except ConnectError:
            if message_class.desc().type_name != _PUBLISH:
                raise
            return _without_unreadable_events(value, data, message_class)


class Binary:
    """The codec `proto`."""

    def name(self) -> str:
        """The name in the content types `application/proto` and `application/grpc+proto`."""
        return "proto"

    def encode(self, message: Message) -> bytes:
        """See StrictJSON."""
        try:
            return message.to_binary()
        except Exception:
            LOG.exception("an answer cannot be written as protocol buffers")
            raise internal() from None

    def decode(self, data: bytes | bytearray, message_class: type[M]) -> M:
        """Raises invalid_argument. Unknown fields are allowed, as protocol buffers require."""
        UNREADABLE.set({})
        try:
            return message_class.from_binary(data)
        except Exception as error:
            raise invalid(f"the body cannot be read as {message_class.desc().type_name}: {error}") from None
