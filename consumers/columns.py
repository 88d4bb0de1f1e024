"""Events of a table as columns of numbers, 20 bytes an event, which become messages slice by slice.

Each distinct text of a column (an id, a rating, a kind) is kept once, already encoded as JSON, so that reading a million
events costs about a second of CPU, and making messages of them another. A row that cannot be an event keeps its place and
its text: it becomes a dead letter, and the stream goes on.
"""

import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, TypeAlias, cast, overload

import msgspec
import numpy as np

from streamer.core.arrays import F64, I32, I64
from streamer.core.events import CLICKS, RATINGS, Message, MessageParts, parts
from streamer.core.protocols import Understood
from streamer.core.times import LATEST, MICROSECONDS_BELOW, MILLISECONDS_BELOW, SECONDS_BELOW

Part: TypeAlias = tuple[I32, I32, I32, I64]  # users, items, values, times of some events
MANY_USERS = 1 << 16  # of more, the ids are kept in one piece of memory
BLOCK_TEXTS = 1024  # texts that are compressed together


class PackedTexts(Sequence[bytes]):
    """Many texts in one piece of memory, to be read in order: 8 bytes each beside their own, where a list of them takes 41."""

    def __init__(self, texts: Iterable[bytes]) -> None:
        packed, self._ends = bytearray(), array("q", [0])
        for text in texts:
            packed += text
            self._ends.append(len(packed))
        self._packed = bytes(packed)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> list[bytes]: ...
    def __getitem__(self, at: int | slice) -> bytes | list[bytes]:
        packed, ends, numbers = self._packed, self._ends, range(len(self))[at]
        if isinstance(numbers, int):
            return packed[ends[numbers] : ends[numbers + 1]]
        return [packed[ends[n] : ends[n + 1]] for n in numbers]

    def __iter__(self) -> Iterator[bytes]:
        return (self._packed[start:end] for start, end in pairwise(self._ends))


class CompressedTexts(Sequence[bytes]):
    """Many texts without line breaks, to be read in order: some 12 bytes for a line of JSON with 80.

    Cost: about 1 us a text to compress it, .3 us to read it.
    """

    def __init__(self, texts: Iterable[bytes]) -> None:
        self._blocks: list[bytes] = []
        self._last: tuple[int, list[bytes]] = -1, []  # the block that was read last
        block, self._length = list[bytes](), 0
        for text in texts:
            block.append(text)
            if len(block) == BLOCK_TEXTS:
                self._add(block)
                block = []
        if block:
            self._add(block)

    def _add(self, block: list[bytes]) -> None:
        self._blocks.append(zlib.compress(b"\n".join(block), 1))
        self._length += len(block)

    def _block(self, number: int) -> list[bytes]:
        if self._last[0] != number:
            self._last = number, zlib.decompress(self._blocks[number]).split(b"\n")
        return self._last[1]

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> list[bytes]: ...
    def __getitem__(self, at: int | slice) -> bytes | list[bytes]:
        numbers = range(self._length)[at]
        if isinstance(numbers, int):
            return self._block(numbers // BLOCK_TEXTS)[numbers % BLOCK_TEXTS]
        return [self._block(n // BLOCK_TEXTS)[n % BLOCK_TEXTS] for n in numbers]

    def __iter__(self) -> Iterator[bytes]:
        for number in range(len(self._blocks)):
            yield from self._block(number)


class UserTexts(Sequence[bytes]):
    """The beginnings of the events of many users, made from their ids when they are asked for."""

    def __init__(self, keys: PackedTexts) -> None:
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> list[bytes]: ...
    def __getitem__(self, at: int | slice) -> bytes | list[bytes]:
        found = self._keys[at]
        return user_text(found.decode()) if isinstance(found, bytes) else [user_text(one.decode()) for one in found]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be an event."""

    line: int  # in the file, from 1
    text: bytes
    why: str  # a sentence


@dataclass(frozen=True, slots=True)
class Columns:
    """n events. `users`, `items` and `values` are indices of texts; for a bad row, users is -1 and items its index in `bad`."""

    topic: str  # that of a row without a value
    timed: bool  # whether the file has times
    users: I32  # (n,)
    items: I32  # (n,)
    values: I32  # (n,), -1: no value
    times_ms: I64  # (n,), a bad row has that of the row before it
    user_texts: Sequence[bytes]  # as JSON up to the item: {"user_id":"u1","item_id":
    item_texts: Sequence[bytes]  # as JSON
    value_texts: Sequence[bytes]  # as JSON up to the time: ,"rating":4.5,"timestamp_ms":
    keys: Sequence[bytes]  # user ids as message keys
    bad: Sequence[BadRow]
    topics: Sequence[str] = ()  # that of each value; empty if it is `topic`
    notes: Sequence[str] = ()  # sentences about what was guessed of the file
    catalogue: Sequence[Message] = ()  # of a table of items or users
    understood: Understood = field(default_factory=Understood)

    def __len__(self) -> int:
        return len(self.users)

    def sorted(self, seed: int) -> "Columns":
        """The same events in order of time, ties shuffled by `seed`; a file without times stays as it is. Cost: O(n log n)."""
        if not self.timed:
            return self
        ties, times = np.random.default_rng(seed).random(len(self)), self.times_ms
        order = np.argsort(times, kind="stable")
        tied = np.zeros(len(self) + 1, dtype=np.bool_)  # whether it has the same time as the one before
        tied[1:-1] = np.diff(times[order]) == 0
        positions = np.flatnonzero(tied[:-1] | tied[1:])  # usually few
        some = order[positions]
        order[positions] = some[np.lexsort((ties[some], times[some]))]
        return replace(
            self,
            users=self.users[order],
            items=self.items[order],
            values=self.values[order],
            times_ms=self.times_ms[order],
        )

    def messages(self, start: int, stop: int) -> list[Message]:
        """Events start to stop - 1, the same bytes as from `streamer.core.events.message`. Cost: about .5 us an event."""
        return list(map(Message, *self.parts(start, stop)))

    def parts(self, start: int, stop: int) -> MessageParts:
        """The same messages by field. Cost: about .3 us an event."""
        cut = slice(start, stop)
        if not len(self.users[cut]):
            return MessageParts([], [], [])
        users, items, values = self.users[cut].tolist(), self.items[cut].tolist(), self.values[cut].tolist()
        heads, middles, tails, keys = self.user_texts, self.item_texts, self.value_texts, self.keys
        ends = [b"}"] * len(users)
        if self.timed:  # formatting all as one text and splitting it takes half the CPU
            ends = str(self.times_ms[cut].tolist())[1:-1].replace(", ", "} ").encode().split(b" ")
            ends[-1] += b"}"
        if min(users) >= 0 and min(values) >= 0:
            bodies = [
                heads[u] + middles[i] + tails[v] + end for u, i, v, end in zip(users, items, values, ends, strict=True)
            ]
            return MessageParts(self._topics(values), [keys[u] for u in users], bodies)
        tail_without_value = _no_value(self)
        bodies = [
            heads[u] + middles[i] + (tails[v] if v >= 0 else tail_without_value) + end if u >= 0 else self.bad[i].text
            for u, i, v, end in zip(users, items, values, ends, strict=True)
        ]
        message_keys = [keys[u] if u >= 0 else b"line %d" % self.bad[i].line for u, i in zip(users, items, strict=True)]
        return MessageParts(self._topics(values), message_keys, bodies)

    def _topics(self, values: Sequence[int]) -> list[str]:
        if not self.topics:
            return [self.topic] * len(values)
        return [self.topics[value] if value >= 0 else self.topic for value in values]


def user_text(user_id: str) -> bytes:
    """The beginning of an event, up to the item. Raises ValueError for a text that is not UTF-8."""
    return b'{"user_id":' + msgspec.json.encode(user_id) + b',"item_id":'


def event_columns(
    topic: str, timed: bool, parts: Sequence[Part], user_ids: Sequence[str], item_ids: Sequence[str],
    ratings: Sequence[bytes], kinds: Sequence[bytes], bad: Sequence[BadRow], notes: Sequence[str],
) -> Columns:  # fmt: skip
    """The parts of a table together. In a part a value is the number of a rating, -2 minus that of a kind, or -1."""
    parts = parts or [(np.empty(0, np.int32),) * 3 + (np.empty(0, np.int64),)]
    users, items, values, times = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    values = np.where(values < -1, len(ratings) - 2 - values, values)
    topics = [RATINGS] * len(ratings) + [CLICKS] * len(kinds) if ratings and topic == CLICKS else ()
    texts, keys = _of_users(user_ids)
    return Columns(
        topic, timed, users, items, values, times, texts, [*map(msgspec.json.encode, item_ids)],
        [*ratings, *kinds], keys, bad, topics, notes,
    )  # fmt: skip


def _of_users(user_ids: Sequence[str]) -> tuple[Sequence[bytes], Sequence[bytes]]:
    """The beginnings of users' events, and their keys."""
    if len(user_ids) <= MANY_USERS:
        return [*map(user_text, user_ids)], [one.encode() for one in user_ids]
    keys = PackedTexts(one.encode() for one in user_ids)
    return UserTexts(keys), keys


def catalogue_columns(
    topic: str, catalogue: Sequence[Message], notes: Sequence[str], bad: Sequence[BadRow] = ()
) -> Columns:
    """A table of items or users, which has no events, but for rows that cannot be read."""
    places, none = np.arange(len(bad), dtype=np.int32), np.full(len(bad), -1, np.int32)
    return Columns(
        topic, timed=False, users=none, items=places, values=none, times_ms=np.zeros(len(bad), np.int64), user_texts=(),
        item_texts=(), value_texts=(), keys=(), bad=bad, notes=notes, catalogue=catalogue,
    )  # fmt: skip


def milliseconds_of(times: F64) -> I64:
    """Times that are numbers of any unit, (n,), in milliseconds, as `core.times` tells them apart. Raises ValueError."""
    size = np.abs(times)
    if not (size < LATEST).all():  # also for NaN
        raise ValueError("a time is out of range")
    units = [size < SECONDS_BELOW, size < MILLISECONDS_BELOW, size < MICROSECONDS_BELOW]
    return np.rint(np.select(units, [times * 1000, times, times / 1000], times / 1_000_000)).astype(np.int64)


def concatenated(parts: Sequence[Columns], names: Sequence[str]) -> Columns:
    """The catalogue and the events of several files, one after the other; `names` are theirs, for bad rows.

    Raises ValueError, with a sentence, where some have times and others not. Cost: O(distinct texts) in Python.
    """
    if len(parts) == 1:
        return parts[0]
    timed = {part.timed for part in parts if part.keys}
    if len(timed) > 1:
        some = next(name for name, part in zip(names, parts, strict=True) if part.keys and not part.timed)
        raise ValueError(f"{some} has no times, and others have: they cannot be put in order together")
    users, items, values = _Union(), _Union(), _Union()
    bad: list[BadRow] = []
    columns: list[tuple[I32, I32, I32, I64]] = []
    for name, part in zip(names, parts, strict=True):
        topics = part.topics or [part.topic] * len(part.value_texts)
        user_rows, item_rows = users.add(part.keys), items.add(part.item_texts)
        value_rows = values.add([*zip(part.value_texts, topics, strict=True), (_no_value(part), part.topic)])
        read = part.users >= 0
        new_items = np.where(read, item_rows[np.where(read, part.items, -1)], part.items + len(bad))
        columns.append((
            np.where(read, user_rows[part.users], -1).astype(np.int32), new_items.astype(np.int32),
            np.where(read, value_rows[part.values], -1).astype(np.int32), part.times_ms,
        ))  # fmt: skip
        bad += [replace(row, why=f"{row.why}, in {name}") for row in part.bad]
    user_rows, item_rows, value_rows, times = (np.concatenate(arrays) for arrays in zip(*columns, strict=True))
    texts, keys = _of_users([key.decode() for key in users])
    return Columns(
        parts[0].topic, True in timed, user_rows, item_rows, value_rows, times,
        texts, list(items), [text for text, _ in values], keys, bad,
        [topic for _, topic in values], list(dict.fromkeys(note for part in parts for note in part.notes)),
        [one for part in parts for one in part.catalogue], understood_together([part.understood for part in parts]),
    )  # fmt: skip


def understood_together(parts: Iterable[Understood]) -> Understood:
    """How several files are understood: as the first with a user and an item, with what is not read of any."""
    known = [part for part in parts if part.columns]
    unread = dict.fromkeys(name for part in known for name in part.unread)
    return known[0]._replace(unread=list(unread)) if known else Understood()


def _no_value(part: Columns) -> bytes:
    return b',"timestamp_ms":' if part.timed else b""


class _Union(dict[Any, int]):
    """Distinct entries of several parts, numbered by first appearance."""

    def add(self, entries: Iterable[Any]) -> I32:
        """The numbers of a part's entries, and one more for an index of -1, which is the last entry or stands for none."""
        return np.array([*(self.setdefault(one, len(self)) for one in entries)] or [-1], np.int32)


@dataclass(frozen=True, slots=True)
class ColumnStream:
    """protocols.Stream: catalogue records, then events."""

    catalogue: Sequence[Message]
    events: Columns
    sha256: str

    @property
    def notes(self) -> Sequence[str]:
        """See protocols.Noted."""
        return self.events.notes

    @property
    def understood(self) -> Understood:
        """See protocols.Noted."""
        return self.events.understood

    def __len__(self) -> int:
        return len(self.catalogue) + len(self.events)

    def messages(self, start: int, stop: int) -> list[Message]:
        """See protocols.Stream."""
        first = len(self.catalogue)
        return [*self.catalogue[start:stop], *self.events.messages(max(start - first, 0), max(stop - first, 0))]

    def parts(self, start: int, stop: int) -> MessageParts:
        """See protocols.Stream."""
        first = len(self.catalogue)
        if start >= first:
            return self.events.parts(start - first, max(stop - first, 0))
        return parts(self.messages(start, stop))

    def locate(self, row: int) -> tuple[int, str]:
        """See protocols.Located; the line is known for bad rows only."""
        event = row - len(self.catalogue)
        if event < 0 or self.events.users[event] >= 0:
            return 0, ""
        bad = self.events.bad[self.events.items[event]]
        return bad.line, bad.why

    def times_ms(self, start: int, stop: int) -> list[int]:
        """See protocols.Stream; the catalogue has the time of the first event."""
        first, times = len(self.catalogue), self.events.times_ms
        begin = int(times[0]) if len(times) else 0
        head = len(self.catalogue[start:stop])
        return [begin] * head + cast(list[int], times[max(start - first, 0) : max(stop - first, 0)].tolist())
