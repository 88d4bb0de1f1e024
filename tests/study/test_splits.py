"""The parts of a split share no event, and follow the rule of the split."""

from dataclasses import replace

import numpy as np
import pytest

from streamer.checks.offline import world
from streamer.core.batch import RATING
from streamer.core.dataset import Dataset
from streamer.core.errors import BadSettings
from streamer.study.splits import SPLITS, leave_last_out, split


def of_users(users: list[int], clicks: list[float] | None = None) -> Dataset:
    n, side = len(users), world(3).side
    return Dataset(
        side, np.full(n, RATING, np.uint8), np.array(users, np.int32), np.arange(n, dtype=np.int32) % 20, np.ones(n, np.float32),
        np.array(clicks or [1.0] * n, np.float32), np.arange(n, dtype=np.int64),
    )  # fmt: skip


@pytest.mark.parametrize("name", SPLITS)
def test_parts_share_no_event_and_lose_none(name: str) -> None:
    data = world()
    parts = split(name, data, 0.2, 0.1, 1)
    times = np.concatenate([part.times_ms for part in parts])
    assert sorted(times) == data.times_ms.tolist()


@pytest.mark.parametrize("name", ["random", "unseen-users"])
def test_another_seed_gives_another_split_and_the_same_seed_the_same(name: str) -> None:
    data = world()
    first, again, other = (split(name, data, 0.2, 0.1, seed).test.times_ms.tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_shares_are_of_the_events() -> None:
    parts = split("random", of_users([0] * 100), 0.2, 0.1, 1)
    assert [len(part) for part in parts] == [72, 8, 20]


def test_a_split_by_time_keeps_the_latest_for_the_test() -> None:
    parts = split("temporal", world(), 0.2, 0.1, 1)
    assert parts.train.times_ms.max() < parts.validation.times_ms.min()
    assert parts.validation.times_ms.max() < parts.test.times_ms.min()


def test_unseen_users_are_in_one_part_alone() -> None:
    parts = split("unseen-users", world(), 0.2, 0.1, 1)
    train, validation, test = (set(part.users.tolist()) for part in parts)
    assert not train & validation
    assert not train & test
    assert not validation & test
    assert len(test) == round(0.2 * len(train | validation | test))


def test_the_last_click_is_the_test_and_the_one_before_the_validation() -> None:
    parts = leave_last_out(of_users([0, 1, 0, 0, 1, 2, 0, 2, 2]))
    assert parts.test.times_ms.tolist() == [6, 8]
    assert parts.validation.times_ms.tolist() == [3, 7]
    assert parts.train.times_ms.tolist() == [0, 1, 2, 4, 5]  # user 1 has two clicks, which both train


def test_a_last_click_on_a_known_item_is_left_out_of_the_test() -> None:
    data = of_users([0, 0, 0, 1, 1, 1])
    again = replace(data, items=np.array([3, 4, 3, 3, 4, 5], dtype=np.int32))
    assert leave_last_out(again).test.times_ms.tolist() == [5]
    assert len(leave_last_out(again).train) == 2


def test_ratings_below_a_like_are_not_held_out_as_clicks() -> None:
    parts = leave_last_out(of_users([0, 0, 0, 0], [1.0, 1.0, 1.0, 0.0]))
    assert parts.test.times_ms.tolist() == [2]


def test_too_few_events_to_split_are_refused_with_their_number() -> None:
    with pytest.raises(BadSettings, match=r"unseen-users cannot hold out 0\.2 of 5 events by 1 users"):
        split("unseen-users", of_users([0] * 5), 0.2, 0.1, 1)
