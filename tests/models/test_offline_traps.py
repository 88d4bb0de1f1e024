"""Well-known mistakes: each is shown to do harm, and each model of ratings to avoid it."""

from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import msgspec
import numpy as np
import pytest
import torch

from streamer.checks.offline import world
from streamer.core.arrays import F32, Array
from streamer.core.batch import RATING
from streamer.core.dataset import Dataset, empty_side_information
from streamer.core.protocols import Epoch, Rater
from streamer.models.offline import MODELS, fitting, model
from streamer.models.offline.factorisation import product
from streamer.models.offline.networks.two_tower import TwoTower
from streamer.study.splits import split
from streamer.study.train import Plan, train

RATERS = [
    pytest.param(name, marks=pytest.mark.xdist_group(f"fits of {name}"))
    for name in MODELS
    if model(name, seed=1).kind == "ratings"
]
WITHIN_A_RANGE = [rater for rater in RATERS if rater.values[0] in ("embedding-mf", "embedding-dot-bias")]


Fit: TypeAlias = tuple[Rater, list[Epoch], tuple[Dataset, Dataset, Dataset]]


def ignore(*_: object) -> None:
    """An `on_progress` that does nothing."""


@cache
def ordinary() -> Dataset:
    return world(3000)


@cache  # several tests look at the same fit
def fit_model(name: str, history: Callable[[], Dataset]) -> Fit:
    """A fitted model of ratings, the epochs it reported, and the parts it was fitted on."""
    made, epochs, parts = model(name, seed=1), list[Epoch](), split("random", history().ratings(), 0.2, 0.1, 1)
    made.fit(parts.train, parts.validation, epochs.append)
    assert isinstance(made, Rater)
    return made, epochs, parts


def error(said: F32, part: Dataset) -> float:
    return float(np.mean(np.square(said.astype(np.float64) - part.values)))


class Descent(msgspec.Struct):
    """The parameters of a fit that is shown to go wrong."""

    epochs: int = 60
    batch: int = 256
    patience: int = 60


def descended(parts: tuple[Dataset, Dataset, Dataset], weight_decay: float | None) -> F32:
    """A factorisation's predictions for the test part, fitted with our optimiser or with Adam's own weight decay."""
    fitting.set_seed(1)
    network = product.Product(parts[0], product.line_of(parts[0]), 8, 0.1)
    optimiser = (
        fitting.adam(network.parameters(), 0.01)
        if weight_decay is None
        else torch.optim.Adam(network.parameters(), 0.01, weight_decay=weight_decay)
    )
    fitting.descend(
        network, len(parts[0]), product.penalised_loss(network, parts[0], 0.5, 0.5),
        fitting.mean_squared_error(network, parts[1]), optimiser, Descent(), ignore,
    )  # fmt: skip
    return fitting.predicted(network, parts[2].users, parts[2].items)


def test_plain_weight_decay_collapses_a_factorisation_and_our_optimiser_does_not() -> None:
    parts = split("random", world(3000).ratings(), 0.2, 0.1, 1)
    test = parts.test
    ours, collapsed = descended(parts, None), descended(parts, 0.1)
    spread = test.values.std()
    assert ours.std() > 0.6 * spread
    assert collapsed.std() < 0.25 * spread
    assert error(collapsed, test) > 1.5 * error(ours, test)


@pytest.mark.parametrize("name", RATERS)
def test_no_model_has_collapsed(name: str) -> None:
    made, _, (_, _, test) = fit_model(name, ordinary)
    bias, _, _ = fit_model("bias", ordinary)
    said = made.predict(test.users, test.items)
    of_bias = error(bias.predict(test.users, test.items), test)
    assert error(said, test) < 1.15 * of_bias  # the mean alone makes 1.34 times it
    assert said.std() > 0.7 * bias.predict(test.users, test.items).std()


@cache
def raised() -> Dataset:
    """The same history on a scale from 0 to 100, of which all but one rating in a hundred use only 78 to 96."""
    data = ordinary()
    values = np.where(np.arange(len(data)) % 100 == 0, 0.0, 76.0 + 4.0 * data.values).astype(np.float32)
    return Dataset(
        data.side, data.kinds, data.users, data.items, np.where(data.kinds == RATING, values, data.values),
        data.clicks, data.times_ms,
    )  # fmt: skip


@pytest.mark.parametrize("name", RATERS)
def test_unseen_rows_are_predicted_near_the_mean_and_not_in_the_middle_of_a_range(name: str) -> None:
    data = raised()
    made, _, (train_part, _, _) = fit_model(name, raised)
    mean, middle = float(train_part.values.mean()), float(train_part.values.min() + train_part.values.max()) / 2
    assert mean - middle > 30.0
    nobody, nothing = data.user_count - 1, data.item_count - 1
    assert not np.isin(nobody, train_part.users)
    assert not np.isin(nothing, train_part.items)
    said = made.predict(np.array([nobody], dtype=np.int32), np.array([nothing], dtype=np.int32))
    assert abs(float(said[0]) - mean) < 5.0


@pytest.mark.parametrize("name", RATERS)
def test_for_an_unseen_item_the_users_bias_is_predicted(name: str) -> None:
    data = ordinary()
    made, _, (train_part, _, _) = fit_model(name, ordinary)
    counts = np.bincount(train_part.users, minlength=data.user_count)
    means = np.bincount(train_part.users, train_part.values, data.user_count) / np.maximum(counts, 1)
    known = np.flatnonzero(counts >= 20).astype(np.int32)
    said = made.predict(known, np.full(len(known), data.item_count - 1, dtype=np.int32))
    assert np.corrcoef(said, means[known])[0, 1] > 0.4


def test_a_plain_sigmoid_range_predicts_its_middle_where_ours_predicts_the_mean() -> None:
    train_part = split("random", raised().ratings(), 0.2, 0.1, 1).train
    scale = product.range_of(train_part, 1 / 9)
    nothing = torch.zeros(1)
    bare = scale.low + (scale.high - scale.low) * torch.sigmoid(nothing)
    assert float(bare) < scale.mean - 30.0
    assert float(scale.ratings(nothing)) == pytest.approx(scale.mean, abs=1e-3)
    slope = float(scale.ratings(nothing + 0.01) - scale.ratings(nothing)) / 0.01
    assert slope == pytest.approx(scale.deviation, rel=0.05)


@pytest.mark.parametrize("name", WITHIN_A_RANGE)
def test_a_range_is_that_of_the_ratings_and_a_ninth_more(name: str) -> None:
    data = ordinary()
    made, _, (train_part, _, _) = fit_model(name, ordinary)
    users, items = (np.repeat(np.arange(n, dtype=np.int32), m) for n, m in ((data.user_count, 1), (1, data.user_count)))
    said = made.predict(users, items)
    assert train_part.values.min() == 0.5
    assert train_part.values.max() == 5.0
    assert said.min() > 0.0
    assert said.max() < 5.5


def scarce() -> Dataset:
    """Three thousand ratings of two thousand items: enough to learn about users, but hardly anything about an item."""
    drawn, users, items = np.random.default_rng(1), 100, 2000
    user, item = (drawn.integers(0, count, 3000).astype(np.int32) for count in (users, items))
    liking = 3.2 + drawn.normal(0.0, 0.6, users)[user] + drawn.normal(0.0, 0.8, 3000)
    values = (np.round(2 * liking) / 2).clip(0.5, 5.0).astype(np.float32)
    return Dataset(
        empty_side_information(users, items), np.full(3000, RATING, dtype=np.uint8), user, item, values,
        np.ones(3000, dtype=np.float32), np.arange(3000, dtype=np.int64),
    )  # fmt: skip


def over_bias(name: str, fit: Callable[[str, Callable[[], Dataset]], Fit] = fit_model) -> float:
    (made, _, (_, _, test)), (bias, _, _) = fit(name, scarce), fit_model("bias", scarce)
    return error(made.predict(test.users, test.items), test) / error(bias.predict(test.users, test.items), test)


@pytest.mark.parametrize("name", RATERS)
def test_no_model_learns_a_rating_from_an_average_that_contains_it(name: str) -> None:
    assert over_bias(name) < 1.15


def test_towers_with_averages_that_contain_the_rating_overfit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = TwoTower._known

    def spoilt(self: TwoTower, train: Dataset, folds: Array) -> tuple[F32, F32]:
        return honest(self, train, np.full_like(folds, -1))

    assert over_bias("two-tower") < 1.05
    monkeypatch.setattr(TwoTower, "_known", spoilt)
    assert over_bias("two-tower", fit_model.__wrapped__) > 1.3


@pytest.mark.parametrize("name", RATERS)
def test_nothing_is_chosen_on_the_test_part(name: str) -> None:
    data = world(800).ratings()
    plan = Plan(split="random", seed=1)
    numbered = Dataset(
        data.side, data.kinds, data.users, data.items, data.values, data.clicks, np.arange(len(data), dtype=np.int64)
    )
    held = split("random", numbered, plan.test_share, plan.validation_share, plan.seed).test.times_ms
    spoilt, drawn = data.values.copy(), np.random.default_rng(9)
    spoilt[held] = drawn.permutation(5.5 - data.values[held])
    other = Dataset(data.side, data.kinds, data.users, data.items, spoilt, data.clicks, data.times_ms)
    one, two = (train(name, of, plan, ignore) for of in (data, other))
    assert one.trained.test_mse != two.trained.test_mse
    assert one.trained.best_epoch == two.trained.best_epoch
    users, items = (rows.ravel().astype(np.int32) for rows in np.indices((data.user_count, data.item_count)))
    assert isinstance(one.model, Rater)
    assert isinstance(two.model, Rater)
    assert one.model.predict(users, items).tobytes() == two.model.predict(users, items).tobytes()


@pytest.mark.parametrize("name", RATERS)
def test_the_epoch_that_is_kept_is_the_best_on_the_validation_part(name: str) -> None:
    made, epochs, (_, validation, _) = fit_model(name, ordinary)
    losses = [epoch.validation_loss for epoch in epochs]
    kept = error(made.predict(validation.users, validation.items), validation)
    assert kept == pytest.approx(min(losses), rel=1e-5)


@pytest.mark.slow
def test_weights_are_those_of_the_epoch_with_the_lowest_validation_loss_not_of_the_last() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    said, seen = iter([3.0, 1.0, 2.0, 2.5, 9.0]), list[float]()

    def validate() -> float:
        seen.append(network.weight.item())
        return next(said)

    kept = fitting.descend(
        network, 4, lambda rows: network.weight.sum(), validate, fitting.adam(network.parameters(), 0.1),
        Descent(epochs=9, batch=2, patience=2), ignore,
    )  # fmt: skip
    assert kept == 2
    assert len(seen) == 4
    assert network.weight.item() == seen[1]
    assert len(set(seen)) == 4


def test_a_small_history_is_learned_in_smaller_steps_and_so_in_more_of_them() -> None:
    for examples, batch, steps in ((1_000, 128, 8), (10_000, 312, 33), (100_000, 2048, 49)):
        network, sizes = torch.nn.Linear(1, 1, bias=False), list[int]()

        def loss(rows: torch.Tensor, network: torch.nn.Linear = network, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(len(rows))
            return network.weight.sum()

        fitting.descend(
            network,
            examples,
            loss,
            lambda: 0.0,
            fitting.adam(network.parameters(), 0.1),
            Descent(epochs=1, batch=2048),
            ignore,
        )
        assert (sizes[0], len(sizes), sum(sizes)) == (batch, steps, examples)
