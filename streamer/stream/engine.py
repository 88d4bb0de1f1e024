"""The engine: one thread that learns from records as they arrive, and commits the state about once a second."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from streamer.core.errors import SourceLost, SourceUnavailable, StoreUnavailable
from streamer.core.events import Offsets, Record
from streamer.core.protocols import Source
from streamer.stream.memory import Memory

POLL_S = 0.1
RETRY_S = (0.1, 5.0)  # first and longest pause before an unavailable source or store is tried again
SHADOW_PATIENCE_S = 60.0  # how long the shadow's store may be unavailable while the live one is not

_T = TypeVar("_T")


class EngineObserver(Protocol):
    """Gets notified of the engine's progress, in the engine's thread."""

    def applied(self, records: Sequence[Record], offsets: Offsets) -> None:
        """These records were learned; everything before `offsets` is in the view now."""

    def committed(self, offsets: Offsets, seconds: float) -> None:
        """Everything before `offsets` is in the store; the commit took `seconds`."""


class NullObserver:
    """An EngineObserver that does nothing."""

    def applied(self, records: Sequence[Record], offsets: Offsets) -> None:
        """See EngineObserver."""

    def committed(self, offsets: Offsets, seconds: float) -> None:
        """See EngineObserver."""


class _Stopped(Exception):
    """`stop` was set while the engine waited."""


class Engine:
    """Reads records, learns from them and commits, for the live generation and the shadow."""

    def __init__(
        self, source: Source, memory: Memory, observer: EngineObserver, *, max_records: int, commit_interval_s: float
    ) -> None:
        self.source, self.memory, self.observer = source, memory, observer
        self.shadow: Memory | None = None  # learns the same records too: a candidate, or the previous generation
        self.shadow_error: Exception | None = None  # the error that ended the shadow
        self.backlog: list[Sequence[Record]] | None = None  # all records since it was set, for a shadow that catches up
        self.max_records, self.commit_interval_s = max_records, commit_interval_s
        self.stop = threading.Event()
        self.source_trouble = self.store_trouble = ""  # a sentence while source or store is unavailable
        self._uncommitted = 0
        self._shadow_failing_since_s: float | None = None  # since when the shadow cannot commit
        self._due = time.monotonic() + commit_interval_s
        self._tasks: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._ended = False
        self._tasks_lock = threading.Lock()

    def step(self, timeout_s: float) -> int:
        """Learn from one micro-batch; return the number of records in it."""
        records = self.source.poll(self.max_records, timeout_s)
        for part in self.memory.learn(records, self.commit):
            self._uncommitted += len(part)
            self.observer.applied(part, self.memory.ledger.offsets)
        self._learn_in_shadow(records)
        return len(records)

    def _learn_in_shadow(self, records: Sequence[Record]) -> None:
        """Let the shadow learn the same records. An error there ends the shadow, never the stream."""
        if self.backlog is not None and records:
            self.backlog.append(records)
        if self.shadow is not None:
            try:
                deque(self.shadow.learn(records, self._commit_before_eviction), maxlen=0)
            except _Stopped:
                raise
            except Exception as error:
                self.shadow, self.shadow_error = None, error

    def _commit_before_eviction(self) -> None:
        """Commit before the shadow evicts users: the live state first, so that after a crash the shadow is never ahead of it."""
        self._uncommitted += 1  # the count does not include what the shadow learned in this step
        self.commit()
        if self._shadow_failing_since_s is not None:
            raise StoreUnavailable("the shadow must evict users from memory, but its store cannot be written")

    def _commit_shadow(self) -> None:
        """Commit the shadow too. If its store is unavailable, the next commit tries again; nothing here stops the live one."""
        try:
            if self.shadow is not None:
                self.shadow.commit()
            self._shadow_failing_since_s = None
        except Exception as error:
            now_s = time.monotonic()
            self._shadow_failing_since_s = (
                now_s if self._shadow_failing_since_s is None else self._shadow_failing_since_s
            )
            if not isinstance(error, StoreUnavailable) or now_s - self._shadow_failing_since_s > SHADOW_PATIENCE_S:
                self.shadow, self.shadow_error, self._shadow_failing_since_s = None, error, None

    def run_between_steps(self, task: Callable[[], _T]) -> "Future[_T]":
        """Run `task` in the engine's thread between two steps, with everything learned committed. May be called from any thread.

        The future gets its result or its exception; if the engine ends first, the future is cancelled.
        """
        answer: Future[_T] = Future()
        with self._tasks_lock:
            if self._ended:
                answer.cancel()
            else:
                self._tasks.append((answer, task))
        return answer

    def _run_task(self) -> None:
        self.commit()
        answer, task = self._tasks.popleft()
        if answer.set_running_or_notify_cancel():
            try:
                answer.set_result(task())
            except BaseException as error:
                answer.set_exception(error)

    def commit(self) -> None:
        """Commit everything learned. While the store is unavailable, learning pauses and commit tries again."""
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
            self.observer.committed(self.memory.ledger.offsets, time.monotonic() - began)
            self._commit_shadow()
        self._due = time.monotonic() + self.commit_interval_s

    def run(self) -> None:
        """Learn until `stop` is set, then commit. Raises errors that waiting cannot solve (SourceLost, BadState)."""
        pause_s = RETRY_S[0]
        try:
            while not self.stop.is_set():
                try:
                    count = self.step(min(POLL_S, max(0.0, self._due - time.monotonic())))
                    if self.source_trouble and (count or self._at_end()):
                        self.source_trouble, pause_s = "", RETRY_S[0]
                except SourceUnavailable as error:
                    self.source_trouble = str(error)
                    self.stop.wait(pause_s)
                    pause_s = min(2 * pause_s, RETRY_S[1])
                if self._tasks:
                    self._run_task()
                elif time.monotonic() >= self._due:
                    self.commit()
            self.commit()
        except _Stopped:
            return
        except SourceLost:  # commit what was learned before: it may not be readable again
            with suppress(_Stopped):
                self.commit()
            raise
        finally:
            self.reject_tasks()

    def _at_end(self) -> bool:
        """Whether the source has nothing left. A poll that gives nothing although something is left does not show that it works."""
        return not any(left for partitions in self.source.lag().values() for left in partitions.values())

    def reject_tasks(self) -> None:
        """Run no more tasks, and cancel those that wait."""
        with self._tasks_lock:
            self._ended = True
        while self._tasks:
            self._tasks.popleft()[0].cancel()
