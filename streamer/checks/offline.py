"""Checks of offline models, one function for each promise. They run over every line of `streamer.models.offline.MODELS`.

For a model of your own, from outside this package:

    @pytest.mark.parametrize("check", OFFLINE_CHECKS)
    def test_mine(check):
        check(lambda seed: MyModel("mine", MyModel.Parameters(), seed=seed))
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np

from streamer.checks.learners import require
from streamer.core.arrays import F32, I32, Array
from streamer.core.batch import CLICK, RATING
from streamer.core.dataset import Dataset, SideInformation
from streamer.core.protocols import Epoch, Factorised, NextItem, OfflineModel, Rater
from streamer.study.splits import leave_last_out, split

MakeModel: TypeAlias = Callable[[int], OfflineModel]
USERS, ITEMS, EVENTS = 40, 30, 900
GENRES = ("drama", "comedy", "horror")
COLUMNS = ("kinds", "users", "items", "values", "clicks", "times_ms")


def world(events: int = EVENTS, *, seed: int = 1) -> Dataset:
    """A small simulated history: tastes by genre, ratings from .5 to 5 in halves, where 4 and more count as clicks, and some clicks.

    The last user and the last item have no events.
    """
    drawn = np.random.default_rng(seed)
    genre = np.arange(ITEMS) % len(GENRES)
    taste = drawn.normal(0.0, 0.8, (USERS, len(GENRES)))
    users = drawn.integers(0, USERS - 1, events).astype(np.int32)
    items = (drawn.random(events) ** 2 * (ITEMS - 1)).astype(np.int32)
    liking = 3.2 + taste[users, genre[items]] + 0.4 * np.sin(items) + drawn.normal(0.0, 0.5, events)
    kinds = np.where(drawn.random(events) < 0.2, CLICK, RATING).astype(np.uint8)
    values = np.where(kinds == RATING, (np.round(2 * liking) / 2).clip(0.5, 5.0), 1.0).astype(np.float32)
    clicks = np.where(kinds == RATING, values >= 4.0, 1.0).astype(np.float32)
    side = SideInformation(
        user_ids=[f"u{n}" for n in range(USERS)], item_ids=[f"i{n}" for n in range(ITEMS)],
        titles=[f"Item {n}" for n in range(ITEMS)], category_names=list(GENRES),
        categories=np.eye(len(GENRES), dtype=np.float32)[genre],
        years=np.where(np.arange(ITEMS) % 5 == 4, np.nan, 1980.0 + np.arange(ITEMS)).astype(np.float32),
        group_names=['["job","writer"]', '["job","other"]'],
        groups=np.eye(2, dtype=np.float32)[np.arange(USERS) % 2],
    )  # fmt: skip
    return Dataset(side, kinds, users, items, values, clicks, 1_000_000 + 60_000 * np.arange(events, dtype=np.int64))


def _parts(made: OfflineModel, data: Dataset) -> tuple[Dataset, Dataset, Dataset]:
    return split("random", data.ratings(), 0.2, 0.1, 1) if made.kind == "ratings" else leave_last_out(data)


class _Fitted(NamedTuple):
    model: OfflineModel
    train: Dataset
    test: Dataset
    epochs: list[Epoch]  # as they were reported
    changed: list[str]  # columns of the data that the fit changed


def _fit(make: MakeModel) -> _Fitted:
    """A model fitted on `world`. `make` is called with seed 1."""
    made, epochs = make(1), list[Epoch]()
    train, validation, test = _parts(made, world())
    kept: dict[str, Array] = {name: getattr(train, name).copy() for name in COLUMNS}
    made.fit(train, validation, epochs.append)
    return _Fitted(made, train, test, epochs, [n for n in COLUMNS if not np.array_equal(getattr(train, n), kept[n])])


_whole_fit = lru_cache(maxsize=1)(_fit)  # the checks of a model share a fit, which is what takes the time


def _answers(made: OfflineModel, test: Dataset) -> F32:
    if isinstance(made, Rater):
        return made.predict(test.users, test.items)
    require(isinstance(made, NextItem), f"{made.name} neither predicts ratings nor ranks next items")
    assert isinstance(made, NextItem)
    return made.scores(test.users, [_history(n) for n in range(len(test))])


def _history(n: int) -> I32:
    return np.arange(n % 3, n % 3 + 2, dtype=np.int32)


def implements_the_protocol(make: MakeModel) -> None:
    """It is an OfflineModel, of kind ratings with `predict` or of kind clicks with `scores`, with results of the right shape and type."""
    require(isinstance(make(1), OfflineModel), f"{make(1)} lacks a part of streamer.core.protocols.OfflineModel")
    made, _, test, *_ = _whole_fit(make)
    answers = _answers(made, test)
    wanted = (len(test),) if made.kind == "ratings" else (len(test), ITEMS)
    require(answers.shape == wanted, f"results have shape {answers.shape}: wanted {wanted}")
    require(answers.dtype == np.float32, f"results are {answers.dtype}: wanted float32")


def unseen_rows_get_predictions(make: MakeModel) -> None:
    """A user and an item without ratings get a finite prediction near the mean; a user without events gets a ranking."""
    made, train, *_ = _whole_fit(make)
    if isinstance(made, Rater):
        items = np.array([ITEMS - 1, 0, ITEMS - 1], dtype=np.int32)
        users = np.array([USERS - 1, USERS - 1, 0], dtype=np.int32)
        answers = made.predict(users, items)
        mean = float(train.values.mean())
        require(
            bool(np.isfinite(answers).all()),
            f"predictions of users {users} for items {items} are not finite: {answers}",
        )
        require(
            abs(float(answers[0]) - mean) < 1.0,
            f"the prediction for an unseen user and item is {answers[0]:.2f}: wanted about {mean:.2f}",
        )
    if isinstance(made, NextItem):
        answers = made.scores(np.array([USERS - 1], dtype=np.int32), [_history(0)])
        require(bool(np.isfinite(answers).any()), "a user without training events gets no ranking")


def fitting_is_deterministic(make: MakeModel) -> None:
    """The same data, parameters and seed give the same bytes."""
    answers = [_answers(one.model, one.test).tobytes() for one in (_whole_fit(make), _fit(make))]
    require(answers[0] == answers[1], "two fits differ: something random does not come from the seed")


def learns_more_than_noise(make: MakeModel) -> None:
    """Its error on the test part is below that of the mean alone."""
    made, train, test, *_ = _whole_fit(make)
    if isinstance(made, Rater):
        answers = made.predict(test.users, test.items)
        error, plain = np.mean(np.square(answers - test.values)), np.mean(np.square(train.values.mean() - test.values))
        require(bool(error < plain), f"its squared error is {error:.3f}, that of the mean alone {plain:.3f}")


def epochs_are_reported(make: MakeModel) -> None:
    """At least one epoch is reported, and epochs are numbered from 1 without gaps."""
    epochs = _whole_fit(make).epochs
    require(
        [epoch.number for epoch in epochs] == list(range(1, len(epochs) + 1)) and bool(epochs),
        f"epochs reported are {epochs}: wanted 1, 2, 3 and so on",
    )


def data_is_not_changed(make: MakeModel) -> None:
    """`fit` does not change its arguments."""
    changed = _whole_fit(make).changed
    require(not changed, f"fit changed its data: {', '.join(changed)}")


def factors_rank_as_predictions_do(make: MakeModel) -> None:
    """The factors of `export` order items for a user as `predict` does."""
    if not isinstance(make(1), Factorised):
        return
    made = _whole_fit(make).model
    if not isinstance(made, Factorised) or not isinstance(made, Rater):
        return
    factors = made.export()
    items = np.arange(ITEMS, dtype=np.int32)
    for user in range(0, USERS, 7):
        answers = made.predict(np.full(ITEMS, user, dtype=np.int32), items)
        linear = factors.mean + factors.user_biases[user] + factors.item_biases + factors.items @ factors.users[user]
        order = np.argsort(linear, kind="stable")
        require(
            bool((np.diff(answers[order]) >= -1e-4).all()),
            f"user {user}: the factors do not order items as predict does",
        )


OFFLINE_CHECKS: Sequence[Callable[[MakeModel], None]] = (
    implements_the_protocol,
    unseen_rows_get_predictions,
    fitting_is_deterministic,
    learns_more_than_noise,
    epochs_are_reported,
    data_is_not_changed,
    factors_rank_as_predictions_do,
)

# Former names, for plug-ins that import them.
fits_the_seam = implements_the_protocol
unknown_rows_are_answered = unseen_rows_get_predictions
epochs_are_told = epochs_are_reported
the_data_stays_as_it_is = data_is_not_changed
factors_say_what_is_predicted = factors_rank_as_predictions_do
