"""The renormaliser: takes what is asked for, by hand, by the schedule or by a drift, and does one after another.

One thread, one generation at a time, through the stages of streamer.renormalise.stages, beside the stream that goes on.
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
from streamer.renormalise.shadow import Lanes, Stopped
from streamer.renormalise.stages import TICK_S, Stages
from streamer.renormalise.triggers import Asked, Triggers
from streamer.storage import generations
from streamer.storage.generations import UNDER_WAY, summary


class Renormaliser:
    """Runs one generation after another through its life."""

    def __init__(self, settings: Settings, lanes: Lanes) -> None:
        self._chosen, self._lanes = settings.renormalisation, lanes
        self._folder = Path(settings.state.data)
        self._stop, self._wake, self._lock = threading.Event(), threading.Event(), threading.Lock()
        self._asked: deque[Asked] = deque()
        self.stages = Stages(settings, lanes, self._stop, lambda: bool(self._asked))
        self._resumed = False  # whether what a crash left is known
        self._thread = threading.Thread(target=self._run, name="renormaliser", daemon=True)
        self._triggers = Triggers(self._chosen, self._folder, self.stages.memory)

    # From any thread.

    def start(self) -> None:
        """Go on with what was under way, and wait for what comes."""
        self._thread.start()

    def stop(self) -> None:
        """End where it is; the next start goes on."""
        self._stop.set()
        self._wake.set()

    def close(self) -> None:
        """Wait for its end, after `stop` and the engine's end; safe to call twice."""
        self.stop()
        if self._thread.ident is not None:
            self._thread.join()
        if self.stages.shadow.other is not None:
            self.stages.shadow.other.close()

    def renormalise(self, trigger: str, *, held: bool = False) -> None:
        """Begin a retraining; raises StreamerError while one is under way.

        `held`: the stream waits for the swap, so that there is nothing to compare on, and the gate looks at the rows alone.
        """
        with self._lock:
            self._refuse_busy()
            self._ask(trigger, held)
        self._wake.set()

    def _ask(self, trigger: str, held: bool = False) -> None:
        for n, candidate in enumerate(self._chosen.candidates):
            self._asked.append(Asked("renormalise", trigger, held, candidate, n > 0))

    def promote(self, generation: str) -> None:
        """Let a generation answer as soon as it has caught up, whatever a gate says; raises StreamerError."""
        with self._lock:
            current = self.stages.current
            if generation == self.stages.live:
                raise StreamerError(f"{generation} answers already")
            if current is not None and current.id == generation and current.stage in UNDER_WAY:
                self.stages.forced = True
            elif self.stages.shadow.generation == generation:
                self.stages.back = True
            else:
                self._refuse_busy()
                found = generations.read_record(self._folder, generation)
                if not generations.state_folder(self._folder, found.id).exists():
                    raise StreamerError(f"the state of {found.id} is not kept any more: it cannot answer again")
                self._asked.append(Asked("promote", generation))
        self._wake.set()

    def rollback(self) -> str:
        """Let the generation before answer again; answers its id. Raises StreamerError when there is none."""
        live = generations.read_record(self._folder, self.stages.live)
        if not live.parent:
            raise StreamerError(f"{live.id} has no generation before it")
        self.promote(live.parent)
        return live.parent

    @property
    def settled(self) -> bool:
        """Whether nothing is on its way or waits to be; a generation may still be watched."""
        return self._resumed and not self._asked and not self.stages.working

    def says(self) -> str:
        """Where it is, in words; empty when nothing goes on."""
        current = self.stages.current
        if current is None:
            trouble = self._lanes.engine.source_trouble  # nothing can be cut while a start waits for it
            return "" if self.settled else f"waiting: {trouble}" if trouble else "waiting"
        if current.stage == "cut":
            return f"{current.id}: {self.stages.progress.step or 'waiting'} {self.stages.progress.share:.0%}"
        if current.stage == "gate" and not current.held:
            seen = next((score.ratings for score in current.scores if score.learner == self.stages.champion), 0)
            return f"{current.id}: gate, {seen:,} ratings of at least {self._chosen.gate_min_events:,}"
        return f"{current.id}: {'watched' if current.stage == 'live' else current.stage}"

    def generations(self) -> Generations:
        """What became of all of them."""
        current, live = self.stages.current, self.stages.live
        records = [
            current if current and one.id == current.id else one for one in generations.read_records(self._folder)
        ]
        return Generations(tuple(summary(one, live) for one in records), self.says())

    def _refuse_busy(self) -> None:
        if self._asked or self.stages.working:
            raise StreamerError(
                f"a renormalisation is under way ({self.says() or 'waiting'}): ask again when it has ended"
            )

    # The renormaliser's thread.

    def _run(self) -> None:
        try:
            self._guarded(self._resume)
            self._resumed = True
            while not self._stop.is_set():
                self._wake.wait(TICK_S)
                self._wake.clear()
                if self._asked:
                    self.stages.working = True  # before it is asked for no more: see `settled`
                    self._serve(self._asked.popleft())
                elif trigger := self._triggers.due(self.stages.memory):
                    self._ask(trigger)
        except (Stopped, CancelledError):
            return

    def _serve(self, asked: Asked) -> None:
        promote = asked.what == "promote"
        self._guarded(partial(self.stages.promote, asked.of) if promote else partial(self.stages.renormalise, asked))

    def _guarded(self, work: Callable[[], None]) -> None:
        """What goes wrong with a generation ends its way, and nothing else."""
        try:
            work()
        except (Stopped, CancelledError):
            raise
        except Exception as error:
            self.stages.fail(error)
        finally:
            self.stages.forced = self.stages.back = self.stages.working = False
        self._triggers.begin(self.stages.memory)

    def _resume(self) -> None:
        """What a crash, or a stop, left: the generation on its way goes on, or who answers is watched again."""
        generations.repair(self._folder)
        records = generations.read_records(self._folder)
        self.stages.last = records[-1]
        left = next((found for found in records if found.stage in UNDER_WAY), None)
        self.stages.current = left or next(found for found in records if found.id == self.stages.live)
        self.stages.working, self._resumed = left is not None, True
        if left is None:
            self.stages.watch_again()
        elif left.was_live:
            self.stages.promote(left.id)
        else:
            names = self._chosen.candidates
            rest = names[names.index(left.candidate) + 1 :] if left.candidate in names else ()
            self._asked.extend(Asked("renormalise", left.trigger, left.held, name, True) for name in rest)
            self.stages.go_on()
