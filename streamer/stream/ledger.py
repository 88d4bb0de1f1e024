"""The ledger: which offsets were applied, and in what order.

The offsets say where to continue. The apply journal records the order in which runs of offsets were applied, because the
order between partitions differs each time they are read: replaying the journal rebuilds the state byte for byte. A run is
about 20 bytes; adjacent runs of one sequence are joined. Notes between the runs say where the tables of a retrained
generation replaced those learned before (at its cut), and where it went live.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby

import msgspec

from streamer.core.errors import BadState
from streamer.core.events import LOG, Offsets, Record, TopicPartition, sequence_of
from streamer.core.protocols import Row, Source, StateStore
from streamer.storage.generations import FIRST

TABLES_REPLACED, WENT_LIVE = "generation", "swap"  # topics of notes; the partition is the generation's number
_NO_SEQUENCE = -1  # `first` and `next` of a note
_RUNS_AT_A_TIME = 256  # runs read at a time, from the newest backwards


class Run(msgspec.Struct, array_like=True):
    """Offsets first to next - 1 of one sequence, applied one after the other; some of them may never have been records.

    A note is a run without records, see `note`.
    """

    topic: str
    partition: int
    first: int
    next: int


def note(what: str, generation: str) -> Run:
    """A note that a generation's tables were put in here (TABLES_REPLACED), or that it went live here (WENT_LIVE)."""
    return Run(what, int(generation[1:]), _NO_SEQUENCE, _NO_SEQUENCE)


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Run)
_NEWEST_KEY = b""  # its value is the newest run's key, so that a start need not scan a long journal


class Ledger:
    """Next offsets and the apply journal; protocols.Persistent."""

    def __init__(self) -> None:
        self.offsets: dict[TopicPartition, int] = {}
        self._last: Run | None = None  # the newest run, which may still grow
        self._number = -1  # its number
        self._changed_runs: list[tuple[int, Run]] = []  # runs that are new or longer than committed

    def advance(self, records: Sequence[Record]) -> None:
        """Note that `records` were applied, in this order. Cost: O(runs), and a look at each record."""
        if records and records[0].partition < 0:  # the embedded log: one sequence
            self._apply(LOG, records[0].offset, records[-1].offset + 1)
            return
        for at, group in groupby(records, sequence_of):
            run = list(group)
            self._apply(at, run[0].offset, run[-1].offset + 1)

    def _apply(self, at: TopicPartition, first: int, next_offset: int) -> None:
        self.offsets = {**self.offsets, at: next_offset}  # a new dict, because other threads read it
        last = self._last
        if last is not None and (last.topic, last.partition) == at and last.first != _NO_SEQUENCE:
            last.next = next_offset
            self._mark_changed(last)
        else:
            self._add(Run(*at, first, next_offset))

    def add_note(self, note: Run) -> None:
        """Add a note to the journal after everything applied so far."""
        self._add(note)

    def _add(self, run: Run) -> None:
        self._last = run
        self._number += 1
        self._mark_changed(run)

    def _mark_changed(self, last: Run) -> None:
        if not self._changed_runs or self._changed_runs[-1][0] != self._number:
            self._changed_runs.append((self._number, last))

    def restore(self, store: StateStore) -> None:
        """See protocols.Persistent; the offsets are set by `start`."""
        (newest,) = store.read("journal", [_NEWEST_KEY])
        if newest is None:
            return
        (run,) = store.read("journal", [newest])
        if run is None:
            raise BadState(f"run {int.from_bytes(newest, 'big')} of the apply journal is missing: restore a backup")
        self._number, self._last = int.from_bytes(newest, "big"), _DECODER.decode(run)

    def start(self, offsets: Offsets) -> None:
        """Continue from committed offsets."""
        self.offsets = dict(offsets)

    def changed(self) -> Sequence[Row]:
        """See protocols.Persistent."""
        rows = [Row("journal", number.to_bytes(8, "big"), _ENCODER.encode(run)) for number, run in self._changed_runs]
        return [*rows, Row("journal", _NEWEST_KEY, rows[-1].key)] if rows else []

    def committed(self) -> None:
        """See protocols.Persistent."""
        self._changed_runs.clear()


def journal(store: StateStore) -> list[Run]:
    """All runs and notes in the order in which they were applied."""
    return [_DECODER.decode(value) for key, value in store.scan("journal") if key != _NEWEST_KEY]


def newest_runs(store: StateStore, offsets: Offsets) -> list[Run]:
    """The end of a journal, with all runs that `offsets` do not cover. Cost: reading that end.

    The offsets must have been reached by applying the journal from its beginning, in order.
    """
    (last,) = store.read("journal", [_NEWEST_KEY])
    number, found = int.from_bytes(last, "big") if last else -1, list[Run]()
    while number >= 0:
        keys = [key.to_bytes(8, "big") for key in range(number, max(-1, number - _RUNS_AT_A_TIME), -1)]
        for value in store.read("journal", keys):
            run = _DECODER.decode(value) if value is not None else None
            if run is None or (
                run.first != _NO_SEQUENCE and run.next <= offsets.get(TopicPartition(run.topic, run.partition), 0)
            ):
                return found[::-1]
            found.append(run)
        number -= _RUNS_AT_A_TIME
    return found[::-1]


def lineage(runs: Iterable[Run]) -> list[tuple[str, list[Run]]]:
    """A journal split where tables were replaced: each generation ("g0" first), and the runs learned on its tables."""
    found: list[tuple[str, list[Run]]] = [(FIRST, [])]
    for run in runs:
        if run.topic == TABLES_REPLACED and run.first == _NO_SEQUENCE:
            found.append((f"g{run.partition}", []))
        elif run.first != _NO_SEQUENCE:
            found[-1][1].append(run)
    return found


def runs_after(runs: Iterable[Run], offsets: Offsets) -> list[Run]:
    """The runs, or the parts of runs, that `offsets` do not cover, without notes; see `newest_runs` on the offsets."""
    left = []
    for run in runs:
        first = max(run.first, offsets.get(TopicPartition(run.topic, run.partition), 0))
        if run.first != _NO_SEQUENCE and first < run.next:
            left.append(Run(run.topic, run.partition, first, run.next))
    return left


class JournalSource:
    """protocols.Source that returns another source's records in the order of a journal, to rebuild a state from it.

    `runs` must not have notes: see `lineage`.
    """

    def __init__(self, source: Source, runs: Iterable[Run]) -> None:
        self._source = source
        self._runs: Iterator[Run] = iter(runs)
        self._run: Run | None = None
        self._held: dict[TopicPartition, list[Record]] = {}

    def seek(self, offsets: Offsets) -> None:
        """Begin at `offsets`; no run may begin before them."""
        self._source.seek(offsets)

    def append_runs(self, runs: Iterable[Run]) -> None:
        """Add runs to follow those given before."""
        self._runs = chain(self._runs, runs)

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """See protocols.Source; always empty once the journal is at its end."""
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
        """Whether all runs were returned."""
        if self._run is None:
            self._run = next(self._runs, None)
        return self._run is None

    def lag(self) -> Mapping[str, Mapping[int, int]]:
        """See protocols.Source."""
        return self._source.lag()

    def close(self) -> None:
        """See protocols.Source."""
        self._source.close()
