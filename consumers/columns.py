"""Events of a delimited file as columns of numbers: 20 bytes an event, turned into messages a slice at a time.

Each distinct text of a column (an id, a rating, a kind) is kept once, already written as JSON, so that a million
events cost about a second of CPU to read and another to write out. A row that cannot be an event keeps its place and
its text: it becomes a dead letter like any other, and the stream goes on.
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import isfinite

import msgspec
import numpy as np

from streamer.arrays import F64, I32, I64
from streamer.events import RATINGS, Message

BATCH_ROWS = 8192
SECONDS_BELOW = 10**11  # a time below this is in seconds: as milliseconds it would be before March 1973
_LATEST = 2**53  # beyond it a time is not exact, nor one


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a row has what: numbers of columns, None for a column that is not there."""

    topic: str  # ratings or clicks
    delimiter: str
    width: int  # columns a row
    user: int
    item: int
    value: int | None  # the rating, or the kind of click
    time: int | None
    quoted: bool = True


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
        field = b',"rating":' if self.topic == RATINGS else b',"kind":'
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
            time = b',"timestamp_ms":%d' % at if self.timed else b""
            messages.append(
                Message(self.topic, keys[u], b'{"user_id":%b,"item_id":%b%b%b}' % (users[u], items[i], value, time))
            )
        return messages


class _Texts(dict[str, int]):
    """Distinct texts numbered in order of first sight, and each as JSON; a text that `write` refuses raises ValueError."""

    def __init__(self, write: Callable[[str], bytes]) -> None:
        super().__init__()
        self.json: list[bytes] = []
        self._write = write

    def __missing__(self, text: str) -> int:
        self.json.append(self._write(text))
        number = self[text] = len(self.json) - 1
        return number


def _number(text: str) -> bytes:
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return msgspec.json.encode(number)


class _Reader:
    """Rows of text to columns, batch by batch."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.users, self.items = _Texts(msgspec.json.encode), _Texts(msgspec.json.encode)
        self.values = _Texts(_number if layout.topic == RATINGS else msgspec.json.encode)
        self.bad: list[Bad] = []
        self._last_ms = 0

    def read(self, rows: list[list[str]], lines: list[int]) -> Iterator[tuple[I32, I32, I32, I64]]:
        """The batch in one go; where a row of it is bad, in halves down to that row."""
        try:
            part = self._parse(rows)
        except ValueError:
            if len(rows) == 1:
                yield self._keep_bad(rows[0], lines[0])
                return
            half = len(rows) // 2
            yield from self.read(rows[:half], lines[:half])
            yield from self.read(rows[half:], lines[half:])
            return
        self._last_ms = int(part[3][-1])
        yield part

    def _parse(self, rows: list[list[str]]) -> tuple[I32, I32, I32, I64]:
        layout, n = self.layout, len(rows)
        columns = list(zip(*rows, strict=True))  # ValueError: rows of different lengths
        if len(columns) != layout.width:
            raise ValueError(f"{len(columns)} columns, not {layout.width}")
        users = np.fromiter(map(self.users.__getitem__, columns[layout.user]), np.int32, n)
        items = np.fromiter(map(self.items.__getitem__, columns[layout.item]), np.int32, n)
        values = np.full(n, -1, np.int32)
        if layout.value is not None:
            values = np.fromiter(map(self.values.__getitem__, columns[layout.value]), np.int32, n)
        times = np.zeros(n, np.int64)
        if layout.time is not None:
            times = _milliseconds(np.fromiter(map(float, columns[layout.time]), np.float64, n))
        return users, items, values, times

    def _keep_bad(self, row: list[str], line: int) -> tuple[I32, I32, I32, I64]:
        self.bad.append(Bad(line, self.layout.delimiter.join(row).encode("utf-8", "surrogateescape")))
        users, items, values = (np.array([n], np.int32) for n in (-1, len(self.bad) - 1, -1))
        return users, items, values, np.array([self._last_ms], np.int64)


def _milliseconds(times: F64) -> I64:
    if not (np.abs(times) < _LATEST).all():  # NaN too
        raise ValueError("a time is out of range")
    return np.rint(np.where(np.abs(times) < SECONDS_BELOW, times * 1000, times)).astype(np.int64)


def _batches(lines: Iterable[str], layout: Layout, first_line: int) -> Iterator[tuple[list[list[str]], list[int]]]:
    """Rows and the line of the file that each ends on; blank lines are none."""
    reader = csv.reader(
        lines, delimiter=layout.delimiter, quoting=csv.QUOTE_MINIMAL if layout.quoted else csv.QUOTE_NONE
    )
    rows: list[list[str]] = []
    numbers: list[int] = []
    ended = False
    while not ended:
        try:
            for row in reader:
                if row:
                    rows.append(row)
                    numbers.append(first_line - 1 + reader.line_num)
                    if len(rows) == BATCH_ROWS:
                        break
            else:
                ended = True
        except csv.Error as error:  # a quote that nothing closes; the reader goes on behind it
            rows.append([f"unreadable: {error}"])
            numbers.append(first_line - 1 + reader.line_num)
            continue
        if rows:
            yield rows, numbers
            rows, numbers = [], []


def read_columns(lines: Iterable[str], layout: Layout, first_line: int = 1) -> Columns:
    """All events of `lines`, the first of which is the file's `first_line`. Cost: about 1.2 us an event."""
    reader = _Reader(layout)
    parts = chain.from_iterable(reader.read(*batch) for batch in _batches(lines, layout, first_line))
    joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    users, items, values, times = joined or (np.empty(0, np.int32),) * 3 + (np.empty(0, np.int64),)
    return Columns(
        layout.topic, layout.time is not None, users, items, values, times,
        reader.users.json, reader.items.json, reader.values.json, [user.encode() for user in reader.users], reader.bad,
    )  # fmt: skip


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
        return [begin] * head + [int(at) for at in times[max(start - first, 0) : max(stop - first, 0)].tolist()]


def numbered(texts: Sequence[str], names: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Which column of a header bears which of `names`, each with its spellings; case and underscores do not count."""
    spelled = [text.strip().lower().replace("_", "").replace("-", "").replace(" ", "") for text in texts]
    found = {}
    for name, spellings in names.items():
        for spelling in spellings:
            if spelling in spelled:
                found[name] = spelled.index(spelling)
                break
    return found
