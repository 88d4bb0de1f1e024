"""The embedded event log, used without Kafka: one durable sequence for all topics, on RocksDB.

Records that are published together are stored together: a row is a run of records, and its key is their first offset, so
reading costs no look-up for each record. Publishers that wait at the same time share one fsync. A record can be read only
after the fsync, so no state ever covers a record that a power cut takes back.

Opening refuses a log that has lost something acknowledged (streamer.storage.mark): a tail that a crash tore before it was
acknowledged is dropped, and nothing else. `streamer recover` makes a new log of what is whole.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from streamer.core.errors import BadState, SourceLost, StoreUnavailable
from streamer.core.events import LOG, Message, Offsets, Record
from streamer.core.settings import StateSettings
from streamer.storage import mark, runs, wal
from streamer.storage.rocks import Rocks, recover_advice

TRIM_INTERVAL_S = 60.0
PROBE_INTERVAL_S = 1.0
PROBE_BYTES = 1 << 18  # the default limit of a request
FOLDER = "log"  # in the data directory
_LOGGER = logging.getLogger("streamer.log")


class _Append:
    """The messages of one publisher, which waits until they are written."""

    def __init__(self, messages: Sequence[Message], replay: tuple[str, int] | None) -> None:
        self.messages, self.replay = messages, replay
        self.done, self.end, self.error = False, 0, None  # type: bool, int, Exception | None

    def rows(self, first: int, now_ms: int) -> list[tuple[bytes, bytes]]:
        """The rows to write, keys and values, if its first record gets offset `first`."""
        records = [
            Record(
                sent.topic,
                -1,
                first + n,
                now_ms if sent.timestamp_ms is None else sent.timestamp_ms,
                sent.key,
                sent.value,
            )
            for n, sent in enumerate(self.messages)
        ]
        rows = runs.rows_of(records)
        if self.replay is not None:
            rows.append(runs.replay_row(*self.replay))
        return rows


class EmbeddedLog:
    """Appends for publishers (protocols.Sink), and reads for any number of `LogSource`s. Safe from several threads."""

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        """Open or create the log in the data directory `folder`; raises BadState, also for acknowledged records that are lost."""
        path = folder / FOLDER
        known = mark.read(path)  # first, because a process that writes may go on
        if not read_only and (known is not None or (path / "CURRENT").exists()):
            EmbeddedLog(folder, read_only=True).close()  # opened for writing, RocksDB deletes what it cannot recover
        self._rocks = Rocks(path, compress=True, read_only=read_only)
        self._waiting: list[_Append] = []
        self._queue, self._writer = threading.Lock(), threading.Lock()
        self._keeping = threading.Lock()  # held while runs are rewritten or must not be trimmed
        self._appended = threading.Condition()
        self._trim_at = 0.0
        self._trouble, self._tried_at = "", 0.0
        last = self._rocks.last(runs.RUNS, runs.RUNS_END)
        self._end = runs.offset_of(last[0]) + runs.count(last[1]) if last else 0
        self._mark: mark.MarkFile | None = None
        try:
            if read_only:
                self._refuse_losses(known)
            else:
                self._mark = self._marked(known)
        except BaseException:
            self._rocks.close()
            raise

    def _refuse_losses(self, known: mark.Mark | None) -> None:
        """Raise BadState if the log lacks something that was acknowledged."""
        lost = mark.loss(known or mark.Mark(), self._end, self._erasures(), self._rocks.found.dropped_batches)
        written = [key for batch in self._rocks.found.head for key, _ in wal.puts(batch) if key.startswith(runs.RUNS)]
        if written and not lost:  # a lost file of the write-ahead log leaves a gap between the tables and the next file
            self._refuse_gaps(self._rocks.floor(runs.key_of(max(runs.offset_of(written[0]) - 1, 0)), runs.RUNS))
        if lost:
            path = self._rocks.path
            raise BadState(
                f"the log in {path} is damaged: it can be read up to offset {self._end}, but {lost}; {recover_advice(path.parent)}"
            )

    def _marked(self, known: mark.Mark | None) -> mark.MarkFile:
        """The mark, open for writing; made anew if there is none."""
        path = self._rocks.path
        if known is None and self._rocks.get(runs.MARKED) is not None:
            _LOGGER.warning(
                "%s is missing or damaged: what the log acknowledged last cannot be checked this time", path / mark.NAME
            )
        made = mark.MarkFile(path, known or mark.Mark(begin=self.begin(), erasures=self._erasures()))
        made.put(end=self._end)
        made.sync()
        if known is None:
            self._rocks.write([(runs.MARKED, b"")], sync=True)
        return made

    def _erasures(self) -> int:
        return int.from_bytes(self._rocks.get(runs.ERASURES) or b"", "big")

    def require(self, offset: int, what: str) -> None:
        """Raise BadState if the log ends before `offset`, which `what` says was read from it."""
        if self._end < offset:
            path = self._rocks.path
            raise BadState(
                f"{what} covers the embedded log up to offset {offset}, but the log in {path} ends at {self._end}: acknowledged "
                f"events are missing, or the two do not belong together; {recover_advice(path.parent)}"
            )

    @property
    def end(self) -> int:
        """The offset that the next record gets."""
        return self._end

    @property
    def size_bytes(self) -> int:
        """Bytes on disk."""
        return self._rocks.size_bytes

    def trouble(self) -> str:
        """Why nothing can be appended; empty when all is well. After a failure it tries to write, at most once a second."""
        if (
            self._trouble
            and time.monotonic() - self._tried_at > PROBE_INTERVAL_S
            and self._writer.acquire(blocking=False)
        ):
            try:
                self._tried_at = time.monotonic()
                self._rocks.write([(b"probe", bytes(PROBE_BYTES))], sync=True)
                self._trouble = ""
            except StoreUnavailable as error:
                self._trouble = str(error)
            finally:
                self._writer.release()
        return self._trouble

    def begin(self) -> int:
        """The first offset that is still in the log."""
        for key, _ in self._rocks.scan(runs.RUNS, runs.RUNS_END):
            return runs.offset_of(key)
        return self._end

    def publish(self, messages: Sequence[Message]) -> Offsets:
        """See protocols.Sink. Raises StoreUnavailable when nothing was appended. Cost: a share of one fsync."""
        return self.append(messages, None)

    def append(self, messages: Sequence[Message], replay: tuple[str, int] | None) -> Offsets:
        """Like `publish`, and store `replay` (a file's SHA-256, its next row) in the same write batch."""
        entry = _Append(messages, replay)
        with self._queue:
            self._waiting.append(entry)
        with self._writer:  # the first publisher to get here writes for all that wait
            if not entry.done:
                with self._queue:
                    entries, self._waiting = self._waiting, []
                self._write(entries)
        if entry.error is not None:
            raise entry.error
        if not entry.done:
            raise StoreUnavailable(f"the write to the log in {self._rocks.path} was interrupted: try again")
        return {LOG: entry.end}

    def _write(self, entries: list[_Append]) -> None:
        now_ms, offset = time.time_ns() // 1_000_000, self._end
        rows: list[tuple[bytes, bytes]] = []
        for entry in entries:
            try:
                rows.extend(entry.rows(offset, now_ms))
            except Exception as error:  # cannot be encoded: only its own publisher gets the error
                entry.error = error
                continue
            offset += len(entry.messages)
            entry.end = offset
        try:
            self._rocks.write(rows, sync=True)
        except Exception as error:
            self._trouble = str(error)
            for entry in entries:
                entry.done, entry.error = True, entry.error or error
            return
        self._trouble = ""
        replays = [entry.replay for entry in entries if entry.replay is not None and entry.error is None]
        self._put_mark(end=offset, **(mark.replayed(*replays[-1]) if replays else {}))  # before anybody is told
        with self._appended:
            self._end = offset
            self._appended.notify_all()
        for entry in entries:
            entry.done = True

    def _put_mark(self, **changes: Any) -> None:
        assert self._mark is not None, "open for writing"
        self._mark.put(**changes)

    def sync_mark(self) -> None:
        """Make the mark of what was acknowledged survive a power cut. Cost: an fsync, if there is a new one."""
        if self._mark is not None:
            self._mark.sync()

    def next_replay_row(self, sha256: str) -> int:
        """The row at which the replay of the file with this SHA-256 continues, 0 for a file never replayed."""
        value = self._rocks.get(runs.REPLAYS + sha256.encode())
        return int.from_bytes(value, "big") if value else 0

    def read(self, offset: int) -> Iterator[list[Record]]:
        """Runs of records from `offset` to the present end."""
        start = self._rocks.floor(runs.key_of(offset), runs.RUNS)
        for _, value in self._rocks.scan(runs.RUNS, runs.RUNS_END, start):
            records = runs.decode(value)
            if records[0].offset < offset:
                records = records[offset - records[0].offset :]
            if records:
                yield records

    def wait(self, offset: int, timeout_s: float) -> bool:
        """Wait at most `timeout_s` for a record at `offset`; return whether there is one."""
        with self._appended:
            return self._appended.wait_for(lambda: self._end > offset, timeout_s)

    def apply_retention(self, settings: StateSettings, committed: Offsets, secure: Callable[[], None]) -> None:
        """Apply the retention in `settings`, at most once a minute; never trims records at or after `committed`.

        `secure` makes the commit of `committed` survive a power cut, so that no state can fall behind the log's beginning.
        """
        days, now_s = settings.log_retention_days, time.monotonic()
        if (settings.log_retention_bytes is None and days is None) or now_s < self._trim_at:
            return
        self._trim_at = now_s + TRIM_INTERVAL_S
        oldest_ms = None if days is None else int(time.time() * 1000 - days * 86_400_000)
        with suppress(StoreUnavailable):  # a full disk: try again in a minute
            secure()
            self.trim(committed.get(LOG, 0), settings.log_retention_bytes, oldest_ms)

    def trim(self, covered: int, max_bytes: int | None, older_than_ms: int | None) -> None:
        """Delete the oldest runs beyond a size or an age; never records at or after `covered`, never the last run.

        It may delete less than asked: `max_bytes` is compared with compressed bytes on disk, runs count uncompressed.
        """
        if not self._keeping.acquire(blocking=False):
            return  # trim next time
        try:
            self._trim(covered, max_bytes, older_than_ms)
        finally:
            self._keeping.release()

    def _trim(self, covered: int, max_bytes: int | None, older_than_ms: int | None) -> None:
        excess = 0
        if max_bytes is not None and self.size_bytes > max_bytes:
            self._rocks.flush()
            excess = self.size_bytes - max_bytes
        keep, freed = b"", 0
        for key, value in self._rocks.scan(runs.RUNS, runs.RUNS_END):
            keep = key
            records = runs.decode(value)
            old = older_than_ms is not None and records[-1].timestamp_ms < older_than_ms
            if not (old or freed < excess) or records[-1].offset >= covered:
                break
            freed += len(value)
        if freed:
            self._put_mark(begin=runs.offset_of(keep))
            self.sync_mark()
            self._rocks.delete_range(runs.RUNS, keep)

    def rewrite(self, change: Callable[[Record], Record], before: int) -> tuple[int, int] | None:
        """Replace each record before offset `before` by the result of `change`; offsets stay. Durable when it returns.

        Returns the first offsets of the first and the last run that were rewritten, None for none; `sweep` then removes the old
        content from the files. Raises StoreUnavailable, after which it can be repeated. Cost: decoding the log.
        """
        found: list[int] = []
        for key, value in self._rocks.scan(runs.RUNS, runs.key_of(before)):
            records = runs.decode(value)
            changed = [change(record) if record.offset < before else record for record in records]
            if any(new is not old for new, old in zip(changed, records, strict=True)):
                with self._keeping:  # a run that was trimmed meanwhile must not come back
                    if self._rocks.get(key) is not None:
                        self._rocks.write([(key, runs.encode(changed))])
                found.append(runs.offset_of(key))
        self._rocks.sync()
        if found:
            erasures = self._erasures() + 1
            self._rocks.write([(runs.ERASURES, erasures.to_bytes(8, "big"))], sync=True)
            self._put_mark(erasures=erasures)
            self.sync_mark()
        return (found[0], found[-1]) if found else None

    def sweep(self, span: tuple[int, int] | None) -> None:
        """`Rocks.sweep` for the runs that begin in `span`, as `rewrite` returns it; None: for all. Raises StoreUnavailable."""
        self._rocks.sweep(*((runs.key_of(span[0]), runs.key_of(span[1] + 1)) if span else ()))

    @property
    def has_only_live_files(self) -> bool:
        """See `Rocks.has_only_live_files`."""
        return self._rocks.has_only_live_files

    @contextmanager
    def trimming_paused(self) -> Iterator[None]:
        """A context in which nothing is trimmed."""
        with self._keeping:
            yield

    def checkpoint(self, path: Path) -> None:
        """Copy everything appended so far, see `Rocks.checkpoint`. Raises StoreUnavailable, BadState."""
        assert self._mark is not None, "open for writing"
        known = self._mark.mark
        self._rocks.checkpoint(path)
        mark.write(path, known)

    def verify(self) -> None:
        """Read every row; raises BadState at a damaged row, and for records that are missing. Cost: about 2 us a row."""
        self._refuse_gaps(None)
        for _ in self._rocks.scan(b"", b"\xff"):
            pass

    def _refuse_gaps(self, start: bytes | None) -> None:
        """Raise BadState if records are missing between runs from the key `start` on."""
        offset = -1
        for key, value in self._rocks.scan(runs.RUNS, runs.RUNS_END, start):
            first = runs.offset_of(key)
            if offset >= 0 and first != offset:
                raise self.gap(offset, first)
            offset = first + runs.count(value)

    def gap(self, offset: int, found: int) -> BadState:
        """The error for records that are missing between two offsets."""
        path = self._rocks.path
        return BadState(
            f"the log in {path} is damaged: the records from offset {offset} to {found - 1} are missing; {recover_advice(path.parent)}"
        )

    def close(self) -> None:
        """Close it; safe to call twice."""
        with self._writer:
            self._rocks.close()
            if self._mark is not None:
                self.sync_mark()
                self._mark.close()
                self._mark = None


class LogSource:
    """protocols.Source over an `EmbeddedLog`."""

    def __init__(self, log: EmbeddedLog) -> None:
        self._log = log
        self._next = 0
        self._runs: Iterator[list[Record]] = iter(())
        self._buffer: list[Record] = []

    def seek(self, offsets: Offsets) -> None:
        """See protocols.Source; raises SourceLost."""
        offset, begin, end = offsets.get(LOG, 0), self._log.begin(), self._log.end
        if not begin <= offset <= end:
            raise SourceLost(
                f"the state covers the embedded log up to offset {offset}, the log holds {begin} to {end}: they do not belong "
                "together; restore both from the same backup, or use another --data directory"
            )
        self._next, self._buffer, self._runs = offset, [], iter(())

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """See protocols.Source."""
        if not self._buffer and not self._log.wait(self._next, timeout_s):
            return []
        while len(self._buffer) < max_records:
            run = next(self._runs, None)
            if run is None:  # a scan sees only records that were there when it began
                offset = self._buffer[-1].offset + 1 if self._buffer else self._next
                if offset >= self._log.end:
                    break
                self._runs = self._log.read(offset)
                continue
            self._buffer.extend(run)
        records, self._buffer = self._buffer[:max_records], self._buffer[max_records:]
        if records and [records[0].offset, records[-1].offset] != [self._next, self._next + len(records) - 1]:
            expected, found = next((n, r.offset) for n, r in enumerate(records, self._next) if r.offset != n)
            raise self._log.gap(expected, found)
        self._next += len(records)
        return records

    def lag(self) -> Mapping[str, Mapping[int, int]]:
        """See protocols.Source."""
        return {LOG.topic: {LOG.partition: self._log.end - self._next}}

    def close(self) -> None:
        """Stop reading; the log stays open."""
        self._runs = iter(())
