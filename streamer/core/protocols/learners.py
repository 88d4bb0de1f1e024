"""The seams. Each is a few methods; nothing inherits from them, anything that fits is one."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import msgspec

from streamer.core.arrays import F32, F64, I32, Array
from streamer.core.batch import Batch, Opinion, UserView
from streamer.core.dataset import Dataset, SideInformation
from streamer.core.events import Message, MessageParts, Offsets, Record
from streamer.core.tables import Side, Table

Kind: TypeAlias = Literal["ratings", "clicks"]


@runtime_checkable
class Source(Protocol):
    """Where records are read. One thread, the engine's, calls it."""

    def seek(self, offsets: Offsets) -> None:
        """Go on from `offsets`: the next offset of each sequence; a sequence not named starts at its beginning.

        Called once before the first `poll`. Raises SourceLost when an offset is no longer (or not yet) there.
        """

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """At most `max_records` records, in order within each sequence; empty, never None, when there are none.

        Never blocks past `timeout_s`. Raises SourceUnavailable when the source is away: nothing was consumed, call again.
        Each record is handed out once, and is not read again unless `seek` says so.
        """

    def lag(self) -> Mapping[str, Mapping[int, int]]:
        """Records still to be handed out, by topic and partition, as far as is known without asking anybody. From any thread."""

    def close(self) -> None:
        """Let go of everything; safe to call twice."""


@runtime_checkable
class Hinted(Protocol):
    """A source whose tools like to know how far we are; our own offsets are in the store."""

    def hint(self, offsets: Offsets) -> None:
        """Everything before `offsets` is committed; best effort, never blocks, never raises."""


@runtime_checkable
class Sink(Protocol):
    """Where events are published; safe from several threads."""

    def publish(self, messages: Sequence[Message]) -> Offsets:
        """Append them in order; answers when they are durable, with the next offset of each sequence written to.

        Raises SourceUnavailable when they could not be made durable; some may have been.
        """

    def close(self) -> None:
        """Let go of everything; safe to call twice."""


@runtime_checkable
class Stream(Protocol):
    """Events that are all there from the start, numbered from row 0 in the order they are published in: a file, a simulated world."""

    @property
    def sha256(self) -> str:
        """Which stream this is: the same text, the same rows in the same order."""

    def __len__(self) -> int:
        """How many rows."""

    def messages(self, start: int, stop: int) -> list[Message]:
        """Rows start to stop - 1, fewer at the end. Their time is left to whoever appends them."""

    def parts(self, start: int, stop: int) -> MessageParts:
        """The parts of the same messages, for who needs no message."""

    def times_ms(self, start: int, stop: int) -> list[int]:
        """When each of these rows happened, by the stream itself; never the wall clock."""


@runtime_checkable
class Stateful(Protocol):
    """What the store persists."""

    def tables(self) -> Mapping[str, Table]:
        """Tables by name; at most one of side "user". Always the same objects."""


@runtime_checkable
class OnlineLearner(Protocol):
    """Predicts, then learns, event by event, in one kernel call. Rows exist before `learn` is called."""

    name: str  # its name in the registry: that of its tables, metrics and digest
    kind: Kind  # what it learns from

    @property
    def parameters(self) -> msgspec.Struct:
        """What its state depends on, recorded with it. A property, so that a learner may say its own class."""

    def tables(self) -> Mapping[str, Table]:
        """See Stateful."""

    def learn(self, batch: Batch) -> F32:
        """(n,) what was predicted for event k after events 0..k-1 only (NaN: not my kind); one step an event, in order.

        Marks every row it changes in its table's `touched`.
        """

    def predict(self, batch: Batch) -> F32:
        """(n,) for serving; changes nothing, not even for rows never seen (-1)."""

    def score(self, user: UserView, items: I32) -> F32:
        """(len(items),), higher is better, NaN where it cannot; an item of -1 is one never seen. Changes nothing."""


@runtime_checkable
class Trainer(Protocol):
    """Fits a learner's tables anew on a whole history. Made by `Class(name, parameters)`; one fits one learner, once.

    Deterministic: the same learner and history give the same bytes. One thread.
    """

    name: str  # its name in the registry

    @property
    def parameters(self) -> msgspec.Struct:
        """What the fit depends on, recorded with it."""

    def fit(self, learner: OnlineLearner, history: Batch, told: Callable[[float], None]) -> None:
        """`learner` is a private one, begun anew and with nothing learned; where the parameters say `warm`, a copy as of the cut.

        It is attached, `history`'s rows are rows of its tables, and it may be changed. `history` holds all events that
        there are to learn from, in order, those of the other kind among them. `told` hears the share done, from 0 to 1.
        Raises StreamerError for a learner that this trainer cannot fit.
        """

    def export(self) -> Mapping[str, Array]:
        """The refitted tables, (rows, width) each, by the names that `learner.tables()` has them under. Those left out stay."""


class Epoch(NamedTuple):
    """One pass over the training part, or one sweep."""

    number: int  # from 1
    of: int  # at most so many
    train_loss: float  # what was minimised, as the model says; a mean over the pass
    validation_loss: float  # what the model is stopped by: the mean squared error where it rates


class Factors(NamedTuple):
    """What a model that factorises learned: a rating is `mean + user_biases + item_biases + users . items`, or grows with it."""

    users: F32  # (users, dim)
    items: F32  # (items, dim)
    user_biases: F32  # (users,)
    item_biases: F32  # (items,)
    mean: float


@runtime_checkable
class Informed(Protocol):
    """A trainer that uses what is known of users and items beside the events."""

    def inform(self, side: SideInformation) -> None:
        """What is known of the history's users and items, by row. Called once, before `fit`."""


@runtime_checkable
class OfflineModel(Protocol):
    """A model of the field, fitted on a whole history. Made by `Class(name, parameters, seed=)`; fitted once.

    One of kind "ratings" has `predict`, one of kind "clicks" is `NextItem`. Deterministic by (data, parameters, seed) on one thread.
    """

    name: str  # its name in the registry
    kind: Kind  # what it learns from

    @property
    def parameters(self) -> msgspec.Struct:
        """What the fit depends on."""

    def fit(self, train: Dataset, validation: Dataset, told: Callable[[Epoch], None]) -> None:
        """Learn from `train`, with whatever is chosen (epochs, penalties) chosen on `validation`; the two share side information.

        What `told` hears last need not be the epoch that was kept: it is the one with the lowest validation loss.
        """


@runtime_checkable
class Rater(Protocol):
    """An offline model that predicts ratings."""

    def predict(self, users: I32, items: I32) -> F32:
        """(n,) ratings for pairs of numbers, finite, for users and items that were never trained on too; not clipped."""


@runtime_checkable
class NextItem(Protocol):
    """An offline model that ranks what is clicked next."""

    def scores(self, users: I32, histories: Sequence[I32]) -> F32:
        """(n, items): how likely each item is next after these clicks (item numbers, oldest first, none empty); NaN where it cannot tell."""


@runtime_checkable
class Factorised(Protocol):
    """An offline model whose predictions are products of a user's and an item's vector."""

    def export(self) -> Factors:
        """The vectors, as plain arrays; rows that were never trained on are 0, or what their content says where a model knows it."""


@runtime_checkable
class Probed(Protocol):
    """A learner that can say, while it learns, how it would have scored other items at that moment."""

    def learn_probed(self, batch: Batch, probes: I32) -> Opinion:
        """`learn`, and the scores of `probes` (n, m) item rows for each event's user just before the event, (n, m).

        A row of probes that begins with -1 asks nothing, and what stands in its scores means nothing; another -1 gets NaN.
        """


@runtime_checkable
class Composed(Protocol):
    """A learner made of others, its experts, which learn every batch before it does, each under its own name.

    Its `learn` finds what they said in `batch.opinions`, under the names that `experts` gives, and its probes in `batch.probes`.
    """

    @property
    def experts(self) -> Sequence[str]:
        """Names of learners; that of a kind stands for the learner that the settings make its champion."""

    def compose(self, experts: Mapping[str, OnlineLearner]) -> None:
        """The experts by those names, for `predict` and `score`. Called once, before the first `learn`."""

    def probes(self, batch: Batch) -> I32:
        """(n, m): items whose scores at each event it wants from the experts that are Probed; (n, 0) for none. Changes nothing."""


@runtime_checkable
class Guarded(Protocol):
    """A learner that refuses steps from or to numbers that are not finite, and counts them as part of its state."""

    @property
    def refused(self) -> int:
        """Steps refused so far; from any thread."""


@runtime_checkable
class Watched(Protocol):
    """A learner whose rows can be looked at as a whole, from any thread while it learns: how long they are, how sure it is. Changes nothing."""

    def norms(self, side: Side, rows: I32) -> F64:
        """Lengths of what was learned of `rows` (n,), (n,); (0,) for a side that has no such rows."""

    def widths(self, side: Side, rows: I32) -> Mapping[str, F64]:
        """Standard deviations of the beliefs about `rows` (n,), (n,) each, by what they are about; 1 is that of the ratings."""


@runtime_checkable
class ItemVectors(Protocol):
    """A learner whose items lie in a space where near means alike."""

    def vectors(self) -> Array:
        """(rows, dim), a view of the live rows."""


@runtime_checkable
class Rebuilt(Protocol):
    """A learner that keeps something beside its tables which follows exactly from them: an index, running sums."""

    def restored(self) -> None:
        """Every table was loaded: make it anew, now or when it is next needed. Called once, before the first `learn`."""


class Alike(Protocol):
    """Which items are of the very same categories, live."""

    sets: Table  # (item rows, 1) int32: the item's set, -1 for none; a number means nothing after a restart
    eldest: I32  # (sets,) the item row that stands for each set; replaced when it grows


@runtime_checkable
class Categorised(Protocol):
    """A learner that uses what the catalogue says its items are."""

    def attach(self, categories: Table, kin: Alike) -> None:
        """`categories`: (item rows, words) uint64, bit n of word m of an item set where it is of category 64 m + n.

        Called once, before the first `learn`. Others keep it, live: read it anew for every batch and never write. It may
        have fewer rows than the item tables; an item without a row is of no category.
        """


@runtime_checkable
class Conditioned(Protocol):
    """A learner whose user row is a belief: it can be told things without learning them, and says how sure it is. Changes nothing."""

    def belief(self, user: UserView) -> Array:
        """The user's row with what the profile says: begun where their groups do, and told their preferences."""

    def condition(self, row: Array, preferences: Mapping[int, float], items: I32, values: F32) -> Array:
        """The row of a user who also said this: ratings by number of category, and `values` (n,) for item rows."""

    def score_row(self, row: Array, items: I32) -> F32:
        """`score` for a user's row, (len(items),), whoever's it is."""

    def uncertainty(self, row: Array, items: I32) -> F32:
        """Standard deviations of what `score_row` answers, (len(items),)."""


@runtime_checkable
class Asking(Protocol):
    """A learner that knows beforehand how much surer an answer would make it of a user. Changes nothing."""

    def ratings_of(self, items: I32) -> F64:
        """(len(items),) how many ratings of each item it has learned."""

    def questions(self, row: Array, items: I32, shares: F64, targets: I32, limit: int) -> tuple[I32, F64]:
        """At most `limit` of `items` to ask the user of a `belief` about, the first one first; and how sure it will be.

        What counts is the mean variance (the square of `uncertainty`, but for the mood of a session) over the items `targets`:
        the next question is the one that is expected to lower it the most, times `shares` (len(items),), the share of people
        who can answer; answers to those before are taken for granted. One that would not lower it is not asked.
        Second: that mean, (1 + questions,), in squared ratings: now, and as expected after each answer.
        """


class Belief(NamedTuple):
    """What a user's row says, in ratings: a mean and the standard deviation of the belief each."""

    ratings: int  # that it was learned from
    bias: tuple[float, float]  # how much higher than others the user rates
    categories: F64  # (numbers, 2) how much higher than others an item that is nothing but of the category


@runtime_checkable
class Described(Protocol):
    """A learner whose user rows can be put into words. Changes nothing."""

    def describe(self, row: Array) -> Belief:
        """What the row of a user says."""

    def describes(self, row: Array) -> bool:
        """Whether the row was learned from any rating."""

    def place(self, row: Array) -> F64:
        """A point (n,) such that alike users lie in one direction from 0, who is like all others; 1 is a deviation between users."""


class Row(NamedTuple):
    """One row to commit; a value of None deletes."""

    table: str
    key: bytes
    value: bytes | None


class Rows(NamedTuple):
    """Many rows of one table to put, key by value: as so many `Row`s, for a tenth of their CPU."""

    table: str
    keys: Sequence[bytes]
    values: Sequence[bytes]  # one a key


class StateStore(Protocol):
    """Rows by table and key, committed together with the offsets they cover."""

    def read(self, table: str, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """The committed values, None where there is none."""

    def scan(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """All rows of a table, ascending by key; raises BadState at a damaged one, never ends early in silence."""

    def commit(self, rows: Iterable[Row | Rows], offsets: Offsets) -> None:
        """One atomic batch; raises StoreUnavailable when nothing was committed."""


@runtime_checkable
class Persistent(Protocol):
    """A part of the engine with state outside the learners' tables: what it changed goes into the one write batch."""

    def restore(self, store: StateStore) -> None:
        """Take up what is committed; called once, before the first event. Raises BadState when it cannot be read."""

    def changed(self) -> Sequence[Row | Rows]:
        """The rows that changed since the last `committed`; calling it again gives them again (a commit may fail)."""

    def committed(self) -> None:
        """What `changed` gave last is on disk."""
