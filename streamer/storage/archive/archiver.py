"""The thread that writes the archive. It reads all events a second time, from the archive's own offsets.

It decodes events and drops duplicates like the encoder, so that the archive has exactly the events that were learned.
It reads rarely, but much at a time (every `archive_interval_s`, or when 10,000 events wait), and pauses for as long as it
worked, because all threads share one interpreter. This bounds what it takes from learning and answering; no event waits for
it.

Cost: 2 to 2.5 us of CPU an event, from the log to the durable file; memory: some 60 MB for pyarrow, and
100 bytes an event not yet written.
"""

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from streamer.core.answers import ArchiveStatus
from streamer.core.errors import BadState, SourceLost, SourceUnavailable, StreamerError
from streamer.core.events import LOG, Offsets, Record, TopicPartition, sequence_of
from streamer.core.protocols import Identified, Source
from streamer.core.settings import Settings
from streamer.storage.archive.archive import Archive
from streamer.storage.archive.manifest import Loss
from streamer.storage.archive.rows import Rows
from streamer.storage.log import EmbeddedLog

CHUNK_RECORDS = 1000  # records read at a time: about 2 ms of work
READ_EARLY_EVENTS = 10_000  # when this many events wait, they are read before the interval ends
WRITE_EARLY_EVENTS = 200_000  # when this many events were read, they are written before the interval ends
WAKE_INTERVAL_S = 0.25  # how often the thread looks whether there is something to do
POLL_S = 0.2  # how long a poll may wait for records that are known to be there
READ_AT_LEAST_S = 1.0  # least time to read on while a `flush` waits
TIDY_INTERVAL_S = 60.0  # time between removals of old files and of forgotten users' rows
VERIFY_BYTES = 64 << 20  # how much of the archive is verified each time, some 50 ms of CPU; all of it again and again
CLOSE_S = 2.0  # how long it may go on reading when the process ends
_LOGGER = logging.getLogger("streamer.archiver")


class Archiver:
    """Reads, decodes and writes. `start` it once; `flush` and `wait_for` may be called from any thread."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        source: Source,
        log: EmbeddedLog | None = None,
        learned: Offsets | None = None,
    ) -> None:
        """Writes the archive in the data directory `folder` from `source`, which nobody else may read.

        `log` is the embedded log if `source` reads it, otherwise None. `learned`: the offsets that the state covers, by which
        an archive that is missing is told from one that was not yet begun. Raises BadState.
        """
        self.archive = Archive(folder)
        self._missing = self._is_missing(log, learned or {})
        if not self._missing:
            with suppress(OSError):  # a full disk: its thread tries again
                self.archive.open()
        self._settings, self._source, self._log = settings, source, log
        self._rows = Rows(settings)
        self._next: dict[TopicPartition, int] = dict(self.archive.offsets)  # the next offsets to read
        self._due = self._tidy_at = time.monotonic()
        self._asked = self._served = 0  # how many flushes were asked for, and how many of them are done
        self._wake, self._stop = threading.Event(), threading.Event()
        self._progressed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)
        self._ended = self._failed = False
        self.trouble = ""  # a sentence that says why nothing can be archived; empty while all is well

    def _is_missing(self, log: EmbeddedLog | None, learned: Offsets) -> str:
        """What is wrong, in a sentence, if there should be an archive that cannot be written again from the log."""
        if self.archive.exists or not any(learned.values()):
            return ""
        reached = ", ".join(f"{at.topic}/{at.partition} up to {offset}" for at, offset in sorted(learned.items()))
        if log is not None and log.begin() == 0:
            _LOGGER.warning(
                "there is no archive in %s, though the state has learned %s: it is written again from the log, which has everything",
                self.archive.folder, reached,
            )  # fmt: skip
            return ""
        begins = f"the log begins at offset {log.begin()}" if log is not None else "Kafka may no longer have it all"
        return (
            f"there is no archive in {self.archive.folder}, though the state has learned {reached}, and {begins}: restore the "
            "archive from a backup, or run `streamer archive repair` to begin a new one without what is gone"
        )

    @property
    def offsets(self) -> Offsets:
        """The next offset to archive of each sequence."""
        return self.archive.offsets

    def clamp_to_archived(self, offsets: Offsets) -> Offsets:
        """`offsets`, each lowered to what is archived; the log may trim records before these."""
        archived = self.archive.offsets
        return {at: min(offset, archived.get(at, 0)) for at, offset in offsets.items()}

    def lag(self) -> int:
        """Records not yet archived, as far as known."""
        return self._waiting() + self._rows.records

    def _waiting(self) -> int:
        return sum(count for partitions in self._source.lag().values() for count in partitions.values())

    def status(self) -> ArchiveStatus:
        """The archive's size, its lag, and what is wrong."""
        return ArchiveStatus(self.archive.size_bytes, self.archive.rows, self.lag(), self.trouble or self.damage())

    def damage(self) -> str:
        """What is missing or damaged, in a sentence; empty if nothing is known."""
        damaged = list(self.archive.damaged.values())
        more = f" ({len(damaged) - 1:,} more)" if len(damaged) > 1 else ""
        return self._missing or (damaged[0] + more if damaged else "")

    @property
    def damaged_files(self) -> int:
        """How many files of the archive are missing or damaged, as far as known; 1 for the whole archive."""
        return 1 if self._missing else len(self.archive.damaged)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything that could be read at the time of the call is archived; return whether it is.

        Raises StreamerError when archiving has ended because of an error.
        """
        with self._progressed:
            self._asked += 1
            mine = self._asked
            self._wake.set()
            self._progressed.wait_for(lambda: self._served >= mine or self._ended, timeout_s)
            if self._failed:
                raise StreamerError(f"archiving has ended: {self.trouble}; fix that and start again")
            return self._served >= mine

    def wait_for(self, offsets: Offsets, timeout_s: float) -> bool:
        """Wait until everything before `offsets` is archived; return whether it is. Raises StreamerError like `flush`."""
        until = time.monotonic() + timeout_s
        while not self._covers(offsets):
            left = until - time.monotonic()
            if left <= 0 or not self.flush(left):
                return self._covers(offsets)
            self._stop.wait(0.0 if self._covers(offsets) else WAKE_INTERVAL_S / 5)
        return True

    def _covers(self, offsets: Offsets) -> bool:
        archived = self.archive.offsets
        return all(archived.get(at, 0) >= offset for at, offset in offsets.items())

    def checkpoint(self, path: Path) -> None:
        """Copy the archive for a backup. Raises OSError."""
        self.archive.snapshot(path.parent)

    def close(self) -> None:
        """Archive what was read, and what can still be read from an embedded log in 2 s; safe to call twice."""
        self._stop.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._source.close()

    # From here on: the archive's thread.

    def _run(self) -> None:
        try:
            self._begin()
            while not self._stop.is_set():
                self._wake.wait(WAKE_INTERVAL_S)
                self._wake.clear()
                self._run_once()
            until = time.monotonic() + CLOSE_S if self._log is not None else 0.0
            self._read_waiting(lambda: time.monotonic() < until)
            self._write()
        except Exception as error:  # must not end learning and answering
            self._set_trouble(str(error) if isinstance(error, StreamerError | OSError) else repr(error))
            self._failed = not self._stop.is_set()
        finally:
            with self._progressed:
                self._ended = True
                self._progressed.notify_all()

    def _begin(self) -> None:
        if self._missing:
            raise BadState(self._missing)
        self.archive.open()
        self._rows.remember(self.archive.newest_event_ids(self._settings.state.dedupe_events))
        if self._log is not None and (reached := self._next.get(LOG, 0)) < (begin := self._log.begin()):
            lost = Loss((), -1, {-1: ((reached, begin - 1),)})
            _LOGGER.warning("the log no longer has events that came while nothing was archived: %s", lost.sentence())
            self.archive.begin_at({LOG: begin}, lost)
            self._next[LOG] = begin
        try:
            self._with_retries(lambda: self._source.seek(self._next))
        except SourceLost as error:
            raise SourceLost(f"{error}; or move {self.archive.folder} away to archive again what is there") from None
        if isinstance(self._source, Identified):
            self._with_retries(self._note_topics)

    def _note_topics(self) -> None:
        assert isinstance(self._source, Identified)
        for name in self.archive.note_topics(self._source.topic_ids()):
            _LOGGER.warning(
                "the topic %r was deleted and made anew since it was archived; its earlier events cannot be fetched again",
                name,
            )

    def _with_retries(self, act: Any) -> None:
        pause_s = 0.1
        while not self._stop.is_set():
            try:
                act()
            except (SourceUnavailable, OSError) as error:
                self._set_trouble(str(error))
                self._stop.wait(pause_s)
                pause_s = min(2 * pause_s, 5.0)
                continue
            self._set_trouble("")
            return

    def _set_trouble(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            _LOGGER.warning("nothing can be archived now: %s", trouble)
        self.trouble = trouble

    def _run_once(self) -> None:
        """Read if the interval has ended, a flush waits or many events wait; write in the first two cases."""
        asked, now = self._asked, time.monotonic()
        due = now >= self._due or asked > self._served
        if due or self._waiting() >= READ_EARLY_EVENTS:
            self._with_retries(lambda: self._read_waiting(lambda: not self._stop.is_set()))
        if due:
            self._with_retries(self._write)
            self._due = time.monotonic() + self._settings.archive.archive_interval_s
        if self._stop.is_set():
            return
        with self._progressed:
            self._served = asked
            self._progressed.notify_all()
        if due:
            try:
                self._tidy()
            except (OSError, BadState) as error:  # nothing has changed, and it will be tried again
                self._set_trouble(str(error))

    def _read_waiting(self, going: Any) -> None:
        """Read all waiting records, writing in between when there are many; return in time for a flush even if more arrive."""
        left, until = self._waiting(), time.monotonic() + READ_AT_LEAST_S
        while going():
            began = time.monotonic()
            records = self._source.poll(CHUNK_RECORDS, POLL_S if self._waiting() or self._asked > self._served else 0.0)
            if not records:
                return
            self._rows.add(records)
            self._next |= _next_offsets(records)
            left -= len(records)
            if self._asked > self._served and left <= 0 and time.monotonic() >= until:
                return  # records that came since are for the next flush
            if self._rows.records >= WRITE_EARLY_EVENTS:
                self._write()
            if self._asked == self._served and not self._stop.is_set():
                self._stop.wait(time.monotonic() - began)

    def _write(self) -> None:
        if self._rows.records:
            self.archive.commit(self._rows.by_topic(), self._next, self._rows.forgotten)
            self._rows.clear()

    def _tidy(self) -> None:
        """Merge small files; once a minute also verify some, and drop files that are too old and rows of forgotten users."""
        now_ms = time.time_ns() // 1_000_000
        if time.monotonic() >= self._tidy_at:
            self._tidy_at = time.monotonic() + TIDY_INTERVAL_S
            self._verify_some()
            self.archive.purge()
            days = self._settings.archive.archive_days
            if days is not None:
                self.archive.retain(int(now_ms - days * 86_400_000))
        today = str(np.datetime64(now_ms, "ms").astype("datetime64[D]"))
        while not self._stop.is_set() and self._asked == self._served and self.archive.compact(today):
            pass

    def _verify_some(self) -> None:
        known = set(self.archive.damaged)
        self.archive.verify(VERIFY_BYTES)
        for path, sentence in self.archive.damaged.items():
            if path not in known:
                _LOGGER.warning("%s", sentence)


def _next_offsets(records: Sequence[Record]) -> dict[TopicPartition, int]:
    """The next offset of each sequence after `records`."""
    if records[0].partition < 0:  # the embedded log: one sequence
        return {LOG: records[-1].offset + 1}
    return {sequence_of(record): record.offset + 1 for record in records}
