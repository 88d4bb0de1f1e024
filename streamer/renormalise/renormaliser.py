"""The renormaliser: carries out requests one after another. They are made by hand, by the schedule or because of a drift.

Its thread takes one generation at a time through streamer.renormalise.stages, while the stream goes on.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path

from streamer.core.answers import Generations
from streamer.core.errors import StreamerError
from streamer.core.settings import Settings
from streamer.renormalise.shadow import Host, Stopped
from streamer.renormalise.stages import TICK_S, Stages
from streamer.renormalise.triggers import Request, Triggers
from streamer.storage import generations
from streamer.storage.generations import UNDER_WAY, summary


class Renormaliser:
    """Queues requests, and carries them out in a thread of its own."""

    def __init__(self, settings: Settings, host: Host) -> None:
        self._chosen, self._host = settings.renormalisation, host
        self._folder = Path(settings.state.data)
        self._stop, self._wake, self._lock = threading.Event(), threading.Event(), threading.Lock()
        self._requests: deque[Request] = deque()
        self.stages = Stages(settings, host, self._stop, lambda: bool(self._requests))
        self._resumed = False  # whether the generation that a crash or a stop left unfinished is taken up again
        self._thread = threading.Thread(target=self._run, name="renormaliser", daemon=True)
        self._triggers = Triggers(self._chosen, self._folder, self.stages.memory)

    # From any thread.

    def start(self) -> None:
        """Start the thread, which continues with an unfinished generation and then waits for requests."""
        self._thread.start()

    def stop(self) -> None:
        """Stop at the current stage; the next start continues from there."""
        self._stop.set()
        self._wake.set()

    def close(self) -> None:
        """Wait for the thread's end; call it after `stop` and the engine's end. Safe to call twice."""
        self.stop()
        if self._thread.ident is not None:
            self._thread.join()
        if self.stages.shadow.in_shadow is not None:
            self.stages.shadow.in_shadow.close()

    def renormalise(self, trigger: str, *, held: bool = False) -> None:
        """Request a retraining; raises StreamerError while one is under way.

        `held`: the stream waits for the swap, so there are no ratings to compare on, and the gate checks only the rows.
        """
        with self._lock:
            self._refuse_busy()
            self._enqueue(trigger, held)
        self._wake.set()

    def _enqueue(self, trigger: str, held: bool = False) -> None:
        for n, candidate in enumerate(self._chosen.candidates):
            self._requests.append(Request("renormalise", trigger, held, candidate, n > 0))

    def promote(self, generation: str) -> None:
        """Make a generation live as soon as it has caught up, whatever the gate says; raises StreamerError."""
        with self._lock:
            current = self.stages.current
            if generation == self.stages.live:
                raise StreamerError(f"{generation} is live already")
            if current is not None and current.id == generation and current.stage in UNDER_WAY:
                self.stages.forced = True
            elif self.stages.shadow.generation == generation:
                self.stages.rollback_asked = True
            else:
                self._refuse_busy()
                found = generations.read_record(self._folder, generation)
                if not generations.state_folder(self._folder, found.id).exists():
                    raise StreamerError(
                        f"the state of {found.id} is not kept any more, so it cannot go live again; --generations-kept keeps more"
                    )
                self._requests.append(Request("promote", generation))
        self._wake.set()

    def rollback(self) -> str:
        """Make the parent of the live generation live again; returns its id. Raises StreamerError when there is none."""
        live = generations.read_record(self._folder, self.stages.live)
        if not live.parent:
            raise StreamerError(f"{live.id} is live and has no generation before it to roll back to")
        self.promote(live.parent)
        return live.parent

    @property
    def idle(self) -> bool:
        """Whether no generation is being made and no request waits; a generation may still be watched."""
        return self._resumed and not self._requests and not self.stages.working

    def describe(self) -> str:
        """What the renormaliser is doing, in words; empty if it does nothing."""
        current = self.stages.current
        if current is None:
            trouble = self._host.engine.source_trouble  # while a start waits for the source, nothing can be cut
            return "" if self.idle else f"waiting: {trouble}" if trouble else "waiting"
        if current.stage == "cut":
            return f"{current.id}: {self.stages.progress.step or 'waiting'} {self.stages.progress.share:.0%}"
        if current.stage == "gate" and not current.held:
            seen = next((score.ratings for score in current.scores if score.learner == self.stages.champion), 0)
            return f"{current.id}: gate, {seen:,} ratings of at least {self._chosen.gate_min_events:,}"
        return f"{current.id}: {'watched' if current.stage == 'live' else current.stage}"

    def generations(self) -> Generations:
        """All generations with their stages, the oldest first, and what is being done now."""
        current, live = self.stages.current, self.stages.live
        records = [
            current if current and one.id == current.id else one for one in generations.read_records(self._folder)
        ]
        return Generations(tuple(summary(one, live) for one in records), self.describe())

    def _refuse_busy(self) -> None:
        if self._requests or self.stages.working:
            raise StreamerError(
                f"a renormalisation is under way ({self.describe() or 'waiting'}): try again when it has ended"
            )

    # The renormaliser's thread.

    def _run(self) -> None:
        try:
            self._guard(self._resume)
            self._resumed = True
            while not self._stop.is_set():
                self._wake.wait(TICK_S)
                self._wake.clear()
                if self._requests:
                    self.stages.working = True  # before the request leaves the queue: see `idle`
                    self._serve_request(self._requests.popleft())
                elif trigger := self._triggers.due(self.stages.memory):
                    self._enqueue(trigger)
        except (Stopped, CancelledError):
            return

    def _serve_request(self, request: Request) -> None:
        promote = request.action == "promote"
        self._guard(
            partial(self.stages.promote, request.argument) if promote else partial(self.stages.renormalise, request)
        )

    def _guard(self, work: Callable[[], None]) -> None:
        """Run `work`; an error ends the current generation and not the thread."""
        try:
            work()
        except (Stopped, CancelledError):
            raise
        except Exception as error:
            self.stages.fail(error)
        finally:
            self.stages.forced = self.stages.rollback_asked = self.stages.working = False
        self._triggers.reset(self.stages.memory)

    def _resume(self) -> None:
        """After a start: continue the generation that was left unfinished, or watch the live one again."""
        generations.repair(self._folder)
        records = generations.read_records(self._folder)
        self.stages.last = records[-1]
        left = next((found for found in records if found.stage in UNDER_WAY), None)
        self.stages.current = left or next(found for found in records if found.id == self.stages.live)
        self.stages.working, self._resumed = left is not None, True
        if left is None:
            self.stages.resume_watch()
        elif left.was_live:
            self.stages.promote(left.id)
        else:
            names = self._chosen.candidates
            rest = names[names.index(left.candidate) + 1 :] if left.candidate in names else ()
            self._requests.extend(Request("renormalise", left.trigger, left.held, name, True) for name in rest)
            self.stages.proceed()
