"""The online GRU serves what torch has fitted, and popularity before that."""

import numpy as np
import pytest

from streamer.checks.batches import Feed, FeedEvent, click
from streamer.checks.offline import world
from streamer.core.errors import StreamerError
from streamer.models import learner, trainer
from streamer.models.networks.gru import GRU
from streamer.models.offline.clicks.gru4rec import GRU4Rec, GRU4RecParameters
from streamer.models.offline.clicks.gru_trainer import write_network
from streamer.study.splits import leave_last_out

ITEMS = 10


def rounds(users: int = 30) -> list[FeedEvent]:
    """Every user clicks 0 to 9 in a circle, from a different start."""
    return [click(f"u{user}", f"i{(user + n) % ITEMS}") for n in range(8) for user in range(users)]


def best(feed: Feed, user: str) -> str:
    ids = list(feed.item_rows)
    scores = feed.learner.score(feed.view(user), np.array([feed.item_rows[one] for one in ids], dtype=np.int32))
    return ids[int(np.argmax(scores))]


def test_before_the_first_retraining_it_is_popularity() -> None:
    feed, counted = Feed(learner("gru4rec", seed=1)), Feed(learner("popularity", seed=1))
    events = [click(f"u{n % 7}", f"i{n * n % 11}") for n in range(300)]
    said, targets = feed.learn(events), counted.learn(events)
    later = targets > 0
    np.testing.assert_allclose(said[later], targets[later], rtol=1e-5)
    items = np.arange(len(feed.item_rows), dtype=np.int32)
    orders = [np.argsort(one.learner.score(one.view("u1"), items), kind="stable") for one in (feed, counted)]
    assert np.array_equal(*orders)


def test_after_a_retraining_each_click_changes_the_next_recommendation() -> None:
    feed = Feed(learner("gru4rec", seed=1))
    history = feed.batch(rounds())
    made = trainer("gru4rec")
    made.fit(feed.learner, history, lambda share: None)
    for user in (0, 3, 7):
        assert best(feed, f"u{user}") == f"i{(user + 8) % ITEMS}"
        feed.learn([click(f"u{user}", f"i{(user + 8) % ITEMS}")])
        assert best(feed, f"u{user}") == f"i{(user + 9) % ITEMS}"
    feed.learn([click("newcomer", "i3"), click("newcomer", "i4")])
    assert best(feed, "newcomer") == "i5"


def test_an_item_that_came_later_is_ranked_by_its_clicks() -> None:
    feed = Feed(learner("gru4rec", seed=1))
    trainer("gru4rec").fit(feed.learner, feed.batch(rounds()), lambda share: None)
    before = feed.learner.user.values[feed.user_rows["u0"]].copy()
    feed.learn([click("u0", "late")])
    items = np.array([feed.item_rows["late"]], dtype=np.int32)
    once = float(feed.learner.score(feed.view("u0"), items)[0])
    assert np.array_equal(feed.learner.user.values[feed.user_rows["u0"]], before)  # nothing is known of it
    feed.learn([click(f"u{n}", "late") for n in range(1, 8)])
    assert float(feed.learner.score(feed.view("u0"), items)[0]) == pytest.approx(once + np.log(8), abs=1e-5)


def test_its_scores_are_those_of_torch() -> None:
    train, validation, _ = leave_last_out(world())
    model = GRU4Rec("gru4rec", GRU4RecParameters(dim=12, epochs=3), seed=1)
    model.fit(train, validation, lambda epoch: None)
    made = learner("gru4rec", seed=1, dim=12)
    assert isinstance(made, GRU)
    for table, rows in ((made.user, 1), (made.item, train.item_count), (made.counts, train.item_count)):
        table.reserve(rows)
        table.begin(np.arange(rows, dtype=np.int32), [0] * rows)
    write_network(made, model)
    feed = Feed(made)
    history = [3, 0, 7, 3, 1]
    feed.item_rows.update({f"i{n}": n for n in range(train.item_count)})
    feed.learn([click("u", f"i{item}") for item in history])
    targets = model.scores(np.zeros(1, dtype=np.int32), [np.array(history, dtype=np.int32)])[0]
    known = ~np.isnan(targets)
    said = made.score(feed.view("u"), np.arange(train.item_count, dtype=np.int32))
    np.testing.assert_allclose(said[known], targets[known], rtol=1e-4, atol=1e-4)


def test_another_learner_is_refused() -> None:
    other = learner("popularity", seed=1)
    with pytest.raises(StreamerError, match="fits the online GRU, not popularity"):
        trainer("gru4rec").fit(other, Feed(other).batch([]), lambda share: None)
