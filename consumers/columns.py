"""Events of a delimited file as columns of numbers: 20 bytes an event, turned into messages a slice at a time.

Each distinct text of a column (an id, a rating, a kind) is kept once, already written as JSON, so that a million
events cost about a second of CPU to read and another to hand out. A row that cannot be an event keeps its place and
its text: it becomes a dead letter like any other, and the stream goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from streamer.arrays import I32, I64
from streamer.events import RATINGS, Message


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
    user_texts: Sequence[bytes]  # as JSON
    item_texts: Sequence[bytes]
    value_texts: Sequence[bytes]
    keys: Sequence[bytes]  # the users' ids as message keys
    bad: Sequence[Bad]

    def __len__(self) -> int:
        return len(self.users)

    def sorted(self, seed: int) -> "Columns":
        """In order of time, ties shuffled by `seed`; a file without times stays as it is. Cost: O(n log n)."""
        if not self.timed:
            return self
        ties = np.random.default_rng(seed).random(len(self))
        order = np.lexsort((ties, self.times_ms))
        return replace(
            self,
            users=self.users[order],
            items=self.items[order],
            values=self.values[order],
            times_ms=self.times_ms[order],
        )

    def messages(self, start: int, stop: int) -> list[Message]:
        """Events start to stop - 1, the same bytes as `streamer.events.message` writes. Cost: about 1 us an event."""
        field, timed, topic = b',"rating":' if self.topic == RATINGS else b',"kind":', self.timed, self.topic
        users, items, values, keys = self.user_texts, self.item_texts, self.value_texts, self.keys
        cut = slice(start, stop)
        messages = []
        for u, i, v, at in zip(
            self.users[cut].tolist(), self.items[cut].tolist(), self.values[cut].tolist(), self.times_ms[cut].tolist(), strict=True
        ):  # fmt: skip
            if u < 0:
                row = self.bad[i]
                messages.append(Message(self.topic, b"line %d" % row.line, row.text))
                continue
            value = field + values[v] if v >= 0 else b""
            time = b',"timestamp_ms":%d}' % at if timed else b"}"
            messages.append(
                Message(topic, keys[u], b'{"user_id":' + users[u] + b',"item_id":' + items[i] + value + time)
            )
        return messages


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

    def times_ms(self, start: int, stop: int) -> list[int]:
        """See protocols.Stream; the catalogue has the time of the first event."""
        first, times = len(self.catalogue), self.events.times_ms
        begin = int(times[0]) if len(times) else 0
        head = len(self.catalogue[start:stop])
        return [begin] * head + cast(list[int], times[max(start - first, 0) : max(stop - first, 0)].tolist())
