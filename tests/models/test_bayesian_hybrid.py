"""The Bayesian hybrid learns tastes for categories quickly, knows its uncertainty, and accepts stated preferences."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from learning import settings

from streamer.checks.batches import Feed, FeedEvent, rating, sample_events, with_rows
from streamer.consumers.files import FileSource
from streamer.core.arrays import F32, F64, I32
from streamer.core.batch import RATING, Batch
from streamer.models import learner
from streamer.models.hybrid.bayesian_hybrid import BayesianHybrid
from streamer.models.hybrid.parameters import BayesianHybridParameters
from streamer.serving.opening import learners
from streamer.storage.state import RocksStore
from streamer.stream.engine import Engine, NullObserver
from streamer.stream.memory import Memory

DRAMA, COMEDY, HORROR = 0, 1, 2
NO_ITEMS: tuple[I32, F32] = (np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32))


@pytest.fixture(scope="module")
def films(movielens: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Memory]:
    """A memory that has learned all of ml-latest-small as the service does."""
    chosen = settings(rating_learner="bayesian-hybrid", click_learner="popularity")
    store = RocksStore(tmp_path_factory.mktemp("films"))
    memory = Memory(learners(chosen), chosen, store)
    engine = Engine(FileSource(movielens, 1), memory, NullObserver(), max_records=1000, commit_interval_s=3600.0)
    while engine.step(0.0):
        pass
    yield memory
    store.close()


def first_ten(memory: Memory, likes: dict[str, float]) -> list[tuple[str, ...]]:
    """The categories of the items with the highest predictions for a user of whom only these preferences are known."""
    learner = memory.learners.by_name["bayesian-hybrid"]
    assert isinstance(learner, BayesianHybrid)
    said = {memory.categories.number_of[name]: value for name, value in likes.items()}
    row = learner.condition(memory.users.view("nobody").rows["bayesian-hybrid"], said, *NO_ITEMS)
    items = np.arange(len(memory.items), dtype=np.int32)
    best = np.argsort(-learner.score_row(row, items), kind="stable")[:10].tolist()
    return [memory.items.catalogue[memory.items.ids[item]].categories for item in best]


def test_it_predicts_real_ratings_better_than_other_learners(films: Memory) -> None:
    assert films.monitor.errors["bayesian-hybrid"].rmse() <= 0.848


def test_a_preference_for_documentaries_brings_documentaries(films: Memory) -> None:
    assert sum("Documentary" in categories for categories in first_ten(films, {"Documentary": 5.0})) >= 8


def test_preferences_for_and_against_categories_are_followed(films: Memory) -> None:
    best = first_ten(films, {"Comedy": 5.0, "Horror": 1.0})
    assert sum("Comedy" in categories for categories in best) >= 8
    assert not any("Horror" in categories for categories in best)


def test_the_setting_dim_does_not_affect_it() -> None:
    usual, long = learner("bayesian-hybrid", seed=1), learner("bayesian-hybrid", seed=1, dim=64)
    assert long.parameters == usual.parameters
    assert learner("bayesian-hybrid", seed=1, latent_dim=16).tables()["user"].width == 60 + 60 * 61 // 2 + 4


def hybrid(**parameters: float) -> BayesianHybrid:
    return BayesianHybrid("hybrid", BayesianHybridParameters(**parameters), seed=1)  # type: ignore[arg-type]  # some are int


def genres(count: int, *, items: int = 60, seed: int = 1) -> list[FeedEvent]:
    """Item n has category n % 3; user m rates category m % 3 with 5 and the others with 3, with half a star of noise."""
    random = np.random.default_rng(seed)
    pairs = zip(random.integers(0, 30, count).tolist(), random.integers(0, items, count).tolist(), strict=True)
    return [rating(f"u{u}", f"i{i}", (5.0 if u % 3 == i % 3 else 3.0) + 0.5 * float(random.normal())) for u, i in pairs]


def fed(learner: BayesianHybrid, events: list[FeedEvent]) -> Feed:
    """A feed that has learned `events`; item n has category n % 3."""
    feed = Feed(learner)
    for start in range(0, len(events), 100):
        batch = feed.batch(events[start : start + 100])
        for item, row in feed.item_rows.items():
            feed.category_words.values[row, 0] = 1 << int(item[1:]) % 3
        learner.learn(batch)
    return feed


def covariance(learner: BayesianHybrid, row: F32) -> F64:
    n = learner.size
    p = np.zeros((n, n))
    p[np.tril_indices(n)] = row[n:-4]
    return p + np.tril(p, -1).T


def at(batch: Batch, times_ms: list[int]) -> Batch:
    return Batch(
        batch.kinds, batch.users, batch.items, batch.values, batch.clicks, np.array(times_ms, dtype=np.int64),
        batch.keys, batch.lows, batch.highs, batch.seen_counts, batch.seen,
    )  # fmt: skip


def answer(feed: Feed, user_id: str, item_id: str) -> float:
    view, row = feed.view(user_id), feed.item_rows.get(item_id, -1)
    return float(feed.learner.score(view, np.array([row], dtype=np.int32))[0])


def test_a_scale_twice_as_wide_gives_exactly_doubled_predictions() -> None:
    events = [
        event for event in sample_events(1000) if not event.user_id.endswith("s")
    ]  # who says nothing, on any scale
    wide = [event._replace(value=2 * event.value) for event in events]
    np.testing.assert_array_equal(2 * Feed(hybrid()).learn(events), Feed(hybrid()).learn(wide))


def test_an_offset_of_the_scale_shifts_predictions() -> None:
    events = [e for e in sample_events(1000) if e.kind == RATING and not e.user_id.endswith("s")]
    high = [event._replace(value=event.value + 64) for event in events]
    once, other = Feed(hybrid()).learn(events), Feed(hybrid()).learn(high)
    np.testing.assert_allclose(once[1:] + 64, other[1:], atol=1e-3)


def test_a_taste_for_a_category_reaches_items_never_rated() -> None:
    feed = fed(
        hybrid(),
        [*genres(600), *(rating("drama fan", f"i{3 * n}", 5.0) for n in range(5)), rating("drama fan", "i1", 2.0)],
    )
    feed.batch([rating("x", "i99", 3.0), rating("x", "i100", 3.0)])  # arrive, and are not learned from
    category_words = feed.category_words.values
    category_words[feed.item_rows["i99"], 0], category_words[feed.item_rows["i100"], 0] = 1 << DRAMA, 1 << COMEDY
    assert answer(feed, "drama fan", "i99") > answer(feed, "drama fan", "i100") + 0.5


def test_it_is_better_with_categories_than_without() -> None:
    events, errors = genres(3000, items=150), []
    for categories in (3, 0):
        learner = hybrid(categories=categories)
        feed = fed(learner, events[:2000])
        predicted = feed.learn(events[2000:])
        errors.append(float(np.sqrt(np.mean((predicted - [event.value for event in events[2000:]]) ** 2))))
    assert errors[0] < 0.7  # .5 is noise
    assert errors[1] > errors[0] + 0.1


def test_a_new_item_begins_with_the_bias_of_its_categories() -> None:
    random = np.random.default_rng(1)
    values = {DRAMA: 4.5, COMEDY: 3.0, HORROR: 2.0}
    chosen = random.integers(0, 60, 3000).tolist()
    feed = fed(
        hybrid(),
        [rating(f"u{n % 50}", f"i{i}", values[i % 3] + float(random.normal(0, 0.3))) for n, i in enumerate(chosen)],
    )
    feed.batch([rating("x", f"i{99 + n}", 3.0) for n in range(3)])
    for n in range(3):
        feed.category_words.values[feed.item_rows[f"i{99 + n}"], 0] = 1 << n
    drama, comedy, horror = (answer(feed, "nobody", f"i{99 + n}") for n in range(3))
    assert drama > comedy + 0.3 > horror + 0.6


def test_the_session_bias_lasts_for_its_session_and_a_late_event_does_not_end_it() -> None:
    feed = Feed(hybrid())
    feed.learn(sample_events(1000, users=20, items=20))
    mood = feed.batch([rating("u3", f"i{n}", 0.5) for n in range(8)])
    start = 10_000_000
    feed.learner.learn(at(mood, [start + 1000 * n for n in range(8)]))
    ask = feed.batch([rating("u3", "i12", 3.0)])
    in_session, late, after = (
        float(feed.learner.predict(at(ask, [start + ms]))[0]) for ms in (8000, -500_000_000, 500_000)
    )
    assert in_session == late
    assert after > in_session + 0.2
    feed.learner.learn(at(feed.batch([rating("u3", "i9", 0.5)]), [start - 500_000_000]))  # late
    assert float(feed.learner.predict(at(ask, [start + 8000]))[0]) <= in_session  # and the session still goes on


def test_covariances_stay_positive_even_when_everything_is_repeated() -> None:
    learner = hybrid()
    feed = Feed(learner)
    feed.learn([event for event in sample_events(400) for _ in range(20)], 1000)
    for row in learner.user.values[list(feed.user_rows.values())]:
        smallest = float(np.linalg.eigvalsh(covariance(learner, row)).min())
        assert smallest > -1e-5
    assert (learner.item.values[: len(feed.item_rows), learner.model.dim : 2 * learner.model.dim] > 0).all()


def test_it_says_how_sure_it_is() -> None:
    learner = hybrid()
    feed = fed(learner, genres(2000))
    items = np.arange(-1, len(feed.item_rows), dtype=np.int32)
    known, unknown = (learner.uncertainty(feed.view(user).rows["hybrid"], items) for user in ("u1", "nobody"))
    assert (known > 0).all()
    assert (known < unknown).all()
    assert known[0] > known[1:].mean()  # of an item never seen it knows less


def test_its_uncertainty_is_about_as_large_as_its_errors() -> None:
    learner = hybrid()
    feed = fed(learner, genres(1500))
    ahead = genres(400, seed=2)
    batch = feed.batch(ahead)
    rows = [feed.view(event.user_id).rows["hybrid"] for event in ahead]
    doubts = np.array([learner.uncertainty(row, batch.items[k : k + 1])[0] for k, row in enumerate(rows)])
    noise = learner.parameters.noise * learner.stream.values[0, 2] / learner.stream.values[0, 0]
    errors = learner.predict(batch) - batch.values
    assert 0.3 < float(np.mean(errors**2 / (doubts**2 + noise))) < 1.3


def test_stated_preferences_rank_first() -> None:
    learner = hybrid()
    feed = fed(learner, genres(2000))
    items = np.arange(len(feed.item_rows), dtype=np.int32)
    fresh = feed.view("nobody").rows["hybrid"]
    before = fresh.copy()
    row = learner.condition(fresh, {COMEDY: 5.0}, *NO_ITEMS)
    of = {row: int(item[1:]) % 3 for item, row in feed.item_rows.items()}
    assert {of[item] for item in np.argsort(-learner.score_row(row, items))[:10].tolist()} == {COMEDY}
    torn = learner.score_row(learner.condition(fresh, {COMEDY: 5.0, HORROR: 1.0}, *NO_ITEMS), items)
    means = [float(np.mean([torn[item] for item in items.tolist() if of[item] == number])) for number in range(3)]
    assert means[COMEDY] > means[DRAMA] > means[HORROR]
    np.testing.assert_array_equal(before, fresh)
    odd = learner.condition(fresh, {63: 5.0}, *NO_ITEMS)  # nobody has a weight for that, nor is any item of it
    assert 0 < float(np.abs(learner.score_row(odd, items) - learner.score_row(fresh, items)).max()) < 0.3


def test_conditioning_on_three_ratings_equals_learning_them() -> None:
    learner = hybrid()
    feed = fed(learner, genres(2000))
    rated = [("i0", 5.0), ("i3", 5.0), ("i1", 2.0)]
    rows = np.array([feed.item_rows[item] for item, _ in rated], dtype=np.int32)
    conditioned = learner.condition(feed.view("new").rows["hybrid"], {}, rows, np.array([5, 5, 2], dtype=np.float32))
    items = np.arange(len(feed.item_rows), dtype=np.int32)
    scores = learner.score_row(conditioned, items)
    feed.learn([rating("new", item, value) for item, value in rated])
    np.testing.assert_allclose(scores, learner.score(feed.view("new"), items), atol=0.15)  # the items learned too
    assert float(np.abs(scores - learner.score(feed.view("nobody"), items)).max()) > 0.3


def test_score_is_the_prediction_within_the_session() -> None:
    feed = Feed(hybrid())
    feed.learn(sample_events(1000))
    ids = list(feed.item_rows)[:20]
    batch = feed.batch([rating("u1", item, 3.0) for item in ids])
    last = at(batch, [0] * len(ids))  # late: the session goes on
    np.testing.assert_allclose(feed.learner.predict(last), feed.learner.score(feed.view("u1"), batch.items), rtol=1e-6)


def test_score_is_the_prediction_for_unseen_users_and_items() -> None:
    learner = hybrid()
    feed = fed(learner, genres(2000))
    nobody, batch = np.full(3, -1, dtype=np.int32), feed.batch([rating("u1", item, 3.0) for item in ("i0", "i1", "i2")])
    nothing = learner.score(feed.view("u1"), nobody)
    assert (
        learner.stream.values[0, 4] != 0 != learner.stream.values[0, 5]
    )  # there is something that new users begin with
    expected = learner.predict(with_rows(batch, nobody, batch.items))
    np.testing.assert_allclose(learner.score(feed.view("nobody"), batch.items), expected, rtol=1e-6)
    np.testing.assert_allclose(learner.predict(with_rows(at(batch, [0] * 3), batch.users, nobody)), nothing, rtol=1e-6)
    for rows in (0, len(feed.category_words.values) - 1):
        feed.category_words.values[rows, 0] ^= 7
    np.testing.assert_array_equal(learner.score(feed.view("u1"), nobody), nothing)  # nobody else's categories


def test_a_rating_repeated_many_times_is_predicted() -> None:
    feed = Feed(hybrid())
    out = feed.learn([rating(f"u{n % 5}", f"i{n % 7}", 4.0) for n in range(50)])
    assert (out[1:] == 4.0).all()
    assert (feed.learner.tables()["item"].values[:7, -1] > 0).all()  # it was learned from
    assert np.isfinite(feed.learn([rating("u1", "i1", 1.0), rating("u2", "i2", 1.0)])).all()


def test_values_that_are_not_finite_are_refused_and_counted() -> None:
    learner = hybrid()
    feed = Feed(learner)
    feed.learn([*sample_events(100), rating("u1", "i1", float("nan")), rating("u1", "i1", float("inf"))])
    assert learner.stream.values[0, 3] == 2
