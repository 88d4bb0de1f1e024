"""The tables that `streamer evaluate` prints: of one stream, and of several side by side."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from streamer.cli.options import plain

if TYPE_CHECKING:  # importing them takes most of a second; a bad argument is refused before that
    from streamer.study.click_figures import ClickFigures
    from streamer.study.evaluate import Evaluation
    from streamer.study.evaluate_retraining import RetrainingComparison

CLICK_FIGURES = {
    "hit_rate_10": "HR@10", "hit_rate_20": "HR@20", "ndcg_20": "NDCG@20", "mrr_20": "MRR@20",
    "session_hit_rate_20": "session\nHR@20", "session_mrr_20": "session\nMRR@20",
}  # fmt: skip
RATING_FIGURES = {
    "rmse": "RMSE", "rmse_last_half": "last half", "rmse_new_users": "new users", "rmse_new_items": "new items",
}  # fmt: skip


def print_evaluation(found: "Evaluation") -> None:
    """Print the figures of one stream."""
    console = Console(highlight=False)
    console.print(_table(found))
    if len(found.click_learners) > 1:
        table = _figures("Click learners side by side", CLICK_FIGURES)
        for name, one in found.click_learners.items():
            table.add_row(name, *_click_cells([one]))
        _print(console, table)
    if found.queries:
        _print(console, _groups(found.click_learners))


def print_side_by_side(found: "Sequence[Evaluation]") -> None:
    """Print a table of streams and learners for ratings and one for clicks; `found` has the seeds of a stream in a row."""
    console, paths = Console(highlight=False), {one.stream or "a simulated world" for one in found}
    names = {path: Path(path).name for path in paths}
    if len(set(names.values())) < len(paths):
        names = {path: path for path in paths}
    ratings, clicks = _figures("Ratings", RATING_FIGURES), _figures("Clicks", CLICK_FIGURES)
    for path, of_path in groupby(found, lambda one: one.stream or "a simulated world"):
        runs = list(of_path)
        first = runs[0]
        if first.ratings:
            ratings.add_row(plain(names[path]), f"{first.ratings:,} ratings", style="bold")
            for name in first.rmse_by_learner:
                figures = [run.rmse_by_learner[name] for run in runs]
                cells = [_mean([getattr(run, one) for run in runs]) for one in list(RATING_FIGURES)[1:]]
                ratings.add_row(f"  {name}", _spread(figures), *(cells if name == first.rating_learner else ()))
        if first.click_learners and first.queries:
            how = "" if first.repeats == "exclude" else " with repeats"
            clicks.add_row(plain(names[path]), f"{first.queries:,} queries{how}", style="bold")
            for name in first.click_learners:
                clicks.add_row(f"  {name}", *_click_cells([run.click_learners[name] for run in runs]))
    for table in (ratings, clicks):
        if table.row_count:
            _print(console, table)
    if len({one.seed for one in found}) > 1:
        console.print("± is the standard deviation between seeds, of which the other figures are means", style="dim")
    elif clicks.row_count:
        console.print("± is half the width of the 95% interval by user", style="dim")


def _figures(title: str, figures: "dict[str, str]") -> Table:
    """An empty table with these figures in columns."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for n, name in enumerate(("", *figures.values())):
        table.add_column(name, justify="right" if n else "left", no_wrap=True, vertical="bottom")
    return table


def _click_cells(runs: "Sequence[ClickFigures]") -> list[str]:
    """The figures of a learner of clicks, one for each seed: the first with its spread over the seeds, or its interval."""
    first, *others = ([getattr(run, name) for run in runs] for name in CLICK_FIGURES)
    width = runs[0].half_widths.get("hit_rate_10")
    return [_spread(first) if len(runs) > 1 else _interval(first[0], width), *map(_mean, others)]


def _groups(learners: "dict[str, ClickFigures]") -> Table:
    """Hit rates by history and popularity, a column for each learner."""
    table = _figures("Hit rate @10", {name: name for name in ("queries", *learners)})
    for what in ("history", "popularity"):
        columns = [getattr(one, f"by_{what}") for one in learners.values()]
        table.add_row("by the user's earlier clicks" if what == "history" else "by the item's earlier clicks")
        for rows in zip(*columns, strict=True):
            low, high = rows[0].earlier_clicks
            name = f"  {low:,} or more" if high is None else f"  {low:,}" if low == high else f"  {low:,} to {high:,}"
            table.add_row(name, f"{rows[0].queries:,}", *(_format(row.hit_rate_10) for row in rows))
    return table


def _print(console: Console, table: Table) -> None:
    """Print a table after a blank line, with all of its columns however narrow the terminal."""
    console.print()
    width = Console(width=1000).measure(table).maximum
    Console(highlight=False, width=max(console.width, width)).print(table)


def _mean(values: "Sequence[float | None]") -> str:
    known = [value for value in values if value is not None]
    return _format(mean(known) if known else None)


def _spread(values: "Sequence[float | None]") -> str:
    known = [value for value in values if value is not None]
    return f"{_mean(known)} ± {stdev(known):.4f}" if len(known) > 1 else _mean(known)


def _interval(value: float | None, half_width: float | None) -> str:
    return _format(value) if half_width is None else f"{_format(value)} ± {half_width:.4f}"


def _table(found: "Evaluation") -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    speed = found.events_per_second
    for name, value, what in (
        ("ratings learner", found.rating_learner, f"{found.ratings:,} ratings"),
        *(_rating_rows(found) if found.ratings else ()),
        ("clicks learner", found.click_learner, f"{found.clicks:,} clicks and likes"),
        *_click_rows(found),
        ("speed", "-" if speed is None else f"{speed:,.0f} events/s", "CPU, from the file to the committed state"),
        ("time", f"{found.wall_seconds:.1f} s", f"{found.ranking_seconds or 0:.1f} s of CPU for ranking"),
    ):
        table.add_row(name, value, what, style="bold" if not name.startswith(" ") else "")
    for count, what in (
        (found.dead_letters, "bad events left out"),
        (found.duplicates, "repeated events left out"),
        (
            found.replaced,
            "ratings in place of an earlier one of the same user and item: learned, and not among the errors",
        ),
        (
            found.repeated,
            "events that say nothing new left out: the same rating again, or a click again within seconds",
        ),
        (found.retracted, "ratings withdrawn"),
        (found.not_rated, "retractions without a rating to withdraw"),
        (
            found.refed if found.refed > found.events / 100 else 0,
            "events repeated without an id: does the file contain the stream twice?",
        ),
        (found.unpredicted, "ratings without a prediction, left out of the errors"),
    ):
        if count:
            table.add_row("", f"{count:,}", what, style="yellow")
    return table


def _rating_rows(found: "Evaluation") -> list[tuple[str, str, str]]:
    """Rows for the errors of the champion for ratings, and of the other learners of ratings."""
    from streamer.study.evaluate import NEW_RATINGS

    return [
        ("  RMSE", _format(found.rmse), "each predicted before it was learned"),
        ("  last half", _format(found.rmse_last_half), "of the ratings"),
        ("  new users", _format(found.rmse_new_users), f"fewer than {NEW_RATINGS} earlier ratings"),
        ("  new items", _format(found.rmse_new_items), f"fewer than {NEW_RATINGS} earlier ratings"),
        *_stated_rows(found),
        *_oracle_rows(found),
        *_other_learners(found),
        *_retraining_rows(found.renormalised),
    ]


def _click_rows(found: "Evaluation") -> list[tuple[str, str, str]]:
    """Rows for how the champion for clicks ranks them."""
    if not found.queries:
        return [("  not ranked", "", "")] if found.queries is None else []
    widths, allowed = found.click_learners[found.click_learner].half_widths, found.repeats == "allow"
    among = "among all items clicked before" if allowed else "among items clicked before, not the user's"
    whats = {
        "hit_rate_10": ("hit rate @10", among),
        "hit_rate_20": ("hit rate @20", "± 95%, by user"),
        "ndcg_20": ("NDCG @20", ""),
        "mrr_20": ("MRR @20", ""),
        "session_hit_rate_20": ("session HR @20", f"{found.session_queries or 0:,} clicks that follow in a session"),
        "session_mrr_20": ("session MRR @20", f"of {found.sessions or 0:,} sessions, repeats allowed"),
    }
    rows = [(f"  {name}", _interval(getattr(found, key), widths.get(key)), what) for key, (name, what) in whats.items()]
    if found.repeated_share:
        how = "ranked too" if allowed else "in sessions only"
        rows.append(("  repeated clicks", f"{found.repeated_share:.1%}", f"on the user's own items, {how}"))
    return rows


def _other_learners(found: "Evaluation") -> list[tuple[str, str, str]]:
    """Rows for the other learners of ratings in the run."""
    rows = []
    for name, rmse in found.rmse_by_learner.items():
        if name != found.rating_learner:
            above = f"{100 * (rmse / found.rmse - 1):+.2f}%, shadow" if rmse and found.rmse else "shadow"
            rows.append((f"  {name}", _format(rmse), above))
    return rows


def _retraining_rows(found: "RetrainingComparison | None") -> list[tuple[str, str, str]]:
    if found is None or found.rmse is None or found.online_rmse is None:
        return []
    worst = max((b / a - 1 for a, b in zip(found.online_rmse_tenths, found.rmse_tenths, strict=True)), default=0.0)
    promoted = sum(generation.outcome == "promoted" for generation in found.generations)
    rows = [
        (
            "  renormalised",
            _format(found.rmse),
            f"{100 * (found.rmse / found.online_rmse - 1):+.2f}%, every {found.every_events:,} events",
        ),
        ("  squared error", f"{found.difference:+.5f}", f"+- {found.half_width:.5f} (95%), paired with online only"),
        ("  worst tenth", f"{100 * worst:+.2f}%", "RMSE against online only"),
        ("  generations", f"{promoted}", f"promoted, of {len(found.generations)} candidates"),
    ]
    if found.regret_last_days is not None and found.online_regret_last_days:
        share = found.regret_last_days / found.online_regret_last_days
        rows.append(
            ("  regret, end", _format(found.regret_last_days), f"{share:.0%} of online only, in the last 10 days")
        )
    return rows


def _stated_rows(found: "Evaluation") -> list[tuple[str, str, str]]:
    """Rows for how well the stated uncertainty fits."""
    if found.coverage_80 is None or found.log_score_gain is None:
        return []
    return [
        ("  80% intervals", f"{found.coverage_80:.1%}", "of ratings were in the interval stated before"),
        ("  log score", f"{found.log_score_gain:+.4f}", "nats a rating above one constant variance"),
    ]


def _oracle_rows(found: "Evaluation") -> list[tuple[str, str, str]]:
    if found.oracle_rmse is None:
        return []
    return [
        ("  oracle", _format(found.oracle_rmse), "the least possible: the world is simulated"),
        ("  regret", _format(found.regret), "RMSE above the oracle's"),
    ]


def _format(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
