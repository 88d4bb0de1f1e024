"""The renormaliser: takes a generation from its cut to the end of its watch, beside the stream that goes on.

    cut -> read, train, write (a process of its own, streamer.renormalise.training_job) -> catch up -> gate -> swap -> watch

One thread, one generation at a time. What touches the live state runs in the engine's thread between two steps. Every step
is on the disk before the next begins, so that a start goes on where a crash was; until the swap nothing that answers changes.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from streamer.core.answers import Generations
from streamer.core.errors import BadGeneration, StreamerError
from streamer.core.events import TopicPartition
from streamer.core.settings import Settings
from streamer.renormalise import gate
from streamer.renormalise.shadow import Lanes, Shadow, Stopped
from streamer.renormalise.training_process import TrainingProcess
from streamer.renormalise.triggers import Asked, Triggers
from streamer.storage import generations
from streamer.storage.generations import JOB, UNDER_WAY, GenerationRecord, Progress, Stage, summary
from streamer.stream.memory import Memory

LOG = logging.getLogger("streamer.renormaliser")
TICK_S = 0.2
BY_HAND = "promoted by hand"
WATCHED = "watch"  # the step whose seconds say that the watch is over


class Renormaliser:
    """Runs one generation after another through its life."""

    def __init__(self, settings: Settings, lanes: Lanes) -> None:
        self._settings, self._chosen, self._lanes = settings, settings.renormalisation, lanes
        self._folder = Path(settings.state.data)
        self.current: GenerationRecord | None = None  # on its way, or watched
        self.last: GenerationRecord | None = (
            None  # the newest whose way came to an end; after a start, the newest there is
        )
        self.progress = Progress()
        self.outcomes: dict[str, int] = {"promoted": 0, "rejected": 0, "rolled back": 0, "failed": 0}
        self._stop, self._wake, self._lock = threading.Event(), threading.Event(), threading.Lock()
        self.shadow = Shadow(settings, lanes, self._stop)
        self._asked: deque[Asked] = deque()
        self._forced = self._back = self._working = False
        self._resumed = False  # whether what a crash left is known
        self._thread = threading.Thread(target=self._run, name="renormaliser", daemon=True)
        self._occasions = Triggers(self._chosen, self._folder, self._memory)

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
        if self.shadow.other is not None:
            self.shadow.other.close()

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
            current = self.current
            if generation == self._live:
                raise StreamerError(f"{generation} answers already")
            if current is not None and current.id == generation and current.stage in UNDER_WAY:
                self._forced = True
            elif self.shadow.generation == generation:
                self._back = True
            else:
                self._refuse_busy()
                found = generations.read_record(self._folder, generation)
                if not generations.state_folder(self._folder, found.id).exists():
                    raise StreamerError(f"the state of {found.id} is not kept any more: it cannot answer again")
                self._asked.append(Asked("promote", generation))
        self._wake.set()

    def rollback(self) -> str:
        """Let the generation before answer again; answers its id. Raises StreamerError when there is none."""
        live = generations.read_record(self._folder, self._live)
        if not live.parent:
            raise StreamerError(f"{live.id} has no generation before it")
        self.promote(live.parent)
        return live.parent

    @property
    def settled(self) -> bool:
        """Whether nothing is on its way or waits to be; a generation may still be watched."""
        return self._resumed and not self._asked and not self._working

    def says(self) -> str:
        """Where it is, in words; empty when nothing goes on."""
        current = self.current
        if current is None:
            trouble = self._lanes.engine.source_trouble  # nothing can be cut while a start waits for it
            return "" if self.settled else f"waiting: {trouble}" if trouble else "waiting"
        if current.stage == "cut":
            return f"{current.id}: {self.progress.step or 'waiting'} {self.progress.share:.0%}"
        if current.stage == "gate" and not current.held:
            seen = next((score.ratings for score in current.scores if score.learner == self._champion), 0)
            return f"{current.id}: gate, {seen:,} ratings of at least {self._chosen.gate_min_events:,}"
        return f"{current.id}: {'watched' if current.stage == 'live' else current.stage}"

    def generations(self) -> Generations:
        """What became of all of them."""
        current, live = self.current, self._live
        records = [
            current if current and one.id == current.id else one for one in generations.read_records(self._folder)
        ]
        return Generations(tuple(summary(one, live) for one in records), self.says())

    def _refuse_busy(self) -> None:
        if self._asked or self._working:
            raise StreamerError(
                f"a renormalisation is under way ({self.says() or 'waiting'}): ask again when it has ended"
            )

    @property
    def _memory(self) -> Memory:
        return self._lanes.live().memory

    @property
    def _live(self) -> str:
        return self._memory.store.generation

    @property
    def _champion(self) -> str:
        return self._memory.learners.champion("ratings").name

    # The renormaliser's thread.

    def _run(self) -> None:
        try:
            self._guarded(self._resume)
            self._resumed = True
            while not self._stop.is_set():
                self._wake.wait(TICK_S)
                self._wake.clear()
                if self._asked:
                    self._working = True  # before it is asked for no more: see `settled`
                    self._serve(self._asked.popleft())
                elif trigger := self._occasions.due(self._memory):
                    self._ask(trigger)
        except (Stopped, CancelledError):
            return

    def _serve(self, asked: Asked) -> None:
        promote = asked.what == "promote"
        self._guarded(partial(self._promote, asked.of) if promote else partial(self._renormalise, asked))

    def _guarded(self, work: Callable[[], None]) -> None:
        """What goes wrong with a generation ends its way, and nothing else."""
        try:
            work()
        except (Stopped, CancelledError):
            raise
        except Exception as error:
            why = str(error) if isinstance(error, StreamerError) else f"{type(error).__name__}: {error}"
            LOG.warning("renormalisation: %s", why)
            self.shadow.leave()
            with suppress(OSError):  # a full disk: the next start writes it down
                if self.current is not None and self.current.id != self._live:
                    self._end("rejected" if isinstance(error, BadGeneration) else "failed", why)
            self.current = None
        finally:
            self._forced = self._back = self._working = False
        self._occasions.begin(self._memory)

    def _resume(self) -> None:
        """What a crash, or a stop, left: the generation on its way goes on, or who answers is watched again."""
        generations.repair(self._folder)
        records = generations.read_records(self._folder)
        self.last = records[-1]
        left = next((found for found in records if found.stage in UNDER_WAY), None)
        self.current = left or next(found for found in records if found.id == self._live)
        self._working, self._resumed = left is not None, True
        if left is None:
            self._watch_again()
        elif left.answered:
            self._promote(left.id)
        else:
            names = self._chosen.candidates
            rest = names[names.index(left.candidate) + 1 :] if left.candidate in names else ()
            self._asked.extend(Asked("renormalise", left.trigger, left.held, name, True) for name in rest)
            self._go_on()

    def _watch_again(self) -> None:
        record = self._now()
        if not record.parent or WATCHED in record.seconds:
            self.current = None
        elif generations.state_folder(self._folder, record.parent).exists():
            self.shadow.bring_up(record.parent)
            self._watch(by_hand=record.why == BY_HAND)
        else:
            self._seen()

    def _renormalise(self, asked: Asked) -> None:
        if asked.of == "drift":
            LOG.warning("the errors drift: everything is retrained")
        began, self.progress = time.monotonic(), Progress()
        self.current = self.shadow.in_engine(lambda: self._cut(asked))
        self._took("cut", began)
        self._go_on()

    def _cut(self, asked: Asked) -> GenerationRecord:
        """In the engine's thread, everything committed: a snapshot of the state with its offsets."""
        memory, name = self._memory, generations.next_id(self._folder)
        where = generations.generation_folder(self._folder, name)
        where.mkdir(parents=True)
        (where / JOB).write_bytes(msgspec.json.encode(self._settings))
        memory.store.checkpoint(where / "state")
        record = GenerationRecord(
            id=name,
            parent=memory.store.generation,
            trigger=asked.of,
            candidate=asked.candidate,
            held=asked.held,
            better=asked.better,
            cut={f"{at.topic}/{at.partition}": offset for at, offset in memory.ledger.offsets.items()},
            cut_events=memory.monitor.learned,
            cut_ratings={learner: errors.ratings for learner, errors in memory.monitor.errors.items()},
        )
        return generations.write_record(self._folder, record.now("cut"))

    def _go_on(self) -> None:
        """From wherever the current one is."""
        record = self._now()
        if record.stage == "cut":
            self._train(record)
            record = self._at("trained")
        began = time.monotonic()
        self._at("catching up")
        self.shadow.bring_up(record.id)
        self._took("catch up", began)
        began = time.monotonic()
        self._at("gate")
        passed, why = self._gate(record)
        self._took("gate", began)
        if passed:
            self._swap(why)
            self._watch(by_hand=self._forced)
        else:
            LOG.warning("generation %s is rejected: %s", record.id, why)
            self.shadow.leave()
            self._end("rejected", why)

    def _promote(self, generation: str) -> None:
        self.current = generations.read_record(self._folder, generation)
        self._at("catching up", "by hand")
        self.shadow.bring_up(generation)
        self._swap(BY_HAND)
        self._watch(by_hand=True)

    def _train(self, record: GenerationRecord) -> None:
        """Until the generation is written and in its state; raises StreamerError with what the process said."""
        cut = {
            TopicPartition(name.rpartition("/")[0], int(name.rpartition("/")[2])): n for name, n in record.cut.items()
        }
        self._lanes.archived(cut, self._stop)
        process = TrainingProcess(self._folder, record.id, external=self._chosen.renormaliser == "external")
        try:
            while not process.done():
                self.progress = process.progress
                self._pause()
        finally:
            process.close()
        found = self.progress = process.progress
        self._change(seconds={**self._now().seconds, **found.seconds}, churn=found.churn)

    def _gate(self, record: GenerationRecord) -> tuple[bool, str]:
        """Wait until both have predicted enough; whether the candidate may answer, and why."""
        chosen, until = self._chosen, time.monotonic() + self._chosen.gate_max_wait_s
        unsound = self.shadow.unsound()
        rated = self._memory.monitor.errors[self._champion].ratings
        if unsound or record.held or not rated:  # clicks have no prequential measure
            said = f"{'the stream waits' if rated else 'nobody rates'}: there is nothing to compare on"
            return not (unsound or record.better), unsound or said + (
                ", and it had to be better" if record.better else ""
            )
        while True:
            self.shadow.check()
            scores = self.shadow.scores(self._now().id, self._now().cut_ratings)
            self._change(scores=tuple(scores.values()))
            of = scores.get(self._champion)
            passed = gate.verdict(of, chosen, better=record.better) if of is not None else None
            if self._forced:
                return True, BY_HAND
            if passed is not None:
                return passed, gate.said(of)
            if time.monotonic() >= until:
                seen = gate.said(of) if of is not None else "no rating after the cut"
                return False, f"after {chosen.gate_max_wait_s:g} s too few ratings to tell: {seen}"
            self._pause()

    def _swap(self, why: str) -> None:
        began = time.monotonic()
        self.shadow.exchange()
        self._took("swap", began)
        record, old = self._at("live", why), self.shadow.generation
        generations.write_record(
            self._folder, generations.read_record(self._folder, old).now("kept", f"{record.id} answers")
        )
        LOG.warning("generation %s answers: %s", record.id, why)
        self._working = False
        self.outcomes["promoted"] += 1

    def _watch(self, *, by_hand: bool) -> None:
        """The generation before learns on in the shadow, and comes back when the new one is worse."""
        began, errors, champion = time.monotonic(), self._memory.monitor.errors, self._champion
        since = {name: of.ratings for name, of in errors.items()}
        drifts = self.shadow.drifts(champion)
        while errors[champion].ratings < since[champion] + self._chosen.watch_events:
            self.shadow.check()
            scores = self.shadow.scores(self._now().id, since)
            self._change(watched=tuple(scores.values()))
            drifted = self.shadow.drifts(champion)
            alarm = drifted[0] > drifts[0] and drifted[1] == drifts[1]
            worse = "" if by_hand else gate.worse(scores.get(champion), self._chosen, alarm=alarm)
            why = "by hand" if self._back else worse
            if why:
                self._roll_back(why)
                return
            if self._asked:  # somebody wants another: the watch ends early
                break
            self._pause()
        self._took(WATCHED, began)
        self._seen()

    def _roll_back(self, why: str) -> None:
        self.shadow.exchange()
        record = self._now()
        LOG.warning("generation %s is rolled back: %s", record.id, why)
        back = generations.read_record(self._folder, self._live)
        generations.write_record(self._folder, back.now("live", f"{record.id} is rolled back"))
        self.shadow.leave()
        self._end("rolled back", why)

    def _seen(self) -> None:
        """The watch is over."""
        self.shadow.leave()
        record = self._now()
        self.last = generations.write_record(
            self._folder, msgspec.structs.replace(record, seconds={WATCHED: 0.0, **record.seconds})
        )
        self.current = None
        generations.prune(self._folder, self._chosen.generations_kept)

    def _end(self, stage: Stage, why: str) -> None:
        """The way of the current one ends here, and another answers."""
        self.outcomes[stage] += 1
        kept = stage != "rolled back" and self._now().answered
        self.last = self._at("kept" if kept else stage, why)
        if self.last.stage in ("rejected", "failed"):
            generations.drop_state(self._folder, self.last.id)
        self.current = None
        generations.prune(self._folder, self._chosen.generations_kept)

    def _now(self) -> GenerationRecord:
        assert self.current is not None
        return self.current

    def _change(self, **fields: Any) -> None:
        self.current = msgspec.structs.replace(self._now(), **fields)

    def _at(self, stage: Stage, why: str = "") -> GenerationRecord:
        self.current = generations.write_record(self._folder, self._now().now(stage, why))
        return self.current

    def _took(self, step: str, began: float) -> None:
        self._change(seconds={**self._now().seconds, step: time.monotonic() - began})

    def _pause(self) -> None:
        if self._stop.wait(TICK_S):
            raise Stopped
