"""The shadow: a second generation next to the live one. It catches up, learns the same events, and can be swapped with it.

Both learn the same records in the same order, so between two steps of the engine they differ only in their learners'
tables. A swap therefore replaces one reference in memory and one file on disk.
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

NEAR_EVENTS = 2_000  # a generation joins the engine when it is at most this many events behind the live one
REST = 0.5  # pause after each step of catching up, as a share of its time, so that the endpoint gets the processor
NORMS = 2.0  # by how many times the median length of rows may differ between the new generation and the live one
# The same for learners of ratings, whose errors are compared: a fit may make items longer and users shorter.
RATED_NORMS = 30.0
WAIT_S = 0.2
LINGER_S = 1.0  # how long a released generation stays open, for queries that still read it

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class OpenGeneration:
    """A generation whose state is open, so that it can learn and answer."""

    memory: Memory
    recommender: Recommender

    def close(self) -> None:
        """Close the state; safe to call twice."""
        self.memory.store.close()


class Host(Protocol):
    """The running process, as far as renormalisation needs it."""

    @property
    def engine(self) -> Engine:
        """The engine, which learns for the live generation and for the one in the shadow."""

    def live(self) -> OpenGeneration:
        """The live generation."""

    def open(self, generation: str) -> OpenGeneration:
        """Open a generation's state; raises BadState."""

    def second_source(self) -> Source:
        """Another source over the same events, for the caller alone."""

    def wait_for_archive(self, offsets: Offsets, stop: threading.Event) -> None:
        """Wait until the archive holds everything before `offsets`; raises StreamerError."""

    def make_live(self, live: OpenGeneration) -> None:
        """Answer queries with this generation from now on. Called in the engine's thread."""


class Stopped(Exception):
    """The process is stopping; the next start continues."""


class Shadow:
    """The generation in the shadow, if there is one.

    Only the renormaliser's thread may call its methods, unless they say otherwise.
    """

    def __init__(self, settings: Settings, host: Host, stop: threading.Event) -> None:
        self._settings, self._host, self._stop = settings, host, stop
        self._folder = Path(settings.state.data)
        self.in_shadow: OpenGeneration | None = None
        self._swapping = threading.Lock()

    @property
    def generation(self) -> str:
        """The id of the generation in the shadow; empty for none."""
        other = self.in_shadow
        return other.memory.store.generation if other is not None else ""

    @property
    def memory(self) -> Memory:
        """The memory of the generation in the shadow."""
        assert self.in_shadow is not None, "no generation is in the shadow"
        return self.in_shadow.memory

    def catch_up(self, generation: str) -> None:
        """Open a generation, learn the events after its offsets, and from then on every event that the engine learns.

        Raises BadState, SourceLost.
        """
        self._host.engine.shadow_error, self.in_shadow = None, self._host.open(generation)
        if self.generation != generation:
            raise BadGeneration(
                f"the state in the folder of {generation} should be its own, and is that of {self.generation}: retrain"
            )
        while self._replay() > NEAR_EVENTS:
            pass
        self.in_engine(self._mark)
        self._replay()
        self.in_engine(self._join)

    def _replay(self) -> int:
        """Learn the events that the live generation committed after this one's offsets, in its order; returns their number."""
        memory, state = self.memory, self._settings.state
        offsets = memory.ledger.offsets
        runs = runs_after(newest_runs(self._host.live().memory.store, offsets), offsets)
        if not runs:
            return 0
        inner = self._host.second_source()
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
            except StoreUnavailable:  # for example because the disk is full; the live generation waits, too
                if self._stop.wait(WAIT_S):
                    raise Stopped from None

    def _mark(self) -> None:
        self._host.engine.backlog = []

    def _join(self) -> None:
        """In the engine's thread: learn the records kept since `_mark`; from now on the engine learns for both."""
        engine, memory = self._host.engine, self.memory
        kept, engine.backlog = engine.backlog or [], None
        for records in kept:
            after = memory.ledger.offsets  # records before these offsets were learned from the journal already
            left = [record for record in records if record.offset >= after.get(sequence_of(record), 0)]
            deque(memory.learn(left, memory.commit), maxlen=0)
        if memory.ledger.offsets != engine.memory.ledger.offsets:
            raise BadState(
                f"{self.generation} should have caught up to {dict(engine.memory.ledger.offsets)} and is at "
                f"{dict(memory.ledger.offsets)}: the source no longer has every event after the cut; retrain"
            )
        memory.commit()
        engine.shadow = memory

    def promote(self, learner: str) -> None:
        """Promote a learner of the live generation (see Memory.promote). It waits for a running swap, which copies the champions.

        From any thread.
        """
        with self._swapping:
            self._host.live().memory.promote(learner)

    def swap(self) -> None:
        """Make the generation in the shadow live, and put the live one into the shadow.

        Raises StoreUnavailable, and then has changed nothing.
        """
        self.in_engine(self._swap_in_engine)

    def _swap_in_engine(self) -> None:
        """In the engine's thread, with both at the same offsets and committed."""
        with self._swapping:
            self._swap_places()

    def _swap_places(self) -> None:
        engine, new, old = self._host.engine, self.in_shadow, self._host.live()
        if engine.shadow is None or new is None:
            raise engine.shadow_error or BadState("the generation in the shadow has stopped learning: retrain")
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
        self._host.make_live(new)
        self.in_shadow = old

    def release(self) -> None:
        """Take the generation out of the shadow, and close it."""
        left, self.in_shadow = self.in_shadow, None

        def alone() -> None:
            self._host.engine.shadow = self._host.engine.backlog = None

        self.in_engine(alone)
        if left is not None:
            self._stop.wait(LINGER_S)  # a query that began before a swap may still be reading
            left.close()

    def check(self) -> None:
        """Raise the error that ended learning in the shadow, if there was one."""
        if self._host.engine.shadow_error is not None:
            raise self._host.engine.shadow_error

    def scores(self, after: str, since: Mapping[str, int]) -> dict[str, Score]:
        """Compare the generation `after` with the other one, by learner, on the ratings from number `since[learner]` on."""
        both = (self._host.live().memory, self.memory)
        new, old = both if both[0].store.generation == after else both[::-1]
        found = {
            name: gate.compare(errors, new.monitor.errors[name], since.get(name, 0))
            for name, errors in old.monitor.errors.items()
            if name in new.monitor.errors
        }
        return {name: score for name, score in found.items() if score is not None}

    def find_fault(self) -> str:
        """Why the generation in the shadow must not go live; empty if there is no reason against it.

        Learners that do not answer queries are checked only for rows that are not finite.
        """
        learners = self._host.live().memory.learners
        champion, answering = learners.champion("ratings").name, learners.names_in_use(self._settings.server.reranker)
        live_ratings, our_ratings = self.in_engine(
            lambda: [
                errors[champion].ratings + errors[champion].unpredicted if champion in errors else -1
                for errors in (m.monitor.errors for m in (self._host.live().memory, self.memory))
            ]
        )
        if live_ratings != our_ratings:  # the settings named this champion after the cut
            return f"{champion} was asked {our_ratings:,} times in it, {live_ratings:,} in the live one: they do not pair up"
        both = [Stability(m.learners.by_name, m.users.sample, m.items) for m in (self._host.live().memory, self.memory)]
        live = {(n.learner, n.side, n.of): n.value for n in both[0].norms()}
        for learner, side, of, norm in both[1].norms():
            if not isfinite(norm):
                return f"some {side} rows of {learner} are not finite"
            wanted = live.get((learner, side, of), 0.0)
            middle = of == "p50" and wanted > 0 and norm > 0
            bound = RATED_NORMS if learners.by_name[learner].kind == "ratings" else NORMS
            if middle and learner in answering and not 1.0 / bound <= norm / wanted <= bound:
                return f"the {side} rows of {learner} have a middle length of {norm:.3g}, those of the live one {wanted:.3g}"
        return ""

    def drifts(self, learner: str) -> tuple[int, int]:
        """Drifts detected in the errors of a learner: in the live generation, and in the one in the shadow."""
        both = (self._host.live().memory, self.memory)
        return both[0].monitor.errors[learner].drift.detections, both[1].monitor.errors[learner].drift.detections

    def in_engine(self, task: Callable[[], _T]) -> _T:
        """Run `task` in the engine's thread between two steps, with everything committed; returns its result."""
        return self._host.engine.run_between_steps(task).result()
