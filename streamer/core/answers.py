"""The interface between the endpoint and the process behind it: `Answers`, `View`, and the structs that they return.

A method that says "Blocks" is called in a worker thread. All others are quick (at most one user's row is read from disk)
and are called in the thread that serves.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Literal, Protocol

import msgspec

from streamer.core.errors import Reason
from streamer.core.events import Message, Offsets

# How the re-ranking of an answer can end: the values of a metric's label.
RERANKING_OUTCOMES = ("reranked", "late", "busy", "error", "not_finite")


class Refusal(StrEnum):
    """Why the endpoint closed a connection or refused a request: the label values of `streamer_http_refused_total`."""

    NOT_ACCEPTED = "not_accepted"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    TOO_MANY_REQUESTS = "too_many_requests"
    MOST_REQUESTS = "most_requests"
    TOO_MANY_BYTES = "too_many_bytes"
    ANSWERS_NOT_TAKEN = "answers_not_taken"
    NO_HEAD = "no_head"
    FLOOD = "flood"
    TOO_LARGE = "too_large"
    PROTOCOL_ERROR = "protocol_error"


class Recommendation(msgspec.Struct, frozen=True):
    """One item of a list, best first."""

    item_id: str
    title: str = ""  # empty where the catalogue has none
    score: float = 0.0  # higher is better; comparable within one list only
    source: str = ""  # where the score comes from: a learner, or popularity


class Prediction(msgspec.Struct, frozen=True):
    """The rating that a user is expected to give an item."""

    value: float = 0.0
    source: str = ""
    low: float | None = None  # of the interval that holds 80% of such ratings; None: the learner states none
    high: float | None = None


class RollingRmse(msgspec.Struct, frozen=True):
    """Prequential error over at most the last `window` ratings."""

    window: int = 0
    rmse: float | None = None  # None before the first rating


class DriftDetections(msgspec.Struct, frozen=True):
    """How often a drift detector found that the error had changed."""

    detector: str = ""
    count: int = 0


class LearnerStatus(msgspec.Struct, frozen=True):
    """A running learner, champion or shadow."""

    name: str = ""
    kind: str = ""  # ratings or clicks
    champion: bool = False
    rmse: tuple[RollingRmse, ...] = ()
    drift_detections: tuple[DriftDetections, ...] = ()
    promoted: bool = False  # champion because it was promoted, not because the settings name it


class EventCount(msgspec.Struct, frozen=True):
    """How many events of a topic ever had one outcome."""

    topic: str = ""
    outcome: str = ""
    count: int = 0


class DeadLetterCount(msgspec.Struct, frozen=True):
    """How many dead letters there ever were for one reason."""

    reason: str = ""
    count: int = 0


class PartitionLag(msgspec.Struct, frozen=True):
    """How many events of one partition are not yet learned."""

    topic: str = ""
    partition: int = 0
    events: int = 0


class NextOffset(msgspec.Struct, frozen=True):
    """The next offset to read from one sequence."""

    topic: str = ""
    partition: int = 0
    next: int = 0


class ArchiveStatus(msgspec.Struct, frozen=True):
    """The archive of accepted events."""

    bytes: int = 0  # on disk
    records: int = 0  # archived, records of the catalogue included
    behind: int = 0  # records not yet archived
    trouble: str = ""  # a sentence that says why nothing can be archived now; empty while all is well


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is doing; the fields of `GetStatusResponse`."""

    version: str = ""
    state: str = ""  # learning, up to date or paused
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
    archive: ArchiveStatus | None = None  # None: no archive is kept
    renormalisation: str = ""  # what the renormalisation is doing, in words; empty for nothing


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """One learner's error in two generations, on the same ratings, each predicted before it was learned."""

    learner: str = ""
    ratings: int = 0
    before_rmse: float = 0.0  # of the generation that is, or was, live
    after_rmse: float = 0.0  # of this generation
    difference: float = 0.0  # this generation's mean squared error minus the other's: below 0 is better
    half_width: float | None = None  # of the 95% interval around `difference`; None: too few ratings to say


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One complete learned state, and what became of it."""

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
    watched: tuple[Score, ...] = ()  # since it went live
    seconds: dict[str, float] = {}  # by step
    churn: dict[str, float] = {}


class Generations(msgspec.Struct, frozen=True):
    """All generations, the oldest first."""

    generations: tuple[Generation, ...] = ()
    now: str = ""  # what the renormalisation is doing, in words


class BackupMade(msgspec.Struct, frozen=True):
    """A complete backup."""

    directory: str = ""
    files: int = 0
    size_bytes: int = 0
    digest: str = ""
    offsets: tuple[NextOffset, ...] = ()


class ReceiptShown(msgspec.Struct, frozen=True):
    """How far the removal of one user has come."""

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
    """The answers of one generation, live. A request uses one view from its beginning to its end."""

    @property
    def generation(self) -> str:
        """The id of the generation."""

    def recommend(self, user_id: str, limit: int) -> Sequence[Recommendation]:
        """At most `limit` items, best first; popular items for a user never seen."""

    def recommend_for_preferences(
        self, preferences: Mapping[str, float], ratings: Mapping[str, float], limit: int
    ) -> Sequence[Recommendation]:
        """The same for a visitor known only by these ratings, by category and by item; popular items if both are empty.

        Raises UnknownCategory, and BadEvent for a value that no rating can have.
        """

    def predict(self, user_id: str, item_id: str) -> Prediction:
        """The expected rating; ids never seen get one too."""

    def similar_items(self, item_id: str, limit: int) -> Sequence[Recommendation]:
        """The items nearest to `item_id`, best first, without `item_id` itself."""


class Answers(Protocol):
    """Everything that the endpoint asks of the process."""

    def view(self) -> View:
        """The newest view."""

    def validate(self, message: Message) -> None:
        """Raise BadEvent for a message that would end as a dead letter."""

    def publish(self, messages: Sequence[Message]) -> Offsets:
        """See `protocols.Sink.publish`. Blocks (an fsync, or Kafka's acks).

        Raises SourceUnavailable or StoreUnavailable.
        """

    async def fresh(self, offsets: Offsets, timeout_s: float) -> bool:
        """Whether the newest view includes the events before `offsets`, waiting for it up to `timeout_s`.

        Raises ValueError, with a sentence, for a sequence that this process does not read.
        """

    def offsets(self) -> Offsets:
        """The next offset of each sequence, as of the newest view."""

    def status(self) -> Status:
        """What GetStatus and the web page show."""

    def ready(self) -> tuple[bool, str]:
        """Whether events arrive, and if not, a sentence that says why: the health of "ingestion"."""

    def damage(self) -> str:
        """What of the data directory is known to be missing or damaged, in a sentence; empty for nothing. Answers go on."""

    def observe_rejected(self, reason: Reason) -> None:
        """Count an event that Publish refused."""

    def observe_refused(self, refusal: Refusal) -> None:
        """Count a connection that was closed, or a request that was refused, because of the endpoint's bounds."""

    def promote(self, name: str) -> None:
        """Make a running learner the champion of its kind, also after a restart. Blocks (an fsync).

        Raises StreamerError for a learner that does not run, and StoreUnavailable.
        """

    def renormalise(self) -> None:
        """Begin a retraining. Raises StreamerError while one is under way."""

    def promote_generation(self, generation: str) -> None:
        """Make a generation live as soon as it has caught up. Raises StreamerError if that is not possible."""

    def rollback(self) -> str:
        """Make the previous generation live again and return its id. Raises StreamerError when there is none."""

    def generations(self) -> Generations:
        """All generations and what became of them."""

    def backup(self, directory: str) -> BackupMade:
        """Copy the whole data directory to an absolute path, which must be absent or empty. Blocks for a while.

        Raises StreamerError, BadState for damage, StoreUnavailable.
        """

    def forget(self, user_id: str) -> Sequence[ReceiptShown]:
        """Forget the user and all aliases at once, and begin to erase their data; one receipt for each id.

        Blocks until the removal is learned and committed. Raises BadEvent for an invalid id, SourceUnavailable, StoreUnavailable.
        """

    def receipt(self, number: int) -> ReceiptShown:
        """How far a removal has come; raises StreamerError for a number that was never given."""

    def observe_request(self, method: str, code: Code, seconds: float) -> None:
        """Record a request in `streamer_request_seconds`; `method` is one of `streamer.api.METHODS`."""

    def metrics(self) -> tuple[bytes, str]:
        """The body and the content type of /metrics."""
