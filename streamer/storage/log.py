"""The embedded event log, used without Kafka: one durable sequence for all topics, on RocksDB.

Records that are published together are stored together: a row is a run of records, and its key is their first offset, so
reading costs no look-up for each record. Publishers that wait at the same time share one fsync. A record can be read only
after the fsync, so no state ever covers a record that a power cut takes back.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from streamer.core.errors import BadState, SourceLost, StoreUnavailable
from streamer.core.events import LOG, Message, Offsets, Record
from streamer.core.settings import StateSettings
from streamer.storage.rocks import Rocks

TRIM_INTERVAL_S = 60.0
PROBE_INTERVAL_S = 1.0
PROBE_BYTES = 1 << 18  # the default limit of a request
RUN_RECORDS = 500  # most records in one row
_RUNS, _RUNS_END = b"r", b"s"
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[Record])


def _key(offset: int) -> bytes:
    return _RUNS + offset.to_bytes(8, "big")


def _offset_of_key(key: bytes) -> int:
    return int.from_bytes(key[1:], "big")


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
        runs = [records[start : start + RUN_RECORDS] for start in range(0, len(records), RUN_RECORDS)]
        rows = [(_key(run[0].offset), _ENCODER.encode(run)) for run in runs]
        if self.replay is not None:
            rows.append((b"p" + self.replay[0].encode(), self.replay[1].to_bytes(8, "big")))
        return rows


class EmbeddedLog:
    """Appends for publishers (protocols.Sink), and reads for any number of `LogSource`s. Safe from several threads."""

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        """Open or create the log in `folder`; raises BadState."""
        self._rocks = Rocks(folder / "log", compress=True, read_only=read_only)
        self._waiting: list[_Append] = []
        self._queue, self._writer = threading.Lock(), threading.Lock()
        self._keeping = threading.Lock()  # held while runs are rewritten or must not be trimmed
        self._appended = threading.Condition()
        self._trim_at = 0.0
        self._trouble, self._tried_at = "", 0.0
        last = self._rocks.last(_RUNS, _RUNS_END)
        self._end = _offset_of_key(last[0]) + len(_DECODER.decode(last[1])) if last else 0

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
        for key, _ in self._rocks.scan(_RUNS, _RUNS_END):
            return _offset_of_key(key)
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
        with self._appended:
            self._end = offset
            self._appended.notify_all()
        for entry in entries:
            entry.done = True

    def next_replay_row(self, sha256: str) -> int:
        """The row at which the replay of the file with this SHA-256 continues, 0 for a file never replayed."""
        value = self._rocks.get(b"p" + sha256.encode())
        return int.from_bytes(value, "big") if value else 0

    def read(self, offset: int) -> Iterator[list[Record]]:
        """Runs of records from `offset` to the present end."""
        start = self._rocks.floor(_key(offset), _RUNS)
        for _, value in self._rocks.scan(_RUNS, _RUNS_END, start):
            records = _DECODER.decode(value)
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
        for key, value in self._rocks.scan(_RUNS, _RUNS_END):
            keep = key
            records = _DECODER.decode(value)
            old = older_than_ms is not None and records[-1].timestamp_ms < older_than_ms
            if not (old or freed < excess) or records[-1].offset >= covered:
                break
            freed += len(value)
        if freed:
            self._rocks.delete_range(_RUNS, keep)

    def rewrite(self, change: Callable[[Record], Record], before: int) -> tuple[int, int] | None:
        """Replace each record before offset `before` by the result of `change`; offsets stay. Durable when it returns.

        Returns the first offsets of the first and the last run that were rewritten, None for none; `sweep` then removes the old
        content from the files. Raises StoreUnavailable, after which it can be repeated. Cost: decoding the log.
        """
        found: list[int] = []
        for key, value in self._rocks.scan(_RUNS, _key(before)):
            records = _DECODER.decode(value)
            changed = [change(record) if record.offset < before else record for record in records]
            if any(new is not old for new, old in zip(changed, records, strict=True)):
                with self._keeping:  # a run that was trimmed meanwhile must not come back
                    if self._rocks.get(key) is not None:
                        self._rocks.write([(key, _ENCODER.encode(changed))])
                found.append(_offset_of_key(key))
        self._rocks.sync()
        return (found[0], found[-1]) if found else None

    def sweep(self, span: tuple[int, int] | None) -> None:
        """`Rocks.sweep` for the runs that begin in `span`, as `rewrite` returns it; None: for all. Raises StoreUnavailable."""
        self._rocks.sweep(*((_key(span[0]), _key(span[1] + 1)) if span else ()))

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
        """Copy everything appended so far, see `Rocks.checkpoint`. Raises StoreUnavailable."""
        self._rocks.checkpoint(path)

    def verify(self) -> None:
        """Read every row; raises BadState at a damaged row. Cost: about 1 us a row, and reading its bytes."""
        for _ in self._rocks.scan(b"", b"\xff"):
            pass

    def close(self) -> None:
        """Close it; safe to call twice."""
        with self._writer:
            self._rocks.close()


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
            raise BadState(f"records are missing in the embedded log from offset {self._next} on: restore a backup")
        self._next += len(records)
        return records

    def lag(self) -> Mapping[str, Mapping[int, int]]:
        """See protocols.Source."""
        return {LOG.topic: {LOG.partition: self._log.end - self._next}}

    def close(self) -> None:
        """Stop reading; the log stays open."""
        self._runs = iter(())
