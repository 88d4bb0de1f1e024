"""Who feeds the archive: a thread that reads the events a second time, from the archive's own offsets, and never learns.

Events are decoded and their duplicates found as the encoder does it, so that the archive has what was learned from.
It reads seldom and much (every `archive_interval_s`, or when 10,000 wait) and pauses as long as it worked, because the
interpreter is one for all threads: what it takes from learning and answering is bounded, and no event waits for it.

Cost: 2 to 2.5 us of CPU an event, from the log to the durable file; memory: some 60 MB for pyarrow, and
100 bytes an event not yet written.
"""

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from streamer.core.answers import ArchiveStatus
from streamer.core.errors import BadState, SourceLost, SourceUnavailable, StreamerError
from streamer.core.events import LOG, Offsets, Record, TopicPartition, sequence_of
from streamer.core.protocols import Source
from streamer.core.settings import Settings
from streamer.storage.archive.archive import Archive, Forgotten
from streamer.storage.archive.rows import Rows
from streamer.storage.log import EmbeddedLog

CHUNK_RECORDS = 1000  # read at a time: about 2 ms of work
READ_EVENTS = 10_000  # so many that wait are read before their time
WRITE_EVENTS = 200_000  # so many that were read are written before their time
LOOK_S = 0.25  # how often it looks whether there is something to do
POLL_S = 0.2  # how long a poll may wait for records that are there
TAKE_S = 1.0  # reading at a time, at least, while somebody waits for what is read to be written
MEND_S = 60.0  # time between looks for what is to be dropped
CLOSE_S = 2.0  # how long it may go on reading when the process ends
_LOGGER = logging.getLogger("streamer.archiver")


class Archiver:
    """Reads, decodes, writes. `start` it once; `flush`, `reach` and `forget` are for any thread."""

    def __init__(self, folder: Path, settings: Settings, source: Source, log: EmbeddedLog | None = None) -> None:
        """Into the archive of the data directory `folder`, from a `source` of its own; `log` is what it reads, if that. Raises BadState."""
        self.archive = Archive(folder)
        self._settings, self._source, self._log = settings, source, log
        self._rows = Rows(settings)
        self._next: dict[TopicPartition, int] = dict(self.archive.offsets)  # of what was read
        self._due = self._mend_at = time.monotonic()
        self._asked = self._served = 0  # requests to write all there is
        self._wake, self._stop = threading.Event(), threading.Event()
        self._moved = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)
        self._ended = self._failed = False
        self.trouble = ""  # a sentence while nothing can be archived

    @property
    def offsets(self) -> Offsets:
        """The next offset of each sequence that is not archived."""
        return self.archive.offsets

    def kept(self, offsets: Offsets) -> Offsets:
        """`offsets`, but none beyond what is archived: before these the log may forget."""
        archived = self.archive.offsets
        return {at: min(offset, archived.get(at, 0)) for at, offset in offsets.items()}

    def lag(self) -> int:
        """Records not yet archived, as far as is known."""
        return self._waiting() + self._rows.records

    def _waiting(self) -> int:
        return sum(count for partitions in self._source.lag().values() for count in partitions.values())

    def status(self) -> ArchiveStatus:
        """How it is going."""
        return ArchiveStatus(self.archive.size_bytes, self.archive.rows, self.lag(), self.trouble)

    def start(self) -> None:
        """Begin to archive."""
        self._thread.start()

    def flush(self, timeout_s: float) -> bool:
        """Whether everything that could be read when this was called is archived, waiting for it.

        Raises StreamerError when archiving has ended because something is wrong.
        """
        with self._moved:
            self._asked += 1
            mine = self._asked
            self._wake.set()
            self._moved.wait_for(lambda: self._served >= mine or self._ended, timeout_s)
            if self._failed:
                raise StreamerError(f"archiving has ended: {self.trouble}; mend that and start again")
            return self._served >= mine

    def reach(self, offsets: Offsets, timeout_s: float) -> bool:
        """Whether everything before `offsets` is archived, waiting for it. Raises StreamerError as `flush` does."""
        until = time.monotonic() + timeout_s
        while not self._covers(offsets):
            left = until - time.monotonic()
            if left <= 0 or not self.flush(left):
                return self._covers(offsets)
            self._stop.wait(0.0 if self._covers(offsets) else LOOK_S / 5)
        return True

    def _covers(self, offsets: Offsets) -> bool:
        archived = self.archive.offsets
        return all(archived.get(at, 0) >= offset for at, offset in offsets.items())

    def forget(self, user_id: str, timeout_s: float) -> Forgotten:
        """Archive what there is, then `Archive.forget`. Raises StreamerError when the first takes too long, OSError."""
        if not self.flush(timeout_s):
            raise StreamerError(
                f"the archive does not keep up{self.trouble and ': ' + self.trouble}: forget the user again later"
            )
        return self.archive.forget(user_id)

    def checkpoint(self, path: Path) -> None:
        """A copy of what is archived, for a backup. Raises OSError."""
        self.archive.snapshot(path.parent)

    def close(self) -> None:
        """Write what was read, and of an embedded log what can be read in 2 s; safe to call twice."""
        self._stop.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._source.close()

    # The archive's thread.

    def _run(self) -> None:
        try:
            self._begin()
            while not self._stop.is_set():
                self._wake.wait(LOOK_S)
                self._wake.clear()
                self._turn()
            until = time.monotonic() + CLOSE_S if self._log is not None else 0.0
            self._take(lambda: time.monotonic() < until)
            self._write()
        except Exception as error:  # the archive is beside learning and answering, and must not end them
            self._say(str(error) if isinstance(error, StreamerError | OSError) else repr(error))
            self._failed = not self._stop.is_set()
        finally:
            with self._moved:
                self._ended = True
                self._moved.notify_all()

    def _begin(self) -> None:
        self.archive.open()
        self._rows.remember(self.archive.newest_event_ids(self._settings.state.dedupe_events))
        if self._log is not None and self._next.get(LOG, 0) < self._log.begin():
            if self._next:
                _LOGGER.warning("the log has forgotten what came while nothing was archived: the archive lacks it")
            self._next[LOG] = self._log.begin()
        try:
            self._retrying(lambda: self._source.seek(self._next))
        except SourceLost as error:
            raise SourceLost(f"{error}; or move {self.archive.folder} away, to archive anew what is there") from None

    def _retrying(self, act: Any) -> None:
        pause_s = 0.1
        while not self._stop.is_set():
            try:
                act()
            except (SourceUnavailable, OSError) as error:
                self._say(str(error))
                self._stop.wait(pause_s)
                pause_s = min(2 * pause_s, 5.0)
                continue
            self._say("")
            return

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            _LOGGER.warning("nothing can be archived now: %s", trouble)
        self.trouble = trouble

    def _turn(self) -> None:
        """One look: read when it is time or much is waiting, write when it is time or somebody waits."""
        asked, now = self._asked, time.monotonic()
        due = now >= self._due or asked > self._served
        if due or self._waiting() >= READ_EVENTS:
            self._retrying(lambda: self._take(lambda: not self._stop.is_set()))
        if due:
            self._retrying(self._write)
            self._due = time.monotonic() + self._settings.archive.archive_interval_s
        if self._stop.is_set():
            return
        with self._moved:
            self._served = asked
            self._moved.notify_all()
        if due:
            try:
                self._mend()
            except (OSError, BadState) as error:  # nothing has changed, and it is tried again
                self._say(str(error))

    def _take(self, going: Any) -> None:
        """Read all that waits; write in between when it is much. A stream that never pauses keeps nobody waiting."""
        left, until = self._waiting(), time.monotonic() + TAKE_S
        while going():
            began = time.monotonic()
            records = self._source.poll(CHUNK_RECORDS, POLL_S if self._waiting() or self._asked > self._served else 0.0)
            if not records:
                return
            self._rows.add(records)
            self._next |= _ends(records)
            left -= len(records)
            if self._asked > self._served and left <= 0 and time.monotonic() >= until:
                return  # what came since is for whoever asks next
            if self._rows.records >= WRITE_EVENTS:
                self._write()
            if self._asked == self._served and not self._stop.is_set():
                self._stop.wait(time.monotonic() - began)

    def _write(self) -> None:
        if self._rows.records:
            self.archive.commit(self._rows.by_topic(), self._next, self._rows.forgotten)
            self._rows.clear()

    def _mend(self) -> None:
        """Merge small files; now and then, drop what is too old and whoever was forgotten."""
        now_ms = time.time_ns() // 1_000_000
        if time.monotonic() >= self._mend_at:
            self._mend_at = time.monotonic() + MEND_S
            self.archive.purge()
            days = self._settings.archive.archive_days
            if days is not None:
                self.archive.retain(int(now_ms - days * 86_400_000))
        today = str(np.datetime64(now_ms, "ms").astype("datetime64[D]"))
        while not self._stop.is_set() and self._asked == self._served and self.archive.compact(today):
            pass


def _ends(records: Sequence[Record]) -> dict[TopicPartition, int]:
    """The next offset of each sequence after `records`."""
    if records[0].partition < 0:  # the embedded log: one sequence
        return {LOG: records[-1].offset + 1}
    return {sequence_of(record): record.offset + 1 for record in records}
