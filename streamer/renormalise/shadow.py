"""The shadow: a second generation beside the one that answers. It catches up, learns on, and may change places with it.

Both learn the same records in the same order, so at a moment between two steps of the engine they differ in nothing but in
what their learners learned, and changing places is the exchange of one reference and of one file.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Protocol, TypeVar

from streamer.core.answers import Score
from streamer.core.errors import BadGeneration, BadState, StoreUnavailable
from streamer.core.events import Offsets, sequence_of
from streamer.core.protocols import Source
from streamer.core.settings import SERVED_RECORDS, Settings
from streamer.monitoring.stability import Stability
from streamer.renormalise import gate
from streamer.serving.recommend import Recommender
from streamer.storage import generations
from streamer.stream.engine import Engine
from streamer.stream.ledger import WENT_LIVE, JournalSource, newest_runs, note, runs_after
from streamer.stream.memory import Memory

NEAR_EVENTS = 2_000  # so near to the live one, a candidate is taken along by the engine
REST = 0.5  # of the time that a step of catching up took: the processor is the endpoint's first
NORMS = (0.5, 2.0)  # rows may be so much shorter or longer than the live one's, in the middle
WAIT_S = 0.2
LINGER_S = 1.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Live:
    """A generation at work: its state is open, and it can answer."""

    memory: Memory
    recommender: Recommender

    def close(self) -> None:
        """Let go of the state; safe to call twice."""
        self.memory.store.close()


class Lanes(Protocol):
    """What is asked of the running process."""

    @property
    def engine(self) -> Engine:
        """It learns for the one that answers, and for the one in its shadow."""

    def live(self) -> Live:
        """The one that answers."""

    def open(self, generation: str) -> Live:
        """Open a generation's state; raises BadState."""

    def second_source(self) -> Source:
        """A source of its own over the same events."""

    def archived(self, offsets: Offsets, stop: threading.Event) -> None:
        """Wait until the archive holds everything before `offsets`; raises StreamerError."""

    def answer_with(self, live: Live) -> None:
        """From now on. Called in the engine's thread."""


class Stopped(Exception):
    """The process ends; the next start goes on."""


class Shadow:
    """Who is in the shadow, if anybody. Its own thread's business, but for what is said to run in the engine's."""

    def __init__(self, settings: Settings, lanes: Lanes, stop: threading.Event) -> None:
        self._settings, self._lanes, self._stop = settings, lanes, stop
        self._folder = Path(settings.state.data)
        self.other: Live | None = None
        self._exchanging = threading.Lock()

    @property
    def generation(self) -> str:
        """Of who is in the shadow; empty for nobody."""
        other = self.other
        return other.memory.store.generation if other is not None else ""

    @property
    def memory(self) -> Memory:
        """Of who is in the shadow."""
        assert self.other is not None, "nobody is in the shadow"
        return self.other.memory

    def bring_up(self, generation: str) -> None:
        """Open a generation, learn what came after its offsets, and from then on whatever the engine learns.

        Raises BadState, SourceLost.
        """
        self._lanes.engine.shadow_error, self.other = None, self._lanes.open(generation)
        if self.generation != generation:
            raise BadGeneration(f"the state of {generation} holds what {self.generation} learned: retrain")
        while self._replay() > NEAR_EVENTS:
            pass
        self.in_engine(self._mark)
        self._replay()
        self.in_engine(self._join)

    def _replay(self) -> int:
        """Learn what the live one committed beyond this one, in its order; answers how much that was."""
        memory, state = self.memory, self._settings.state
        offsets = memory.ledger.offsets
        runs = runs_after(newest_runs(self._lanes.live().memory.store, offsets), offsets)
        if not runs:
            return 0
        inner = self._lanes.second_source()
        try:
            source = JournalSource(inner, runs)
            source.seek(memory.ledger.offsets)
            due = time.monotonic() + state.commit_interval_s
            while not source.finished:
                began = time.monotonic()
                records = source.poll(self._settings.learning.max_records or SERVED_RECORDS, WAIT_S)
                deque(memory.learn(records, self._commit), maxlen=0)
                if time.monotonic() >= due:
                    self._commit()
                    due = time.monotonic() + state.commit_interval_s
                if self._stop.wait(REST * (time.monotonic() - began)):
                    raise Stopped
            self._commit()
        finally:
            inner.close()
        return sum(run.next - run.first for run in runs)

    def _commit(self) -> None:
        while True:
            try:
                self.memory.commit()
                return
            except StoreUnavailable:  # a full disk: the live one waits too
                if self._stop.wait(WAIT_S):
                    raise Stopped from None

    def _mark(self) -> None:
        self._lanes.engine.backlog = []

    def _join(self) -> None:
        """In the engine's thread: what came since the mark, and the rest together."""
        engine, memory = self._lanes.engine, self.memory
        kept, engine.backlog = engine.backlog or [], None
        for records in kept:
            after = memory.ledger.offsets  # what the engine committed since the mark was in the journal already
            left = [record for record in records if record.offset >= after.get(sequence_of(record), 0)]
            deque(memory.learn(left, memory.commit), maxlen=0)
        if memory.ledger.offsets != engine.memory.ledger.offsets:
            raise BadState(
                f"{self.generation} came to {dict(memory.ledger.offsets)} where the live one is at "
                f"{dict(engine.memory.ledger.offsets)}: the source has not every event after the cut any more"
            )
        memory.commit()
        engine.shadow = memory

    def promote(self, learner: str) -> None:
        """See Memory.promote: of who answers, never between the two of an exchange, which carries it over. From any thread."""
        with self._exchanging:
            self._lanes.live().memory.promote(learner)

    def exchange(self) -> None:
        """The one in the shadow answers, and who answered goes into its shadow. Raises StoreUnavailable: nothing changed then."""
        self.in_engine(self._exchange)

    def _exchange(self) -> None:
        """In the engine's thread, both at the same offsets and committed."""
        with self._exchanging:
            self._change_places()

    def _change_places(self) -> None:
        engine, new, old = self._lanes.engine, self.other, self._lanes.live()
        if engine.shadow is None or new is None:
            raise engine.shadow_error or BadState("who was in the shadow could not learn on")
        memory = new.memory
        for kind in old.memory.learners.champions:
            champion = old.memory.learners.champion(kind).name
            if memory.learners.champion(kind).name != champion:
                memory.promote(champion)
        memory.ledger.add_note(note(WENT_LIVE, memory.store.generation))
        memory.commit()
        memory.store.sync()
        generations.set_live(self._folder, memory.store.generation)
        engine.memory, engine.shadow = memory, old.memory
        self._lanes.answer_with(new)
        self.other = old

    def leave(self) -> None:
        """Nobody is in the shadow any more."""
        left, self.other = self.other, None

        def alone() -> None:
            self._lanes.engine.shadow = self._lanes.engine.backlog = None

        self.in_engine(alone)
        if left is not None:
            self._stop.wait(LINGER_S)  # a query that began before an exchange may still be reading
            left.close()

    def check(self) -> None:
        """Raises what went wrong in the shadow."""
        if self._lanes.engine.shadow_error is not None:
            raise self._lanes.engine.shadow_error

    def scores(self, after: str, since: Mapping[str, int]) -> dict[str, Score]:
        """The generation `after` against the other of the two, by learner, on the ratings from those numbers on."""
        both = (self._lanes.live().memory, self.memory)
        new, old = both if both[0].store.generation == after else both[::-1]
        found = {
            name: gate.scored(errors, new.monitor.errors[name], since.get(name, 0))
            for name, errors in old.monitor.errors.items()
            if name in new.monitor.errors
        }
        return {name: score for name, score in found.items() if score is not None}

    def unsound(self) -> str:
        """What is wrong with it by itself; empty for nothing. Of a challenger only rows that are not finite: nobody asks it."""
        learners = self._lanes.live().memory.learners
        champion, answering = learners.champion("ratings").name, learners.names_in_use(self._settings.server.reranker)
        live_ratings, our_ratings = self.in_engine(
            lambda: [
                errors[champion].ratings + errors[champion].unpredicted if champion in errors else -1
                for errors in (m.monitor.errors for m in (self._lanes.live().memory, self.memory))
            ]
        )
        if live_ratings != our_ratings:  # it was named after the cut
            return f"{champion} was asked {our_ratings:,} times in it, {live_ratings:,} in the live one: they do not pair up"
        both = [
            Stability(m.learners.by_name, m.users.sample, m.items) for m in (self._lanes.live().memory, self.memory)
        ]
        live = {(n.learner, n.side, n.of): n.value for n in both[0].norms()}
        for learner, side, of, norm in both[1].norms():
            if not isfinite(norm):
                return f"some {side} rows of {learner} are not finite"
            wanted = live.get((learner, side, of), 0.0)
            middle = of == "p50" and wanted > 0 and norm > 0
            if middle and learner in answering and not NORMS[0] <= norm / wanted <= NORMS[1]:
                return f"the {side} rows of {learner} have a middle length of {norm:.3g}, those of the live one {wanted:.3g}"
        return ""

    def drifts(self, learner: str) -> tuple[int, int]:
        """Drifts detected in the errors of a learner: of the one that answers, and of the one in its shadow."""
        both = (self._lanes.live().memory, self.memory)
        return both[0].monitor.errors[learner].drift.detections, both[1].monitor.errors[learner].drift.detections

    def in_engine(self, errand: Callable[[], _T]) -> _T:
        """Run it in the engine's thread between two steps, everything committed."""
        return self._lanes.engine.run_between_steps(errand).result()
