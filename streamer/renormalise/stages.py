"""The stages of a generation, from its cut to the end of its watch.

    cut -> read, train, write (a process of its own, streamer.renormalise.training_job) -> catch up -> gate -> swap -> watch

Everything that touches the live state runs in the engine's thread between two steps. Each stage is recorded on disk before the
next begins, so that after a crash a start continues there. Until the swap no answer changes.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from streamer.core.errors import BadGeneration, StreamerError
from streamer.core.events import TopicPartition
from streamer.core.settings import Settings
from streamer.renormalise import gate
from streamer.renormalise.shadow import Host, Shadow, Stopped
from streamer.renormalise.training_process import TrainingProcess
from streamer.renormalise.triggers import Request
from streamer.storage import generations
from streamer.storage.files import sealed
from streamer.storage.generations import JOB, WATCHED, GenerationRecord, Progress, Stage
from streamer.stream.memory import Memory

LOG = logging.getLogger("streamer.renormaliser")
TICK_S = 0.2
BY_HAND = "promoted by hand"


class Stages:
    """Takes one generation after another through the stages. Only the renormaliser's thread calls methods; others read attributes."""

    def __init__(self, settings: Settings, host: Host, stop: threading.Event, has_waiting: Callable[[], bool]) -> None:
        """`has_waiting()`: whether another request waits for the current one to end."""
        self._settings, self._chosen, self._host = settings, settings.renormalisation, host
        self._folder = Path(settings.state.data)
        self._stop, self._has_waiting = stop, has_waiting
        self.shadow = Shadow(settings, host, stop)
        self.current: GenerationRecord | None = None  # the generation that is being made or watched
        self.last: GenerationRecord | None = None  # the last generation that ended; after a start, the newest one
        self.progress = Progress()
        self.outcomes: dict[str, int] = {"promoted": 0, "rejected": 0, "rolled back": 0, "failed": 0}
        self.working = False  # True from the beginning until the swap
        self.forced = False  # True: the current generation was requested to go live whatever the gate says
        self.rollback_asked = False  # True: the generation before was requested to go live again

    @property
    def memory(self) -> Memory:
        """The memory of the live generation."""
        return self._host.live().memory

    @property
    def live(self) -> str:
        """The id of the live generation."""
        return self.memory.store.generation

    @property
    def champion(self) -> str:
        """The ratings champion of the live generation."""
        return self.memory.learners.champion("ratings").name

    def resume_watch(self) -> None:
        """After a start: continue to watch the live generation, if its watch was not over."""
        record = self._record()
        if not record.parent or WATCHED in record.seconds:
            self.current = None
        elif generations.state_folder(self._folder, record.parent).exists():
            self.shadow.catch_up(record.parent)
            self._watch(by_hand=record.why == BY_HAND)
        else:
            self._end_watch()

    def renormalise(self, request: Request) -> None:
        """Take a new generation from the cut to the end of its watch."""
        if request.argument == "drift":
            LOG.warning("the errors have drifted upwards: all learners are retrained")
        began, self.progress = time.monotonic(), Progress()
        self.current = self.shadow.in_engine(lambda: self._cut(request))
        self._add_seconds("cut", began)
        self.proceed()

    def _cut(self, request: Request) -> GenerationRecord:
        """In the engine's thread, with everything committed: take a snapshot of the state with its offsets."""
        memory, name = self.memory, generations.next_id(self._folder)
        where = generations.generation_folder(self._folder, name)
        where.mkdir(parents=True)
        (where / JOB).write_bytes(sealed(msgspec.json.encode(self._settings)))
        memory.store.checkpoint(where / "state")
        record = GenerationRecord(
            id=name,
            parent=memory.store.generation,
            trigger=request.argument,
            candidate=request.candidate,
            held=request.held,
            better=request.better,
            cut={f"{at.topic}/{at.partition}": offset for at, offset in memory.ledger.offsets.items()},
            cut_events=memory.monitor.learned,
            cut_ratings={learner: errors.ratings for learner, errors in memory.monitor.errors.items()},
        )
        return generations.write_record(self._folder, record.at_stage("cut"))

    def proceed(self) -> None:
        """Continue with the current generation from its recorded stage on."""
        record = self._record()
        if record.stage == "cut":
            self._train(record)
            record = self._enter("trained")
        began = time.monotonic()
        self._enter("catching up")
        self.shadow.catch_up(record.id)
        self._add_seconds("catch up", began)
        began = time.monotonic()
        self._enter("gate")
        passed, why = self._gate(record)
        self._add_seconds("gate", began)
        if passed:
            self._swap(why)
            self._watch(by_hand=self.forced)
        else:
            LOG.warning("generation %s is rejected: %s", record.id, why)
            self.shadow.release()
            self._end("rejected", why)

    def promote(self, generation: str) -> None:
        """Make a kept generation live without asking the gate, and watch it."""
        self.current = generations.read_record(self._folder, generation)
        self._enter("catching up", "by hand")
        self.shadow.catch_up(generation)
        self._swap(BY_HAND)
        self._watch(by_hand=True)

    def _train(self, record: GenerationRecord) -> None:
        """Wait until the generation is trained and its tables are in its state; raises StreamerError with the process's message."""
        cut = {
            TopicPartition(name.rpartition("/")[0], int(name.rpartition("/")[2])): n for name, n in record.cut.items()
        }
        self._host.wait_for_archive(cut, self._stop)
        process = TrainingProcess(self._folder, record.id, external=self._chosen.renormaliser == "external")
        try:
            while not process.done():
                self.progress = process.progress
                self._pause()
        finally:
            process.close()
        found = self.progress = process.progress
        self._update(seconds={**self._record().seconds, **found.seconds}, churn=found.churn)

    def _gate(self, record: GenerationRecord) -> tuple[bool, str]:
        """Wait until both generations have predicted enough ratings; returns whether the candidate may go live, and why."""
        chosen, until = self._chosen, time.monotonic() + self._chosen.gate_max_wait_s
        fault = self.shadow.find_fault()
        rated = self.memory.monitor.errors[self.champion].ratings
        if fault or record.held or not rated:  # clicks have no prequential measure
            why = f"{'the stream waits' if rated else 'nobody rates'}: there is nothing to compare on"
            return not (fault or record.better), fault or why + (", and it had to be better" if record.better else "")
        while True:
            self.shadow.check()
            scores = self.shadow.scores(self._record().id, self._record().cut_ratings)
            self._update(scores=tuple(scores.values()))
            of = scores.get(self.champion)
            passed = gate.verdict(of, chosen, better=record.better) if of is not None else None
            if self.forced:
                return True, BY_HAND
            if passed is not None:
                return passed, gate.describe(of)
            if time.monotonic() >= until:
                seen = gate.describe(of) if of is not None else "no rating after the cut"
                return False, f"after {chosen.gate_max_wait_s:g} s too few ratings to tell: {seen}"
            self._pause()

    def _swap(self, why: str) -> None:
        began = time.monotonic()
        self.shadow.swap()
        self._add_seconds("swap", began)
        record, old = self._enter("live", why), self.shadow.generation
        generations.write_record(
            self._folder, generations.read_record(self._folder, old).at_stage("kept", f"{record.id} answers")
        )
        LOG.warning("generation %s answers: %s", record.id, why)
        self.working = False
        self.outcomes["promoted"] += 1

    def _watch(self, *, by_hand: bool) -> None:
        """Watch the new live generation; the one before learns on in the shadow, and is swapped back in if the new one is worse."""
        began, errors, champion = time.monotonic(), self.memory.monitor.errors, self.champion
        since = {name: of.ratings for name, of in errors.items()}
        drifts = self.shadow.drifts(champion)
        while errors[champion].ratings < since[champion] + self._chosen.watch_events:
            self.shadow.check()
            scores = self.shadow.scores(self._record().id, since)
            self._update(watched=tuple(scores.values()))
            drifted = self.shadow.drifts(champion)
            alarm = drifted[0] > drifts[0] and drifted[1] == drifts[1]
            worse = "" if by_hand else gate.rollback_reason(scores.get(champion), self._chosen, alarm=alarm)
            why = "by hand" if self.rollback_asked else worse
            if why:
                self._roll_back(why)
                return
            if self._has_waiting():  # another request waits: the watch ends early
                break
            self._pause()
        self._add_seconds(WATCHED, began)
        self._end_watch()

    def _roll_back(self, why: str) -> None:
        self.shadow.swap()
        record = self._record()
        LOG.warning("generation %s is rolled back: %s", record.id, why)
        back = generations.read_record(self._folder, self.live)
        generations.write_record(self._folder, back.at_stage("live", f"{record.id} is rolled back"))
        self.shadow.release()
        self._end("rolled back", why)

    def _end_watch(self) -> None:
        """Record that the watch is over, and release the generation before."""
        self.shadow.release()
        record = self._record()
        self.last = generations.write_record(
            self._folder, msgspec.structs.replace(record, seconds={WATCHED: 0.0, **record.seconds})
        )
        self.current = None
        generations.prune(self._folder, self._chosen.generations_kept)

    def fail(self, error: Exception) -> None:
        """End the current generation because of `error`, unless it is live."""
        why = str(error) if isinstance(error, StreamerError) else f"{type(error).__name__}: {error}"
        LOG.warning("renormalisation: %s", why)
        self.shadow.release()
        with suppress(OSError):  # for example a full disk: the next start records the end
            if self.current is not None and self.current.id != self.live:
                self._end("rejected" if isinstance(error, BadGeneration) else "failed", why)
        self.current = None

    def _end(self, stage: Stage, why: str) -> None:
        """Record the end of the current generation, while another is live."""
        self.outcomes[stage] += 1
        kept = stage != "rolled back" and self._record().was_live
        self.last = self._enter("kept" if kept else stage, why)
        if self.last.stage in ("rejected", "failed"):
            generations.drop_state(self._folder, self.last.id)
        self.current = None
        generations.prune(self._folder, self._chosen.generations_kept)

    def _record(self) -> GenerationRecord:
        assert self.current is not None
        return self.current

    def _update(self, **fields: Any) -> None:
        self.current = msgspec.structs.replace(self._record(), **fields)

    def _enter(self, stage: Stage, why: str = "") -> GenerationRecord:
        self.current = generations.write_record(self._folder, self._record().at_stage(stage, why))
        return self.current

    def _add_seconds(self, step: str, began: float) -> None:
        self._update(seconds={**self._record().seconds, step: time.monotonic() - began})

    def _pause(self) -> None:
        if self._stop.wait(TICK_S):
            raise Stopped
