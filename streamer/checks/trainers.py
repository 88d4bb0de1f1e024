"""Checks of trainers, one function for each promise. They run over every line of `streamer.models.REFITTED_BY`.

For a trainer of your own, from outside this package:

    @pytest.mark.parametrize("check", TRAINER_CHECKS)
    def test_mine(check):
        check(lambda: MyTrainer("mine", MyTrainer.Parameters()), lambda seed: learner("biased-mf", seed=seed))
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np

from streamer.checks.batches import Feed, FeedEvent, sample_events
from streamer.checks.learners import Make, require
from streamer.core.arrays import F32, Array
from streamer.core.batch import RATING, Batch
from streamer.core.protocols import OnlineLearner, Rebuilt, Trainer

MakeTrainer: TypeAlias = Callable[[], Trainer]
EVENTS, LATER = 900, 1000  # number of events in the history, and at the end of the stream
# Largest RMSE of the 67 ratings after a fit, divided by that without the fit. Smaller ratios are chance; a wrong scale gives far larger ones.
WORSE = 1.05


def _history(learner: OnlineLearner, events: Sequence[FeedEvent]) -> tuple[Feed, Batch]:
    """A learner with rows that has learned nothing, and all events as one batch."""
    feed = Feed(learner)
    return feed, feed.batch(events)


class _Fitted(NamedTuple):
    tables: dict[str, Array]
    shares: list[float]  # as they were reported
    changed: list[str]  # columns of the history that the fit changed


def _fit(make: MakeTrainer, learn: Make, events: Sequence[FeedEvent]) -> _Fitted:
    feed, history = _history(learn(1), events)
    kept = {name: getattr(history, name).copy() for name in ("users", "items", "values", "times_ms", "clicks")}
    trainer, shares = make(), list[float]()
    trainer.fit(feed.learner, history, shares.append)
    tables = {name: np.array(values) for name, values in trainer.export().items()}
    return _Fitted(tables, shares, [name for name in kept if not np.array_equal(getattr(history, name), kept[name])])


@lru_cache(maxsize=1)  # most checks look at the same fit, which is what takes the time
def _whole_fit(make: MakeTrainer, learn: Make) -> _Fitted:
    return _fit(make, learn, sample_events(LATER)[:EVENTS])


def implements_the_trainer_protocol(make: MakeTrainer, learn: Make) -> None:
    """It is a Trainer, and exports tables of the learner with all rows and the right types."""
    require(isinstance(make(), Trainer), f"{make()} lacks a part of streamer.core.protocols.Trainer")
    tables = _whole_fit(make, learn).tables
    feed, _ = _history(learn(1), sample_events(LATER)[:EVENTS])
    require(bool(tables), "export() returns no table, so nothing would change")
    for name, values in tables.items():
        require(
            name in feed.learner.tables(), f"export() returns {name!r}, which is not a table of {feed.learner.name}"
        )
        table = feed.learner.tables()[name]
        rows = len(feed.ids(table.side))
        require(values.dtype == table.dtype, f"table {name!r} is {values.dtype}, the learner's is {table.dtype}")
        require(
            values.ndim == 2 and values.shape[1] == table.width and len(values) >= rows,
            f"table {name!r} has shape {values.shape}: wanted {rows} rows of {table.width}",
        )
        require(
            bool(np.isfinite(values[:rows].astype(np.float64)).all()), f"table {name!r} has numbers that are not finite"
        )


def fitting_is_deterministic(make: MakeTrainer, learn: Make) -> None:
    """The same learner and history give the same bytes."""
    first, second = _whole_fit(make, learn).tables, _fit(make, learn, sample_events(LATER)[:EVENTS]).tables
    require(
        {name: values.tobytes() for name, values in first.items()}
        == {name: values.tobytes() for name, values in second.items()},
        "two fits on the same history differ: something random does not come from keys or a seed",
    )


def fitting_reads_its_history(make: MakeTrainer, learn: Make) -> None:
    """Another history gives another fit, and `fit` does not change the history."""
    events = sample_events(LATER)[:EVENTS]
    rows = len(_history(learn(1), events[:20])[0].user_rows)  # rows of users; there are more items
    whole, part = _whole_fit(make, learn), _fit(make, learn, events[: EVENTS // 2]).tables
    require(
        any(values[:rows].tobytes() != part[name][:rows].tobytes() for name, values in whole.tables.items()),
        "half of the history gives the same tables as the whole: the history is not read",
    )
    require(not whole.changed, f"fit changed the history: {', '.join(whole.changed)}")


def progress_is_reported(make: MakeTrainer, learn: Make) -> None:
    """The shares reported never fall, lie between 0 and 1, and end with 1."""
    shares = _whole_fit(make, learn).shares
    require(bool(shares) and shares[-1] == 1.0, f"the last share reported is {shares[-1:]}: wanted 1")
    require(shares == sorted(shares) and shares[0] >= 0, f"shares reported fall, or start below 0: {shares}")


def an_empty_history_is_fitted(make: MakeTrainer, learn: Make) -> None:
    """A history without events, or with events of the other kind only, gives a finite fit."""
    learner = learn(1)
    other = [event for event in sample_events(EVENTS) if (event.kind == RATING) != (learner.kind == "ratings")]
    for events in ([], [event for event in other if event.kind == RATING or event.value < 0]):
        feed, history = _history(learn(1), events)
        trainer = make()
        trainer.fit(feed.learner, history, lambda share: None)
        for name, values in trainer.export().items():
            require(
                bool(np.isfinite(values.astype(np.float64)).all()), f"table {name!r} of an empty history is not finite"
            )


def the_learner_continues(make: MakeTrainer, learn: Make) -> None:
    """With the fitted tables the learner goes on predicting and learning, with finite results that are not worse than without the fit."""
    events = sample_events(LATER)
    online = Feed(learn(1))
    online.learn(events[:EVENTS])
    feed = Feed(learn(1))
    feed.learn(events[:EVENTS])
    tables = _whole_fit(make, learn).tables
    for name, values in tables.items():
        table = feed.learner.tables()[name]
        table.values[: len(values)] = values[: len(table.values)]
    if isinstance(feed.learner, Rebuilt):
        feed.learner.restored()
    rest = feed.batch(events[EVENTS:])
    before, after = online.learn(events[EVENTS:], len(rest)), feed.step(rest)
    mine = rest.kinds == RATING if feed.learner.kind == "ratings" else rest.clicks > 0
    require(bool(np.isfinite(after[mine]).all()), "predictions after the fit are not finite")
    if feed.learner.kind == "ratings":
        errors = [_rmse(predicted, rest) for predicted in (before, after)]
        require(
            errors[1] <= WORSE * errors[0],
            f"RMSE is {errors[1]:.4f} after the fit, and {errors[0]:.4f} without: scale, counts or variances do not suit the learner",
        )


def _rmse(predicted: F32, batch: Batch) -> float:
    rated = batch.kinds == RATING
    clipped = predicted[rated].clip(batch.lows[rated], batch.highs[rated]).astype(np.float64)
    return float(np.sqrt(np.mean(np.square(clipped - batch.values[rated]))))


TRAINER_CHECKS: Sequence[Callable[[MakeTrainer, Make], None]] = (
    implements_the_trainer_protocol,
    fitting_is_deterministic,
    fitting_reads_its_history,
    progress_is_reported,
    an_empty_history_is_fitted,
    the_learner_continues,
)

# Former names, for plug-ins that import them.
fits_the_trainers_seam = implements_the_trainer_protocol
progress_is_told = progress_is_reported
a_history_of_nothing_is_fitted = an_empty_history_is_fitted
the_learner_goes_on = the_learner_continues
