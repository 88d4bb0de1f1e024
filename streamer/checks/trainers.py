"""What every trainer keeps, one function a promise. They run over every line of `streamer.models.REFITTED_BY`.

For a trainer of your own, from outside this package:

    @pytest.mark.parametrize("check", TRAINER_CHECKS)
    def test_mine(check):
        check(lambda: MyTrainer("mine", MyTrainer.Parameters()), lambda seed: learner("biased-mf", seed=seed))
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from streamer.checks.batches import Feed, Happening, happenings
from streamer.checks.learners import Make, require
from streamer.core.arrays import F32, Array
from streamer.core.batch import RATING, Batch
from streamer.core.protocols import OnlineLearner, Rebuilt, Trainer

MakeTrainer: TypeAlias = Callable[[], Trainer]
EVENTS, LATER = 900, 1000  # events of the history, and up to where the stream goes on
WORSE = 1.05  # RMSE after a fit over that of the learner that went on without, of the 67 ratings after it: less is chance; a wrong scale makes far more


def _history(learner: OnlineLearner, events: Sequence[Happening]) -> tuple[Feed, Batch]:
    """A learner that has rows and nothing learned, and all events as one batch."""
    feed = Feed(learner)
    return feed, feed.batch(events)


def _fitted(make: MakeTrainer, learn: Make, events: Sequence[Happening]) -> tuple[dict[str, Array], list[float]]:
    feed, history = _history(learn(1), events)
    trainer, on_progress = make(), list[float]()
    trainer.fit(feed.learner, history, on_progress.append)
    return {name: np.array(values) for name, values in trainer.export().items()}, on_progress


def fits_the_trainers_seam(make: MakeTrainer, learn: Make) -> None:
    """It is a Trainer, and exports tables that the learner has, with all their rows and in their types."""
    require(isinstance(make(), Trainer), f"{make()} lacks a part of streamer.core.protocols.Trainer")
    found, _ = _fitted(make, learn, happenings(EVENTS))
    feed, _ = _history(learn(1), happenings(EVENTS))
    require(bool(found), "export() gives no table: nothing would be put in")
    for name, values in found.items():
        require(name in feed.learner.tables(), f"export() gives {name!r}, which is no table of {feed.learner.name}")
        table = feed.learner.tables()[name]
        rows = len(feed.ids(table.side))
        require(values.dtype == table.dtype, f"table {name!r} is of {values.dtype}, the learner's of {table.dtype}")
        require(
            values.ndim == 2 and values.shape[1] == table.width and len(values) >= rows,
            f"table {name!r} has shape {values.shape}: wanted {rows} rows of {table.width}",
        )
        require(bool(np.isfinite(values[:rows].astype(np.float64)).all()), f"table {name!r} holds what is not finite")


def fitting_is_deterministic(make: MakeTrainer, learn: Make) -> None:
    """The same learner and history give the same bytes."""
    first, second = (_fitted(make, learn, happenings(EVENTS))[0] for _ in range(2))
    require(
        {name: values.tobytes() for name, values in first.items()}
        == {name: values.tobytes() for name, values in second.items()},
        "two fits on the same history differ: something random is not drawn from keys or a seed",
    )


def fitting_reads_its_history(make: MakeTrainer, learn: Make) -> None:
    """Another history gives another fit, and the history itself is left as it was."""
    events = happenings(EVENTS)
    rows = len(_history(learn(1), events[:20])[0].user_rows)  # of users, and fewer than there are items
    whole, part = (_fitted(make, learn, chosen)[0] for chosen in (events, events[: EVENTS // 2]))
    require(
        any(whole[name][:rows].tobytes() != part[name][:rows].tobytes() for name in whole),
        "half of the history gives the same tables as the whole: the history is not read",
    )
    feed, history = _history(learn(1), events)
    kept = {name: getattr(history, name).copy() for name in ("users", "items", "values", "times_ms", "clicks")}
    make().fit(feed.learner, history, lambda share: None)
    require(all(np.array_equal(getattr(history, name), kept[name]) for name in kept), "fit changed the history")


def progress_is_told(make: MakeTrainer, learn: Make) -> None:
    """What is told only grows, within 0 and 1, and ends with 1."""
    _, on_progress = _fitted(make, learn, happenings(EVENTS))
    require(bool(on_progress) and on_progress[-1] == 1.0, f"the last share told is {on_progress[-1:]}: wanted 1")
    require(on_progress == sorted(on_progress) and on_progress[0] >= 0, "shares told go back, or begin below 0")


def a_history_of_nothing_is_fitted(make: MakeTrainer, learn: Make) -> None:
    """Without any event, and with events of the other kind alone, there is a fit, and it is finite."""
    learner = learn(1)
    other = [event for event in happenings(EVENTS) if (event.kind == RATING) != (learner.kind == "ratings")]
    for events in ([], [event for event in other if event.kind == RATING or event.value < 0]):
        feed, history = _history(learn(1), events)
        trainer = make()
        trainer.fit(feed.learner, history, lambda share: None)
        for name, values in trainer.export().items():
            require(bool(np.isfinite(values.astype(np.float64)).all()), f"table {name!r} of nothing is not finite")


def the_learner_goes_on(make: MakeTrainer, learn: Make) -> None:
    """After the fit is put in, the learner predicts and learns on: finite, and not worse than without."""
    events = happenings(LATER)
    online = Feed(learn(1))
    online.learn(events[:EVENTS])
    feed = Feed(learn(1))
    feed.learn(events[:EVENTS])
    found, _ = _fitted(make, learn, events[:EVENTS])
    for name, values in found.items():
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
    fits_the_trainers_seam,
    fitting_is_deterministic,
    fitting_reads_its_history,
    progress_is_told,
    a_history_of_nothing_is_fitted,
    the_learner_goes_on,
)
