"""What the endpoint asks of the process behind it: one seam, so that it can be served from anything that answers.

Everything but `publish` is quick (no disk but a cold user's row) and is called in the thread that serves.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from streamer.core.errors import Reason
from streamer.core.events import Message, Offsets

# How the re-ranking of an answer ended, as the metrics label it.
RERANKING_OUTCOMES = ("reranked", "late", "busy", "error", "not_finite")


class Recommendation(msgspec.Struct, frozen=True):
    """One item of a list, best first."""

    item_id: str
    title: str = ""  # empty where the catalogue names none
    score: float = 0.0  # higher is better; comparable within one list only
    source: str = ""  # what the score comes from: a learner, or popularity


class Prediction(msgspec.Struct, frozen=True):
    """The rating that a user would give an item."""

    value: float = 0.0
    source: str = ""


class RollingRmse(msgspec.Struct, frozen=True):
    """Prequential error over the last `window` ratings at most."""

    window: int = 0
    rmse: float | None = None  # None before the first rating


class DriftDetections(msgspec.Struct, frozen=True):
    """How often a detector found that the error had changed."""

    detector: str = ""
    count: int = 0


class LearnerStatus(msgspec.Struct, frozen=True):
    """One learner."""

    name: str = ""
    kind: str = ""  # ratings or clicks
    champion: bool = False
    rmse: tuple[RollingRmse, ...] = ()
    drift_detections: tuple[DriftDetections, ...] = ()
    promoted: bool = False  # champion by promotion, whoever the settings name


class EventCount(msgspec.Struct, frozen=True):
    """Events ever, by what became of them."""

    topic: str = ""
    outcome: str = ""
    count: int = 0


class DeadLetterCount(msgspec.Struct, frozen=True):
    """Dead letters ever."""

    reason: str = ""
    count: int = 0


class PartitionLag(msgspec.Struct, frozen=True):
    """Events not yet learned."""

    topic: str = ""
    partition: int = 0
    events: int = 0


class NextOffset(msgspec.Struct, frozen=True):
    """The next offset to read of one sequence."""

    topic: str = ""
    partition: int = 0
    next: int = 0


class ArchiveStatus(msgspec.Struct, frozen=True):
    """The archive of accepted events."""

    bytes: int = 0  # on disk
    records: int = 0  # in it, those of the catalogue too
    behind: int = 0  # records not yet in it
    trouble: str = ""  # a sentence while nothing can be archived


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is doing; the fields of `GetStatusResponse`."""

    version: str = ""
    state: str = ""  # a word: learning, idle, paused, ...
    ingestion: str = "ok"  # ok, or a sentence that says what is wrong
    started_ms: int = 0
    uptime_s: float = 0.0
    generation: str = ""
    learners: tuple[LearnerStatus, ...] = ()
    events: tuple[EventCount, ...] = ()
    dead_letters: tuple[DeadLetterCount, ...] = ()
    lag: tuple[PartitionLag, ...] = ()
    offsets: tuple[NextOffset, ...] = ()
    users: int = 0
    items: int = 0
    state_bytes: int = 0
    log_bytes: int = 0
    archive: ArchiveStatus | None = None  # None: none is kept
    renormalisation: str = ""  # what goes on, in words; empty for nothing


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """Two generations on the same ratings, each predicted before it was learned; of one learner."""

    learner: str = ""
    ratings: int = 0
    before_rmse: float = 0.0  # of the one that is, or was, live
    after_rmse: float = 0.0  # of this one
    difference: float = 0.0  # mean of this one's squared errors less the other's: below 0 is better
    half_width: float | None = None  # of the 95% interval around `difference`; None: too few to say


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One complete set of what was learned, and what became of it."""

    id: str = ""
    parent: str = ""
    live: bool = False
    stage: str = ""
    why: str = ""
    trigger: str = ""
    cut_events: int = 0
    cut_ms: int = 0
    changed_ms: int = 0
    scores: tuple[Score, ...] = ()  # at the gate
    watched: tuple[Score, ...] = ()  # since it answers
    seconds: dict[str, float] = {}  # by step
    churn: dict[str, float] = {}


class Generations(msgspec.Struct, frozen=True):
    """All generations, the oldest first."""

    generations: tuple[Generation, ...] = ()
    now: str = ""  # what goes on, in words


class BackupMade(msgspec.Struct, frozen=True):
    """A backup that is complete."""

    directory: str = ""
    files: int = 0
    size_bytes: int = 0
    digest: str = ""
    offsets: tuple[NextOffset, ...] = ()


class ReceiptShown(msgspec.Struct, frozen=True):
    """How far the forgetting of a user is."""

    number: int = 0
    stage: str = ""
    records: int = 0
    dead_letters: int = 0
    event_ids: int = 0
    waits: tuple[str, ...] = ()


Code = Literal[
    "ok", "canceled", "unknown", "invalid_argument", "deadline_exceeded", "not_found", "permission_denied",
    "resource_exhausted", "failed_precondition", "unimplemented", "internal", "unavailable", "unauthenticated",
]  # fmt: skip


class View(Protocol):
    """What one generation answers, live: a question is put to one view from its beginning to its end."""

    @property
    def generation(self) -> str:
        """Its id."""

    def recommend(self, user_id: str, limit: int) -> Sequence[Recommendation]:
        """At most `limit` items, best first; popular ones for a user never seen."""

    def recommend_for_preferences(
        self, preferences: Mapping[str, float], ratings: Mapping[str, float], limit: int
    ) -> Sequence[Recommendation]:
        """The same for somebody who only says this: ratings by category and by item; popular ones for who says nothing.

        Raises UnknownCategory, and BadEvent for a value that no rating can have.
        """

    def predict(self, user_id: str, item_id: str) -> Prediction:
        """An answer for ids never seen too."""

    def similar_items(self, item_id: str, limit: int) -> Sequence[Recommendation]:
        """The items nearest to `item_id`, best first, without itself."""


class Answers(Protocol):
    """What the endpoint serves."""

    def view(self) -> View:
        """The newest."""

    def validate(self, message: Message) -> None:
        """Raises BadEvent for a message that would end as a dead letter."""

    def publish(self, messages: Sequence[Message]) -> Offsets:
        """See `protocols.Sink.publish`. Blocks (an fsync, or Kafka's acks) and is called in a thread.

        Raises SourceUnavailable or StoreUnavailable.
        """

    async def fresh(self, offsets: Offsets, timeout_s: float) -> bool:
        """Whether the newest view includes the events before `offsets`, waiting for it up to `timeout_s`.

        Raises ValueError, with a sentence, for a sequence that is not read here: waiting would be in vain.
        """

    def offsets(self) -> Offsets:
        """Of the newest view."""

    def status(self) -> Status:
        """For GetStatus and the page."""

    def ready(self) -> tuple[bool, str]:
        """Whether events arrive, and a sentence when they do not: the health of "ingestion"."""

    def observe_rejected(self, reason: Reason) -> None:
        """Publish refused an event."""

    def promote(self, name: str) -> None:
        """Let a running learner answer for its kind from now on, across restarts. Blocks (an fsync) and is called in a thread.

        Raises StreamerError for one that does not run, and StoreUnavailable.
        """

    def renormalise(self) -> None:
        """Begin a retraining. Raises StreamerError while one is under way."""

    def promote_generation(self, generation: str) -> None:
        """Let a generation answer as soon as it has caught up. Raises StreamerError."""

    def rollback(self) -> str:
        """Let the generation before answer again; its id. Raises StreamerError when there is none."""

    def generations(self) -> Generations:
        """What became of every generation."""

    def backup(self, directory: str) -> BackupMade:
        """Copy all that there is into an absolute path, which is absent or empty. Takes a while, and is called in a thread.

        Raises StreamerError, BadState for damage, StoreUnavailable.
        """

    def forget(self, user_id: str) -> Sequence[ReceiptShown]:
        """Answer for the user as for somebody never seen, from before this returns, and begin to erase; of aliases too.

        Blocks until the removal is learned and committed, and is called in a thread. Raises BadEvent for no id, SourceUnavailable,
        StoreUnavailable.
        """

    def receipt(self, number: int) -> ReceiptShown:
        """How far it is; raises StreamerError for a number that was never given."""

    def observe_request(self, method: str, code: Code, seconds: float) -> None:
        """For `streamer_request_seconds`; `method` is one of `streamer.api.METHODS`."""

    def metrics(self) -> tuple[bytes, str]:
        """The body and the content type of /metrics."""
