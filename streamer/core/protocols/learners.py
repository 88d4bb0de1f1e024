"""A learner, and what else one may offer: each a few methods that the engine, the recommender or the metrics look for."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import msgspec

from streamer.core.arrays import F32, F64, I32, Array
from streamer.core.batch import Batch, Opinion, UserView

if TYPE_CHECKING:  # their kernel would bring Numba in
    from streamer.core.tables import Side, Table

Kind: TypeAlias = Literal["ratings", "clicks"]


@runtime_checkable
class OnlineLearner(Protocol):
    """Predicts, then learns, event by event, in one kernel call. Rows exist before `learn` is called."""

    name: str  # its name in the registry: that of its tables, metrics and digest
    kind: Kind  # what it learns from

    @property
    def parameters(self) -> msgspec.Struct:
        """What its state depends on, recorded with it. A property, so that a learner may say its own class."""

    def tables(self) -> "Mapping[str, Table]":
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

    def norms(self, side: "Side", rows: I32) -> F64:
        """Lengths of what was learned of `rows` (n,), (n,); (0,) for a side that has no such rows."""

    def widths(self, side: "Side", rows: I32) -> Mapping[str, F64]:
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


class ItemSets(Protocol):
    """Which items are of the very same categories, live."""

    sets: "Table"  # (item rows, 1) int32: the item's set, -1 for none; a number means nothing after a restart
    representatives: I32  # (sets,) the item row that stands for each set; replaced when it grows


@runtime_checkable
class Categorised(Protocol):
    """A learner that uses what the catalogue says its items are."""

    def attach(self, categories: "Table", category_sets: ItemSets) -> None:
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
