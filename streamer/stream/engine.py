"""The engine: one thread that learns from records as they come, and commits what it learned every second or so."""

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
RETRY_S = (0.1, 5.0)  # first and longest pause before a source or store that was away is tried again
PATIENCE_S = 60.0  # with a store in the shadow that cannot be written, when the live one can

_T = TypeVar("_T")


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
        self.shadow: Memory | None = None  # learns the same records after it: a candidate, or who answered before
        self.shadow_error: Exception | None = None  # why it is left alone
        self.kept: list[Sequence[Record]] | None = None  # records since somebody began to follow
        self.max_records, self.commit_interval_s = max_records, commit_interval_s
        self.stop = threading.Event()
        self.source_trouble = self.store_trouble = ""  # a sentence while there is some
        self._uncommitted = 0
        self._behind_s: float | None = None  # since when the one in the shadow cannot commit
        self._due = time.monotonic() + commit_interval_s
        self._errands: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._ended = False
        self._asking = threading.Lock()

    def step(self, timeout_s: float) -> int:
        """Learn from one micro-batch; return how many records were in it."""
        records = self.source.poll(self.max_records, timeout_s)
        for part in self.memory.learn(records, self.commit):
            self._uncommitted += len(part)
            self.watcher.applied(part, self.memory.ledger.offsets)
        self._follow(records)
        return len(records)

    def _follow(self, records: Sequence[Record]) -> None:
        """The same for who is in the shadow; what goes wrong there never ends the stream."""
        if self.kept is not None and records:
            self.kept.append(records)
        if self.shadow is not None:
            try:
                deque(self.shadow.learn(records, self._commit_shadow), maxlen=0)
            except _Stopped:
                raise
            except Exception as error:
                self.shadow, self.shadow_error = None, error

    def _commit_shadow(self) -> None:
        """Before users leave its memory; the live one first, so that after a crash no shadow is ahead of it."""
        self._uncommitted += 1  # what it learned of this step is in no count yet
        self.commit()
        if self._behind_s is not None:
            raise StoreUnavailable(
                "users must leave the memory of who is in the shadow, and its store cannot be written"
            )

    def _take_along(self) -> None:
        """Commit who is in the shadow too. What passes is tried again with the next commit; nothing here stops the live one."""
        try:
            if self.shadow is not None:
                self.shadow.commit()
            self._behind_s = None
        except Exception as error:
            now_s = time.monotonic()
            self._behind_s = now_s if self._behind_s is None else self._behind_s
            if not isinstance(error, StoreUnavailable) or now_s - self._behind_s > PATIENCE_S:
                self.shadow, self.shadow_error, self._behind_s = None, error, None

    def between(self, errand: Callable[[], _T]) -> "Future[_T]":
        """Let the engine's thread run `errand` between two steps, when everything learned is committed. From any thread.

        What it raises goes to who asked; when the engine ends first, the future is cancelled.
        """
        answer: Future[_T] = Future()
        with self._asking:
            if self._ended:
                answer.cancel()
            else:
                self._errands.append((answer, errand))
        return answer

    def _run_errand(self) -> None:
        self.commit()
        answer, errand = self._errands.popleft()
        if answer.set_running_or_notify_cancel():
            try:
                answer.set_result(errand())
            except BaseException as error:
                answer.set_exception(error)

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
            self.watcher.committed(self.memory.ledger.offsets, time.monotonic() - began)
            self._take_along()
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
                if self._errands:
                    self._run_errand()
                elif time.monotonic() >= self._due:
                    self.commit()
            self.commit()
        except _Stopped:
            return
        except SourceLost:  # what came before is learned, and may not be there to be read again
            with suppress(_Stopped):
                self.commit()
            raise
        finally:
            self.refuse()

    def refuse(self) -> None:
        """Run no errand any more; those that wait are cancelled."""
        with self._asking:
            self._ended = True
        while self._errands:
            self._errands.popleft()[0].cancel()
