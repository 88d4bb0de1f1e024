"""The diagnosis of a model of clicks finds faults that were made on purpose."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from streamer.core.arrays import F32, I32
from streamer.core.batch import CLICK
from streamer.core.dataset import Dataset, empty_side_information
from streamer.core.protocols import Epoch
from streamer.study.next_item_diagnosis import NextItemDiagnosis, diagnose_next_items
from streamer.study.splits import leave_last_out
from streamer.study.train import Fit, Plan, Trained, next_item_ranks, train

USERS, ITEMS, CLICKS = 120, 200, 12
Scores = Callable[[int, I32], F32]


def around(users: int = USERS) -> Dataset:
    """Every user clicks successive items: a fifth of the users only the first twenty items, the others all of them."""
    drawn = np.random.default_rng(1)
    starts = np.where(np.arange(users) % 5 == 0, drawn.integers(0, 8, users), drawn.integers(0, ITEMS, users))
    items = ((starts[:, None] + np.arange(CLICKS)) % ITEMS).ravel().astype(np.int32)
    n = len(items)
    side = replace(
        empty_side_information(users, ITEMS), category_names=["even", "odd"],
        categories=np.eye(2, dtype=np.float32)[np.arange(ITEMS) % 2],
    )  # fmt: skip
    return Dataset(
        side, np.full(n, CLICK, dtype=np.uint8), np.repeat(np.arange(users, dtype=np.int32), CLICKS), items,
        np.ones(n, dtype=np.float32), np.ones(n, dtype=np.float32), np.tile(np.arange(CLICKS, dtype=np.int64), users),
    )  # fmt: skip


class Scripted:
    """A model with given scores."""

    name, kind, parameters = "said", "clicks", None

    def __init__(self, scores: Scores) -> None:
        self._scores = scores

    def fit(self, train: Dataset, validation: Dataset, on_progress: Callable[[Epoch], None]) -> None: ...

    def scores(self, users: I32, histories: Sequence[I32]) -> F32:
        return np.array([self._scores(user, own) for user, own in zip(users.tolist(), histories, strict=True)])


def diagnosed(scores: Scores, data: Dataset) -> NextItemDiagnosis:
    parts, model = leave_last_out(data), Scripted(scores)
    trained = Trained(
        model="said", kind="clicks", split="leave-last-out", seed=1, users=data.user_count, items=ITEMS,
        train_events=len(parts.train), validation_events=len(parts.validation), test_events=len(parts.test), seconds=0.0,
        epochs=1, best_epoch=1, parameters={}, curve=(),
    )  # fmt: skip
    ranks = next_item_ranks(model, parts.train, parts[:2], parts.test)
    popular = train("popularity", data, Plan(), lambda *_: None).ranks
    return diagnose_next_items(
        Fit(trained=trained, model=model, parts=parts, ranks=ranks, popularity_ranks=popular)  # type: ignore[arg-type]
    )


def following(item: int) -> F32:
    found = np.zeros(ITEMS, dtype=np.float32)
    found[(item + 1) % ITEMS] = 1.0
    return found


def learned_by_heart(parts_of: Dataset) -> Scores:
    """Scores that know each user's last click of the training part, and nothing else."""
    own = leave_last_out(parts_of).train
    order, starts = own.by_user()
    return lambda user, history: following(int(own.items[order[starts[user + 1] - 1]]) - 1)


def by_chance(user: int, history: I32) -> F32:
    return np.random.default_rng(len(history) + 1000 * user).random(ITEMS).astype(np.float32)


def test_true_successors_are_fine_memorised_clicks_high_variance_and_chance_high_bias() -> None:
    data = around()
    assert diagnosed(lambda user, history: following(int(history[-1])), data).verdict == "fine"
    heart = diagnosed(learned_by_heart(data), data)
    assert (heart.verdict, heart.train.hit_rate_10) == ("high variance", 1.0)
    assert "it has learned noise" in " ".join(heart.sentences)
    chance = diagnosed(by_chance, data)
    assert chance.verdict == "high bias"
    assert "does not rank even its training clicks significantly better than popularity" in " ".join(chance.sentences)


def test_hit_rates_are_those_of_train_and_popularity_is_measured_on_the_same_clicks() -> None:
    data = around()
    fit = train("transitions", data, Plan(), lambda *_: None)
    found = diagnose_next_items(fit)
    assert found.test.hit_rate_10 == fit.trained.hit_rate_10
    assert found.test.popularity_hit_rate_10 == fit.trained.popularity_hit_rate_10
    assert found.test.examples == fit.trained.test_events
    assert found.over_popularity == pytest.approx(found.test.hit_rate_10 - found.test.popularity_hit_rate_10)
    assert found.over_popularity_interval[0] <= found.over_popularity <= found.over_popularity_interval[1]
    assert found.train.examples == USERS
    popular = diagnose_next_items(train("popularity", data, Plan(), lambda *_: None))
    assert popular.test.hit_rate_10 == popular.test.popularity_hit_rate_10
    assert popular.verdict == "high bias"
    assert popular.top_tens_in_common == 1.0


def test_groups_partition_the_test_clicks_and_show_their_numbers() -> None:
    found = diagnosed(lambda user, history: following(int(history[-1])), around())
    unknown = found.items_never_clicked
    assert sum(one.examples for one in found.by_popularity) == USERS - unknown
    assert [one.examples for one in found.by_history] == [USERS]
    assert found.by_history[0].name == "5 to 19 earlier clicks"
    categories = {one.name: one for one in found.by_category}
    assert set(categories) == {"even", "odd"}
    assert sum(one.examples for one in categories.values()) == USERS
    biased = diagnosed(lambda user, history: following(int(history[-1])) * (int(history[-1]) % 2), around())
    assert [(one.name, one.hit_rate_10 > 0.9) for one in biased.by_category] == [("odd", False), ("even", True)]
    assert any(line.startswith("Categories with lower hit rates than the rest: odd (0.") for line in biased.sentences)


def test_clicks_on_items_without_training_clicks_are_counted_separately() -> None:
    data = around()
    last = np.flatnonzero(data.times_ms == CLICKS - 1)
    data.items[last[:7]] = ITEMS - np.arange(1, 8)
    kept = data.select((data.items < ITEMS - 7) | np.isin(np.arange(len(data)), last[:7]))
    found = diagnosed(lambda user, history: following(int(history[-1])), kept)
    assert found.items_never_clicked == 7
    assert any("7 of " in line and "without training clicks" in line for line in found.sentences)


def chain(users: int, clicks: int, items: int) -> Dataset:
    """Every user clicks successive items, and the clicks of all users are interleaved."""
    every, n = np.tile(np.arange(users, dtype=np.int32), clicks), users * clicks
    times = np.repeat(np.arange(clicks), users)
    side = replace(
        empty_side_information(users, ITEMS), category_names=["all"], categories=np.ones((ITEMS, 1), dtype=np.float32)
    )
    ones = np.ones(n, dtype=np.float32)
    return Dataset(
        side,
        np.full(n, CLICK, dtype=np.uint8),
        every,
        ((13 * every + times) % items).astype(np.int32),
        ones,
        ones,
        times,
    )


def test_without_training_clicks_to_judge_the_validation_part_decides() -> None:
    """Of three clicks one is left for training, and no click comes before it."""
    data = chain(300, 3, 60)
    popular = np.bincount(leave_last_out(data).train.items, minlength=ITEMS).astype(np.float32)
    for scores, verdict in ((lambda *of: following(int(of[1][-1])), "fine"), (lambda *_: popular, "high bias")):
        found = diagnosed(scores, data)
        assert (found.train, found.verdict) == (None, verdict)
        sentences = " ".join(found.sentences)
        assert f"{verdict.capitalize()}, judged by the validation part alone" in sentences
        assert "its training clicks" not in sentences
        assert "too few to be sure" not in sentences


def test_if_every_click_is_a_hit_no_category_is_worse_than_the_rest() -> None:
    found = diagnosed(lambda user, history: following(int(history[-1])), chain(201, 8, ITEMS))
    assert [(one.hit_rate_10, one.high) for one in (found.test, *found.by_category)] == [(1.0, 1.0)] * 2
    assert "lower hit rates" not in " ".join(found.sentences)  # 201 of 201 had a bound that was rounded to just below 1


def test_with_ten_items_there_is_nothing_to_learn_and_small_groups_are_not_compared() -> None:
    found = diagnosed(by_chance, chain(30, 6, 10))
    assert (found.verdict, found.test.hit_rate_10) == ("fine", 1.0)
    assert any(line.startswith("There is nothing to learn: the training part has 10 items") for line in found.sentences)
    assert len(found.by_popularity) == 3
    assert not any(line.startswith("The hit rate of clicks") for line in found.sentences)


def test_few_clicks_are_reported_as_too_few_and_have_wide_intervals() -> None:
    found = diagnosed(lambda user, history: following(int(history[-1])), around(12))
    assert any(
        line
        == "The data are too few to be sure: the validation part has 12 clicks and the training part has 12 clicks on new items."
        for line in found.sentences
    )
    assert (found.train.hit_rate_10, found.train.high) == (1.0, pytest.approx(1.0))
    assert found.train.low == pytest.approx(12 / (12 + 1.96**2))  # Wilson (1927) at a rate of 1
    assert found.test.high - found.test.low > 0.3
