"""The stages of a generation, from its cut to the end of its watch.

    cut -> read, train, write (a process of its own, streamer.renormalise.training_job) -> catch up -> gate -> swap -> watch

What touches the live state runs in the engine's thread between two steps. Every step is on the disk before the next begins,
so that a start goes on where a crash was; until the swap nothing that answers changes.
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
from streamer.renormalise.shadow import Lanes, Shadow, Stopped
from streamer.renormalise.training_process import TrainingProcess
from streamer.renormalise.triggers import Asked
from streamer.storage import generations
from streamer.storage.generations import JOB, GenerationRecord, Progress, Stage
from streamer.stream.memory import Memory

LOG = logging.getLogger("streamer.renormaliser")
TICK_S = 0.2
BY_HAND = "promoted by hand"
WATCHED = "watch"  # the step whose seconds say that the watch is over


class Stages:
    """Takes one generation after another through them. Its own thread's business, but for what others read."""

    def __init__(self, settings: Settings, lanes: Lanes, stop: threading.Event, wanted: Callable[[], bool]) -> None:
        """`wanted` says whether another renormalisation waits for this one to end."""
        self._settings, self._chosen, self._lanes = settings, settings.renormalisation, lanes
        self._folder = Path(settings.state.data)
        self._stop, self._wanted = stop, wanted
        self.shadow = Shadow(settings, lanes, stop)
        self.current: GenerationRecord | None = None  # on its way, or watched
        self.last: GenerationRecord | None = None  # the newest that ended; after a start, the newest there is
        self.progress = Progress()
        self.outcomes: dict[str, int] = {"promoted": 0, "rejected": 0, "rolled back": 0, "failed": 0}
        self.working = False  # until the swap
        self.forced = self.back = False  # the one on its way is to answer now; the one before it is to come back

    @property
    def memory(self) -> Memory:
        """Of the generation that answers."""
        return self._lanes.live().memory

    @property
    def live(self) -> str:
        """The id of the generation that answers."""
        return self.memory.store.generation

    @property
    def champion(self) -> str:
        """The learner that answers for ratings."""
        return self.memory.learners.champion("ratings").name

    def watch_again(self) -> None:
        """After a start: the live one, if its watch was not over."""
        record = self._now()
        if not record.parent or WATCHED in record.seconds:
            self.current = None
        elif generations.state_folder(self._folder, record.parent).exists():
            self.shadow.bring_up(record.parent)
            self._watch(by_hand=record.why == BY_HAND)
        else:
            self._seen()

    def renormalise(self, asked: Asked) -> None:
        """From the cut to the end of the watch."""
        if asked.of == "drift":
            LOG.warning("the errors drift: everything is retrained")
        began, self.progress = time.monotonic(), Progress()
        self.current = self.shadow.in_engine(lambda: self._cut(asked))
        self._took("cut", began)
        self.go_on()

    def _cut(self, asked: Asked) -> GenerationRecord:
        """In the engine's thread, everything committed: a snapshot of the state with its offsets."""
        memory, name = self.memory, generations.next_id(self._folder)
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
        return generations.write_record(self._folder, record.at_stage("cut"))

    def go_on(self) -> None:
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
            self._watch(by_hand=self.forced)
        else:
            LOG.warning("generation %s is rejected: %s", record.id, why)
            self.shadow.leave()
            self._end("rejected", why)

    def promote(self, generation: str) -> None:
        """Let one answer whose state is there, whatever a gate says, and watch it."""
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
        rated = self.memory.monitor.errors[self.champion].ratings
        if unsound or record.held or not rated:  # clicks have no prequential measure
            said = f"{'the stream waits' if rated else 'nobody rates'}: there is nothing to compare on"
            return not (unsound or record.better), unsound or said + (
                ", and it had to be better" if record.better else ""
            )
        while True:
            self.shadow.check()
            scores = self.shadow.scores(self._now().id, self._now().cut_ratings)
            self._change(scores=tuple(scores.values()))
            of = scores.get(self.champion)
            passed = gate.verdict(of, chosen, better=record.better) if of is not None else None
            if self.forced:
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
            self._folder, generations.read_record(self._folder, old).at_stage("kept", f"{record.id} answers")
        )
        LOG.warning("generation %s answers: %s", record.id, why)
        self.working = False
        self.outcomes["promoted"] += 1

    def _watch(self, *, by_hand: bool) -> None:
        """The generation before learns on in the shadow, and comes back when the new one is worse."""
        began, errors, champion = time.monotonic(), self.memory.monitor.errors, self.champion
        since = {name: of.ratings for name, of in errors.items()}
        drifts = self.shadow.drifts(champion)
        while errors[champion].ratings < since[champion] + self._chosen.watch_events:
            self.shadow.check()
            scores = self.shadow.scores(self._now().id, since)
            self._change(watched=tuple(scores.values()))
            drifted = self.shadow.drifts(champion)
            alarm = drifted[0] > drifts[0] and drifted[1] == drifts[1]
            worse = "" if by_hand else gate.worse(scores.get(champion), self._chosen, alarm=alarm)
            why = "by hand" if self.back else worse
            if why:
                self._roll_back(why)
                return
            if self._wanted():  # somebody wants another: the watch ends early
                break
            self._pause()
        self._took(WATCHED, began)
        self._seen()

    def _roll_back(self, why: str) -> None:
        self.shadow.exchange()
        record = self._now()
        LOG.warning("generation %s is rolled back: %s", record.id, why)
        back = generations.read_record(self._folder, self.live)
        generations.write_record(self._folder, back.at_stage("live", f"{record.id} is rolled back"))
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

    def fail(self, error: Exception) -> None:
        """What went wrong ends the way of the current one."""
        why = str(error) if isinstance(error, StreamerError) else f"{type(error).__name__}: {error}"
        LOG.warning("renormalisation: %s", why)
        self.shadow.leave()
        with suppress(OSError):  # a full disk: the next start writes it down
            if self.current is not None and self.current.id != self.live:
                self._end("rejected" if isinstance(error, BadGeneration) else "failed", why)
        self.current = None

    def _end(self, stage: Stage, why: str) -> None:
        """The way of the current one ends here, and another answers."""
        self.outcomes[stage] += 1
        kept = stage != "rolled back" and self._now().was_live
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
        self.current = generations.write_record(self._folder, self._now().at_stage(stage, why))
        return self.current

    def _took(self, step: str, began: float) -> None:
        self._change(seconds={**self._now().seconds, step: time.monotonic() - began})

    def _pause(self) -> None:
        if self._stop.wait(TICK_S):
            raise Stopped
