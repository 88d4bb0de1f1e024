"""`streamer train` for models that predict the next click."""

from itertools import pairwise
from math import exp, log, sqrt

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from streamer.checks.offline import world
from streamer.core.batch import CLICK
from streamer.core.dataset import Dataset
from streamer.models.offline.clicks.next_item import Noise, reverse_sessions, sampled_softmax, sessions, windows
from streamer.study.train import Fit, Plan, Trained, interval, train


def trained(name: str, seed: int = 1) -> Trained:
    return train(name, world(), Plan(seed=seed), lambda named, epoch: None).trained


def test_the_interval_is_that_of_resampled_users() -> None:
    differences = np.repeat([-1.0, 0.0, 1.0], [40, 100, 60])
    low, high = interval(differences, 1)
    drawn = np.random.default_rng(5)
    plain = [drawn.choice(differences, len(differences)).mean() for _ in range(10_000)]
    assert (low, high) == pytest.approx(tuple(np.quantile(plain, [0.025, 0.975])), abs=0.006)
    deviation = sqrt(np.var(differences) / len(differences))
    assert (low, high) == pytest.approx((0.1 - 1.96 * deviation, 0.1 + 1.96 * deviation), abs=0.006)
    assert interval(differences, 1) == (low, high)


def test_a_model_is_compared_with_one_pass_transitions_on_the_same_users() -> None:
    found, counted = trained("popularity"), trained("transitions")
    assert found.hit_rate_10 == found.popularity_hit_rate_10 == counted.popularity_hit_rate_10
    assert found.transitions_hit_rate_10 == counted.hit_rate_10
    assert found.hit_rate_10_over_transitions == pytest.approx(found.hit_rate_10 - counted.hit_rate_10)
    low, high = found.hit_rate_10_over_transitions_interval
    assert low < found.hit_rate_10_over_transitions < high


def test_the_difference_of_transitions_from_themselves_is_exactly_0() -> None:
    found = trained("transitions")
    assert (found.hit_rate_10_over_transitions, found.hit_rate_10_over_transitions_interval) == (0.0, (0.0, 0.0))


def test_a_model_of_ratings_is_not_compared_with_transitions() -> None:
    assert trained("bias").hit_rate_10_over_transitions_interval is None


MINUTE_MS = 60_000


def clicked(*clicks: tuple[int, int, int]) -> Dataset:
    """Clicks of (user, item, minute) in the world of `streamer.checks.offline`."""
    users, items, minutes = (np.array(column) for column in zip(*clicks, strict=True))
    ones = np.ones(len(clicks), dtype=np.float32)
    return Dataset(
        world(1).side, np.full(len(clicks), CLICK, dtype=np.uint8), users.astype(np.int32), items.astype(np.int32), ones, ones,
        minutes.astype(np.int64) * MINUTE_MS,
    )  # fmt: skip


def cut(data: Dataset, gap_s: float, longest: int) -> list[list[int]]:
    items, lengths = sessions(data, gap_s, longest)
    assert all((row[size:] == -1).all() for row, size in zip(items, lengths, strict=True))
    return [row[:size].tolist() for row, size in zip(items, lengths, strict=True)]


def test_a_session_ends_with_its_user_and_at_a_gap() -> None:
    data = clicked((0, 1, 0), (1, 11, 1), (0, 2, 5), (1, 12, 2), (0, 3, 40), (0, 4, 41), (0, 5, 200))
    assert cut(data, 1800, 9) == [[1, 2], [3, 4], [11, 12]]  # 5 stands alone, and teaches nothing
    assert cut(data, 1e12, 9) == [[1, 2, 3, 4, 5], [11, 12]]


@pytest.mark.parametrize("longest", [1, 2, 3, 4, 5, 6, 7])
def test_every_pair_of_successive_clicks_of_a_long_session_is_in_one_row(longest: int) -> None:
    rows = cut(clicked(*((0, n, n) for n in range(7)), (1, 20, 0), (1, 21, 1)), 1e12, longest)
    assert max(map(len, rows)) <= longest + 1
    steps = [step for row in rows for step in pairwise(row)]
    assert steps == [*pairwise(range(7)), (20, 21)]


def test_no_clicks_give_no_sessions() -> None:
    assert cut(clicked((0, 1, 0)).select(np.zeros(0, dtype=np.int64)), 1800, 5) == []
    assert cut(clicked((0, 1, 0), (1, 2, 0)), 1800, 5) == []


def test_a_session_read_backwards_begins_with_its_last_click() -> None:
    rows = torch.tensor([[1, 2, 3, -1], [4, 5, -1, -1]])
    assert reverse_sessions(rows, torch.tensor([3, 2])).tolist() == [[3, 2, 1, -1], [5, 4, -1, -1]]


@pytest.mark.parametrize("exponent", [0.0, 0.75])
def test_the_sampled_softmax_is_the_full_one_in_the_limit(exponent: float) -> None:
    torch.manual_seed(1)
    counts = np.array([1, 2, 0, 4, 30, 3])  # the third is never clicked, and never drawn
    scores = torch.randn(5, 6).mul(2)
    scores[:, 2] = -torch.inf
    targets = torch.tensor([0, 1, 3, 4, 4])
    noise = Noise(counts, exponent)
    drawn = noise.draw(200_000)
    own = scores[torch.arange(5), targets]
    found = sampled_softmax(own, targets, scores[:, drawn], drawn, noise)
    torch.testing.assert_close(found, cross_entropy(scores, targets, reduction="none"), rtol=0, atol=0.02)


def test_negatives_are_corrected_for_how_often_they_are_drawn() -> None:
    noise = Noise(np.array([1, 1, 8]), 1.0)
    drawn, own = torch.tensor([2, 2, 1]), torch.tensor([0.5])
    found = sampled_softmax(own, torch.tensor([0]), torch.tensor([[0.3, 0.3, -0.2]]), drawn, noise)
    by_hand = log(exp(0.5) + 2 * exp(0.3) / (3 * 0.8) + exp(-0.2) / (3 * 0.1)) - 0.5
    assert float(found) == pytest.approx(by_hand, abs=1e-6)


def rounds() -> Dataset:
    """Every user clicks 0 to 9 in a circle, from a different start: the next click depends on the last one alone."""
    return clicked(*((user, (user + n) % 10, n) for user in range(30) for n in range(8)))


@pytest.mark.parametrize("full_items", [0, 100])
def test_a_session_is_read_in_its_order(full_items: int) -> None:
    found = train(
        "gru4rec",
        rounds(),
        Plan(),
        lambda named, epoch: None,
        full_items=full_items,
        negatives=64,
        backwards=0.0,
    )
    scores = found.model.scores(
        np.zeros(3, dtype=np.int32), [np.array(h, dtype=np.int32) for h in ([2, 3], [3], [8, 9])]
    )
    assert np.nanargmax(scores, axis=1).tolist() == [4, 4, 0]
    assert np.isnan(scores[:, 10:]).all()  # never clicked


def test_a_history_without_known_items_gets_popular_items() -> None:
    data = clicked(
        *((user, item, n) for user in range(20) for n, item in enumerate((user % 3 + 1, 7, 5 + user % 2 * 4, 8)))
    )
    found = train("gru4rec", data, Plan(), lambda named, epoch: None)
    scores = found.model.scores(
        np.zeros(2, dtype=np.int32), [np.array([29], dtype=np.int32), np.empty(0, dtype=np.int32)]
    )
    assert np.array_equal(scores[0], scores[1], equal_nan=True)
    assert np.nanargmax(scores[0]) == 7


def test_windows_contain_the_users_clicks_before_each_click() -> None:
    data = clicked((0, 1, 0), (1, 11, 1), (0, 2, 5), (0, 3, 6), (1, 12, 7), (0, 4, 8))
    items, events, left = windows(data, 2)
    found = sorted(zip(events.tolist(), items.tolist(), left.tolist(), strict=True))
    assert found == [(2, [1, -1], 2), (3, [1, 2], 1), (4, [11, -1], 0), (5, [2, 3], 0)]


def youtube(candidates: int) -> Fit:
    return train("youtube-dnn", world(), Plan(), lambda named, epoch: None, candidates=candidates, epochs=5)


def test_ranking_reorders_only_the_candidates() -> None:
    found = youtube(6)
    model, factors = found.model, found.model.export()
    users = found.parts.train.users
    for user in np.unique(users)[:5]:
        mine = found.parts.train.items[users == user]
        scored = model.scores(np.array([user]), [mine])[0]
        first = factors.items @ factors.users[user] + factors.item_biases
        first[mine] = -np.inf
        first[np.isnan(scored)] = -np.inf  # never clicked
        assert set(np.argsort(-first)[:6]) == set(np.flatnonzero(scored >= 0))


def test_without_candidates_scores_are_those_of_the_factors() -> None:
    found = youtube(0)
    factors, train_part = found.model.export(), found.parts.train
    for user in np.unique(train_part.users)[:5]:
        said = found.model.scores(np.array([user]), [train_part.items[train_part.users == user]])[0]
        linear = factors.items @ factors.users[user] + factors.item_biases
        order = np.argsort(linear[~np.isnan(said)])
        assert (np.diff(said[~np.isnan(said)][order]) >= -1e-5).all()
