"""Protocols of what is fitted on a whole history: trainers of learners, and offline models."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec

from streamer.core.arrays import F32, I32, Array
from streamer.core.batch import Batch
from streamer.core.dataset import Dataset, SideInformation
from streamer.core.protocols.learners import Kind, OnlineLearner


@runtime_checkable
class Trainer(Protocol):
    """Fits a learner's tables anew on a whole history. Made by `Class(name, parameters)`; each fits one learner, once.

    Deterministic: the same learner and history give the same bytes. Called from one thread.
    """

    name: str  # its name in the registry

    @property
    def parameters(self) -> msgspec.Struct:
        """The parameters on which the fit depends; they are recorded with it."""

    def fit(self, learner: OnlineLearner, history: Batch, on_progress: Callable[[float], None]) -> None:
        """Fit on `history`: all events to learn from, in order, those of the other kind included.

        `learner` belongs to the trainer, which may change it. It has learned nothing or, if the parameters say `warm`, is a
        copy as of the cut. It is already attached, and the rows of `history` are rows of its tables. `on_progress` is called
        with the share done, from 0 to 1. Raises StreamerError for a learner that this trainer cannot fit.
        """

    def export(self) -> Mapping[str, Array]:
        """The refitted tables, (rows, width) each, named as in `learner.tables()`. Tables left out stay as they are."""


@runtime_checkable
class Informed(Protocol):
    """A trainer that uses side information on users and items."""

    def inform(self, side: SideInformation) -> None:
        """Take the side information on the history's users and items, by row. Called once, before `fit`."""


class Epoch(NamedTuple):
    """The result of one pass over the training part (one sweep over users and items, for alternating least squares)."""

    number: int  # from 1
    of: int  # the largest number of epochs
    train_loss: float  # the loss that is minimised, a mean over the pass
    validation_loss: float  # the loss for early stopping: the mean squared error for ratings


class Factors(NamedTuple):
    """A factorisation: a rating is `mean + user_biases + item_biases + users . items`, or increases with it."""

    users: F32  # (users, dim)
    items: F32  # (items, dim)
    user_biases: F32  # (users,)
    item_biases: F32  # (items,)
    mean: float


@runtime_checkable
class OfflineModel(Protocol):
    """An offline model, fitted once on a whole history. Made by `Class(name, parameters, seed=)`.

    A model of kind "ratings" is a `Rater`, one of kind "clicks" is a `NextItem`. On one thread, the same data, parameters and
    seed give the same model.
    """

    name: str  # its name in the registry
    kind: Kind  # what it learns from

    @property
    def parameters(self) -> msgspec.Struct:
        """The parameters on which the fit depends."""

    def fit(self, train: Dataset, validation: Dataset, on_progress: Callable[[Epoch], None]) -> None:
        """Learn from `train`, and choose epochs and penalties on `validation`; the two share side information.

        `on_progress` is called after each epoch. The epoch that is kept has the lowest validation loss; it need not be the last.
        """


@runtime_checkable
class Rater(Protocol):
    """An offline model that predicts ratings."""

    def predict(self, users: I32, items: I32) -> F32:
        """Ratings (n,) for pairs of numbers: finite also for users and items that were never trained on, and not clipped."""


@runtime_checkable
class NextItem(Protocol):
    """An offline model that ranks the items that may be clicked next."""

    def scores(self, users: I32, histories: Sequence[I32]) -> F32:
        """Scores (n, items) of each item after these clicks (item numbers, oldest first, none empty); NaN where it cannot score."""


@runtime_checkable
class Factorised(Protocol):
    """An offline model that predicts by the product of a user vector and an item vector."""

    def export(self) -> Factors:
        """The vectors as plain arrays. Rows that were never trained on are 0, or predicted from content if the model can."""
