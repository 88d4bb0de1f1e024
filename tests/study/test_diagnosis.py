"""The diagnosis finds faults that were made on purpose."""

import dataclasses
from math import isnan

import msgspec
import numpy as np
import pytest

from streamer.checks.offline import world
from streamer.core.arrays import F32, I32
from streamer.core.batch import RATING
from streamer.core.dataset import Dataset
from streamer.core.errors import StreamerError
from streamer.study.diagnosis import Diagnosis, diagnose
from streamer.study.splits import Split, split
from streamer.study.train import Fit, Plan, Trained, predictions, train


class Table:
    """A model that predicts from a table of pairs, and 3 for all others."""

    name, kind = "table", "ratings"

    def __init__(self, personal: bool = True) -> None:
        self.personal = personal

    def predict(self, users: I32, items: I32) -> F32:
        return (3.0 + 0.01 * items + (0.02 * ((users * items) % 7) if self.personal else 0.0)).astype(np.float32)


def plain(parts: Split) -> tuple[F32, F32, F32]:
    return tuple(np.full(len(part), parts.train.values.mean(), dtype=np.float32) for part in parts)  # type: ignore[return-value]


def fit(parts: Split, predicted: tuple[F32, F32, F32], model: object = None) -> Fit:
    diagnosed = Trained(
        model="table", kind="ratings", split="random", seed=1, users=40, items=30, train_events=len(parts.train),
        validation_events=len(parts.validation), test_events=len(parts.test), seconds=0.0, epochs=1, best_epoch=1,
        parameters={}, curve=(),
    )  # fmt: skip
    return Fit(trained=diagnosed, model=model or Table(), parts=parts, predicted=predicted, bias_only=plain(parts))  # type: ignore[arg-type]


@pytest.fixture
def parts() -> Split:
    return split("random", world(3000).ratings(), 0.2, 0.1, 1)


def towards(part: Dataset, mean: float, share: float) -> F32:
    """Predictions with (1 - share) times the error of the mean."""
    return (mean + share * (part.values - mean)).astype(np.float32)


def diagnosed(parts: Split, *shares: float) -> Diagnosis:
    mean = float(parts.train.values.mean())
    first, second, third = (towards(part, mean, share) for part, share in zip(parts, shares, strict=True))
    return diagnose(fit(parts, (first, second, third)))


def test_a_model_that_fits_nothing_has_high_bias(parts: Split) -> None:
    assert diagnosed(parts, 0.0, 0.0, 0.0).verdict == "high bias"


def test_a_model_that_fits_its_own_ratings_alone_has_high_variance(parts: Split) -> None:
    assert diagnosed(parts, 0.8, -0.1, -0.1).verdict == "high variance"


def test_a_model_that_predicts_unseen_ratings_better_is_fine(parts: Split) -> None:
    found = diagnosed(parts, 0.3, 0.3, 0.3)
    assert found.verdict == "fine"
    assert found.over_bias_only.mean < -found.over_bias_only.half_width


def test_too_little_regularisation_gives_high_variance_and_too_much_high_bias() -> None:
    data = world(2000, seed=3)
    loose = train(
        "als", data, Plan(), lambda name, epoch: None, l2=0.001, bias_l2=0.001, epochs=30, patience=30, dim=16
    )
    stiff = train("als", data, Plan(), lambda name, epoch: None, l2=1e6, bias_l2=1e6)
    assert diagnose(loose).verdict == "high variance"
    assert diagnose(stiff).verdict == "high bias"


def test_a_small_category_with_large_errors_is_reported_with_its_number_of_ratings(parts: Split) -> None:
    test = parts.test
    small = np.flatnonzero(test.items % 3 == 2)[13:]  # of the third category 13 ratings are left
    keep = np.setdiff1d(np.arange(len(test)), small)
    parts = Split(parts.train, parts.validation, test.select(keep))
    predicted = [part.values.copy() for part in parts]
    predicted[2][parts.test.items % 3 == 2] -= 2.0
    found = diagnose(fit(parts, (predicted[0], predicted[1], predicted[2])))
    worst = found.by_category[0]
    assert (worst.name, worst.examples, worst.mse.mean) == ("horror", 13, pytest.approx(4.0))
    assert any("too few ratings to tell" in sentence and "horror (13)" in sentence for sentence in found.sentences)


def test_errors_by_rating_are_those_of_that_rating(parts: Split) -> None:
    found = diagnose(fit(parts, plain(parts)))
    mean, values = float(parts.train.values.mean()), parts.test.values
    for one in found.by_value:
        value = float(one.name)
        assert one.examples == np.count_nonzero(values == np.float32(value))
        assert one.mse.mean == pytest.approx((mean - value) ** 2, rel=1e-5)
    assert sum(one.examples for one in found.by_value) == len(values)


def test_ratings_with_many_values_are_grouped_in_tenths_that_lose_none(parts: Split) -> None:
    drawn = np.random.default_rng(1).normal(0, 1, len(parts.test)).astype(np.float32)
    test = parts.test
    many = Dataset(test.side, test.kinds, test.users, test.items, drawn, test.clicks, test.times_ms)
    found = diagnose(fit(Split(parts.train, parts.validation, many), plain(parts)))
    assert len(found.by_value) == 10
    assert sum(one.examples for one in found.by_value) == len(test)


def test_unseen_users_and_items_are_reported_separately(parts: Split) -> None:
    cold = Split(parts.train.select(parts.train.users >= 10), parts.validation, parts.test)
    found = diagnose(fit(cold, tuple(part.values + np.float32(part is cold.test) for part in cold)))  # type: ignore[arg-type]
    assert found.users_never_seen is not None
    assert found.users_never_seen.examples == np.count_nonzero(parts.test.users < 10)
    assert found.users_never_seen.mse.mean == pytest.approx(1.0)
    assert diagnose(fit(parts, plain(parts))).users_never_seen is None


def test_the_interval_counts_a_users_ratings_as_one_draw(parts: Split) -> None:
    """All errors of a user are equal, so the interval depends on the number of users, not of ratings."""
    offsets = np.random.default_rng(2).normal(0, 1, 40).astype(np.float32)
    predicted = tuple(part.values + offsets[part.users] for part in parts)
    width = diagnose(fit(parts, predicted)).test_mse.half_width  # type: ignore[arg-type]
    squares = np.square(offsets[parts.test.users].astype(np.float64))
    as_if_apart = 1.96 * squares.std() / np.sqrt(len(squares))
    assert width > 2 * as_if_apart


def test_equal_recommendations_for_different_users_are_reported(parts: Split) -> None:
    own = diagnose(fit(parts, plain(parts), Table(personal=True)))
    same = diagnose(fit(parts, plain(parts), Table(personal=False)))
    assert same.top_tens_in_common == 1.0
    assert own.top_tens_in_common is not None
    assert own.top_tens_in_common < 0.95
    assert any("hardly personal" in sentence for sentence in same.sentences)


def test_predictions_for_unseen_users_that_ignore_profiles_are_reported() -> None:
    parts = split("unseen-users", world(3000).ratings(), 0.2, 0.1, 1)

    class ByJob(Table):
        def predict(self, users: I32, items: I32) -> F32:
            return (3.0 + 0.5 * (users % 2) + 0.0 * items).astype(np.float32)

    assert diagnose(fit(parts, plain(parts), ByJob())).never_seen_alike is False
    assert diagnose(fit(parts, plain(parts), Table(personal=False))).never_seen_alike is True


def test_bias_only_is_compared_with_the_mean() -> None:
    found = diagnose(train("bias", world(2000), Plan(), lambda name, epoch: None))
    assert "the mean alone" in found.sentences[0]
    assert not isnan(found.over_bias_only.half_width)
    assert found.over_bias_only.mean < 0


def test_every_part_contains_only_ratings() -> None:
    found = train("bias", world(2000), Plan(), lambda name, epoch: None)
    assert all((part.kinds == RATING).all() for part in found.parts)


def test_predictions_are_clipped_to_the_training_ratings_and_must_be_finite(parts: Split) -> None:
    class Wild(Table):
        def __init__(self, diagnosed: float) -> None:
            self.diagnosed = diagnosed

        def predict(self, users: I32, items: I32) -> F32:
            return np.full(len(users), self.diagnosed, dtype=np.float32)

    low, high = parts.train.values.min(), parts.train.values.max()
    assert set(predictions(Wild(100.0), parts.test, parts.train).tolist()) == {float(high)}  # type: ignore[arg-type]
    assert set(predictions(Wild(-100.0), parts.test, parts.train).tolist()) == {float(low)}  # type: ignore[arg-type]
    with pytest.raises(StreamerError, match="the model table has predictions that are not finite for"):
        predictions(Wild(np.nan), parts.test, parts.train)  # type: ignore[arg-type]


def alike(rating: float) -> Split:
    """Three parts in which all ratings are the same."""
    parts = split("random", world(600).ratings(), 0.2, 0.1, 1)
    return Split(*(dataclasses.replace(part, values=np.full(len(part), rating, dtype=np.float32)) for part in parts))


def test_equal_ratings_leave_nothing_to_learn() -> None:
    parts = alike(4.0)
    found = diagnose(fit(parts, plain(parts)))
    assert found.verdict == "fine"
    assert found.over_bias_only.mean == 0
    assert f"all {len(parts.train):,} ratings of the training part are 4, which every model predicts" in " ".join(
        found.sentences
    )


def test_a_reference_without_error_causes_no_division_by_zero(parts: Split) -> None:
    exact = fit(parts, plain(parts))
    values = parts.train.values, parts.validation.values, parts.test.values
    found = diagnose(msgspec.structs.replace(exact, bias_only=values))
    assert found.verdict == "high bias"
    assert "on the test part above bias only" in found.sentences[0]


def test_a_verdict_that_the_test_part_contradicts_says_so(parts: Split) -> None:
    assert "On the test part it is not better" in " ".join(diagnosed(parts, 0.3, 0.3, -0.1).sentences)
    assert "On the test part it is not better" not in " ".join(diagnosed(parts, 0.3, 0.3, 0.3).sentences)


def test_a_verdict_on_a_few_ratings_says_so(parts: Split) -> None:
    few = parts._replace(validation=parts.validation.select(np.arange(len(parts.validation)) < 7))
    assert "the validation part has 7 ratings by" in " ".join(diagnosed(few, 0.3, 0.3, 0.3).sentences)
    assert "too few to be sure" not in " ".join(diagnosed(parts, 0.3, 0.3, 0.3).sentences)


def test_a_verdict_that_depends_on_one_user_says_so(parts: Split) -> None:
    users = parts.validation.users.copy()
    users[: len(users) * 2 // 3] = 0
    one = parts._replace(validation=dataclasses.replace(parts.validation, users=users))
    (sentence,) = (
        line for line in diagnosed(one, 0.3, 0.3, 0.3).sentences if line.startswith("The data are too few to be sure")
    )
    assert f"{np.count_nonzero(users == 0):,} of them by one user" in sentence
