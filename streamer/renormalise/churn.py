"""Churn: how much a retraining changes the recommendations and the space of the item vectors. Pure functions.

Two factorisations of the same events agree only up to a rotation, which changes no prediction, so rows are compared after

    min over R with R'R = 1 of  sum_i n_i |R' v_i - u_i|^2,     R = A B' where sum_i n_i v_i u_i' = A S B'

where u are the old rows, v the new ones and n_i the events of item i. Where rows must stay comparable (caches, indexes of
nearest rows, charts), use v R in place of v. A retraining from the same initial values hardly rotates: alignment raises
the cosine of biased-mf's items from .88 to .90 on ml-latest-small. Vectors trained elsewhere may be rotated arbitrarily.

Schonemann (1966), A generalized solution of the orthogonal Procrustes problem, Psychometrika 31(1).
"""

from collections.abc import Sequence

import msgspec
import numpy as np

from streamer.core.arrays import F64, I32, Array
from streamer.core.batch import RATING, Batch, UserView
from streamer.core.protocols import ItemVectors, OnlineLearner, Watched
from streamer.core.tables import Side, evenly_spaced, rotation
from streamer.serving.recommend import top

PANEL_USERS = 500  # the users whose top tens are compared
TOP = 10
JUDGED_EVENTS = 20_000  # the last events of the history, for RMSE
NORMED_ROWS = 1000  # the rows of each side whose lengths are compared


class Churn(msgspec.Struct, frozen=True, kw_only=True):
    """A learner before and after a retraining; None where a measure does not apply."""

    top_ten_overlap: float  # mean share of the panel users' top tens that stay
    panel_users: int
    item_cosine: float | None = None  # mean cosine of old and aligned new item rows, weighted by the items' events
    # Distance left after alignment, as a share of the old rows' length, weighted by the items' events
    procrustes_residual: float | None = None
    move_p50: float | None = None  # how far an item's row moves after alignment, as a share of its old length
    move_p95: float | None = None
    user_norm: float | None = None  # median length of rows, after divided by before
    item_norm: float | None = None
    rmse_before: float | None = None  # on the history's last events, which both were fitted on: no measure of quality
    rmse_after: float | None = None


def measure_churn(before: OnlineLearner, after: OnlineLearner, history: Batch, items: int) -> Churn:
    """The churn between two fits of a learner, over `history` and the first `items` item rows. Changes nothing.

    User rows of both are numbered as in `history`. Cost: two scans of all items for each of PANEL_USERS users, and two
    predictions for each of the last events.
    """
    users = int(history.users.max(initial=-1)) + 1
    panel = evenly_spaced(users, PANEL_USERS)
    counts = np.bincount(history.items, minlength=items)[:items]
    tops = [top_rows(learner, history, panel, np.flatnonzero(counts).astype(np.int32)) for learner in (before, after)]
    found: dict[str, float] = {}
    if isinstance(before, ItemVectors) and isinstance(after, ItemVectors) and counts.any():
        old, new = (learner.vectors()[:items].astype(np.float64) for learner in (before, after))
        turned = new @ rotation(old, new, counts)
        moves = relative_moves(old[counts > 0], turned[counts > 0])
        found["item_cosine"] = cosine(old, turned, counts)
        found["procrustes_residual"] = residual(old, turned, counts)
        if len(moves):  # rows of length 0 are left out, as a share of 0 is undefined
            found["move_p50"], found["move_p95"] = (float(np.quantile(moves, share)) for share in (0.5, 0.95))
    if isinstance(before, Watched) and isinstance(after, Watched):
        sides: dict[Side, int] = {"user": users, "item": items}
        for side, count in sides.items():
            rows = evenly_spaced(count, NORMED_ROWS)
            medians = [float(np.median(made.norms(side, rows))) for made in (before, after)] if len(rows) else [0.0]
            if medians[0] > 0:
                found[f"{side}_norm"] = medians[1] / medians[0]
    if before.kind == "ratings":
        last = history.part(max(0, len(history) - JUDGED_EVENTS), len(history))
        for measure, learner in (("rmse_before", before), ("rmse_after", after)):
            errors = learner.predict(last).clip(last.lows, last.highs)[last.kinds == RATING].astype(np.float64)
            errors -= last.values[last.kinds == RATING]
            if np.isfinite(errors).any():
                found[measure] = float(np.sqrt(np.mean(np.square(errors[np.isfinite(errors)]))))
    return Churn(top_ten_overlap=overlap(*tops), panel_users=len(panel), **found)


def top_rows(learner: OnlineLearner, history: Batch, users: I32, items: I32, limit: int = TOP) -> list[I32]:
    """The rows of the `limit` best of `items` for each of `users` (n,), without items they have seen; best first.

    Rows are those of `history`.
    """
    tables = learner.tables().values()
    table = next((table for table in tables if table.side == "user"), None)
    order = np.argsort(history.users, kind="stable")
    ends = np.cumsum(np.bincount(history.users, minlength=int(users.max(initial=0)) + 1))
    place = np.full(int(max(items.max(initial=-1), history.items.max(initial=-1))) + 1, -1, dtype=np.int64)
    place[items] = np.arange(len(items))
    found = []
    for user in users.tolist():
        seen = np.unique(history.items[order[ends[user - 1] if user else 0 : ends[user]]])
        rows = {} if table is None else {learner.name: table.values[user].copy()}
        scores = learner.score(UserView("", True, rows, seen, True), items)
        shown = ~np.isnan(scores)
        shown[place[seen][place[seen] >= 0]] = False
        found.append(items[top(scores, shown, limit)])
    return found


def overlap(before: Sequence[I32], after: Sequence[I32]) -> float:
    """Mean share of each list that is also in its counterpart; 1 for no lists."""
    shares = [len(np.intersect1d(a, b)) / len(a) for a, b in zip(before, after, strict=True) if len(a)]
    return float(np.mean(shares)) if shares else 1.0


def residual(old: Array, new: Array, weights: Array) -> float:
    """Weighted RMS distance between the rows, divided by the weighted RMS length of the old ones; 0 when these are 0."""
    size = float((weights * np.square(old).sum(axis=1)).sum())
    return float(np.sqrt((weights * np.square(new - old).sum(axis=1)).sum() / size)) if size > 0 else 0.0


def cosine(old: Array, new: Array, weights: Array) -> float:
    """Weighted mean cosine between old and new rows, over rows that are not 0 in either; 1 when there are none."""
    lengths = np.linalg.norm(old, axis=1) * np.linalg.norm(new, axis=1)
    there = (lengths > 0) & (np.asarray(weights) > 0)
    cosines = (old[there] * new[there]).sum(axis=1) / lengths[there]
    return float(np.average(cosines, weights=weights[there])) if there.any() else 1.0


def relative_moves(old: Array, new: Array) -> F64:
    """How far each row moves, as a share of its old length, (n,), over the rows whose old length is not 0."""
    lengths = np.linalg.norm(old, axis=1)
    return np.asarray(np.linalg.norm(new - old, axis=1)[lengths > 0] / lengths[lengths > 0], dtype=np.float64)
