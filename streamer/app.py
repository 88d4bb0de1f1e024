"""The application: wires all parts together, from settings to a running recommender."""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from pkgutil import resolve_name
from typing import cast

import numpy as np

from streamer import __version__
from streamer.api import METHODS
from streamer.consumers import SOURCES
from streamer.core.answers import Refusal
from streamer.core.errors import BadSettings, BadState, Reason, SourceUnavailable, StreamerError
from streamer.core.events import LOG, TOPICS, Message, Offsets, Record
from streamer.core.freshness import Freshness
from streamer.core.protocols import Hinted, Sink, Source
from streamer.core.settings import SERVED_RECORDS, Settings
from streamer.integrity import GenerationsWatched
from streamer.maintenance import Maintenance
from streamer.models import LEARNERS
from streamer.monitoring.metrics import Metrics
from streamer.overview import Health, Overview
from streamer.producers import SINKS
from streamer.recovery import examine as examine_log
from streamer.renormalise.renormaliser import Renormaliser
from streamer.renormalise.shadow import OpenGeneration
from streamer.renormalise.training import candidates
from streamer.serving import rerank
from streamer.serving.opening import learners
from streamer.serving.recommend import POPULARITY, Recommender
from streamer.serving.rerank import Reranker
from streamer.storage import generations
from streamer.storage.archive.archiver import Archiver
from streamer.storage.log import EmbeddedLog, LogSource
from streamer.storage.state import RocksStore
from streamer.stream.dead_letters import Mirror
from streamer.stream.decoder import Decoder
from streamer.stream.engine import RETRY_S, Engine
from streamer.stream.memory import Memory

ARCHIVED_S = 600.0  # how long to wait until the archive holds everything before a cut
_LOG = logging.getLogger("streamer.app")


def open_generation(
    settings: Settings, generation: str | None = None, reranking: Reranker | None = None, *also: str
) -> OpenGeneration:
    """Open a generation's state, by default the live one, with `also` as further learners; raises BadSettings, BadState."""
    store = RocksStore(Path(settings.state.data), generation=generation)
    try:
        memory = Memory(learners(settings, [*store.promoted().values(), *also]), settings, store)
    except BaseException:
        store.close()
        raise
    return OpenGeneration(memory, Recommender(memory, memory.learners.by_name[POPULARITY], reranker=reranking))


def _check_generation(opened: OpenGeneration, generation: str) -> OpenGeneration:
    """Close it and raise BadState unless its state says that it is of this generation."""
    store = opened.memory.store
    if store.generation != generation:
        opened.close()
        raise BadState(
            f"the state in {store.path} should be of generation {generation} and says that it is of {store.generation}: it has "
            "lost commits and is not used; restore a backup, or retrain"
        )
    return opened


class App:
    """A running streamer: an engine in its own thread, and an implementation of `streamer.core.answers.Answers`."""

    def __init__(self, settings: Settings) -> None:
        """Open everything; raises BadSettings and BadState. Kafka may still be unreachable."""
        self.settings, self.folder = settings, Path(settings.state.data)
        self._opened = ExitStack()  # closes what was opened, the last first
        try:
            self._open_all()
        except BaseException:
            self._opened.close()
            raise

    def _open_all(self) -> None:
        settings, folder = self.settings, self.folder
        candidates(settings.renormalisation)
        self._generations_watched = GenerationsWatched(folder)
        if not settings.kafka.kafka:
            examine_log(folder)  # before anything is opened for writing, which creates and removes files
        self._reranker = rerank.reranker(settings.server, lambda *said: self._metrics.reranking(*said))
        self._live = open_generation(settings, reranking=self._reranker)
        self._opened.callback(lambda: self._live.close())
        _check_generation(self._live, generations.live(folder))
        self.log = None if settings.kafka.kafka else EmbeddedLog(folder)
        self._sink: Sink = self.log or cast(Sink, resolve_name(SINKS["kafka"])(settings.kafka))
        self._opened.callback(self._sink.close)
        self._source = self.second_source()
        self._opened.callback(self._source.close)
        self.archiver = self._archiver(folder)
        if self.archiver is not None:
            self._opened.callback(self.archiver.close)
        named = self.memory.learners.champions
        for kind, name in self.memory.learners.promoted.items():
            _LOG.warning("the champion for %s is %s, which was promoted; the settings name %s", kind, name, named[kind])
        self._mirror = self._mirrored()
        self._decoder = Decoder(settings.learning)
        self._freshness = Freshness()
        self._freshness.advance(self.memory.ledger.offsets)
        self._committed: Offsets = self.memory.ledger.offsets
        self.engine = Engine(
            self._source, self.memory, self, max_records=settings.learning.max_records or SERVED_RECORDS,
            commit_interval_s=settings.state.commit_interval_s,
        )  # fmt: skip
        self.renormaliser = Renormaliser(settings, self)
        overview = Overview(
            settings, lambda: self.memory, self._source, self.log, self.archiver, self.renormaliser, self._freshness, Health(self.ready, self._damaged_files)
        )  # fmt: skip
        self.status = overview.status
        self._metrics = Metrics(overview.readings, METHODS, __version__, settings.server.reranker)
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._ended = threading.Event()
        maintenance = self._maintenance = Maintenance(folder, self.engine, self.log, self.archiver, self._sink)
        # The methods of Answers that other parts implement
        self.backup, self.forget, self.receipt = maintenance.backup, maintenance.forget, maintenance.receipt
        self.rollback, self.generations = self.renormaliser.rollback, self.renormaliser.generations

    @property
    def memory(self) -> Memory:
        """The memory of the live generation."""
        return self._live.memory

    def _mirrored(self) -> Mirror | None:
        return None if self.log else Mirror(self.memory.dead_letters, self.memory.store, self._sink)

    # streamer.renormalise.shadow.Host

    def live(self) -> OpenGeneration:
        """See Host."""
        return self._live

    def open(self, generation: str) -> OpenGeneration:
        """See Host."""
        promoted = self.memory.learners.promoted.values()
        return _check_generation(open_generation(self.settings, generation, self._reranker, *promoted), generation)

    def second_source(self) -> Source:
        """See Host."""
        if self.log is not None:
            return LogSource(self.log)
        return cast(Source, resolve_name(SOURCES["kafka"])(self.settings.kafka))

    def wait_for_archive(self, offsets: Offsets, stop: threading.Event) -> None:
        """See Host."""
        if self.archiver is None:
            raise BadSettings("retraining reads the archive, and there is none: start without --no-archive")
        until = time.monotonic() + ARCHIVED_S
        while not (self.archiver.wait_for(offsets, 1.0) or stop.is_set()):
            if time.monotonic() > until:
                raise StreamerError(
                    f"the archive did not reach the cut within {ARCHIVED_S:g} s: "
                    f"{self.archiver.trouble or 'it is behind; retrain when the load is lower'}"
                )

    def make_live(self, live: OpenGeneration) -> None:
        """See Host."""
        self._live = live
        self._mirror = self._mirrored()

    def _archiver(self, folder: Path) -> Archiver | None:
        """The archiver, with a source of its own; None for --no-archive."""
        if not self.settings.archive.archive:
            return None
        return Archiver(folder, self.settings, self.second_source(), self.log, self.memory.ledger.offsets)

    def _covered(self, committed: Offsets) -> Offsets:
        """Offsets before which the log is no longer needed: a generation that is being made may be behind the live one."""
        cuts = [self.renormaliser.stages.current.cut] if self.renormaliser.stages.current is not None else []
        return {
            at: min([offset, *(cut.get(f"{at.topic}/{at.partition}", 0) for cut in cuts)])
            for at, offset in committed.items()
        }

    # The engine's thread.

    def start(self) -> None:
        """Start to learn; raises SourceLost when an embedded log no longer has the stored offsets."""
        if self.log is not None:
            self._source.seek(self.memory.ledger.offsets)
        else:
            self.engine.source_trouble = f"connecting to Kafka at {self.settings.kafka.kafka}"
        self._thread.start()
        if self.archiver is not None:
            self.archiver.start()
        self.renormaliser.start()
        self._maintenance.start()

    def _run(self) -> None:
        try:
            if self.log is None and not self._seek():
                return
            self.engine.run()
        except BaseException as error:
            self.failure = error
        finally:
            self.engine.reject_tasks()
            self._ended.set()

    def _seek(self) -> bool:
        pause_s, longest_s = RETRY_S
        while not self.engine.stop.is_set():
            try:
                self._source.seek(self.memory.ledger.offsets)
                return True
            except SourceUnavailable as error:
                self.engine.source_trouble = str(error)
                self.engine.stop.wait(pause_s)
                pause_s = min(2 * pause_s, longest_s)
        return False

    def applied(self, records: Sequence[Record], offsets: Offsets) -> None:
        """See engine.EngineObserver."""
        self._freshness.advance(offsets)
        appended_ms = np.fromiter((record.timestamp_ms for record in records), np.float64, len(records))
        self._metrics.event_to_answer(time.time() - appended_ms / 1000.0)

    def committed(self, offsets: Offsets, seconds: float) -> None:
        """See engine.EngineObserver."""
        self._metrics.commit(seconds)
        self._committed = offsets
        self._maintenance.committed()
        if isinstance(self._source, Hinted):
            self._source.hint(offsets)
        if self._mirror is not None:
            self._mirror.catch_up()
        if self.log is not None:
            self.log.sync_mark()
            kept = self._covered(self.archiver.clamp_to_archived(offsets) if self.archiver else offsets)
            self.log.apply_retention(self.settings.state, kept, self.memory.store.sync)

    def lag(self) -> Mapping[str, Mapping[int, int]]:
        """Records not yet learned, by topic and partition."""
        return self._source.lag()

    @property
    def drained(self) -> bool:
        """Whether everything in the embedded log is learned and committed."""
        return self.log is not None and self._committed.get(LOG, 0) >= self.log.end

    @property
    def ended(self) -> bool:
        """Whether the engine's thread has ended, by request or by failure."""
        return self._ended.is_set()

    def close(self) -> None:
        """Commit, stop and close everything; safe to call twice."""
        self.renormaliser.stop()
        self.engine.stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        self.engine.reject_tasks()
        self.renormaliser.close()
        self._maintenance.close()
        self._opened.close()

    # streamer.core.answers.Answers

    def view(self) -> Recommender:
        """See Answers."""
        return self._live.recommender

    def validate(self, message: Message) -> None:
        """See Answers."""
        self._decoder.parse(message.topic, message.key, message.value)

    def publish(self, messages: Sequence[Message]) -> Offsets:
        """See Answers."""
        return self._sink.publish(messages)

    async def fresh(self, offsets: Offsets, timeout_s: float) -> bool:
        """See Answers."""
        for topic, partition in offsets:
            if (topic, partition) != LOG if self.log is not None else topic not in TOPICS:
                raise ValueError(
                    f"the freshness token is of {topic}/{partition}, which is not read here: events come from "
                    f"{'the embedded log, log/0' if self.log is not None else 'the topics ' + ', '.join(TOPICS)}; "
                    "send the token of Publish unchanged, to the streamer that returned it"
                )
        return await self._freshness.wait(offsets, timeout_s)

    def offsets(self) -> Offsets:
        """See Answers."""
        return self._freshness.offsets

    def ready(self) -> tuple[bool, str]:
        """See Answers."""
        if self.failure is not None:
            return False, str(self.failure)
        trouble = self.engine.source_trouble or self.engine.store_trouble or (self.log.trouble() if self.log else "")
        return not trouble, trouble or "ok"

    def damage(self) -> str:
        """See Answers."""
        found = [*self._generations_watched.damaged(), self.archiver.damage() if self.archiver else ""]
        return "; ".join(filter(None, found))

    def _damaged_files(self) -> Mapping[str, int]:
        archive = self.archiver.damaged_files if self.archiver else 0
        return {"archive": archive, "generations": len(self._generations_watched.damaged())}

    def observe_rejected(self, reason: Reason) -> None:
        """See Answers."""
        self._metrics.rejected(reason)

    def observe_refused(self, refusal: Refusal) -> None:
        """See Answers."""
        self._metrics.refused(refusal)

    def promote(self, name: str) -> None:
        """See Answers."""
        if name not in LEARNERS:
            raise StreamerError(f"no learner {name!r}; these run here: {', '.join(self.memory.learners.by_name)}")
        self.renormaliser.stages.shadow.promote(name)

    def renormalise(self) -> None:
        """See Answers."""
        self.renormaliser.renormalise("by hand")

    def promote_generation(self, generation: str) -> None:
        """See Answers."""
        self.renormaliser.promote(generation)

    def observe_request(self, method: str, code: str, seconds: float) -> None:
        """See Answers."""
        self._metrics.request(method, code, seconds)

    def metrics(self) -> tuple[bytes, str]:
        """See Answers."""
        return self._metrics.render()
