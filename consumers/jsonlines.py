"""Reads JSON: each line, or each element of one array, is an event, the same JSON as on its topic or under other names.

A line's topic is its field `topic`, or else follows from its other fields: a user and an item with nothing said about them are a
click. A line without a recognisable topic goes to `ratings`, where it becomes a dead letter with its line number as the key.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import msgspec

from streamer.consumers.columns import CompressedTexts, understood_together
from streamer.consumers.delimited.header import GivenColumns
from streamer.consumers.foreign import NOTHING, Translator
from streamer.core.errors import StreamerError
from streamer.core.events import CATALOGUE_TOPICS, CLICKS, ITEMS, RATINGS, USERS, Message, MessageParts, id_text, parts
from streamer.core.protocols import Understood
from streamer.core.times import milliseconds, stated_milliseconds

T = TypeVar("T")


class _Ids(msgspec.Struct, gc=False):
    user_id: str | int | float = ""
    item_id: str | int | float = ""


_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_IDS = msgspec.json.Decoder(_Ids)
_ARRAY, _ENCODER = msgspec.json.Decoder(list[msgspec.Raw]), msgspec.json.Encoder()
_MARK, _HEAD_BYTES = b"\xef\xbb\xbf", 4096  # a byte order mark
_TEXT = msgspec.json.Decoder(str)
_ORDINARY_DIGITS = 13  # of milliseconds from 2001 to 2286, which need no telling apart
_TIME, _NULL = msgspec.json.Decoder(int | float | str | None), msgspec.Raw(b"null")

# The first of these fields that a line has decides; "attributes" is last, because both items and users have it.
_FIELDS = {
    "rating": RATINGS, "kind": CLICKS, "session_id": CLICKS, "session": CLICKS, "title": ITEMS, "categories": ITEMS,
    "available": ITEMS, "preferences": USERS, "same_as": USERS, "attributes": USERS,
}  # fmt: skip


def topic_of(fields: Mapping[str, msgspec.Raw]) -> str:
    """The topic of an object with these fields."""
    if "topic" in fields:
        try:
            return _TEXT.decode(fields["topic"])
        except msgspec.DecodeError:
            return RATINGS
    if "rating" in fields and "kind" in fields and bytes(fields["rating"]) in NOTHING:
        return CLICKS  # an object without a rating is a click of its kind
    for name, topic in _FIELDS.items():
        if name in fields:
            return ITEMS if name == "attributes" and "user_id" not in fields else topic
    return CLICKS if "user_id" in fields and "item_id" in fields else RATINGS


@dataclass(frozen=True, slots=True)
class JsonLines:
    """protocols.Stream of lines: catalogue records first, then the rest, each in file order."""

    lines: Sequence[bytes]
    numbers: Sequence[int]  # line numbers in the file, from 1
    topics: Sequence[str]
    times: Sequence[int]  # in ms; a line without a time has that of the line before it
    understood: Understood = field(default_factory=Understood)
    notes: Sequence[str] = ()  # sentences about what was guessed of the file
    sha256: str = ""

    def __len__(self) -> int:
        return len(self.lines)

    def messages(self, start: int, stop: int) -> list[Message]:
        """See protocols.Stream. The key is the user (on `items`, the item), or "line 17" without one. Cost: about 1 us a line."""
        cut = slice(start, stop)
        return [
            Message(topic, self._key(topic, line, number), line)
            for topic, line, number in zip(self.topics[cut], self.lines[cut], self.numbers[cut], strict=True)
        ]

    def parts(self, start: int, stop: int) -> MessageParts:
        """See protocols.Stream."""
        return parts(self.messages(start, stop))

    def times_ms(self, start: int, stop: int) -> list[int]:
        """See protocols.Stream."""
        return list(self.times[start:stop])

    def locate(self, row: int) -> tuple[int, str]:
        """See protocols.Located."""
        return self.numbers[row], ""

    @staticmethod
    def _key(topic: str, line: bytes, number: int) -> bytes:
        try:
            ids = _IDS.decode(line)
            key = id_text(ids.item_id if topic == ITEMS else ids.user_id, line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            key = ""
        return key.encode() or b"line %d" % number


def read_json(path: Path, given: GivenColumns | None = None) -> JsonLines:
    """All lines of `path` except blank ones, or all elements of the array that it is.

    Raises BadSettings for names that no object has, StreamerError for an array that is cut off, OSError.
    Cost: about 2.7 us a line, 4 us under other names; memory: some 40 bytes a line.
    """
    with path.open("rb") as file:
        if file.read(_HEAD_BYTES).removeprefix(_MARK).lstrip().startswith(b"["):
            file.seek(0)
            return _parse(_elements(file.read(), path), given, path)
        file.seek(0)
        return _parse(enumerate(file, 1), given, path)


def _elements(content: bytes, path: Path) -> Iterator[tuple[int, bytes]]:
    """The line on which each element of an array begins, and the element on one line."""
    try:
        found = _ARRAY.decode(content.removeprefix(_MARK))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StreamerError(
            f"{path} begins as a JSON array and cannot be read as one ({error}): mend it or get it again; nothing of it was used"
        ) from None
    line = position = 0
    for element in map(bytes, found):
        begin = content.find(element, position)
        line += content.count(b"\n", position, begin)
        position = begin
        yield line + 1, msgspec.json.format(element, indent=-1) if b"\n" in element else element


def _parse(source: Iterable[tuple[int, bytes]], given: GivenColumns | None, path: Path) -> JsonLines:
    """Line numbers and lines as a stream."""
    translate = Translator(given)
    catalogue, rest = _Rows(), _Rows()
    events = CompressedTexts(_events(source, translate, catalogue, rest))
    translate.require(path)
    lines = CompressedTexts(chain(catalogue.lines, events)) if catalogue.lines else events
    return JsonLines(
        lines, catalogue.numbers + rest.numbers, catalogue.topics + rest.topics, catalogue.times + rest.times, translate.understood()
    )  # fmt: skip


@dataclass(slots=True)
class _Rows:
    """What is kept of lines, field by field."""

    lines: list[bytes] = field(default_factory=list)
    numbers: "array[int]" = field(default_factory=lambda: array("q"))
    topics: list[str] = field(default_factory=list)
    times: "array[int]" = field(default_factory=lambda: array("q"))


def _events(
    source: Iterable[tuple[int, bytes]], translate: Translator, catalogue: _Rows, rest: _Rows
) -> Iterator[bytes]:
    """Yield the lines that are not catalogue records; adds the latter to `catalogue`, and all but the line of the others to `rest`."""
    last_ms = 0
    known = {RATINGS: RATINGS, CLICKS: CLICKS}  # so that equal topics share one string
    for number, text in source:
        line = text.strip(b"\xef\xbb\xbf \t\r\n" if number == 1 else b" \t\r\n")
        if not line:
            continue
        topic = RATINGS
        try:
            fields: Mapping[str, msgspec.Raw] = _OBJECT.decode(line)
            ours = translate(fields)
            if ours is not None:
                fields, line = ours, _ENCODER.encode(ours)
            topic = topic_of(fields)
            last_ms = _time_ms(fields, last_ms)
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
        rows = catalogue if topic in CATALOGUE_TOPICS else rest
        rows.numbers.append(number)
        rows.topics.append(known.setdefault(topic, topic))
        rows.times.append(last_ms)
        if rows is catalogue:
            catalogue.lines.append(line)
        else:
            yield line


def joined(parts: Sequence[JsonLines], sha256: str) -> JsonLines:
    """The lines of several files, one after the other; all catalogue records first. Lines are numbered in each file."""
    if len(parts) == 1:
        return replace(parts[0], sha256=sha256)
    firsts = [sum(topic in CATALOGUE_TOPICS for topic in part.topics) for part in parts]

    def all_of(columns: Iterable[Sequence[T]]) -> Iterator[T]:
        columns = list(columns)
        heads = (islice(column, first) for column, first in zip(columns, firsts, strict=True))
        return chain(*heads, *(islice(column, first, None) for column, first in zip(columns, firsts, strict=True)))

    lines = CompressedTexts(all_of(part.lines for part in parts))
    numbers, times = (
        array("q", all_of(column)) for column in ([part.numbers for part in parts], [part.times for part in parts])
    )
    topics = list(all_of(part.topics for part in parts))
    notes = [note for part in parts for note in part.notes]
    return JsonLines(
        lines, numbers, topics, times, understood_together(part.understood for part in parts), notes, sha256
    )


def _time_ms(fields: Mapping[str, msgspec.Raw], otherwise: int) -> int:
    stated = fields.get("timestamp_ms")
    try:
        if stated is not None:
            text = bytes(stated)
            if text.isdigit() and len(text) == _ORDINARY_DIGITS:
                return int(text)
            found = _TIME.decode(stated)
            if found is not None:
                return stated_milliseconds(found)
        found = _TIME.decode(fields.get("timestamp", _NULL))
        return otherwise if found is None else milliseconds(found)
    except (msgspec.DecodeError, ValueError):  # the decoder will reject the event
        return otherwise
