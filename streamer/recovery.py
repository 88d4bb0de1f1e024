"""`streamer recover`: a new log of every event that a damaged log or the archive still holds whole, at its old offset.

The damaged log is renamed and never changed. Offsets of which nothing is left become blank records, so that all other offsets
keep their meaning. A state that has learned from such an offset, or is damaged, is renamed too: the next start learns again
from the new log, so that the state is what learning exactly those events gives.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from streamer.core.errors import BadState, DamagedFile, StoreUnavailable
from streamer.core.events import BLANK, CLICKS, LOG, RATINGS, USERS, Record
from streamer.storage import generations, mark, runs
from streamer.storage.archive.archive import FOLDER as ARCHIVE
from streamer.storage.archive.archive import Archive
from streamer.storage.archive.manifest import read_manifest
from streamer.storage.files import sync_folder, write_atomically
from streamer.storage.log import FOLDER, EmbeddedLog
from streamer.storage.rocks import Rocks, all_locked, recover_advice
from streamer.storage.salvage import Salvage
from streamer.storage.state import RocksStore
from streamer.stream.removals import unfinished

NEW = "log.recovering"  # in the data directory, until the new log is complete
REPORT = "recovery.json"  # in the new log
LOG_PARTITION = -1  # of the log's rows in the archive
STATES = ("generations", "generation", "state")  # what is renamed if everything must be learned again, in this order:
# after each step it is clear which generation is live, so that an interrupted recovery can be completed
WINDOW_OFFSETS = 1 << 18  # offsets for which the archive is asked at a time
BATCH_RECORDS = 20_000  # blank or archived records in one write

Span: TypeAlias = tuple[int, int]  # first and last offset


def examine(folder: Path, *, deep: bool = False) -> str:
    """What the log in the data directory `folder` holds; empty if there is none. A streamer may run on it.

    `deep`: every record is read. Raises BadState for a log that has lost something, and where a recovery was interrupted.
    Cost: `deep`, about 2 us a row of the log; otherwise some 15 ms, or 120 ms after a kill, which leaves the write-ahead logs full.
    """
    if _complete(folder / NEW) is not None:
        raise BadState(
            f"a recovery of the log in {folder} was interrupted: run `streamer recover --data {folder}`, which completes it"
        )
    state = generations.state_folder(folder, generations.live(folder))
    learned, reached = _learned(folder, state), _reached(folder)
    if not (folder / FOLDER).exists() and not learned and not reached:
        return ""
    if not (folder / FOLDER).exists():
        raise BadState(
            f"there is no log in {folder}, but {max(learned, reached):,} events were read from one: {recover_advice(folder)}"
        )
    log = EmbeddedLog(folder, read_only=True)
    try:
        log.require(learned, f"the state in {state}")
        log.require(reached, f"the archive in {folder / ARCHIVE}")
        found = f"{folder / FOLDER} holds the events from offset {log.begin():,} to {log.end:,}, and has lost none that was acknowledged"
        if deep:
            log.verify()
            found += "; all of them were read, with the checksum of every block"
        return found
    finally:
        log.close()


def _learned(folder: Path, state: Path) -> int:
    """The next offset of the log that the state has not learned; 0 for one that is missing or damaged, which others report."""
    if not (state / "CURRENT").exists():
        return 0
    with suppress(BadState):
        store = RocksStore(folder, read_only=True)
        try:
            return store.offsets().get(LOG, 0)
        finally:
            store.close()
    return 0


def _reached(folder: Path) -> int:
    """The next offset of the log that the archive does not have; 0 for one that is missing or damaged, which others report."""
    with suppress(BadState):
        return read_manifest(folder / ARCHIVE).offsets.get(f"{LOG.topic}/{LOG.partition}", 0)
    return 0


class Report(msgspec.Struct, frozen=True):
    """What `recover` found, and what it did."""

    begin: int  # the new log's first offset
    end: int  # the next one after its last
    from_log: int  # records, erased ones included
    from_archive: int
    from_state: int  # removals of users that the log has lost and the state has not forgotten
    gone: tuple[Span, ...]  # events that neither log nor archive hold whole
    uncounted: tuple[
        Span, ...
    ]  # lost records that were no accepted events, as the archive has reached them without them
    damage: tuple[str, ...]
    state: Literal["kept", "learn again", "none"]
    why: str = ""  # everything should be learned again
    moved: dict[str, str] = {}  # what is renamed in the data directory: old name -> new name; empty for a dry run


def recover(folder: Path, *, keep_state: bool = False, dry_run: bool = False) -> Report | None:
    """Make a new log in the data directory `folder`, on which no streamer runs; None if the log is whole.

    Raises BadState, and StoreUnavailable where files cannot be read or written.

    `keep_state`: a whole state is kept although it has learned from events that are gone. An interrupted recovery has changed nothing, or is completed by the next one.
    Cost: reading state and log, and the archive as far as the log lacks something; writing a log.
    """
    if not folder.is_dir():
        raise BadState(f"no data in {folder}: give the --data directory of a streamer that has run")
    state, new = generations.state_folder(folder, generations.live(folder)), folder / NEW
    try:
        with all_locked([state, folder / FOLDER]):
            report = _complete(new)
            if report is None:
                if _is_whole(folder):
                    return None
                report = _make(folder, new, keep_state=keep_state, dry_run=dry_run)
            if dry_run:
                return msgspec.structs.replace(report, moved={})
            _put_in_place(folder, new, report)
            return report
    except OSError as error:
        raise StoreUnavailable(f"cannot recover the log in {folder}: {error}; mend that, and run it again") from None


def _make(folder: Path, new: Path, *, keep_state: bool, dry_run: bool) -> Report:
    """Write the new log to `new`, and its report last; for a dry run, nothing is left there."""
    shutil.rmtree(new, ignore_errors=True)
    scratch = new / "scratch"
    scratch.mkdir(parents=True)
    try:
        report = _Recovery(folder, new, scratch, dry_run=dry_run).run(keep_state=keep_state)
        shutil.rmtree(scratch)
        if not dry_run:
            report = msgspec.structs.replace(report, moved=_renames(folder, report))
            write_atomically(new / REPORT, msgspec.json.format(msgspec.json.encode(report)))
        return report
    finally:
        if _complete(new) is None:
            shutil.rmtree(new, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    try:
        found = examine(folder, deep=True)
    except BadState:
        return False
    if not found:
        raise BadState(f"there is no embedded log in {folder}: with Kafka, events are read again from there")
    return True


def _complete(new: Path) -> Report | None:
    """The report of a new log that is complete."""
    with suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode((new / REPORT).read_bytes(), type=Report)
    return None


def _renames(folder: Path, report: Report) -> dict[str, str]:
    """What the new log replaces, with the names that it gets; the log last."""
    names = [*(STATES if report.state == "learn again" else ()), FOLDER]
    number = next(
        n for n in count(1) if not any((folder / f"{name}.damaged-{n}").exists() for name in (FOLDER, *STATES))
    )
    return {name: f"{name}.damaged-{number}" for name in names if (folder / name).exists()}


def _put_in_place(folder: Path, new: Path, report: Report) -> None:
    """Rename what is replaced; then the new log is the log. Can be repeated after an interruption anywhere in it."""
    for name, aside in report.moved.items():
        if not (folder / aside).exists():
            (folder / name).rename(folder / aside)
    sync_folder(folder)
    if report.begin and report.state != "kept":  # a state that begins where the log does
        store = RocksStore(folder)
        store.commit((), {LOG: report.begin})
        store.sync()
        store.close()
    new.rename(folder / FOLDER)
    sync_folder(folder)


class _State(NamedTuple):
    """What the live state says."""

    offset: int  # the next offset to learn
    generation: str
    removals: dict[int, str]  # offset of a removal that is not complete -> user id


class _Recovery:
    """Assembles the new log, in one pass over the old one."""

    def __init__(self, folder: Path, new: Path, scratch: Path, *, dry_run: bool) -> None:
        """The new log is written to `new` unless it is a dry run; `scratch` is an empty folder."""
        self._salvage, self._new, self._dry_run = Salvage(folder / FOLDER, scratch), new, dry_run
        self._damage, self._damaged_state = list[str](), False
        self._state = self._read_state(folder)
        self._archive = self._read_archive(folder)
        self._archived = self._archive.offsets.get(LOG, 0) if self._archive else 0
        self._spans = _spans(self._archive) if self._archive else {}
        self._from = dict.fromkeys(("log", "archive", "state"), 0)
        self._missing = list[Span]()  # runs of offsets without a record
        self._rocks = None if dry_run else Rocks(new, compress=True)

    def run(self, *, keep_state: bool) -> Report:
        """Assemble and write."""
        try:
            begin, end = self._assemble()
            why = self._why_again()
            kept = keep_state and self._state is not None and self._state.offset >= begin
            if why and not kept and self._spans:  # what the state learned before the log began is in the archive only
                first = min([begin, *(low for low, _ in self._spans.values())])
                self._fill(first, begin)
                begin = first
            self._finish(begin, end)
        finally:
            if self._rocks is not None:
                self._rocks.close()
        gone, uncounted = self._sorted_missing()
        return Report(
            begin, end, self._from["log"], self._from["archive"], self._from["state"], gone, uncounted,
            tuple(dict.fromkeys([*self._salvage.damage, *self._damage, *(self._archive.damaged.values() if self._archive else ())])),
            "none" if self._state is None and not why else "learn again" if why and not kept else "kept", why,
        )  # fmt: skip

    # What there is.

    def _read_state(self, folder: Path) -> _State | None:
        """The live state; None if there is none, or it is damaged."""
        live = generations.live(folder)
        if live == generations.FIRST and not (folder / "state").exists():
            return None
        try:
            store = RocksStore(folder, read_only=True)
            try:
                store.digest()  # reads every block
                removals = {removal.offset: removal.user_id for removal in unfinished(store) if removal.user_id}
                return _State(store.offsets().get(LOG, 0), store.generation, removals)
            finally:
                store.close()
        except BadState as error:
            self._damage.append(str(error))
            self._damaged_state = True
            return None

    def _read_archive(self, folder: Path) -> Archive | None:
        try:
            return Archive(folder)
        except BadState as error:
            self._damage.append(str(error))
            return None

    # The records.

    def _assemble(self) -> Span:
        """Write the records from the log's beginning to its end; returns the first offset, and the next one after the last."""
        known, end = self._salvage.mark, -1
        begin = known.begin if known else min((low for low, _ in self._spans.values()), default=0)
        for found in self._salvage.records():
            if end < 0 and not known and not self._spans:
                begin = found[0].offset  # nothing says that there was something before
            begin = min(begin, found[0].offset)
            self._fill(max(begin, end), found[0].offset)
            self._write(found)
            self._from["log"] += len(found)
            end = found[-1].offset + 1
        if known and end < known.end:
            self._damage.append(
                f"the log ends at offset {max(end, begin)}, and events up to {known.end - 1} were acknowledged"
            )
        learned = self._state.offset if self._state else 0
        stop = max(begin, end, known.end if known else 0, self._archived, learned)
        self._fill(max(begin, end), stop)
        return begin, stop

    def _fill(self, first: int, stop: int) -> None:
        """Write records for all offsets of a gap: from the archive, from the state, or blank ones."""
        for low in range(first, stop, WINDOW_OFFSETS):
            high = min(low + WINDOW_OFFSETS, stop)
            held = {record.offset: record for record in self._archive.records(low, high)} if self._archive else {}
            self._from["archive"] += len(held)
            for start in range(low, high, BATCH_RECORDS):
                self._write(
                    [held.get(at) or self._substitute(at) for at in range(start, min(start + BATCH_RECORDS, high))]
                )

    def _substitute(self, offset: int) -> Record:
        """The record of an offset that neither log nor archive have: a removal that the state knows, or a blank one."""
        user_id = self._state.removals.get(offset) if self._state else None
        if user_id:
            self._from["state"] += 1
            return Record(USERS, -1, offset, 0, user_id.encode(), None)
        if self._missing and self._missing[-1][1] == offset - 1:
            self._missing[-1] = self._missing[-1][0], offset
        else:
            self._missing.append((offset, offset))
        return Record(BLANK, -1, offset, 0, None, None)

    def _write(self, records: Sequence[Record]) -> None:
        if self._rocks is not None and records:
            self._rocks.write(runs.rows_of(records))

    def _finish(self, begin: int, end: int) -> None:
        """Write everything else that a log has, and make all of it durable."""
        if self._rocks is None:
            return
        known, replays = self._salvage.mark or mark.Mark(), dict(self._salvage.replays)
        if any(known.replayed):
            name = known.replayed.hex()
            replays[name] = max(replays.get(name, 0), known.next_row)
        erasures = max(known.erasures, self._salvage.erasures)
        rows = [runs.replay_row(name, row) for name, row in replays.items()]
        self._rocks.write([*rows, (runs.ERASURES, erasures.to_bytes(8, "big")), (runs.MARKED, b"")], sync=True)
        self._rocks.flush()
        mark.write(self._new, known._replace(begin=begin, end=end, erasures=erasures))

    # What is missing.

    def _sorted_missing(self) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
        """Runs of offsets without a record: events that are gone, and what the archive has reached and did not keep."""
        gone, uncounted = list[Span](), list[Span]()
        for low, high in sorted(self._missing):
            for first, last, is_known in _cut(low, high, self._known_spans()):
                (uncounted if is_known else gone).append((first, last))
        return tuple(gone), tuple(uncounted)

    def _known_spans(self) -> list[Span]:
        """Offsets of which the archive has every accepted event, ascending."""
        if self._archive is None or not self._spans:
            return []
        archive, known = self._archive, list[Span]()
        events = [
            self._spans[file.path][0]
            for file in archive.manifest.files
            if file.topic in (RATINGS, CLICKS) and file.path in self._spans
        ]
        at = min(events, default=self._archived)  # what was appended earlier may have been dropped for its age
        losses = [run for loss in archive.manifest.lost for run in loss.offsets.get(LOG_PARTITION, ())]
        for path in archive.damaged:
            losses.append(self._spans.get(path, (0, self._archived)))
        for low, high in sorted([*losses, (self._archived, self._archived)]):
            if at < low:
                known.append((at, low - 1))
            at = max(at, high + 1)
        return known

    def _why_again(self) -> str:
        """Why everything must be learned again; empty if the state can be kept."""
        if self._state is None:
            return "the state is damaged" if self._damaged_state else ""
        gone, uncounted = self._sorted_missing()
        learned = self._state.offset
        if any(first < learned for first, _ in gone):
            return "the state has learned from events that are gone"
        # Such records are counted in the state, which is learned anew to the byte unless it has tables of a retraining.
        if self._state.generation == generations.FIRST and any(first < learned for first, _ in uncounted):
            return "the state has counted records that are gone"
        return ""


def _spans(archive: Archive) -> dict[str, Span]:
    """First and last offset of the log in each of the archive's files, by path; without damaged files of which the list has none."""
    from streamer.storage.archive import parquet

    found = dict[str, Span]()
    for file in archive.manifest.files:
        with suppress(DamagedFile):
            spans = file.spans or parquet.described(archive.folder, file).spans  # written before the list had spans
            if LOG_PARTITION in spans:
                found[file.path] = spans[LOG_PARTITION]
    return found


def _cut(low: int, high: int, known: Sequence[Span]) -> Iterator[tuple[int, int, bool]]:
    """The run from `low` to `high`, cut where a span of `known` begins or ends: first, last, whether it is in one."""
    for first, last in known:
        first, last = max(first, low), min(last, high)
        if first <= last:
            if low < first:
                yield low, first - 1, False
            yield first, last, True
            low = last + 1
    if low <= high:
        yield low, high, False
