"""Objects of other systems as events: fields under the names that delimited text may have, and Gorse's users, items and feedback."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from streamer.consumers.delimited.header import GivenColumns, columns_of, listed, spelled
from streamer.core.errors import BadSettings
from streamer.core.events import Click, Rating
from streamer.core.protocols import Understood

Object: TypeAlias = Mapping[str, msgspec.Raw]

_OURS = {"user": "user_id", "item": "item_id", "rating": "rating", "kind": "kind", "time": "timestamp"}
_TIMES = {"timestamp", "timestamp_ms"}
_CATALOGUE = {"title", "categories", "available", "preferences", "same_as", "attributes"}
NOTHING = {b"null", b'""'}  # as a rating
_READ = {"topic", "expected", *Rating.__struct_fields__, *Click.__struct_fields__}
_PLANS_MOST = 1000  # sets of fields that are remembered
_ENCODER = msgspec.json.Encoder()


class Translator:
    """Gives objects the names that events have. Cost: .3 us for an object that has them, 2 us for another one."""

    def __init__(self, given: GivenColumns | None = None) -> None:
        """`given`: names that a user gives; in their order they say nothing of objects. Raises BadSettings for these."""
        if given and given.ordered:
            raise BadSettings("--columns: the fields of JSON have names: say which is which with user=NAME,item=NAME")
        self._given = {what: name for what, name in given.named.items() if name} if given else {}
        self._unseen = set(self._given.values())
        self._columns: dict[str, str] = {}  # what is known -> the name, of the first event
        self._unread: dict[str, None] = {}  # other fields of events
        self._plans: dict[tuple[str, ...], Callable[[Object], Object] | None] = {}

    def __call__(self, fields: Object) -> Object | None:
        """The object with our names; None for one that has them."""
        names = tuple(fields)
        try:
            plan = self._plans[names]
        except KeyError:
            plan = self._plan(names)
            if len(self._plans) < _PLANS_MOST:
                self._plans[names] = plan
        return plan(fields) if plan else None

    def require(self, where: object) -> None:
        """Raise BadSettings if a name that was given is in no object."""
        if self._unseen:
            known = {name: None for names in self._plans for name in names}
            raise BadSettings(
                f"--columns: no object of {where} has {listed(sorted(self._unseen))}; they have {listed(list(known))}"
            )

    def understood(self) -> Understood:
        """Which field of the first event is what, and the fields of any that are not read."""
        return Understood(self._columns, unread=sorted(self._unread))

    def _plan(self, names: Sequence[str]) -> Callable[[Object], Object] | None:
        """What is to be done with objects that have these fields; None for nothing."""
        self._unseen.difference_update(names)
        has, words = set(names), {spelled(name) for name in names}
        if not self._given and ("topic" in has or (has & {"user_id", "item_id"} and _is_entry(has))):
            return None
        given = {what: name for what, name in self._given.items() if name in has}
        found = {what: names[place] for what, place in columns_of(names, GivenColumns(given)).items()}
        if "user" not in found and "item" in found and words & {"ishidden", "labels"}:
            return lambda fields: _gorse_item(fields, found["item"])
        if "item" not in found and "user" in found and "labels" in words:
            return lambda fields: _gorse_user(fields, found["user"])
        if not {"user", "item"} <= found.keys():
            found = {what: name for what, name in found.items() if what in ("user", "item")}
        else:
            self._columns = self._columns or found
            if len(self._plans) < _PLANS_MOST:
                self._unread |= dict.fromkeys(has - _READ - set(found.values()))
        renamed = {name: _OURS[what] for what, name in found.items() if what in given or not _has(has, what)}
        if not any(name != ours for name, ours in renamed.items()):
            return None
        replaced = set(renamed.values()) | (_TIMES if "timestamp" in renamed.values() else set())
        return lambda fields: _renamed(fields, renamed, replaced)


def _is_entry(names: set[str]) -> bool:
    """Whether these are the fields of a catalogue's entry."""
    return bool(names & _CATALOGUE) and not names & {"rating", "kind"}


def _has(names: set[str], what: str) -> bool:
    return bool(names & _TIMES) if what == "time" else _OURS[what] in names


def _renamed(fields: Object, renamed: Mapping[str, str], replaced: set[str]) -> Object:
    found = {name: raw for name, raw in fields.items() if name not in renamed and name not in replaced}
    return found | {ours: fields[name] for name, ours in renamed.items()}


def _gorse_item(fields: Object, item: str) -> Object:
    """https://gorse.io/docs: an item's labels and categories are its categories, its comment is the title."""
    found = {spelled(name): msgspec.json.decode(raw) for name, raw in fields.items()}
    words, attributes = _labels(found.get("labels"))
    mapped = {
        "item_id": msgspec.json.decode(fields[item]), "title": found.get("comment") or "",
        "categories": list(dict.fromkeys([*_labels(found.get("categories"))[0], *words])),
        "attributes": attributes, "available": not found.get("ishidden"),
    }  # fmt: skip
    return {name: msgspec.Raw(_ENCODER.encode(value)) for name, value in mapped.items()}


def _gorse_user(fields: Object, user: str) -> Object:
    """A user's labels are attributes, so that users with the same label are a group."""
    found = {spelled(name): msgspec.json.decode(raw) for name, raw in fields.items()}
    words, attributes = _labels(found.get("labels"))
    mapped = {"user_id": msgspec.json.decode(fields[user]), "attributes": {**dict.fromkeys(words, True), **attributes}}
    return {name: msgspec.Raw(_ENCODER.encode(value)) for name, value in mapped.items()}


def _labels(value: Any) -> tuple[list[str], dict[str, Any]]:
    """The labels that are words, and those that have a name and a single value."""
    if isinstance(value, str):
        return [value] if value else [], {}
    if isinstance(value, list):
        return [one for one in value if isinstance(one, str) and one], {}
    words, attributes = list[str](), dict[str, Any]()
    for name, one in value.items() if isinstance(value, dict) else ():
        words += _labels(one)[0] if isinstance(one, list) else []
        if isinstance(one, str | int | float | bool):
            attributes[name] = one
    return words, attributes
