"""Re-ranking: another learner orders the first candidates of an answer anew, if it does so in time.

Retrieval scores all items and must be quick at it; a model that is asked about 200 candidates alone may think longer about
each. It is asked in a thread of its own, so that an answer waits for it up to the deadline and no longer (but for the time
that a busy machine takes to wake a thread), whatever it does: too late, an error, or a score that is no number, and the order stays the one that was given. While one
who was too late is still at it, nobody else waits for it at all.
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
Told = Callable[[str, float], None]  # one of RERANKING_OUTCOMES, and for how many seconds the answer waited


def reranker(server: ServerSettings, told: Callable[[str, str, float], None]) -> "Reranker | None":
    """The one that the settings name, if they do; `told` hears its name, too."""
    name = server.reranker
    if not name:
        return None
    return Reranker(name, server.rerank_candidates, server.rerank_deadline_ms / 1000, partial(told, name))


def check(server: ServerSettings, running: Collection[str]) -> None:
    """Raises BadSettings for a re-ranker that does not run."""
    if server.reranker and server.reranker not in running:
        raise BadSettings(
            f"setting reranker = {server.reranker!r} names no learner that runs, only these do: {', '.join(running)}; "
            f"add --shadow {server.reranker}"
        )


class _Errand:
    """One question, and the place for its answer."""

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
    """Asks the learner `name` about the first `candidates` items; from any thread, one question at a time."""

    def __init__(self, name: str, candidates: int, deadline_s: float, told: Told) -> None:
        """`told` hears of every question."""
        self.name, self.candidates, self._deadline_s, self._told = name, candidates, deadline_s, told
        self._inbox: SimpleQueue[_Errand] = SimpleQueue()
        self._asking = threading.Lock()
        self._last: _Errand | None = None
        self._thread: threading.Thread | None = None

    def scores(self, learner: OnlineLearner, user: UserView, items: I32) -> F32 | None:
        """What the learner says of `items` (n,), (n,), higher is better; None where the order is to stay as it is.

        Waits for the deadline at most, after which what the learner says is let go of. Cost: some 50 us beside the learner's own.
        """
        began = time.monotonic()
        outcome, scores = self._asked(learner, user, items, began + self._deadline_s)
        self._told(outcome, time.monotonic() - began)
        return scores

    def _asked(self, learner: OnlineLearner, user: UserView, items: I32, due: float) -> tuple[str, F32 | None]:
        if not self._asking.acquire(timeout=self._deadline_s):
            return LATE, None
        try:
            if self._last is not None and not self._last.done.is_set():
                return BUSY, None
            errand = self._last = _Errand(learner, user, items)
            self._give(errand)
            if not errand.done.wait(max(0.0, due - time.monotonic())):
                return LATE, None
        finally:
            self._asking.release()
        if errand.scores is None:
            return ERROR, None
        if len(errand.scores) != len(items) or not np.isfinite(errand.scores).all():
            return NOT_FINITE, None
        return RERANKED, errand.scores

    def _give(self, errand: _Errand) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="reranker", daemon=True)  # a stuck one ends with us
            self._thread.start()
        self._inbox.put(errand)

    def _work(self) -> None:
        while True:
            self._inbox.get().run()
