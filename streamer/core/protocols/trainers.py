"""What fits on a whole history: trainers of learners, and the offline models of the field."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec

from streamer.core.arrays import F32, I32, Array
from streamer.core.batch import Batch
from streamer.core.dataset import Dataset, SideInformation
from streamer.core.protocols.learners import Kind, OnlineLearner


@runtime_checkable
class Trainer(Protocol):
    """Fits a learner's tables anew on a whole history. Made by `Class(name, parameters)`; one fits one learner, once.

    Deterministic: the same learner and history give the same bytes. One thread.
    """

    name: str  # its name in the registry

    @property
    def parameters(self) -> msgspec.Struct:
        """What the fit depends on, recorded with it."""

    def fit(self, learner: OnlineLearner, history: Batch, on_progress: Callable[[float], None]) -> None:
        """`learner` is a private one, begun anew and with nothing learned; where the parameters say `warm`, a copy as of the cut.

        It is attached, `history`'s rows are rows of its tables, and it may be changed. `history` holds all events that
        there are to learn from, in order, those of the other kind among them. `on_progress` hears the share done, from 0 to 1.
        Raises StreamerError for a learner that this trainer cannot fit.
        """

    def export(self) -> Mapping[str, Array]:
        """The refitted tables, (rows, width) each, by the names that `learner.tables()` has them under. Those left out stay."""


@runtime_checkable
class Informed(Protocol):
    """A trainer that uses what is known of users and items beside the events."""

    def inform(self, side: SideInformation) -> None:
        """What is known of the history's users and items, by row. Called once, before `fit`."""


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
class OfflineModel(Protocol):
    """A model of the field, fitted on a whole history. Made by `Class(name, parameters, seed=)`; fitted once.

    One of kind "ratings" has `predict`, one of kind "clicks" is `NextItem`. Deterministic by (data, parameters, seed) on one thread.
    """

    name: str  # its name in the registry
    kind: Kind  # what it learns from

    @property
    def parameters(self) -> msgspec.Struct:
        """What the fit depends on."""

    def fit(self, train: Dataset, validation: Dataset, on_progress: Callable[[Epoch], None]) -> None:
        """Learn from `train`, with whatever is chosen (epochs, penalties) chosen on `validation`; the two share side information.

        What `on_progress` hears last need not be the epoch that was kept: it is the one with the lowest validation loss.
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
