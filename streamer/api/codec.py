"""Protocol buffers as JSON, strictly: an unknown field in a request is an error and not ignored.

The shape is checked here before protobuf-py reads it: its reader silently takes the last of two members of a oneof, and a
deeply nested list in place of a message overflows its stack, which ends the process.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from typing import Literal, NamedTuple, TypeAlias, TypeVar

import msgspec
from protobuf import (
    DescField,
    DescFieldValueList,
    DescFieldValueMap,
    DescFieldValueMessage,
    DescMessage,
    Message,
)

from streamer.api.errors import LOG, internal, invalid

M = TypeVar("M", bound=Message)
Json: TypeAlias = "dict[str, Json] | list[Json] | str | float | int | bool | None"

_FREE = "google.protobuf.Struct"  # any object is allowed, and protobuf-py bounds its depth
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
        _check(value, message_class.desc(), "")
        try:
            return message_class.from_json(data)
        except Exception as error:
            raise invalid(f"the body cannot be read as {message_class.desc().type_name}: {error}") from None


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
        try:
            return message_class.from_binary(data)
        except Exception as error:
            raise invalid(f"the body cannot be read as {message_class.desc().type_name}: {error}") from None
