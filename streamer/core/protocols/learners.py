"""Online learners, and their optional abilities, which the engine, the recommender and the metrics look for."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import msgspec

from streamer.core.arrays import F32, F64, I32, Array
from streamer.core.batch import Batch, Opinion, UserView

if TYPE_CHECKING:  # importing tables would import Numba, for their kernel
    from streamer.core.tables import Side, Table

Kind: TypeAlias = Literal["ratings", "clicks"]


@runtime_checkable
class OnlineLearner(Protocol):
    """Predicts each event, then learns from it, a whole batch in one kernel call. All rows exist before `learn` is called."""

    name: str  # its name in the registry, which tables, metrics and the digest use too
    kind: Kind  # what it learns from

    @property
    def parameters(self) -> msgspec.Struct:
        """The parameters on which its state depends; they are recorded with the state."""

    def tables(self) -> "Mapping[str, Table]":
        """See Stateful."""

    def learn(self, batch: Batch) -> F32:
        """Learn the events in order, one step for each, and return the predictions (n,).

        Event k is predicted from events 0..k-1 only; NaN for events of the other kind, and for those that are neither RATING nor
        CLICK. Of REPLACED and RETRACTED ratings it takes back what `batch.taken_back` says, as far as it can; a learner that
        only looks at RATING and `clicks` keeps what it was told first. Marks every row that it changes in its table's `touched`.
        """

    def predict(self, batch: Batch) -> F32:
        """Predictions (n,) for serving; changes nothing, not even for rows never seen (-1)."""

    def score(self, user: UserView, items: I32) -> F32:
        """Scores (len(items),), higher is better, NaN where it cannot score; an item of -1 was never seen. Changes nothing."""


@runtime_checkable
class Probed(Protocol):
    """A learner that can also score other items at each event while it learns."""

    def learn_probed(self, batch: Batch, probes: I32) -> Opinion:
        """Like `learn`, and also score `probes` (n, m), item rows, for each event's user just before the event.

        Where a row of probes begins with -1, its scores are not computed and mean nothing; any other -1 is scored NaN.
        """


@runtime_checkable
class Proposing(Probed, Protocol):
    """A Probed learner that knows at once which items it scores highest.

    Its `learn_probed` writes these to the places of PROPOSE in `probes`, without the clicked item (`probes[k, 0]`) and those that
    the user has seen, best first and then -1, and scores them too. It learns before the other experts, which get them as probes.
    """

    @property
    def proposing(self) -> bool:
        """True."""


@runtime_checkable
class Composed(Protocol):
    """A learner that combines others, its experts, which learn every batch before it does.

    Its `learn` finds their predictions in `batch.opinions`, by the names in `experts`, and its probes in `batch.probes`.
    """

    @property
    def experts(self) -> Sequence[str]:
        """Names of learners; the name of a kind stands for the champion of that kind in the settings."""

    def compose(self, experts: Mapping[str, OnlineLearner]) -> None:
        """Take the experts by those names, to be used in `predict` and `score`. Called once, before the first `learn`."""

    def probes(self, batch: Batch) -> I32:
        """The item rows (n, m) that Probed experts should score at each event; (n, 0) for none. Changes nothing.

        PROPOSE stands for an item that the first Proposing expert chooses; `learn` finds it in `batch.probes`, -1 where there is none.
        The places of PROPOSE in a row lie side by side.
        """


@runtime_checkable
class Guarded(Protocol):
    """A learner that refuses steps whose input or result is not finite. The count of refused steps is part of its state."""

    @property
    def refused(self) -> int:
        """How many steps were refused so far. May be called from any thread."""


@runtime_checkable
class Watched(Protocol):
    """A learner that reports the norms and uncertainties of its rows. May be called from any thread while it learns; changes nothing."""

    def norms(self, side: "Side", rows: I32) -> F64:
        """Norms (n,) of the learned vectors of `rows` (n,); (0,) for a side without vectors."""

    def widths(self, side: "Side", rows: I32) -> Mapping[str, F64]:
        """Standard deviations (n,) of the posteriors of `rows` (n,), by parameter; 1 is the standard deviation of ratings."""


@runtime_checkable
class ItemVectors(Protocol):
    """A learner with item vectors that are close for similar items."""

    def vectors(self) -> Array:
        """The vectors (rows, dim), a view of the live rows."""


@runtime_checkable
class Rescaled(Protocol):
    """A learner of ratings that can follow a change of their scale. One that is not learns the new scale from its ratings."""

    def rescale(self, factor: float, shift: float) -> None:
        """From now on a rating that was y is factor y + shift, factor > 0: predictions must change by just that."""


@runtime_checkable
class Rebuilt(Protocol):
    """A learner that keeps something derived from its tables: an index, running sums."""

    def restored(self) -> None:
        """All tables were loaded: rebuild what is derived, now or when it is next needed. Called once, before the first `learn`."""


class ItemSets(Protocol):
    """Sets of items that have exactly the same categories, live."""

    sets: "Table"  # (item rows, 1) int32: the item's set, -1 for none; the numbers differ after a restart
    representatives: I32  # (sets,) one item row of each set; the array is replaced when it grows


@runtime_checkable
class Categorised(Protocol):
    """A learner that uses the categories of items."""

    def attach(self, categories: "Table", category_sets: ItemSets) -> None:
        """`categories`: (item rows, words) uint64; bit n of word m of an item is set if it has category 64 m + n.

        Called once, before the first `learn`. The table is live: read it anew for every batch, and never write to it. It may
        have fewer rows than the item tables; an item without a row has no category.
        """


@runtime_checkable
class Conditioned(Protocol):
    """A learner whose user row is a posterior that can be conditioned on ratings without learning them. Changes nothing."""

    def belief(self, user: UserView) -> Array:
        """The user's row, started from the user's groups and conditioned on the preferences in the profile."""

    def condition(self, row: Array, preferences: Mapping[int, float], items: I32, values: F32) -> Array:
        """`row` conditioned on ratings by number of category, and on the ratings `values` (n,) of the item rows `items`."""

    def score_row(self, row: Array, items: I32) -> F32:
        """`score` for any user's row, (len(items),)."""

    def uncertainty(self, row: Array, items: I32) -> F32:
        """Standard deviations of the scores of `score_row`, (len(items),)."""


class Stated(NamedTuple):
    """How well the intervals fitted that a learner stated for ratings, each just before it learned the rating."""

    ratings: int
    coverage_80: float  # share of ratings in the interval that was to hold 80% of them
    log_score_gain: float  # nats a rating: log likelihood above that of the errors' running variance


@runtime_checkable
class Stating(Protocol):
    """A learner that states how far a rating may be from its prediction. Changes nothing."""

    def half_widths(self, user: UserView, items: I32) -> F32:
        """Half the widths (len(items),) of the intervals around `score` that hold 80% of ratings."""

    @property
    def stated(self) -> Stated:
        """How well the intervals have fitted so far. May be called from any thread."""


@runtime_checkable
class Asking(Protocol):
    """A learner that knows how much a rating of an item would reduce its uncertainty about a user. Changes nothing."""

    def ratings_of(self, items: I32) -> F64:
        """(len(items),) how many ratings of each item it has learned."""

    def questions(self, row: Array, items: I32, shares: F64, targets: I32, limit: int) -> tuple[I32, F64]:
        """At most `limit` of `items`, in the order in which to ask a user whose `belief` is `row`; and the uncertainty that remains.

        Questions are chosen one after the other to lower the mean variance (the square of `uncertainty`, without the mood of a
        session) over the items `targets`: the next one lowers it the most in expectation, times its `shares` (len(items),), the
        share of people who can answer; all earlier ones count as answered. A question that would not lower it is not asked.
        The second result is this mean variance (1 + questions,), in squared ratings: now, and as expected after each answer.
        """


class Belief(NamedTuple):
    """What a learner believes about a user, in ratings, as means and standard deviations."""

    ratings: int  # how many it was learned from
    bias: tuple[float, float]  # how much higher the user rates than others
    categories: F64  # (numbers, 2) how much higher the user rates an item that has only this category than others do


@runtime_checkable
class Described(Protocol):
    """A learner that can describe what its user rows mean. Changes nothing."""

    def describe(self, row: Array) -> Belief:
        """The learner's belief about the user of this row."""

    def describes(self, row: Array) -> bool:
        """Whether the row was learned from any rating."""

    def place(self, row: Array) -> F64:
        """A point (n,) for the user: 0 is the average user, similar users lie in the same direction, 1 is a standard deviation."""
