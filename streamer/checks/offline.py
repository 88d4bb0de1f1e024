"""What every offline model keeps, one function a promise. They run over every line of `streamer.models.offline.MODELS`.

For a model of your own, from outside this package:

    @pytest.mark.parametrize("check", OFFLINE_CHECKS)
    def test_mine(check):
        check(lambda seed: MyModel("mine", MyModel.Parameters(), seed=seed))
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

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


def world(events: int = EVENTS, *, seed: int = 1) -> Dataset:
    """A small history: tastes that follow genres, ratings from .5 to 5 in halves, 4 and more likes, some clicks.

    The last user and the last item have no event.
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


def _unheard(epoch: Epoch) -> None:
    """Nobody listens."""


def _parts(made: OfflineModel, data: Dataset) -> tuple[Dataset, Dataset, Dataset]:
    return split("random", data.ratings(), 0.2, 0.1, 1) if made.kind == "ratings" else leave_last_out(data)


def _said(made: OfflineModel, test: Dataset) -> F32:
    if isinstance(made, Rater):
        return made.predict(test.users, test.items)
    require(isinstance(made, NextItem), f"{made.name} neither predicts ratings nor ranks next items")
    assert isinstance(made, NextItem)
    return made.scores(test.users, [_history(n) for n in range(len(test))])


def _history(n: int) -> I32:
    return np.arange(n % 3, n % 3 + 2, dtype=np.int32)


def fits_the_seam(make: MakeModel) -> None:
    """It is an OfflineModel, of kind ratings with `predict` or of kind clicks with `scores`; answers have the shape and type promised."""
    made, data = make(1), world()
    require(isinstance(made, OfflineModel), f"{made} lacks a part of streamer.core.protocols.OfflineModel")
    train, validation, test = _parts(made, data)
    made.fit(train, validation, _unheard)
    said = _said(made, test)
    wanted = (len(test),) if made.kind == "ratings" else (len(test), data.item_count)
    require(said.shape == wanted, f"answers have shape {said.shape}: wanted {wanted}")
    require(said.dtype == np.float32, f"answers are of {said.dtype}: wanted float32")


def unknown_rows_are_answered(make: MakeModel) -> None:
    """A user and an item without a rating get a finite rating near the mean; a user without events gets a ranking."""
    made, data = make(1), world()
    train, validation, _ = _parts(made, data)
    made.fit(train, validation, _unheard)
    if isinstance(made, Rater):
        nobody, nothing = np.full(3, USERS - 1, dtype=np.int32), np.array([ITEMS - 1, 0, ITEMS - 1], dtype=np.int32)
        users = np.array([USERS - 1, USERS - 1, 0], dtype=np.int32)
        said = made.predict(users, nothing)
        mean = float(train.values.mean())
        require(bool(np.isfinite(said).all()), f"predictions for {nobody[:1]} and unknown items are not finite: {said}")
        require(
            abs(float(said[0]) - mean) < 1.0, f"nobody is said to give nothing {said[0]:.2f}: wanted about {mean:.2f}"
        )
    if isinstance(made, NextItem):
        said = made.scores(np.array([USERS - 1], dtype=np.int32), [_history(0)])
        require(bool(np.isfinite(said).any()), "a user who was never trained on gets no ranking")


def fitting_is_deterministic(make: MakeModel) -> None:
    """The same data, parameters and seed give the same bytes."""
    said = []
    for _ in range(2):
        made, data = make(1), world()
        train, validation, test = _parts(made, data)
        made.fit(train, validation, _unheard)
        said.append(_said(made, test).tobytes())
    require(said[0] == said[1], "two fits differ: something random is not drawn from the seed")


def learns_more_than_noise(make: MakeModel) -> None:
    """Its validation error is below that of the mean alone; what is next is found more often than by chance."""
    made, data = make(1), world()
    train, validation, test = _parts(made, data)
    made.fit(train, validation, _unheard)
    if isinstance(made, Rater):
        said = made.predict(test.users, test.items)
        error, plain = np.mean(np.square(said - test.values)), np.mean(np.square(train.values.mean() - test.values))
        require(bool(error < plain), f"its squared error is {error:.3f}, the mean alone makes {plain:.3f}")


def epochs_are_told(make: MakeModel) -> None:
    """At least one epoch is told; numbers count from 1, and nothing is chosen that was not told."""
    made, data, on_progress = make(1), world(), list[Epoch]()
    train, validation, _ = _parts(made, data)
    made.fit(train, validation, on_progress.append)
    require(
        [epoch.number for epoch in on_progress] == list(range(1, len(on_progress) + 1)) and bool(on_progress),
        f"epochs told: {on_progress}",
    )


def the_data_stays_as_it_is(make: MakeModel) -> None:
    """`fit` changes nothing of what it is given."""
    made, data = make(1), world()
    train, validation, _ = _parts(made, data)
    names = ("kinds", "users", "items", "values", "clicks", "times_ms")
    kept: list[Array] = [getattr(train, name).copy() for name in names]
    made.fit(train, validation, _unheard)
    require(
        all(np.array_equal(getattr(train, n), was) for n, was in zip(names, kept, strict=True)), "fit changed its data"
    )


def factors_say_what_is_predicted(make: MakeModel) -> None:
    """What `export` gives orders items for a user as `predict` or `scores` does."""
    made, data = make(1), world()
    if not isinstance(made, Factorised) or not isinstance(made, Rater):
        return
    train, validation, _ = _parts(made, data)
    made.fit(train, validation, _unheard)
    factors = made.export()
    items = np.arange(ITEMS, dtype=np.int32)
    for user in range(0, USERS, 7):
        said = made.predict(np.full(ITEMS, user, dtype=np.int32), items)
        linear = factors.mean + factors.user_biases[user] + factors.item_biases + factors.items @ factors.users[user]
        order = np.argsort(linear, kind="stable")
        require(
            bool((np.diff(said[order]) >= -1e-4).all()),
            f"user {user}: the factors order items otherwise than predict does",
        )


OFFLINE_CHECKS: Sequence[Callable[[MakeModel], None]] = (
    fits_the_seam,
    unknown_rows_are_answered,
    fitting_is_deterministic,
    learns_more_than_noise,
    epochs_are_told,
    the_data_stays_as_it_is,
    factors_say_what_is_predicted,
)
