"""Figures of how learners rank clicks: all queries, by the user's history, by the item's popularity, and within sessions.

The 95% interval of a mean m over q queries treats users as clusters, whose queries may depend on one another in any way:

    half width = 1.96 sqrt( U / (U - 1)  sum_u (s_u - m q_u)^2 ) / q      s_u: the sum over user u's q_u queries, of U users

Within a session the figures are those of the session literature: every click that has an earlier click in its session is a
query, repeats are allowed, and all items with an earlier click are candidates.

Cochran (1977), Sampling techniques, 3rd ed., eq. 9A.6 (ratio to size). Ludewig, Jannach (2018), Evaluation of session-based
recommendation algorithms, User Modeling and User-Adapted Interaction 28, for the measures within sessions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2, sqrt
from typing import Literal

import msgspec
import numpy as np

from streamer.core.arrays import F64, I32, I64, Bool
from streamer.study.ranking import Ranking, Ranks

Repeats = Literal["exclude", "allow", "as-data"]
REPEATED_FROM = 0.1  # with as-data, the share of repeated clicks from which they are allowed
HISTORIES = ((0, 0), (1, 2), (3, 9), (10, None))  # earlier clicks of the user, from and to
Z = 1.96


class Group(msgspec.Struct, frozen=True):
    """The queries with so many earlier clicks, of the user or of the item."""

    earlier_clicks: tuple[int, int | None]  # from, to; None: any number
    queries: int
    hit_rate_10: float | None


class ClickFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How one learner ranked the clicks; None where there were no queries."""

    hit_rate_10: float | None
    hit_rate_20: float | None
    ndcg_20: float | None
    mrr_20: float | None
    session_hit_rate_20: float | None  # of clicks with an earlier click in their session, repeats allowed
    session_mrr_20: float | None
    half_widths: dict[
        str, float
    ]  # of the 95% intervals of these figures; empty where fewer than two users made queries
    by_history: tuple[Group, ...]  # by the user's earlier clicks
    by_popularity: tuple[Group, ...]  # quarters of the queries, by the item's earlier clicks; ties stay together


@dataclass(frozen=True)
class Queries:
    """The clicks of a stream, (n,) each, and which of them are queries."""

    users: I32  # numbers of users
    of_user: I64  # earlier clicks of the user
    of_item: I64  # earlier clicks of the item
    repeated: Bool  # whether the user had clicked the item before
    in_session: Bool  # whether there is an earlier click in the session
    allowed: bool  # whether repeated clicks are queries

    @classmethod
    def of(cls, ranking: Ranking, repeats: Repeats) -> "Queries":
        """The clicks that were ranked; `as-data` allows repeats if at least a tenth of the clicks are repeated."""
        users, items, sessions = (
            np.array(column, dtype=np.int32) for column in (ranking.user_numbers, ranking.positions, ranking.sessions)
        )
        repeated = np.array(ranking.repeated, dtype=np.bool_)
        allowed = repeats == "allow" or (repeats == "as-data" and _share(repeated) >= REPEATED_FROM)
        return cls(users, earlier(users), earlier(items), repeated, earlier(sessions) > 0, allowed)

    @property
    def asked(self) -> Bool:
        """Which clicks are queries, (n,)."""
        return np.ones_like(self.repeated) if self.allowed else ~self.repeated

    @property
    def sessions(self) -> int:
        """The number of sessions."""
        return len(self.in_session) - int(self.in_session.sum())

    @property
    def repeated_share(self) -> float:
        """The share of the clicks whose item the user had clicked before; 0 without clicks."""
        return _share(self.repeated)

    def figures(self, ranks: Ranks) -> ClickFigures:
        """The figures of a learner's ranks."""
        asked = self.asked
        means = _Means()
        chosen = np.array(ranks.allowed if self.allowed else ranks.excluded, dtype=np.float64)[asked]
        users, hits = self.users[asked], chosen <= 10
        means.add("hit_rate_10", hits, users)
        means.add("hit_rate_20", chosen <= 20, users)
        means.add("ndcg_20", _gains(chosen), users)
        means.add("mrr_20", _reciprocals(chosen), users)
        within, users = np.array(ranks.allowed, dtype=np.float64)[self.in_session], self.users[self.in_session]
        means.add("session_hit_rate_20", within <= 20, users)
        means.add("session_mrr_20", _reciprocals(within), users)
        of_user, of_item = self.of_user[asked], self.of_item[asked]
        return ClickFigures(
            **means.found,
            half_widths=means.half_widths,
            by_history=_groups(of_user, hits, HISTORIES),
            by_popularity=_groups(of_item, hits, quarters(of_item)),
        )


class _Means:
    """Means and the half widths of their intervals, by name."""

    def __init__(self) -> None:
        self.found: dict[str, float | None] = {}
        self.half_widths: dict[str, float] = {}

    def add(self, name: str, values: F64 | Bool, users: I32) -> None:
        """The mean of `values` (n,), each of a query of one of `users` (n,)."""
        mean = self.found[name] = sum(values.tolist()) / len(values) if len(values) else None
        width = None if mean is None else half_width(values, users, mean)
        if width is not None:
            self.half_widths[name] = width


def half_width(values: F64 | Bool, users: I32, mean: float) -> float | None:
    """Half the width of the 95% interval of the mean of `values` (n,), each of one of `users` (n,); None for fewer than two users."""
    counts = np.bincount(users)
    sums = np.bincount(users, weights=values)[counts > 0]
    counts = counts[counts > 0]
    if len(counts) < 2:
        return None
    spread = float(np.square(sums - mean * counts).sum())
    return Z * sqrt(spread * len(counts) / (len(counts) - 1)) / len(values)


def earlier(rows: I32) -> I64:
    """How often each row occurred before, (n,)."""
    order = np.argsort(rows, kind="stable")
    same = rows[order]
    starts = np.flatnonzero(np.r_[np.ones(min(1, len(rows)), dtype=np.bool_), same[1:] != same[:-1]])
    counts = np.empty(len(rows), dtype=np.int64)
    counts[order] = np.arange(len(rows)) - np.repeat(starts, np.diff(np.r_[starts, len(rows)]))
    return counts


def quarters(counts: I64) -> list[tuple[int, int]]:
    """From and to of four groups of `counts` (n,) that are as equal in size as they can be while ties stay together.

    Where many are the same there are fewer groups.
    """
    ordered = np.sort(counts)
    ends = sorted({int(ordered[(len(ordered) * k + 3) // 4 - 1]) for k in (1, 2, 3, 4)}) if len(ordered) else []
    starts = [int(ordered[np.searchsorted(ordered, end, side="right")]) for end in ends[:-1]]
    return list(zip([int(ordered[0]), *starts], ends, strict=True)) if ends else []


def _groups(counts: I64, hits: Bool, bounds: Sequence[tuple[int, int | None]]) -> tuple[Group, ...]:
    found = []
    for low, high in bounds:
        inside = hits[(counts >= low) & (counts <= (high if high is not None else counts.max(initial=0)))]
        found.append(Group((low, high), len(inside), float(inside.mean()) if len(inside) else None))
    return tuple(found)


def _gains(ranks: F64) -> F64:
    return np.array([1 / log2(1 + rank) if rank <= 20 else 0.0 for rank in ranks.tolist()])


def _reciprocals(ranks: F64) -> F64:
    return np.where(ranks <= 20, 1 / ranks, 0.0)


def _share(chosen: Bool) -> float:
    return float(chosen.mean()) if len(chosen) else 0.0
