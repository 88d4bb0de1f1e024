"""The ledger: which offsets are applied, and in what order.

The offsets say where to go on. The apply journal says in which order runs of offsets were applied, because the order
between partitions is not the same twice: replaying it rebuilds the state byte for byte. A run is about 20 bytes; adjacent
runs of one sequence are joined. Notes stand between the runs: where the tables of a generation took the place of those
learned until then (at its cut), and where it began to answer.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby

import msgspec

from streamer.core.errors import BadState
from streamer.core.events import LOG, Offsets, Record, TopicPartition, sequence_of
from streamer.core.protocols import Row, Source, StateStore
from streamer.storage.generations import FIRST

GRAFT, SWAP = "generation", "swap"  # topics of notes; the partition is the generation's number
_NO_SEQUENCE = -1  # their `first`
_LOOK_RUNS = 256  # read at a time, from the newest backwards


class Run(msgspec.Struct, array_like=True):
    """Offsets first to next - 1 of one sequence, applied in a row; offsets that are not there were never records.

    A note is a run without records, see `note`.
    """

    topic: str
    partition: int
    first: int
    next: int


def note(what: str, generation: str) -> Run:
    """That a generation's tables were put in here (GRAFT), or that it answers from here on (SWAP)."""
    return Run(what, int(generation[1:]), _NO_SEQUENCE, _NO_SEQUENCE)


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Run)
_NEWEST = b""  # the key under which the newest run's key stands, so that a start need not read all of a long journal


class Ledger:
    """Next offsets and the apply journal; protocols.Persistent."""

    def __init__(self) -> None:
        self.offsets: dict[TopicPartition, int] = {}
        self._last: Run | None = None  # the newest run, which may still grow
        self._number = -1  # its number
        self._open: list[tuple[int, Run]] = []  # runs not committed as they are now

    def advance(self, records: Sequence[Record]) -> None:
        """Say that `records` are applied, in this order. Cost: O(runs) and a look at each record."""
        if records and records[0].partition < 0:  # the embedded log: one sequence
            self._apply(LOG, records[0].offset, records[-1].offset + 1)
            return
        for at, group in groupby(records, sequence_of):
            run = list(group)
            self._apply(at, run[0].offset, run[-1].offset + 1)

    def _apply(self, at: TopicPartition, first: int, next_offset: int) -> None:
        self.offsets = {**self.offsets, at: next_offset}  # a new one, because others read it
        last = self._last
        if last is not None and (last.topic, last.partition) == at and last.first != _NO_SEQUENCE:
            last.next = next_offset
            self._keep(last)
        else:
            self._add(Run(*at, first, next_offset))

    def write(self, noted: Run) -> None:
        """Put a note between what was applied so far and what comes."""
        self._add(noted)

    def _add(self, run: Run) -> None:
        self._last = run
        self._number += 1
        self._keep(run)

    def _keep(self, last: Run) -> None:
        if not self._open or self._open[-1][0] != self._number:
            self._open.append((self._number, last))

    def restore(self, store: StateStore) -> None:
        """See protocols.Persistent; offsets come from the store itself (`start`)."""
        (newest,) = store.read("journal", [_NEWEST])
        if newest is None:
            return
        (run,) = store.read("journal", [newest])
        if run is None:
            raise BadState(f"run {int.from_bytes(newest, 'big')} of the apply journal is missing: restore a backup")
        self._number, self._last = int.from_bytes(newest, "big"), _DECODER.decode(run)

    def start(self, offsets: Offsets) -> None:
        """Go on from committed offsets."""
        self.offsets = dict(offsets)

    def changed(self) -> Sequence[Row]:
        """See protocols.Persistent."""
        rows = [Row("journal", number.to_bytes(8, "big"), _ENCODER.encode(run)) for number, run in self._open]
        return [*rows, Row("journal", _NEWEST, rows[-1].key)] if rows else []

    def committed(self) -> None:
        """See protocols.Persistent."""
        self._open.clear()


def journal(store: StateStore) -> list[Run]:
    """All runs in the order in which they were applied."""
    return [_DECODER.decode(value) for key, value in store.scan("journal") if key != _NEWEST]


def newest(store: StateStore, offsets: Offsets) -> list[Run]:
    """The end of a journal, with all that `offsets`, which were come to in its order, do not cover. Cost: that end's."""
    (last,) = store.read("journal", [_NEWEST])
    number, found = int.from_bytes(last, "big") if last else -1, list[Run]()
    while number >= 0:
        keys = [key.to_bytes(8, "big") for key in range(number, max(-1, number - _LOOK_RUNS), -1)]
        for value in store.read("journal", keys):
            run = _DECODER.decode(value) if value is not None else None
            if run is None or (
                run.first != _NO_SEQUENCE and run.next <= offsets.get(TopicPartition(run.topic, run.partition), 0)
            ):
                return found[::-1]
            found.append(run)
        number -= _LOOK_RUNS
    return found[::-1]


def lineage(runs: Iterable[Run]) -> list[tuple[str, list[Run]]]:
    """A journal cut where tables were put in: the generation whose tables they are ("g0" at the beginning), and what was learned then."""
    found: list[tuple[str, list[Run]]] = [(FIRST, [])]
    for run in runs:
        if run.topic == GRAFT and run.first == _NO_SEQUENCE:
            found.append((f"g{run.partition}", []))
        elif run.first != _NO_SEQUENCE:
            found[-1][1].append(run)
    return found


def beyond(runs: Iterable[Run], offsets: Offsets) -> list[Run]:
    """What of a journal is not covered by `offsets`, which were come to in its order; without notes."""
    left = []
    for run in runs:
        first = max(run.first, offsets.get(TopicPartition(run.topic, run.partition), 0))
        if run.first != _NO_SEQUENCE and first < run.next:
            left.append(Run(run.topic, run.partition, first, run.next))
    return left


class JournalSource:
    """protocols.Source that hands out another source's records in the order of a journal, to rebuild a state from it.

    Notes are not for it: see `lineage`.
    """

    def __init__(self, source: Source, runs: Iterable[Run]) -> None:
        self._source = source
        self._runs: Iterator[Run] = iter(runs)
        self._run: Run | None = None
        self._held: dict[TopicPartition, list[Record]] = {}

    def seek(self, offsets: Offsets) -> None:
        """Where the runs begin: nothing before `offsets` may be in them."""
        self._source.seek(offsets)

    def follow(self, runs: Iterable[Run]) -> None:
        """Hand these out after those before."""
        self._runs = chain(self._runs, runs)

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """See protocols.Source; empty for good when the journal is at its end."""
        if self._run is None:
            self._run = next(self._runs, None)
        if self._run is None:
            return []
        run = self._run
        at = TopicPartition(run.topic, run.partition)
        held = self._held.setdefault(at, [])
        while not held or (held[-1].offset < run.next - 1 and len(held) < max_records):
            more = self._source.poll(max_records, timeout_s)
            for record in more:
                self._held.setdefault(sequence_of(record), []).append(record)
            if not more:
                break
        ready = [record for record in held[:max_records] if record.offset < run.next]
        del held[: len(ready)]
        if (ready and ready[-1].offset >= run.next - 1) or (held and held[0].offset >= run.next):
            self._run = None
        return ready

    @property
    def finished(self) -> bool:
        """Whether every run was handed out."""
        if self._run is None:
            self._run = next(self._runs, None)
        return self._run is None

    def lag(self) -> Mapping[str, Mapping[int, int]]:
        """See protocols.Source."""
        return self._source.lag()

    def close(self) -> None:
        """See protocols.Source."""
        self._source.close()
