"""Events of a delimited file as columns of numbers: 20 bytes an event, turned into messages a slice at a time.

Each distinct text of a column (an id, a rating, a kind) is kept once, already written as JSON, so that a million
events cost about a second of CPU to read and another to hand out. A row that cannot be an event keeps its place and
its text: it becomes a dead letter like any other, and the stream goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from streamer.core.arrays import I32, I64
from streamer.core.events import Message, MessageParts, parts


@dataclass(frozen=True, slots=True)
class Bad:
    """A row that cannot be an event."""

    line: int  # in the file, from 1
    text: bytes


@dataclass(frozen=True, slots=True)
class Columns:
    """n events. `users`, `items`, `values` are numbers of distinct texts; for a bad row users is -1 and items its number among `bad`."""

    topic: str
    timed: bool  # False: the file has no times
    users: I32  # (n,)
    items: I32  # (n,)
    values: I32  # (n,), -1: none given
    times_ms: I64  # (n,), a bad row's is that of the row before it
    user_texts: Sequence[bytes]  # as JSON up to the item: {"user_id":"u1","item_id":
    item_texts: Sequence[bytes]  # as JSON
    value_texts: Sequence[bytes]  # as JSON up to the time: ,"rating":4.5,"timestamp_ms":
    keys: Sequence[bytes]  # the users' ids as message keys
    bad: Sequence[Bad]

    def __len__(self) -> int:
        return len(self.users)

    def sorted(self, seed: int) -> "Columns":
        """In order of time, ties shuffled by `seed`; a file without times stays as it is. Cost: O(n log n)."""
        if not self.timed:
            return self
        ties, times = np.random.default_rng(seed).random(len(self)), self.times_ms
        order = np.argsort(times, kind="stable")
        tied = np.zeros(len(self) + 1, dtype=np.bool_)  # with the one before
        tied[1:-1] = np.diff(times[order]) == 0
        places = np.flatnonzero(tied[:-1] | tied[1:])  # few, as a rule
        some = order[places]
        order[places] = some[np.lexsort((ties[some], times[some]))]
        return replace(
            self,
            users=self.users[order],
            items=self.items[order],
            values=self.values[order],
            times_ms=self.times_ms[order],
        )

    def messages(self, start: int, stop: int) -> list[Message]:
        """Events start to stop - 1, the same bytes as `streamer.core.events.message` writes. Cost: about .5 us an event."""
        return list(map(Message, *self.parts(start, stop)))

    def parts(self, start: int, stop: int) -> MessageParts:
        """The parts of these messages. Cost: about .3 us an event."""
        cut = slice(start, stop)
        if not len(self.users[cut]):
            return MessageParts([], [], [])
        users, items, values = self.users[cut].tolist(), self.items[cut].tolist(), self.values[cut].tolist()
        heads, middles, tails, keys = self.user_texts, self.item_texts, self.value_texts, self.keys
        ends = [b"}"] * len(users)
        if self.timed:  # written as one text and cut: half the CPU of one by one
            ends = str(self.times_ms[cut].tolist())[1:-1].replace(", ", "} ").encode().split(b" ")
            ends[-1] += b"}"
        if min(users) >= 0 and min(values) >= 0:
            said = [
                heads[u] + middles[i] + tails[v] + end for u, i, v, end in zip(users, items, values, ends, strict=True)
            ]
            return MessageParts([self.topic] * len(users), [keys[u] for u in users], said)
        without = b',"timestamp_ms":' if self.timed else b""
        said = [
            heads[u] + middles[i] + (tails[v] if v >= 0 else without) + end if u >= 0 else self.bad[i].text
            for u, i, v, end in zip(users, items, values, ends, strict=True)
        ]
        named = [keys[u] if u >= 0 else b"line %d" % self.bad[i].line for u, i in zip(users, items, strict=True)]
        return MessageParts([self.topic] * len(users), named, said)


@dataclass(frozen=True, slots=True)
class ColumnStream:
    """protocols.Stream: catalogue records, then events."""

    catalogue: Sequence[Message]
    events: Columns
    sha256: str

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

    def times_ms(self, start: int, stop: int) -> list[int]:
        """See protocols.Stream; the catalogue has the time of the first event."""
        first, times = len(self.catalogue), self.events.times_ms
        begin = int(times[0]) if len(times) else 0
        head = len(self.catalogue[start:stop])
        return [begin] * head + cast(list[int], times[max(start - first, 0) : max(stop - first, 0)].tolist())
