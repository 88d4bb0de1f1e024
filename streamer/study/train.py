"""Fits a model of the field on one part of a history, stops it early with another, and measures it on a third.

Ratings: the three parts of `splits.split`. The measure is the squared error of predictions clipped to the range of the
training ratings, compared with bias only on the same parts. Next items: leave-last-out. Every test click is ranked among all
items that were clicked in the training part and that its user had not clicked; ties count half, and an item without training
clicks is a miss. The baselines are popularity, and one-pass transitions with a bootstrap interval over users for the difference.
"""

import time
from collections.abc import Callable, Sequence
from math import inf, log2, sqrt

import msgspec
import numpy as np

from streamer.core.arrays import F32, F64, I32, Bool
from streamer.core.dataset import Dataset
from streamer.core.errors import BadSettings, StreamerError
from streamer.core.protocols import Epoch, Kind, NextItem, OfflineModel, Rater
from streamer.models.offline import model
from streamer.study.ranking import rank
from streamer.study.splits import Split, leave_last_out, split

RANKED_AT = 10
SLICE = 256  # number of users ranked at once
RESAMPLES = 10_000  # number of bootstrap resamples of the users
COVERED = 0.95  # the share of the resamples inside the interval
BASELINES: dict[Kind, str] = {"ratings": "bias", "clicks": "popularity"}

OnProgress = Callable[[str, Epoch], None]  # gets the model's name and each epoch of its fit


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """The output of `streamer train --json`; None where a figure does not apply."""

    model: str
    kind: Kind
    split: str
    seed: int
    users: int
    items: int
    train_events: int
    validation_events: int
    test_events: int
    train_mse: float | None = None
    validation_mse: float | None = None
    test_mse: float | None = None
    test_rmse: float | None = None
    bias_only_test_mse: float | None = None
    hit_rate_10: float | None = None
    ndcg_10: float | None = None
    popularity_hit_rate_10: float | None = None
    transitions_hit_rate_10: float | None = None  # of one pass of streamer.models.transitions
    hit_rate_10_over_transitions: float | None = None  # the difference
    hit_rate_10_over_transitions_interval: tuple[float, float] | None = None  # of 95%, by a bootstrap over users
    seconds: float  # wall time of the fit alone
    epochs: int  # number of epochs that were run
    best_epoch: int  # the epoch that was kept
    parameters: dict[str, object]
    curve: tuple[Epoch, ...]


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """A fitted model, the parts of the history, and its predictions or ranks."""

    trained: Trained
    model: OfflineModel
    parts: Split
    predicted: tuple[F32, F32, F32] | None = None  # for ratings: predictions for train, validation and test, clipped
    bias_only: tuple[F32, F32, F32] | None = None  # for ratings: those of bias only
    ranks: F64 | None = None  # for next items: the rank of each test click, inf for a miss
    popularity_ranks: F64 | None = None  # for next items: those of popularity


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How a history is split, and the seed."""

    split: str = "random"
    test_share: float = 0.2
    validation_share: float = 0.1
    seed: int = 1


def train(name: str, data: Dataset, plan: Plan, on_progress: OnProgress, **chosen: object) -> Fit:
    """Fit the model `name` on `data` and measure it; `chosen` are parameters of the model.

    Raises BadSettings for an unknown model or a history that cannot be split, and StreamerError for predictions that are not finite.
    """
    made = model(name, seed=plan.seed, **chosen)
    parts = cut(data, made.kind, plan)
    curve: list[Epoch] = []

    def report(epoch: Epoch) -> None:
        curve.append(epoch)
        on_progress(name, epoch)

    began = time.perf_counter()
    made.fit(parts.train, parts.validation, report)
    seconds = time.perf_counter() - began
    losses = [epoch.validation_loss for epoch in curve]
    best = int(np.nanargmin(losses)) + 1 if np.isfinite(losses).any() else len(curve)
    trained = Trained(
        model=name, kind=made.kind, split=plan.split if made.kind == "ratings" else "leave-last-out", seed=plan.seed,
        users=data.user_count, items=data.item_count, train_events=len(parts.train),
        validation_events=len(parts.validation), test_events=len(parts.test), seconds=seconds, epochs=len(curve),
        best_epoch=best, parameters=msgspec.to_builtins(made.parameters), curve=tuple(curve),
    )  # fmt: skip
    return (_measure_ratings if made.kind == "ratings" else _measure_ranking)(trained, made, parts, plan)


def cut(data: Dataset, kind: Kind, plan: Plan) -> Split:
    """The three parts for a model of `kind`; raises BadSettings where there are too few of the events that it learns from."""
    if kind == "ratings":
        ratings = data.ratings()
        if len(ratings) < 10:
            raise BadSettings(
                f"wanted at least 10 ratings to train on, found {len(ratings)}: give another PATH, or a model of clicks"
            )
        return split(plan.split, ratings, plan.test_share, plan.validation_share, plan.seed)
    parts = leave_last_out(data)
    if not len(parts.test):
        raise BadSettings(
            "wanted users with at least three clicks or likes, the last one on an item new to them, found none: give another PATH, "
            "or a model of ratings"
        )
    return parts


def _measure_ratings(trained: Trained, made: OfflineModel, parts: Split, plan: Plan) -> Fit:
    predicted = [predictions(made, part, parts.train) for part in parts]
    baseline = model(BASELINES["ratings"], seed=plan.seed)
    baseline.fit(parts.train, parts.validation, lambda epoch: None)
    bias_only = [predictions(baseline, part, parts.train) for part in parts]
    errors = [_mse(found, part) for found, part in zip(predicted, parts, strict=True)]
    return Fit(
        trained=msgspec.structs.replace(
            trained, train_mse=errors[0], validation_mse=errors[1], test_mse=errors[2], test_rmse=sqrt(errors[2]),
            bias_only_test_mse=_mse(bias_only[2], parts.test),
        ),
        model=made, parts=parts, predicted=(predicted[0], predicted[1], predicted[2]), bias_only=(bias_only[0], bias_only[1], bias_only[2]),
    )  # fmt: skip


def predictions(made: OfflineModel, part: Dataset, train: Dataset) -> F32:
    """A model's predictions for the ratings of `part`, (n,), clipped to the range of the training ratings.

    Raises StreamerError for a prediction that is not finite.
    """
    assert isinstance(made, Rater)
    found = made.predict(part.users, part.items)
    if not np.isfinite(found).all():
        raise StreamerError(
            f"the model {made.name} has predictions that are not finite for {np.count_nonzero(~np.isfinite(found)):,} of "
            f"{len(found):,} ratings: it diverged; take smaller steps"
        )
    return found.clip(train.values.min(), train.values.max())


def _mse(predicted: F32, part: Dataset) -> float:
    return float(np.mean(np.square(predicted.astype(np.float64) - part.values)))


def _measure_ranking(trained: Trained, made: OfflineModel, parts: Split, plan: Plan) -> Fit:
    assert isinstance(made, NextItem)
    ranks = next_item_ranks(made, parts.train, parts[:2], parts.test)
    popular, counted = (_ranks_of(name, parts, plan) for name in (BASELINES["clicks"], "transitions"))
    over: F64 = (ranks <= RANKED_AT) - (counted <= RANKED_AT).astype(np.float64)
    return Fit(
        trained=msgspec.structs.replace(
            trained, hit_rate_10=hit_rate(ranks), ndcg_10=ndcg(ranks), popularity_hit_rate_10=hit_rate(popular),
            transitions_hit_rate_10=hit_rate(counted), hit_rate_10_over_transitions=float(np.mean(over)),
            hit_rate_10_over_transitions_interval=interval(over, plan.seed),
        ),
        model=made, parts=parts, ranks=ranks, popularity_ranks=popular,
    )  # fmt: skip


def _ranks_of(name: str, parts: Split, plan: Plan) -> F64:
    baseline = model(name, seed=plan.seed)
    baseline.fit(parts.train, parts.validation, lambda epoch: None)
    assert isinstance(baseline, NextItem)
    return next_item_ranks(baseline, parts.train, parts[:2], parts.test)


def interval(differences: F64, seed: int) -> tuple[float, float]:
    """A bootstrap interval: the middle 95% of the means of resamples of `differences` (n,), one for each user, drawn with `seed`.

    A resample counts how often each distinct value is drawn, so its cost depends on the number of those and not on n.
    Efron (1979), Bootstrap methods: another look at the jackknife, The Annals of Statistics 7(1).
    """
    values, counts = np.unique(differences, return_counts=True)
    drawn = np.random.default_rng([seed, 2]).multinomial(len(differences), counts / len(differences), RESAMPLES)
    tail = (1 - COVERED) / 2
    low, high = np.quantile(drawn @ values / len(differences), [tail, 1 - tail])
    return float(low), float(high)


def next_item_ranks(made: NextItem, train: Dataset, before: Sequence[Dataset], targets: Dataset) -> F64:
    """The rank of each click of `targets` (n,), one for each user, after the user's clicks in `before`; inf for a miss.

    It is the rank among the items that were clicked in `train`, without those in the user's history.
    """
    known: Bool = np.bincount(train.items, minlength=train.item_count) > 0
    histories = _histories(before, targets)
    positions = np.cumsum(known) - 1  # an item's position among those that are ranked
    ranks = np.full(len(targets), inf)
    for start in range(0, len(targets), SLICE):
        users = targets.users[start : start + SLICE]
        scores = made.scores(users, [histories[user] for user in users.tolist()])
        for n, user in enumerate(users.tolist()):
            item = targets.items[start + n]
            if known[item]:
                own = np.unique(histories[user])
                left_out = positions[own[known[own] & (own != item)]].astype(np.int32)
                ranks[start + n] = rank(scores[n, known], int(positions[item]), left_out)
    return ranks


def _histories(parts: Sequence[Dataset], targets: Dataset) -> dict[int, I32]:
    """The clicks in `parts` of each user of `targets`, oldest first."""
    wanted: Bool = np.zeros(targets.user_count, dtype=np.bool_)
    wanted[targets.users] = True
    theirs = [one.select(wanted[one.users]) for one in parts]
    users, items, times = (
        np.concatenate([getattr(one, of) for one in theirs]) for of in ("users", "items", "times_ms")
    )
    order = np.lexsort((np.arange(len(users)), times, users))
    users, items = users[order], items[order]
    starts, ends = (np.searchsorted(users, targets.users, side=side) for side in ("left", "right"))
    return {
        user: items[start:end]
        for user, start, end in zip(targets.users.tolist(), starts.tolist(), ends.tolist(), strict=True)
    }


def hit_rate(ranks: F64, k: int = RANKED_AT) -> float:
    """Share of ranks that are at most k."""
    return float(np.mean(ranks <= k))


def ndcg(ranks: F64, k: int = RANKED_AT) -> float:
    """NDCG@k with one relevant item for each rank."""
    return sum(1 / log2(1 + found) for found in ranks.tolist() if found <= k) / len(ranks)
