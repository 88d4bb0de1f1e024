"""What an earlier rating taught is taken back: exactly where a learner can, and never more than it was."""

from collections.abc import Sequence

import numpy as np
import pytest

from streamer.checks.batches import Feed, FeedEvent, rating, sample_events, with_changes
from streamer.core.arrays import F64
from streamer.core.batch import REPLACED, RETRACTED
from streamer.core.protocols import Watched
from streamer.models import LEARNERS
from streamer.models import learner as made
from streamer.models.hybrid.bayesian_hybrid import BayesianHybrid
from streamer.models.hybrid.parameters import BayesianHybridParameters
from streamer.models.hybrid.rows import EVENTS, MU, SQUARES

pytestmark = pytest.mark.slow  # kernels in float64 are compiled for it


def again(user: str, item: str, value: float) -> FeedEvent:
    return FeedEvent(user, item, REPLACED, value)


def withdraw(user: str, item: str) -> FeedEvent:
    return FeedEvent(user, item, RETRACTED, 0.0)


def still() -> Feed:
    """A hybrid in which nothing but users moves: known items, a known scale, no noise with time."""
    parameters = BayesianHybridParameters(
        habit_events=1e12, popularity_prior=0.0, item_prior=0.0, vector_prior=0.0, vector_noise=0.5, session_events=1e12,
        bias_process=0.0, latent_process=0.0, item_process=0.0, consensus_process=0.0, consensus_rate=0.0,
        popularity_rate=0.0, category_rate=0.0, category_events=1e12, vector_rate=0.0, vector_decay=0.0,
        alike_items=1e12,
    )  # fmt: skip
    learner = BayesianHybrid("bayesian-hybrid", parameters, seed=1)
    for table in learner.tables().values():
        table.dtype = np.dtype(np.float64)
        table.start, table.values = table.start.astype(np.float64), table.values.astype(np.float64)
    learner.stream.values[0, [EVENTS, MU, SQUARES]] = 1e12, 3.0, 1e12
    return Feed(learner)


def posterior(events: Sequence[FeedEvent]) -> F64:
    """The user's w and P after the events, with items in one order of arrival."""
    feed = still()
    feed._rows("item", [f"i{n}" for n in range(10)])
    feed.learn(events)
    row: F64 = feed.learner.tables()["user"].values[feed.user_rows["u"], :-4]
    return row


OTHERS = [rating("u", f"i{n}", 1.0 + n % 5) for n in range(1, 9)]


@pytest.mark.xdist_group(LEARNERS["bayesian-hybrid"])  # with its twin: the kernel in float64 takes 20 s to compile
@pytest.mark.parametrize("others", [OTHERS, OTHERS[:1], []])
def test_a_users_posterior_is_that_of_the_ratings_that_hold(others: list[FeedEvent]) -> None:
    first, value = rating("u", "i0", 5.0), 2.0
    replaced = posterior([first, *others, again("u", "i0", value)])
    np.testing.assert_allclose(replaced, posterior([*others, rating("u", "i0", value)]), atol=1e-9)
    assert np.abs(replaced - posterior([first, *others])).max() > 0.01
    if others:
        np.testing.assert_allclose(posterior([first, *others, withdraw("u", "i0")]), posterior(others), atol=1e-9)


def test_a_user_and_an_item_whose_only_rating_is_withdrawn_are_new() -> None:
    learner = made("bayesian-hybrid", seed=1)
    feed = Feed(learner)
    feed.learn(sample_events(300))
    feed.learn([rating("new", "new too", 5.0), withdraw("new", "new too")])
    tables = learner.tables()
    assert tables["user"].values[feed.user_rows["new"]].tolist() == tables["user"].start.tolist()
    assert tables["item"].values[feed.item_rows["new too"], -1] == 0


@pytest.mark.parametrize("name", ["bias", "bayesian-hybrid", "bayesian-hybrid-plain"])
def test_a_rating_withdrawn_at_once_leaves_predictions_where_they_were(name: str) -> None:
    """Within 15% of what the rating moved: time has passed, by which the session has faded a little."""
    feed = Feed(made(name, seed=1))
    feed.learn([event for event in sample_events(2000) if event.item_id != "i3"])
    everything = feed.batch([rating("u1", f"i{n}", 3.0) for n in range(12) if n != 3])
    moments = [feed.learner.predict(everything)]
    for event in (rating("u1", "i3", 5.0), withdraw("u1", "i3")):
        feed.learn([event])
        moments.append(feed.learner.predict(everything))
    before, between, after = (one.astype(np.float64) for one in moments)
    assert np.abs(between - before).max() > 0.02
    assert np.abs(after - before).max() < 0.15 * np.abs(between - before).max()


@pytest.mark.parametrize("name", [name for name in LEARNERS if made(name, seed=1).kind == "ratings"])
def test_changing_ones_mind_for_ever_is_one_witness(name: str) -> None:
    """Everything stays finite, variances positive, and counts are those of ratings that hold."""
    feed = Feed(made(name, seed=1))
    feed.learn(with_changes(sample_events(500)))
    flips = [again("u1", "i1", 1.0 + 4.0 * (n % 2)) if n % 7 else withdraw("u1", "i1") for n in range(1, 700)]
    feed.learn(flips)
    for called, table in feed.tables().items():
        assert np.isfinite(table.values).all(), called
    assert feed.learner.tables()["stream"].values[0, 0] == len(feed.rated)
    rows = np.arange(5, dtype=np.int32)
    for widths in [feed.learner.widths(side, rows) for side in ("user", "item") if isinstance(feed.learner, Watched)]:
        assert all((width > 0).all() for width in widths.values())
