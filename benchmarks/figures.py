"""The figures of `streamer evaluate`, computed from predictions and ranks, and their course over the stream in 100 parts."""

from math import sqrt

import msgspec
import numpy as np

from benchmarks.stream import Events
from streamer.core.arrays import F64
from streamer.study.click_figures import earlier
from streamer.study.evaluate import NEW_RATINGS

PARTS = 100  # number of parts of the stream, for the curves


class Ratings(msgspec.Struct, frozen=True):
    """Errors of predictions clipped to the range of ratings so far."""

    rmse: float
    rmse_last_half: float
    rmse_new_users: float | None
    rmse_new_items: float | None
    unpredicted: int  # number of ratings without a finite prediction; they are left out of the errors
    squares: list[float]  # (100,) mean squared error of each hundredth of the predicted ratings


class Clicks(msgspec.Struct, frozen=True):
    """One query for each click, as streamer.study.ranking defines it."""

    queries: int
    hit_rate_10: float
    hit_rate_20: float
    ndcg_20: float
    hits_10: list[float]  # (100,) hit rate @10 of each hundredth of the queries


def ratings(events: Events, predicted: F64) -> Ratings:
    """Figures of `predicted` (ratings,), the predictions for the events that are ratings."""
    rated = events.rated
    squares = np.square(np.clip(predicted, events.lows[rated], events.highs[rated]) - events.values[rated])
    finite = np.isfinite(squares)
    new_users, new_items = (earlier(rows[rated]) < NEW_RATINGS for rows in (events.users, events.items))
    late = np.arange(len(squares)) >= len(squares) // 2
    return Ratings(
        rmse=_root(squares[finite]),
        rmse_last_half=_root(squares[finite & late]),
        rmse_new_users=_root(squares[finite & new_users]) if new_users.any() else None,
        rmse_new_items=_root(squares[finite & new_items]) if new_items.any() else None,
        unpredicted=int(np.count_nonzero(~finite)),
        squares=parts(squares[finite]),
    )


def parts(values: F64) -> list[float]:
    """The mean of each hundredth of the values, (100,); the values themselves if there are fewer."""
    return [float(part.mean()) for part in np.array_split(values, min(PARTS, len(values)))]


def _root(squares: F64) -> float:
    return sqrt(float(squares.mean())) if len(squares) else float("nan")


def clicks(ranks: F64) -> Clicks:
    """Figures of `ranks` (queries,), inf for a miss."""
    gains = np.where(ranks <= 20, 1 / np.log2(1 + ranks), 0.0)
    return Clicks(
        queries=len(ranks),
        hit_rate_10=float((ranks <= 10).mean()),
        hit_rate_20=float((ranks <= 20).mean()),
        ndcg_20=float(gains.mean()),
        hits_10=parts((ranks <= 10).astype(np.float64)),
    )
