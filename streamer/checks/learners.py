"""Checks of online learners, one function for each promise. They run over every line of `streamer.models.LEARNERS`.

For a learner of your own, from outside this package:

    @pytest.mark.parametrize("check", CHECKS)
    def test_mine(check):
        check(lambda seed: Mine("mine", Mine.Parameters(), seed=seed))
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from streamer.checks.batches import Feed, FeedEvent, click, contents, rating, sample_events, with_rows
from streamer.core.arrays import F32, I32, Bool
from streamer.core.batch import CLICK, RATING, RETRACTED, Batch
from streamer.core.protocols import Guarded, OnlineLearner, Probed

Make: TypeAlias = Callable[[int], OnlineLearner]  # makes a fresh learner from a seed
EVENTS = 500
ITEMS_AN_EVENT = 32  # item rows that one event may change: its own and its negatives
NOT_FINITE = (float("nan"), float("inf"), float("-inf"))
EXTREMES = (*NOT_FINITE, 1e30, -1e30)
LIKENESS = 0.1  # largest difference between predictions for row -1 and for a new row, in ratings or probability


class CheckFailed(AssertionError):
    """A promise is broken; the message says which and where."""


def require(kept: bool | np.bool_, sentence: str) -> None:
    """Raise CheckFailed with the sentence unless `kept`."""
    if not kept:
        raise CheckFailed(sentence)


def same(a: F32, b: F32) -> bool:
    """Whether two arrays are equal bit by bit, NaN included."""
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def must_predict(learner: OnlineLearner, batch: Batch) -> Bool:
    """Whether the learner must predict each event, (n,): ratings, or clicks with a weight above 0."""
    return batch.kinds == RATING if learner.kind == "ratings" else batch.clicks > 0


def items_of(feed: Feed) -> I32:
    """Every item row and -1, in random order."""
    return np.random.default_rng(1).permutation(np.arange(-1, len(feed.item_rows))).astype(np.int32)


def implements_the_protocol(make: Make) -> None:
    """It implements `protocols.OnlineLearner` and always returns the same tables: at most one of users, and one row in the stream's."""
    learner = make(1)
    require(isinstance(learner, OnlineLearner), f"{learner} lacks a part of streamer.core.protocols.OnlineLearner")
    require(learner.kind in ("ratings", "clicks"), f"kind is {learner.kind!r}: wanted ratings or clicks")
    tables = learner.tables()
    Feed(learner).learn(sample_events(50))
    again = learner.tables()
    require(
        list(tables) == list(again) and all(tables[name] is again[name] for name in tables),
        "tables() returns other objects after learning: the store would keep persisting the old ones",
    )
    users = [name for name, table in tables.items() if table.side == "user"]
    require(len(users) <= 1, f"tables {users} all have side user: only one may, so put their columns into one table")
    streams = [name for name, table in tables.items() if table.side == "stream" and len(table.values) != 1]
    require(not streams, f"stream tables {streams} do not have exactly one row")


def batch_size_does_not_matter(make: Make) -> None:
    """Batches of 1, 7 and 1,000 events leave the same bytes and the same predictions."""
    events = sample_events(EVENTS)
    feeds = {cut: Feed(make(1)) for cut in (1, 7, 1000)}
    outs = {cut: feed.learn(events, cut) for cut, feed in feeds.items()}
    for cut in (7, 1000):
        require(same(outs[1], outs[cut]), f"predictions differ between batches of 1 and of {cut}")
        require(feeds[1].state() == feeds[cut].state(), f"state differs between batches of 1 and of {cut}")


def reading_changes_nothing(make: Make) -> None:
    """`predict` and `score`, for known and unseen users and items, do not change tables, marks or later learning."""
    events = sample_events(EVENTS)
    read, unread = Feed(make(1)), Feed(make(1))
    read.learn(events[:300])
    unread.learn(events[:300])
    learner = read.learner
    ahead = read.batch(events[300:400])
    missing = np.full(len(ahead), -1, dtype=np.int32)
    _clean(learner)
    before = contents(learner.tables().values())
    for batch in (ahead, with_rows(ahead, missing, missing)):
        require(same(learner.predict(batch), learner.predict(batch)), "predicting twice gives different results")
        require(contents(learner.tables().values()) == before, "predict changed a table or a mark")
    for user_id in ("u0", "u1", "nobody"):
        view = read.view(user_id)
        rows = {name: row.copy() for name, row in view.rows.items()}
        require(
            same(learner.score(view, items_of(read)), learner.score(view, items_of(read))),
            "scoring twice gives different results",
        )
        require(contents(learner.tables().values()) == before, f"score changed a table or a mark, user {user_id!r}")
        require(all(same(rows[name], view.rows[name]) for name in rows), "score changed the user's view")
    later = [read.step(ahead), read.learn(events[400:])]
    require(
        same(np.concatenate(later), unread.learn(events[300:])),
        "predictions after reading differ from those without it",
    )
    require(
        read.state(touched=False) == unread.state(touched=False),
        "the state after reading and learning differs from that without reading",
    )


def changes_are_marked(make: Make) -> None:
    """Every changed row is marked in `touched`: an unmarked change would be lost at a restart."""
    feed = Feed(make(1))
    for n, event in enumerate(sample_events(EVENTS)):
        batch = feed.batch([event])
        tables = feed.learner.tables()
        _clean(feed.learner)
        before = {name: table.values.copy() for name, table in tables.items()}
        feed.step(batch)
        for name, table in tables.items():
            changed = {row for row in range(len(table.values)) if not same(before[name][row], table.values[row])}
            require(changed <= set(table.dirty().tolist()), f"event {n} changed rows of {name!r} without marking them")


def only_own_rows_change(make: Make) -> None:
    """An event marks only its own user and a few items, since every marked row is written to disk."""
    feed = Feed(make(1))
    feed.learn([rating(f"early {n}", f"i{n}", 4.0) for n in range(100)])
    for n, event in enumerate(sample_events(EVENTS)):
        batch = feed.batch([event])
        tables = feed.learner.tables()
        _clean(feed.learner)
        feed.step(batch)
        for name, table in tables.items():
            marked = table.dirty().tolist()
            if table.side == "user":
                require(set(marked) <= set(batch.users.tolist()), f"event {n} marked other users' rows of {name!r}")
            require(len(marked) <= ITEMS_AN_EVENT, f"event {n} marked {len(marked)} rows of {name!r}")


def predicts_before_learning(make: Make) -> None:
    """An event's value changes neither its own prediction nor an earlier one, but does change the state."""
    events = sample_events(EVENTS)
    learner = make(1)
    own = [k for k, event in enumerate(events) if (event.kind == RATING) == (learner.kind == "ratings")]
    for k in [k for k in own if events[k].value > 0][100:120]:
        other = events[k]._replace(value=5.5 - events[k].value if events[k].kind == RATING else events[k].value / 2)
        feeds = Feed(make(1)), Feed(make(1))
        out = feeds[0].learn(events[: k + 1], 1000)
        changed = feeds[1].learn([*events[:k], other], 1000)
        require(same(out, changed), f"prediction {k} or an earlier one depends on the value of event {k}")
        moved = other.value == events[k].value or feeds[0].state() != feeds[1].state()
        require(moved, f"event {k} taught nothing: {events[k]} and {other} leave the same state")


def predict_is_what_learn_returns(make: Make) -> None:
    """`predict` returns what `learn` would return for the next event, bit for bit."""
    feed = Feed(make(1))
    for n, event in enumerate(sample_events(EVENTS)):
        batch = feed.batch([event])
        predicted = feed.learner.predict(batch)
        require(same(predicted, feed.step(batch)), f"predict and learn differ at event {n}: {event}")


def survives_a_restart(make: Make) -> None:
    """A fresh learner with the stored rows, users at other rows, continues exactly like one without a restart."""
    events = sample_events(EVENTS)
    whole = Feed(make(1))
    outs = whole.learn(events)
    for stop in (1, 150, 300):
        first = Feed(make(1))
        first.learn(events[:stop])
        second = first.restart(make(1), backwards=True)
        require(same(second.learn(events[stop:]), outs[stop:]), f"predictions differ after a restart at event {stop}")
        require(second.state() == whole.state(), f"the state at the end differs after a restart at event {stop}")


def row_numbers_do_not_matter(make: Make) -> None:
    """The row number of a user does not matter, nor whether tables grow while the learner runs."""
    events = sample_events(EVENTS, users=150, items=150)
    plain, other = Feed(make(1)), Feed(make(1), backwards=True)
    for table in other.tables().values():
        if table.side != "stream":
            table.reserve(1000)  # the other one grows beyond its first 64 rows during the stream
    require(same(plain.learn(events), other.learn(events)), "predictions depend on users' rows, or on tables growing")
    require(plain.state() == other.state(), "the state depends on users' rows, or on tables growing")


def scores_keep_their_order(make: Make) -> None:
    """Score k is that of item k, whatever the other items, and is finite for known and unseen users and items."""
    feed = Feed(make(1))
    feed.learn(sample_events(EVENTS))
    items = items_of(feed)
    for user_id in ("u0", "nobody"):
        view = feed.view(user_id)
        scores = feed.learner.score(view, items)
        require(scores.shape == items.shape, f"{len(scores)} scores for {len(items)} items")
        require(bool(np.isfinite(scores).all()), f"scores of user {user_id!r} are not all finite")
        require(same(feed.learner.score(view, items[::-1].copy()), scores[::-1].copy()), "scores are not in item order")
        one = np.array([float(feed.learner.score(view, items[k : k + 1])[0]) for k in range(len(items))])
        require(same(one.astype(np.float32), scores), "an item's score depends on the other items")
        require(len(feed.learner.score(view, items[:0])) == 0, "score returns an array that is not empty for no items")


def predicts_its_kind_only(make: Make) -> None:
    """Events that are not of its kind get NaN; all others get a finite prediction.

    Clicks teach a learner of ratings nothing. A learner of clicks may use every rating as context, but nothing that was withdrawn.
    """
    feed = Feed(make(1))
    learner = feed.learner
    events = sample_events(EVENTS)
    outs = [(batch, feed.step(batch)) for batch in feed.batches(events, 7)]
    for batch, out in outs:
        own = must_predict(learner, batch)
        require(bool(np.isfinite(out[own]).all()), "an event that it must predict got no finite prediction")
        foreign = batch.kinds == CLICK if learner.kind == "ratings" else batch.clicks == 0
        require(bool(np.isnan(out[foreign]).all()), f"an event that is not one of its {learner.kind} got a prediction")
    ids = [(f"u{n}", f"i{n}") for n in range(20)]
    others = [
        click(u, i) if learner.kind == "ratings" else FeedEvent(u, f"unrated {i}", RETRACTED, 0.0) for u, i in ids
    ]
    batch = feed.batch(others)
    before = contents(learner.tables().values())
    feed.step(batch)
    require(
        contents(learner.tables().values()) == before,
        f"an event that is not one of its {learner.kind} changed the state",
    )


def predicts_for_unseen_rows(make: Make) -> None:
    """The prediction for row -1 is finite and about that for a new row: row -1 is not taken for the table's last row."""
    feed = Feed(make(1))
    feed.learn(sample_events(EVENTS))
    for side in ("user", "item"):
        while any(t.side == side and len(t.values) > len(feed.ids(side)) for t in feed.learner.tables().values()):
            one = f"more {len(feed.ids(side))}"  # until no row is free and the last one is in use
            ids = (one, "i0") if side == "user" else ("u0", one)
            feed.learn([rating(*ids, 5.0), click(*ids, 4.0)])
    kind_of = rating if feed.learner.kind == "ratings" else click
    batch = feed.batch([kind_of("u0", "i0", 1.0)])
    missing = np.full(1, -1, dtype=np.int32)
    sides = [(batch.users, missing), (missing, batch.items), (missing, missing)]
    answers = [float(feed.learner.predict(with_rows(batch, users, items))[0]) for users, items in sides]
    view = feed.view("u0")
    score = float(feed.learner.score(view, missing)[0])
    for answer, new in zip(answers, [("u0", "new"), ("new", "i0"), ("newer", "newer")], strict=True):
        wanted = float(feed.learner.predict(feed.batch([kind_of(*new, 1.0)]))[0])
        require(
            abs(answer - wanted) <= LIKENESS,
            f"predicted {answer} where a row is -1, but {wanted} for new rows of {new}",
        )
    wanted = float(feed.learner.score(view, np.array([feed.item_rows["newer"]], dtype=np.int32))[0])
    require(abs(score - wanted) <= LIKENESS, f"a score of {score} for item -1, but {wanted} for a new item")


def depends_on_its_seed_alone(make: Make) -> None:
    """The same seed gives the same bytes, and another seed others if a table is random."""
    events = sample_events(EVENTS)
    states = []
    for seed in (1, 1, 2):
        feed = Feed(make(seed), seed=seed)
        feed.learn(events)
        states.append(feed.state())
        random = any(table.random for table in feed.learner.tables().values())
    require(states[0] == states[1], "the same seed and events gave two states")
    require(not random or states[0] != states[2], "another seed gave the same state, though a table is random")


def repeats_do_not_diverge(make: Make) -> None:
    """With every event repeated twenty times, predictions stay in a plausible range and all rows finite."""
    feed = Feed(make(1))
    outs = feed.learn([event for event in sample_events(EVENTS // 2) for _ in range(20)], 1000)
    outs = outs[np.isfinite(outs)]
    low, high = (-4.5, 10.0) if feed.learner.kind == "ratings" else (0.0, 1.0)
    require(
        float(outs.min()) >= low and float(outs.max()) <= high,
        f"predictions run from {outs.min():.3g} to {outs.max():.3g}: wanted {low:.3g} to {high:.3g}",
    )
    _require_finite(feed, "twenty repeats of each event")


def refuses_values_that_are_not_finite(make: Make) -> None:
    """NaN, infinite and absurd values of ratings and clicks leave every row and all later predictions finite."""
    feed = Feed(make(1))
    events = sample_events(EVENTS)
    absurd: Sequence[FeedEvent] = [kind_of("u0", "i0", value) for kind_of in (rating, click) for value in EXTREMES]
    for n in range(0, EVENTS, 100):
        feed.learn(absurd)
        _require_finite(feed, f"values {EXTREMES}")
        outs = [(batch, feed.step(batch)) for batch in feed.batches(events[n : n + 100], 100)]
        for batch, out in outs:
            own = must_predict(feed.learner, batch)
            require(bool(np.isfinite(out[own]).all()), f"a prediction is not finite after values {EXTREMES}")


def counts_refused_steps(make: Make) -> None:
    """A value of its kind that is not finite is refused and counted once in `refused`, which is part of the state.

    Finite values are not.
    """
    feed = Feed(make(1))
    learner = feed.learner
    require(isinstance(learner, Guarded), "it has no property `refused`: see streamer.core.protocols.Guarded")
    assert isinstance(learner, Guarded)
    kind_of = rating if learner.kind == "ratings" else click
    feed.learn(sample_events(200))
    require(learner.refused == 0, f"{learner.refused} events refused where all were fine")
    feed.learn([kind_of("u0", "i0", value) for value in NOT_FINITE])
    require(learner.refused == len(NOT_FINITE), f"values {NOT_FINITE} counted as {learner.refused} refused")
    again = feed.restart(make(1), backwards=True).learner
    assert isinstance(again, Guarded)
    require(again.refused == len(NOT_FINITE), f"{again.refused} refused after a restart, {len(NOT_FINITE)} before it")


def damage_stays_in_its_row(make: Make) -> None:
    """A user's or item's row that is not finite, for whatever reason, does not spread to other rows: steps are refused instead."""
    for side in ("user", "item"):
        feed = Feed(make(1))
        learner = feed.learner
        feed.learn(sample_events(200))
        tables = [t for t in learner.tables().values() if t.side == side and t.dtype.kind == "f"]
        for table in tables:
            table.values[feed.ids(side)[f"{side[0]}0"]] = np.nan
        pairs = [(f"u{n}", "i0") if side == "item" else ("u0", f"i{n}") for n in range(8)]
        feed.learn([kind_of(*ids, 4.0) for ids in pairs for kind_of in (rating, click)], 1)
        feed.learn(sample_events(200, seed=2))
        for table in tables:
            table.values[feed.ids(side)[f"{side[0]}0"]] = 0.0
        _require_finite(feed, f"events with a row of a {side} that was not finite")
        require(
            not tables or (isinstance(learner, Guarded) and learner.refused > 0),
            f"steps with a row of a {side} that was not finite were not counted in `refused`",
        )


def probed_scores_match_score(make: Make) -> None:
    """Scores from `learn_probed` are those of `score` just before the event, up to a constant."""
    feed = Feed(make(1))
    learner = feed.learner
    if not isinstance(learner, Probed):
        return
    feed.learn(sample_events(300))
    for n, event in enumerate(sample_events(100, seed=2)):
        batch, items = feed.batch([event]), items_of(feed)[:20]
        items = items[items >= 0]
        before = learner.score(feed.view(event.user_id), items).astype(np.float64)
        probed = learner.learn_probed(batch, items[None, :]).scores[0].astype(np.float64)
        require(
            bool(np.allclose(probed - probed[0], before - before[0], rtol=1e-4, atol=1e-4)),
            f"event {n}: score gives {before} for items {items}, and learn_probed {probed}",
        )


def _clean(learner: OnlineLearner) -> None:
    for table in learner.tables().values():
        table.clean(np.arange(len(table.values), dtype=np.int32))


def _require_finite(feed: Feed, after: str) -> None:
    for name, table in feed.learner.tables().items():
        require(bool(np.isfinite(table.values).all()), f"table {name!r} has numbers that are not finite after {after}")


CHECKS: tuple[Callable[[Make], None], ...] = (
    implements_the_protocol,
    batch_size_does_not_matter,
    reading_changes_nothing,
    changes_are_marked,
    only_own_rows_change,
    predicts_before_learning,
    predict_is_what_learn_returns,
    survives_a_restart,
    row_numbers_do_not_matter,
    scores_keep_their_order,
    predicts_its_kind_only,
    predicts_for_unseen_rows,
    depends_on_its_seed_alone,
    repeats_do_not_diverge,
    refuses_values_that_are_not_finite,
    counts_refused_steps,
    damage_stays_in_its_row,
    probed_scores_match_score,
)

# Former names, for plug-ins that import them.
fits_the_seam = implements_the_protocol
cuts_do_not_matter = batch_size_does_not_matter
only_own_rows_move = only_own_rows_change
rows_may_be_anywhere = row_numbers_do_not_matter
answers_its_kind_only = predicts_its_kind_only
answers_unknown_rows = predicts_for_unseen_rows
refuses_what_is_not_finite = refuses_values_that_are_not_finite
counts_what_it_refuses = counts_refused_steps
opinions_are_scores = probed_scores_match_score
