"""Skip-gram learns tastes beyond popularity, from negatives drawn as in the paper."""

import numpy as np
import pytest

from streamer.checks.batches import Feed, FeedEvent, Ring, click, sample_events
from streamer.core.arrays import I32, I64
from streamer.core.protocols import ItemVectors, Rebuilt
from streamer.core.seed import mix64
from streamer.core.tables import Table
from streamer.models.noise import add_noise, build_noise, draw_noise
from streamer.models.skip_gram import SkipGram, SkipGramParameters, has_seen, score_skip_gram


def feed(**parameters: float) -> Feed:
    return Feed(SkipGram("skip", SkipGramParameters(**parameters), seed=1))  # type: ignore[arg-type]  # some are ints


def two_crowds(count: int) -> list[FeedEvent]:
    """Even users click even items and odd users odd ones, of 40 each."""
    random = np.random.default_rng(1)
    pairs = random.integers(0, 20, size=(count, 2)).tolist()
    return [click(f"u{2 * u + n % 2}", f"i{2 * i + n % 2}") for n, (u, i) in enumerate(pairs)]


def rows(one: Feed) -> I32:
    return np.arange(len(one.item_rows), dtype=np.int32)


def test_a_user_gets_items_that_similar_users_click() -> None:
    one = feed()
    one.learn(two_crowds(3000))
    even = np.array([int(item[1:]) % 2 == 0 for item in one.item_rows])
    scores = one.learner.score(one.view("u0"), rows(one))
    assert float(scores[even].min()) > float(scores[~even].max())


def test_similar_items_have_near_vectors() -> None:
    one = feed()
    one.learn(two_crowds(3000))
    assert isinstance(one.learner, ItemVectors)
    vectors = one.learner.vectors()[: len(one.item_rows)]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    even = np.array([int(item[1:]) % 2 == 0 for item in one.item_rows])
    assert float((unit[even] @ unit[even].T).mean()) > 0.5 > 0.0 > float((unit[even] @ unit[~even].T).mean())


def test_where_clicks_are_chance_scores_are_popularity_for_new_items_too() -> None:
    """Without the odds of a negative, items that many have clicked score ln 5 less."""
    one, random = feed(), np.random.default_rng(1)
    pairs = zip(random.integers(0, 60, 3000).tolist(), random.integers(0, 200, 3000).tolist(), strict=True)
    one.learn([*(click(f"u{u}", f"i{i}") for u, i in pairs), click("somebody", "new")])
    counts = one.learner.tables()["noise"].values[: len(one.item_rows), 0] / 65536
    logits = np.mean([one.learner.score(one.view(f"u{u}"), rows(one)) for u in range(60)], axis=0) - 0.75 * np.log(
        counts
    )
    old = np.arange(len(counts)) != one.item_rows["new"]
    assert abs(float(logits[old].mean() - logits[~old].mean())) < 0.6


def test_rows_of_a_state_without_sums_of_squares_are_read() -> None:
    one = feed()
    one.learn([click("u", f"i{n}") for n in range(20)])
    table, before = one.learner.tables()["item"], Table("item", [0.0] * 64)
    before.reserve(20)
    before.values[:20] = table.values[:20, :64]
    before.values[0, 32:] = 0.0  # this row is stored as the words that differ
    stored = before.serialise(np.arange(20, dtype=np.int32))
    assert len({len(value) for value in stored}) > 1
    for row, value in enumerate(stored):
        table.load(row, value)
        np.testing.assert_array_equal(table.values[row], [*before.values[row], 0.0, 0.0])


def test_a_user_without_clicks_gets_popularity() -> None:
    one = feed()
    one.learn([click(f"u{n}", f"i{i}") for i in range(10) for n in range(10 - i)])
    scores = one.learner.score(one.view("nobody"), np.array([*range(10), -1], dtype=np.int32))
    np.testing.assert_allclose(scores[:10], 0.75 * np.log(np.arange(10, 0, -1)), rtol=1e-5, atol=1e-6)
    assert float(scores[10]) < float(scores[:10].min())


def test_a_dislike_pushes_its_item_away_and_counts_for_nothing() -> None:
    one = feed()
    one.learn(two_crowds(1000))
    row = one.item_rows["i0"]
    before, count = one.learner.score(one.view("u0"), rows(one)), one.learner.tables()["noise"].values.copy()
    one.learn([click("u0", "i0", -1.0)])
    after = one.learner.score(one.view("u0"), rows(one))
    assert float(after[row]) < float(before[row])
    np.testing.assert_array_equal(one.learner.tables()["noise"].values, count)


def test_a_heavier_click_takes_a_longer_step_up_to_the_largest() -> None:
    moved = {}
    for weight in (0.2, 1.0, 4.0, 1000.0):
        one = feed()
        one.learn(two_crowds(500))
        before = one.learner.tables()["user"].values.copy()
        one.learn([click("u0", "i2", weight)])
        moved[weight] = float(np.abs(one.learner.tables()["user"].values - before).sum())
    assert moved[0.2] < moved[1.0] < moved[4.0] == moved[1000.0]


def test_negatives_are_never_the_item_itself_nor_any_that_the_user_has_seen() -> None:
    one = feed()
    one.learn([click(f"v{n}", f"i{n % 12}") for n in range(200)])  # 12 items to draw from
    item = one.learner.tables()["item"]
    for n in range(12):  # fewer than the window holds
        batch = one.batch([click("u", f"i{n}")])
        before = item.values[:, :32].copy()  # as targets; what the user clicked before moves as context
        one.learner.learn(batch)
        moved = set(np.flatnonzero((item.values[:, :32] != before).any(axis=1)).tolist())
        assert moved.isdisjoint(range(n))
        assert n in moved or n == 0  # a user without clicks has no vector yet that could move anything
        assert len(moved) > 1 or n in (0, 9, 10, 11)


def test_has_seen_agrees_with_a_set() -> None:
    ring, random = Ring(3, page=4, window=10, longest=6), np.random.default_rng(1)
    order: list[list[int]] = [[], [], []]
    for user, item in zip(random.integers(0, 3, 400).tolist(), random.integers(0, 30, 400).tolist(), strict=True):
        before = ring.put(user, item)
        assert before == len(order[user])
        if int(ring.counts[user]) > before:
            order[user].append(item)
        count = max(0, len(order[user]) - 3)  # an event of some puts ago, in the same batch
        window = order[user][max(0, count - 10) : count]
        seen = [has_seen(ring.pages, ring.page_of, user, count, 10, one) for one in range(30)]
        assert seen == [one in window for one in range(30)]


def test_negatives_are_drawn_by_the_weights() -> None:
    weights: I64 = np.array([0, 10, 0, 30, 60], dtype=np.int64)
    tree = build_noise(weights)
    drawn = (
        np.bincount([draw_noise(tree, np.uint64(mix64(np.uint64(7), n))) for n in range(20000)], minlength=5) / 20000
    )
    np.testing.assert_allclose(drawn, weights / 100, atol=0.015)
    assert drawn[[0, 2]].tolist() == [0, 0]


def test_an_updated_tree_equals_one_built_from_its_weights() -> None:
    random = np.random.default_rng(1)
    weights: I64 = np.zeros(37, dtype=np.int64)
    tree = build_noise(weights)
    for row, weight in zip(
        random.integers(0, 37, 500).tolist(), random.integers(1, 1 << 40, 500).tolist(), strict=True
    ):
        weights[row] += weight
        add_noise(tree, row, weight)
    np.testing.assert_array_equal(tree, build_noise(weights))
    wider = build_noise(np.concatenate([weights, np.zeros(200, dtype=np.int64)]))
    keys = [np.uint64(mix64(np.uint64(3), n)) for n in range(200)]
    assert [draw_noise(tree, key) for key in keys] == [draw_noise(wider, key) for key in keys]


def test_the_noise_tree_is_rebuilt_after_tables_are_loaded() -> None:
    """A learner that had learned other events continues, once other tables are loaded, like the learner they come from."""
    one, other = feed(), feed()
    one.learn(two_crowds(300))
    other.learn(two_crowds(300)[::-1])
    for name, table in other.learner.tables().items():
        table.values[:] = one.learner.tables()[name].values
    assert isinstance(other.learner, Rebuilt)
    other.learner.restored()
    batch = one.batch(two_crowds(400)[300:])
    np.testing.assert_array_equal(one.learner.learn(batch), other.learner.learn(batch))
    for name, table in other.learner.tables().items():
        np.testing.assert_array_equal(table.values, one.learner.tables()[name].values)


def test_nothing_is_drawn_from_nothing() -> None:
    assert draw_noise(build_noise(np.zeros(5, dtype=np.int64)), np.uint64(1)) == -1


def test_noise_follows_counts_event_by_event() -> None:
    one = feed()
    one.learn(sample_events(800))
    counts, weights = one.learner.tables()["noise"].values.T / 65536
    assert counts.sum() > 0
    np.testing.assert_allclose(weights, counts**0.75, atol=2e-5)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 0.0])
def test_weights_of_0_or_not_finite_teach_nothing(weight: float) -> None:
    one = feed()
    one.learn(two_crowds(100))
    before = one.state() | {("stream", ""): b""}
    assert np.isnan(one.learn([click("u0", "i0", weight)])).all()
    assert one.state() | {("stream", ""): b""} == before  # but for the count of what was refused


def test_a_row_read_from_the_store_scores_without_compiling_anew() -> None:
    one = feed()
    one.learn(two_crowds(100))
    view = one.view("u0")
    scores = one.learner.score(view, rows(one))
    compiled = len(vars(score_skip_gram)["overloads"])
    view.rows["skip"].flags.writeable = False
    np.testing.assert_array_equal(one.learner.score(view, rows(one)), scores)
    assert len(vars(score_skip_gram)["overloads"]) == compiled
