"""Re-ranking: another learner reorders the first candidates of an answer, if it does so in time.

Retrieval scores all items and must be quick; a model that scores only 200 candidates may take longer for each. It runs in a
thread of its own, so that an answer waits for it up to the deadline (and for the time that a busy machine takes to wake a
thread). When it is late, raises an error or returns a score that is not finite, the order stays as it was. While a late
request is still being scored, other answers do not wait for the re-ranker at all.
"""

import threading
import time
from collections.abc import Callable, Collection
from functools import partial
from queue import SimpleQueue

import numpy as np

from streamer.core.answers import RERANKING_OUTCOMES
from streamer.core.arrays import F32, I32
from streamer.core.batch import UserView
from streamer.core.errors import BadSettings
from streamer.core.protocols import OnlineLearner
from streamer.core.settings import ServerSettings

RERANKED, LATE, BUSY, ERROR, NOT_FINITE = RERANKING_OUTCOMES
OnOutcome = Callable[[str, float], None]  # gets one of RERANKING_OUTCOMES, and the seconds that the answer waited


def reranker(server: ServerSettings, on_outcome: Callable[[str, str, float], None]) -> "Reranker | None":
    """The re-ranker that the settings name; None if they name none. `on_outcome` gets its name and the arguments of OnOutcome."""
    name = server.reranker
    if not name:
        return None
    return Reranker(name, server.rerank_candidates, server.rerank_deadline_ms / 1000, partial(on_outcome, name))


def check(server: ServerSettings, running: Collection[str]) -> None:
    """Raise BadSettings when the re-ranker is not one of the `running` learners."""
    if server.reranker and server.reranker not in running:
        raise BadSettings(
            f"setting reranker = {server.reranker!r} names no learner that runs; these run: {', '.join(running)}; "
            f"add --shadow {server.reranker}"
        )


class _Request:
    """One user and the items to score, and a place for the scores."""

    def __init__(self, learner: OnlineLearner, user: UserView, items: I32) -> None:
        self._learner, self._user, self._items = learner, user, items
        self.done = threading.Event()
        self.scores: F32 | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.scores = self._learner.score(self._user, self._items)
        except Exception as error:
            self.error = error
        self.done.set()


class Reranker:
    """Scores the first `candidates` items with the learner `name`; callable from any thread, scores one request at a time."""

    def __init__(self, name: str, candidates: int, deadline_s: float, on_outcome: OnOutcome) -> None:
        """`on_outcome` is called once for every call of `scores`."""
        self.name, self.candidates, self._deadline_s, self._on_outcome = name, candidates, deadline_s, on_outcome
        self._inbox: SimpleQueue[_Request] = SimpleQueue()
        self._asking = threading.Lock()
        self._last: _Request | None = None
        self._thread: threading.Thread | None = None

    def scores(self, learner: OnlineLearner, user: UserView, items: I32) -> F32 | None:
        """The learner's scores (n,) of `items` (n,), higher is better; None if the order is to stay as it is.

        Waits until the deadline at most; scores that come later are dropped. Cost: some 50 us on top of the learner's own.
        """
        began = time.monotonic()
        outcome, scores = self._ask(learner, user, items, began + self._deadline_s)
        self._on_outcome(outcome, time.monotonic() - began)
        return scores

    def _ask(self, learner: OnlineLearner, user: UserView, items: I32, due: float) -> tuple[str, F32 | None]:
        if not self._asking.acquire(timeout=self._deadline_s):
            return LATE, None
        try:
            if self._last is not None and not self._last.done.is_set():
                return BUSY, None
            request = self._last = _Request(learner, user, items)
            self._submit(request)
            if not request.done.wait(max(0.0, due - time.monotonic())):
                return LATE, None
        finally:
            self._asking.release()
        if request.scores is None:
            return ERROR, None
        if len(request.scores) != len(items) or not np.isfinite(request.scores).all():
            return NOT_FINITE, None
        return RERANKED, request.scores

    def _submit(self, request: _Request) -> None:
        if self._thread is None:  # a daemon, so that a stuck learner does not keep the process alive
            self._thread = threading.Thread(target=self._work, name="reranker", daemon=True)
            self._thread.start()
        self._inbox.put(request)

    def _work(self) -> None:
        while True:
            self._inbox.get().run()
