"""An `Answers` in memory, without an engine: for tests of the endpoint and its clients.

It recommends by popularity only. With `learning` False, published events stay unlearned; with a sentence as `ingestion`,
health checks fail with that sentence; with an error as `failure`, every query raises that error.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from threading import Lock

from streamer import __version__
from streamer.core.answers import (
    BackupMade,
    Code,
    DeadLetterCount,
    EventCount,
    Generation,
    Generations,
    LearnerStatus,
    NextOffset,
    PartitionLag,
    Prediction,
    ReceiptShown,
    Recommendation,
    Refusal,
    RollingRmse,
    Status,
)
from streamer.core.errors import Reason, SourceUnavailable, StreamerError, UnknownCategory
from streamer.core.events import LOG, Click, ItemUpdate, Message, Offsets, Rating
from streamer.core.freshness import Freshness
from streamer.core.settings import LearningSettings
from streamer.stream.decoder import Decoder, check_id


class MemoryAnswers:
    """See answers.Answers; what was called is kept in public attributes."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.learning, self.ingestion, self.damaged = True, "ok", ""
        self.failure: Exception | None = None
        self.requests: Counter[tuple[str, str]] = Counter()  # (method, code)
        self.rejected: Counter[str] = Counter()  # by reason
        self.refused: Counter[Refusal] = Counter()
        self.promoted, self.forgotten = "", 0
        self._decoder = Decoder(LearningSettings())
        self._freshness = Freshness()
        self._lock = Lock()
        self.titles: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._seen: dict[str, set[str]] = {}
        self._ratings: list[float] = []

    def recommend(self, user_id: str, limit: int) -> list[Recommendation]:
        """The most popular items that the user has not seen."""
        self._raise_failure()
        return self._popular(limit, self._seen.get(user_id, set()))

    def recommend_for_preferences(
        self, preferences: Mapping[str, float], ratings: Mapping[str, float], limit: int
    ) -> list[Recommendation]:
        """The most popular items that are not among `ratings`; there are no categories."""
        self._raise_failure()
        if preferences:
            raise UnknownCategory(f"no category {next(iter(preferences))!r}")
        return self._popular(limit, set(ratings))

    def predict(self, user_id: str, item_id: str) -> Prediction:
        """The mean of all ratings."""
        self._raise_failure()
        return Prediction(sum(self._ratings) / max(len(self._ratings), 1), "mean")

    def similar_items(self, item_id: str, limit: int) -> list[Recommendation]:
        """The most popular other items."""
        self._raise_failure()
        return self._popular(limit, {item_id})

    def validate(self, message: Message) -> None:
        """Check the message as the engine does."""
        self._decoder.parse(message.topic, message.key, message.value)

    def publish(self, messages: Sequence[Message]) -> Offsets:
        """Keep the messages, and learn them at once if `learning`."""
        if self.ingestion != "ok":
            raise SourceUnavailable(self.ingestion)
        with self._lock:
            self.messages += messages
            offsets = {LOG: len(self.messages)}
        if self.learning:
            self.learn()
        return offsets

    def learn(self) -> None:
        """Learn the messages that are not learned yet."""
        with self._lock:
            for message in self.messages[self.learned :]:
                self._learn(message)
            self._freshness.advance({LOG: len(self.messages)})

    @property
    def learned(self) -> int:
        """Events learned so far."""
        return self._freshness.offsets.get(LOG, 0)

    async def fresh(self, offsets: Offsets, timeout_s: float) -> bool:
        """See Freshness.wait."""
        return await self._freshness.wait(offsets, timeout_s)

    def offsets(self) -> Offsets:
        """The offsets of one sequence, like the embedded log's."""
        return self._freshness.offsets

    generation = "g0"

    def view(self) -> "MemoryAnswers":
        """Itself: there is only one view."""
        return self

    def status(self) -> Status:
        """A status with made-up learners, so that a page has something to show."""
        self._raise_failure()
        topics = Counter(message.topic for message in self.messages[: self.learned])
        errors = tuple(RollingRmse(window, 0.9 if self._ratings else None) for window in (1000, 10000))
        return Status(
            version=__version__,
            state="learning",
            ingestion=self.ingestion,
            started_ms=1_700_000_000_000,
            uptime_s=1.5,
            generation="g0",
            learners=(
                LearnerStatus("biased-mf", "ratings", True, errors, promoted=self.promoted == "biased-mf"),
                LearnerStatus("skip-gram", "clicks", True, promoted=self.promoted == "skip-gram"),
            ),
            events=tuple(EventCount(topic, "learned", count) for topic, count in sorted(topics.items())),
            dead_letters=(DeadLetterCount("not_json", 0),),
            lag=(PartitionLag("log", 0, len(self.messages) - self.learned),),
            offsets=(NextOffset("log", 0, self.learned),),
            users=len(self._seen),
            items=len(self._counts),
        )

    def ready(self) -> tuple[bool, str]:
        """Healthy while `ingestion` is "ok"."""
        return self.ingestion == "ok", self.ingestion

    def damage(self) -> str:
        """What the test set in `damaged`."""
        return self.damaged

    def observe_rejected(self, reason: Reason) -> None:
        """Count the event in `rejected`."""
        self.rejected[reason] += 1

    def observe_refused(self, refusal: Refusal) -> None:
        """Count it in `refused`."""
        self.refused[refusal] += 1

    def promote(self, name: str) -> None:
        """Keep the name as `promoted`, if it is one of the made-up learners."""
        self._raise_failure()
        if name not in ("biased-mf", "skip-gram"):
            raise StreamerError(f"no learner {name!r} runs here, only biased-mf, skip-gram: start with --shadow {name}")
        self.promoted = name

    def renormalise(self) -> None:
        """Does nothing: nothing is retrained here."""
        self._raise_failure()

    def promote_generation(self, generation: str) -> None:
        """Raises StreamerError: there is only one generation."""
        raise StreamerError(f"no generation {generation!r}; there are: g0")

    def rollback(self) -> str:
        """The only generation."""
        return "g0"

    def generations(self) -> Generations:
        """The only generation."""
        return Generations((Generation(id="g0", live=True, stage="live"),))

    def backup(self, directory: str) -> BackupMade:
        """Made-up figures: nothing is copied."""
        self._raise_failure()
        return BackupMade(directory, 1, 100, "0" * 64, (NextOffset("log", 0, self.learned),))

    def forget(self, user_id: str) -> list[ReceiptShown]:
        """Forget which items the user has seen; the receipt is complete at once."""
        self._raise_failure()
        check_id(user_id, "the user's id")
        self._seen.pop(user_id, None)
        self.forgotten += 1
        return [self.receipt(self.forgotten)]

    def receipt(self, number: int) -> ReceiptShown:
        """The receipt, which is always complete."""
        if not 1 <= number <= self.forgotten:
            raise StreamerError(f"no receipt {number}: there were {self.forgotten}")
        return ReceiptShown(number, "complete")

    def observe_request(self, method: str, code: Code, seconds: float) -> None:
        """Count the request in `requests`."""
        self.requests[method, code] += 1

    def metrics(self) -> tuple[bytes, str]:
        """A page with one metric."""
        self._raise_failure()
        return b"# TYPE streamer_up gauge\nstreamer_up 1\n", "text/plain; version=0.0.4; charset=utf-8"

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _popular(self, limit: int, seen: set[str]) -> list[Recommendation]:
        ranked = [(item, count) for item, count in self._counts.most_common() if item not in seen]
        return [Recommendation(item, self.titles.get(item, ""), count, "popularity") for item, count in ranked[:limit]]

    def _learn(self, message: Message) -> None:
        match self._decoder.parse(message.topic, message.key, message.value):
            case Rating(user_id=user, item_id=item, rating=rating):
                self._ratings += [] if rating is None else [rating]
                self._count(user, item)
            case Click(user_id=user, item_id=item):
                self._count(user, item)
            case ItemUpdate(item_id=item, title=title):
                self.titles[item] = title

    def _count(self, user: str, item: str) -> None:
        self._counts[item] += 1
        self._seen.setdefault(user, set()).add(item)
