"""The figures of `streamer evaluate`, computed from predictions and ranks, and their course over the stream in 100 parts."""

from math import sqrt

import msgspec
import numpy as np

from benchmarks.stream import Events
from streamer.core.arrays import F64
from streamer.study.click_figures import Queries, earlier
from streamer.study.evaluate import NEW_RATINGS
from streamer.study.ranking import Ranks

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
    """One query for each click, as streamer.study.ranking defines it, repeats excluded; within sessions, repeats allowed."""

    queries: int
    hit_rate_10: float
    hit_rate_20: float
    ndcg_20: float
    hits_10: list[float]  # (100,) hit rate @10 of each hundredth of the queries
    half_width_10: float | None  # of the 95% interval of HR@10, by users
    session_queries: int
    session_hit_rate_20: float | None
    session_mrr_20: float | None


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


def clicks(queries: Queries, ranks: Ranks) -> Clicks:
    """Figures of the ranks of all clicks, by the product's own measures."""
    found = queries.figures(ranks)
    hits = np.array(ranks.excluded)[queries.asked] <= 10
    return Clicks(
        queries=len(hits),
        hit_rate_10=found.hit_rate_10 or 0.0,
        hit_rate_20=found.hit_rate_20 or 0.0,
        ndcg_20=found.ndcg_20 or 0.0,
        hits_10=parts(hits.astype(np.float64)),
        half_width_10=found.half_widths.get("hit_rate_10"),
        session_queries=int(queries.in_session.sum()),
        session_hit_rate_20=found.session_hit_rate_20,
        session_mrr_20=found.session_mrr_20,
    )
