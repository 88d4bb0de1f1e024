"""The numbers of a report, on data that can be checked by hand."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from learning import settings

from streamer.consumers.files import FileSource
from streamer.core.arrays import F32, I32
from streamer.core.batch import RATING
from streamer.core.dataset import Dataset, SideInformation
from streamer.serving.posterior import nearest, posterior
from streamer.study.report import errors_by
from streamer.study.report.belief import CatalogueRecorder, learned_memory
from streamer.study.report.contenders import Contender, Contest
from streamer.study.report.misses import Miss, explain, worst_served_user
from streamer.study.report.topten import (
    TEN,
    TRUTH,
    Lists,
    Rated,
    coverage,
    lists,
    outcome,
    overlap_among_rated,
    overlap_among_unseen,
)
from streamer.study.splits import Split
from streamer.study.train import Plan
from streamer.study.training_data import read


def dataset(side: SideInformation, rows: Sequence[tuple[int, int, float]]) -> Dataset:
    """Ratings (user, item, value) in order of time; 4 and more are likes."""
    users, items, values = zip(*rows, strict=True) if rows else ((), (), ())
    return Dataset(
        side, np.full(len(rows), RATING, dtype=np.uint8), np.array(users, dtype=np.int32), np.array(items, dtype=np.int32),
        np.array(values, dtype=np.float32), (np.array(values) >= 4).astype(np.float32), np.arange(len(rows), dtype=np.int64),
    )  # fmt: skip


def side(users: int, items: int) -> SideInformation:
    return SideInformation(
        [f"u{n}" for n in range(users)], [f"i{n}" for n in range(items)], [f"Item {n}" for n in range(items)], ["Drama"],
        np.ones((items, 1), dtype=np.float32), np.full(items, np.nan, dtype=np.float32), [],
        np.zeros((users, 0), dtype=np.float32),
    )  # fmt: skip


class Numbered:
    """A model of ratings whose predictions rise (or fall) with item numbers."""

    name, kind = "numbered", "ratings"

    def __init__(self, sign: int = 1) -> None:
        self.sign = sign

    def predict(self, users: I32, items: I32) -> F32:
        return (self.sign * items).astype(np.float32)


class Repeating:
    """A next-item model that prefers items near the first click, and must never get an empty history."""

    name, kind = "repeating", "clicks"

    def scores(self, users: I32, histories: Sequence[I32]) -> F32:
        assert all(len(history) for history in histories)
        return np.stack([-np.abs(np.arange(30, dtype=np.float32) - history[0]) for history in histories])


def contest(train: Dataset, test: Dataset, predicted: Sequence[float]) -> Contest:
    said = np.array(predicted, dtype=np.float32)
    parts = Split(train, train.select(np.zeros(len(train), dtype=bool)), test)
    one = Contender(
        name="numbered", kind="ratings", model=Numbered(), curve=(), seconds=0.0, mse=(0.0, 0.0, 0.0),
        predicted=(train.values, train.values[:0], said),
    )  # type: ignore[arg-type]  # fmt: skip
    return Contest(data=test, plan=Plan(), parts=parts, contenders=(one,), bias_only=said, missing=())


def test_errors_are_grouped_by_rating_and_by_popularity_of_the_item() -> None:
    of = side(2, 4)
    train = dataset(of, [(0, 0, 3.0), (1, 0, 3.0), (0, 1, 3.0)])  # item 0 twice, item 1 once, the others never
    test = dataset(of, [(0, 2, 1.0), (1, 3, 1.0), (1, 1, 5.0), (0, 0, 3.0)])
    found = contest(train, test, [4.0, 2.0, 4.5, 3.0])
    steps = errors_by.scale(test.values)
    assert steps.labels == ("1", "3", "5")
    assert steps.shares(np.array([1.2, 1.9, 2.1, 9.0])).tolist() == [0.5, 0.25, 0.25]
    values = errors_by.by_value(found, steps)
    assert values.counts.tolist() == [2, 1, 1]
    assert values.mean_error["numbered"].tolist() == [2.0, 0.0, -0.5]
    assert values.rmse["numbered"] == pytest.approx([5**0.5, 0.0, 0.5])
    assert errors_by.in_words(values, "numbered") == (
        "numbered is 2.00 too high on ratings of 1 and 0.50 too low on ratings of 5; its RMSE is highest at 1, 2.24."
    )
    popular = errors_by.by_popularity(found)
    assert dict(zip(popular.labels, popular.counts.tolist(), strict=True))["0"] == 2
    assert popular.counts[:3].tolist() == [2, 2, 0]
    assert popular.rmse["numbered"][:2] == pytest.approx([5**0.5, (0.25 / 2) ** 0.5])


def test_many_distinct_ratings_are_counted_in_ten_steps() -> None:
    steps = errors_by.scale(np.linspace(0, 10, 101).astype(np.float32))
    assert steps.labels == ("0.5", "1.5", "2.5", "3.5", "4.5", "5.5", "6.5", "7.5", "8.5", "9.5")
    assert steps.of(np.array([0.0, 0.99, 1.01, 10.0])).tolist() == [0, 0, 1, 9]


@pytest.mark.parametrize(
    ("values", "highest"),
    [
        ([5.0] * 3 + [4.0] * 7 + [1.0], 10),  # two whole levels fit in ten
        ([5.0] * 3 + [4.0] * 8 + [1.0], 3),  # the second does not: no lot decides which of it
        ([5.0] * 12 + [4.0], 12),  # the highest level always
        ([2.0], 1),
    ],
)
def test_the_highest_rated_items_are_whole_levels_of_ratings(values: list[float], highest: int) -> None:
    rated = Rated(np.arange(len(values), dtype=np.int32), np.array(values, dtype=np.float32))
    assert rated.highest().tolist() == [True] * highest + [False] * (len(values) - highest)


@pytest.fixture
def found() -> Lists:
    """User 0 rated items 0 and 1 earlier and 2 to 25 in the test part, those from 16 on highest; user 1 likes nothing."""
    of = side(2, 30)
    train = dataset(of, [*[(0, n, 4.0) for n in (0, 1)], *[(1, n, 3.0) for n in range(28)]])
    validation = dataset(of, [(0, 27, 3.0)])
    test = dataset(of, [(0, n, 5.0 if n >= 16 else 2.0) for n in range(2, 26)] + [(0, 2, 1.0), (1, 29, 1.0)])
    models = {"high": Numbered(), "low": Numbered(-1), "repeating": Repeating()}
    return lists(models, train, validation, test)  # type: ignore[arg-type]


def test_top_tens_contain_rated_items_that_are_new_to_the_user(found: Lists) -> None:
    assert found.users.tolist() == [0, 1]
    assert found.unseen["high"][0].tolist() == [
        26,
        25,
        24,
        23,
        22,
        21,
        20,
        19,
        18,
        17,
    ]  # 27 validated, 28 and 29 unrated
    assert found.unseen["low"][0].tolist() == list(range(2, 12))
    assert found.unseen["repeating"][0].tolist() == list(range(2, 12))  # nearest to item 0, the first like
    assert found.unseen["repeating"][1].tolist() == [-1] * TEN  # nothing liked, nothing to go by
    assert found.unseen["high"][1].tolist() == [-1] * TEN  # nothing that somebody rated is left
    assert found.among["high"][0].tolist() == list(range(25, 15, -1))
    assert found.rated[0].values[found.rated[0].items == 2].tolist() == [1.0]  # the last rating counts


def test_overlaps_count_pairs_of_user_and_item_in_exactly_these_sets(found: Lists) -> None:
    first = overlap_among_rated(found, 30)
    assert first.names == (TRUTH, "high", "low", "repeating")
    assert first.users == 1  # user 1 rated one item: nothing to choose from
    assert first.sizes == (10, 10, 10, 10)
    assert first.parts == (((False, False, True, True), 10), ((True, True, False, False), 10))
    assert first.chance == pytest.approx(10 / 24)
    assert [first.share_of_truth(name) for name in first.names[1:]] == [1.0, 0.0, 0.0]
    second = overlap_among_unseen(found, 30)
    assert second.sizes == (11, 10, 10, 10)  # user 1's only rating is the highest there is
    assert dict(second.parts)[True, True, False, False] == 9
    assert dict(second.parts)[True, False, False, False] == 2


def test_outcomes_count_users_ratings_of_places(found: Lists) -> None:
    high, low = outcome(found, "high", 5.0), outcome(found, "low", 5.0)
    assert (high.places, high.rated, high.highest, high.hated, high.mean) == (10, 9, 9, 0, 5.0)
    assert (low.places, low.rated, low.highest, low.hated) == (10, 10, 0, 10)
    assert low.mean == pytest.approx(1.9)


def test_coverage_says_how_many_items_are_shown_and_how_popular_they_are() -> None:
    popularity = np.array([1, 70, 5, 10, 14])  # four fifths of 100 ratings are those of items 1 and 4
    one = coverage(np.array([0, 10, 0, 0, 0]), popularity)
    assert (one.covered, one.gini, one.head, one.tail) == pytest.approx((0.2, 0.8, 1.0, 0.0))
    even = coverage(np.array([2, 2, 2, 2, 2]), popularity)
    assert (even.covered, even.gini, even.head, even.tail) == pytest.approx((1.0, 0.0, 0.2, 0.6))
    assert even.curve == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])


def test_the_user_served_worst_hated_what_would_have_been_shown(found: Lists) -> None:
    of = side(2, 30)
    train = dataset(of, [(0, 0, 4.0), (1, 1, 5.0), (1, 2, 1.0)])
    test = dataset(of, [(0, 2, 1.0), (1, 29, 1.0)])
    user, why_this = worst_served_user(contest(train, test, [1.0, 5.0]), found)
    assert user == 0  # of whose top tens ten items were rated 2 or less, though user 1's prediction is further off
    assert why_this == "the user served worst, who hated 10 items of the models' top tens"


def miss(**changed: object) -> Miss:
    said = Miss(
        title="Rocky", categories=("Drama",), rating=1.0, predicted=(("als", 4.5), ("bias", 4.0)), bias_only=4.0,
        online=None, places=(("als", 3), ("transitions", None)), of=800, mean=4.2, others=9, usual=3.5,
        own=(("Drama", 3.6, 20),), neighbours=(("u1", 0.5, 4.5), ("u2", 0.4, 4.0)), words=(),
    )  # fmt: skip
    return said._replace(**changed)


def test_a_miss_is_explained_from_its_numbers() -> None:
    assert explain(miss(), "als") == [
        "als predicted 4.5, place 3 among the 800 items that the user had not rated; the user gave it 1.",
        "It would have been shown: it is in the top ten of als.",
        "9 others gave it 4.2 on average; bias only, which knows only that and the user's own mean, predicts 4.0.",
        "The prediction comes mostly from the item's reputation; als's estimate of this user's taste added +0.5.",
        "The 2 most similar users who rated it gave it 4.2: about as much as predicted, so there was no warning.",
        "The history has no hint: the user rates none of its categories clearly lower than the rest.",
    ]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"bias_only": 3.6}, "The prediction comes more from als's estimate of this user's taste (+0.9) than from the item's reputation."),
        ({"bias_only": 4.5}, "The prediction comes from the item's reputation; als's estimate of this user's taste changed nothing (+0.00)."),
        ({"bias_only": 4.9}, "The prediction comes from the item's reputation; als's estimate of this user's taste lowered it (-0.4), but too little."),
        ({"usual": 4.8}, "als was not misled: the prediction is below the user's mean, 4.8."),
        ({"neighbours": (("u1", 0.5, 1.5),)}, "The only similar user who rated it gave it 1.5: a warning, but it was outweighed."),
        ({"neighbours": ()}, "No similar user had rated it."),
        ({"own": (("Drama", 2.1, 20),)}, "The history has a hint: the user rates Drama 2.1 on average, and 3.5 overall."),
        ({"others": 1, "mean": 5.0}, "One other user gave it 5.0; bias only, which knows only that and the user's own mean, predicts 4.0."),
        ({"others": 0}, "Nobody had rated it in the training part; bias only predicts 4.0."),
    ],
)  # fmt: skip
def test_each_kind_of_evidence_has_its_sentence(changed: dict[str, object], sentence: str) -> None:
    assert sentence in explain(miss(**changed), "als")


def test_the_online_learner_learns_only_the_training_part_and_finds_similar_users() -> None:
    """Of ten users, the even ones like even items and the odd ones odd items; the test part has the contrary."""
    of = side(10, 20)
    rows = [(user, item, 5.0 if (user + item) % 2 == 0 else 1.0) for item in range(20) for user in range(10)]
    train = dataset(of, rows)
    with learned_memory([], train, settings()) as memory:
        believed = posterior(memory, "u0")
        assert believed is not None
        assert believed.ratings == 20
        near = nearest(memory, "u0", 9)
        assert {user_id for _, user_id in near[:4]} == {"u2", "u4", "u6", "u8"}
        assert [likeness for likeness, _ in near] == sorted((likeness for likeness, _ in near), reverse=True)
        assert nearest(memory, "u0", 2) == near[:2]
        assert nearest(memory, "nobody", 2) == []


def test_only_records_of_the_catalogue_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text('{"item_id": "i1", "title": "One"}\n{"user_id": "u1", "item_id": "i1", "rating": 3}\n')
    source = CatalogueRecorder(FileSource(str(file), 1))
    assert read(source, settings(), lambda done, of: None).data.side.titles == ["One"]
    assert [record.topic for record in source.catalogue] == ["items"]
