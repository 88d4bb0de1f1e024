"""The engine: one thread that learns from records as they come, and commits what it learned every second or so."""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from streamer.errors import SourceLost, SourceUnavailable, StoreUnavailable
from streamer.events import Offsets, Record
from streamer.memory import Memory
from streamer.protocols import Source

POLL_S = 0.1
RETRY_S = (0.1, 5.0)  # first and longest pause before a source or store that was away is tried again


class Watcher(Protocol):
    """Who is told what the engine did; called in its thread."""

    def applied(self, records: Sequence[Record], offsets: Offsets) -> None:
        """These records are in the view from now on."""

    def committed(self, offsets: Offsets, seconds: float) -> None:
        """Everything before `offsets` is in the store."""


class _Stopped(Exception):
    """Asked to stop while waiting."""


class Engine:
    """Reads, learns, commits."""

    def __init__(
        self, source: Source, memory: Memory, watcher: Watcher, *, max_records: int, commit_interval_s: float
    ) -> None:
        self.source, self.memory, self.watcher = source, memory, watcher
        self.encoder, self.learners = memory.encoder, memory.learners
        self.monitor, self.ledger = memory.monitor, memory.ledger
        self.max_records, self.commit_interval_s = max_records, commit_interval_s
        self.stop = threading.Event()
        self.source_trouble = self.store_trouble = ""  # a sentence while there is some
        self._uncommitted = 0
        self._due = time.monotonic() + commit_interval_s

    def step(self, timeout_s: float) -> int:
        """Learn from one micro-batch; return how many records were in it."""
        records = self.source.poll(self.max_records, timeout_s)
        for part, batch in self.encoder.encode(records, self.commit):  # one, but for catalogue changes
            predictions = self.learners.learn(batch)  # one kernel call a learner: for each event predict, then move
            self.monitor.observe(batch, predictions)
            self.ledger.advance(part)  # next offsets, to be committed with the rows
            self._uncommitted += len(part)
            self.watcher.applied(part, self.ledger.offsets)
        return len(records)

    def commit(self) -> None:
        """Commit what was learned; a store that cannot be written now pauses learning, and nothing else."""
        pause_s = RETRY_S[0]
        while self._uncommitted:
            began = time.monotonic()
            try:
                self.memory.commit()
            except StoreUnavailable as error:
                self.store_trouble = str(error)
                if self.stop.wait(pause_s):
                    raise _Stopped from None
                pause_s = min(2 * pause_s, RETRY_S[1])
                continue
            self._uncommitted, self.store_trouble = 0, ""
            self.watcher.committed(self.ledger.offsets, time.monotonic() - began)
        self._due = time.monotonic() + self.commit_interval_s

    def run(self) -> None:
        """Until `stop` is set; commits at the end. Raises what cannot be mended by waiting (SourceLost, BadState)."""
        pause_s = RETRY_S[0]
        try:
            while not self.stop.is_set():
                try:
                    self.step(min(POLL_S, max(0.0, self._due - time.monotonic())))
                    self.source_trouble, pause_s = "", RETRY_S[0]
                except SourceUnavailable as error:
                    self.source_trouble = str(error)
                    self.stop.wait(pause_s)
                    pause_s = min(2 * pause_s, RETRY_S[1])
                if time.monotonic() >= self._due:
                    self.commit()
            self.commit()
        except _Stopped:
            return
        except SourceLost:  # what came before is learned, and may not be there to be read again
            with suppress(_Stopped):
                self.commit()
            raise
