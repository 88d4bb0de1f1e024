"""A report as three pictures (SVG): RMSE over the stream, hit rate over the stream, speed against RMSE.

Our learners have solid lines; peers, which are tuned, have dashed ones. The colours are Okabe and Ito's, which people with any colour vision can tell apart;
lines are labelled where they end. The same report gives the same bytes.

    python -m benchmarks.plots         draws the pictures in benchmarks/results again, from the JSON there
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from benchmarks.contest import Outcome
from benchmarks.report import RESULTS, Report
from benchmarks.tables import CLICKS, load, measured, name_of

mpl.use("svg")
OURS = ("#0072B2", "#009E73", "#56B4E9", "#004D40", "#7BC8A4", "#5B6FB5", "#2F8F9D", "#8FA3BF")
PEERS = ("#E69F00", "#D55E00", "#CC79A7", "#8C6D31", "#999999")
INK, FAINT = "#222222", "#DDDDDD"
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 11, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": "#888888", "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "text.color": INK,
    "axes.grid": True, "grid.color": FAINT, "grid.linewidth": 0.6, "svg.hashsalt": "streamer", "svg.fonttype": "path",
}  # fmt: skip
WINDOW = 10  # number of hundredths of the stream that a point averages


def save(report: Report, folder: Path) -> None:
    """Write NAME-rmse.svg and NAME-speed.svg, or clicks-NAME-hits.svg."""
    with mpl.rc_context(STYLE):
        for what, drawn in (("rmse", _rmse(report)), ("hits", _hits(report)), ("speed", _speed(report))):
            if drawn is not None:
                drawn.savefig(folder / f"{name_of(report)}-{what}.svg", metadata={"Date": None}, bbox_inches="tight")


def _chosen(report: Report, kind: str) -> list[Outcome]:
    best = {o.name: o for o in report.outcomes if o.kind == kind and not o.skipped}  # tuned comes after the defaults
    return list(best.values())


def colours(chosen: Sequence[Outcome], named: Sequence[str]) -> dict[str, str]:
    """Colours by name; the default learner has the first of ours."""
    ours = sorted((o.name for o in chosen if o.side == "ours"), key=lambda name: name not in named)
    peers = [o.name for o in chosen if o.side == "peer"]
    found = {name: OURS[k % len(OURS)] for k, name in enumerate(ours)}
    return found | {name: PEERS[k % len(PEERS)] for k, name in enumerate(peers)}


def moving_mean(parts: Sequence[float]) -> Any:
    """The mean of each hundredth and the nine before it, (91,)."""
    return np.convolve(np.array(parts), np.full(WINDOW, 1 / WINDOW), mode="valid")


def _rmse(report: Report) -> Figure | None:
    named = tuple(f"{name}-" for name in report.defaults)
    chosen = [o for o in _chosen(report, "ratings") if not o.name.startswith(named)]  # variants would crowd the picture
    lines = {o.name: np.sqrt(moving_mean(o.ratings.squares)) for o in chosen if o.ratings}
    return _curves(
        report,
        chosen,
        lines,
        f"RMSE over the last {WINDOW}% of the ratings",
        "share of the ratings learned",
        report.oracle_rmse,
    )


def _hits(report: Report) -> Figure | None:
    chosen = _prominent(report)
    lines = {o.name: moving_mean(o.clicks.hits_10) for o in chosen if o.clicks}
    return _curves(
        report, chosen, lines, f"hit rate @10 over the last {WINDOW}% of the clicks", "share of the clicks learned"
    )


def _prominent(report: Report) -> list[Outcome]:
    """The learners of clicks that a picture has room for: the default, the best five other ones of ours, the best five peers."""
    ordered = sorted(_chosen(report, "clicks"), key=lambda o: -o.clicks.hit_rate_10 if o.clicks else 0.0)
    named = [o for o in ordered if o.name in report.defaults]
    ours, peers = ([o for o in ordered if o.side == side and o not in named][:5] for side in ("ours", "peer"))
    return [*named, *ours, *peers]


def _curves(
    report: Report, chosen: Sequence[Outcome], lines: dict[str, Any], what: str, along: str, oracle: float | None = None
) -> Figure | None:
    if not lines:
        return None
    named = report.defaults
    colour, figure = colours(chosen, named), Figure(figsize=(9, 5))
    axes = figure.subplots()
    share = np.arange(WINDOW, 101)
    for o in chosen:
        first = o.name in named
        axes.plot(
            share, lines[o.name], color=colour[o.name], linewidth=3 if first else 1.6, zorder=3 if first else 2,
            linestyle="-" if o.side == "ours" else (0, (4, 2)),
        )  # fmt: skip
    ends = {name: float(line[-1]) for name, line in lines.items()}
    if oracle is not None:
        axes.axhline(oracle, color="#666666", linewidth=1.2, linestyle=":")
        ends["oracle"], colour["oracle"] = oracle, "#666666"
    low, high = axes.get_ylim()
    for name, height in spread_labels(ends, (high - low) * 0.048).items():
        axes.annotate(
            name, (100, ends[name]), (103.5, height), textcoords="data", va="center", color=colour[name],
            fontweight="bold" if name in named else "normal", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour[name], "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip
    axes.set_xlim(WINDOW, 100)
    axes.set_xlabel(f"{along} (%)")
    axes.set_title(f"{report.stream}: {what}", loc="left", fontsize=12)
    return figure


def spread_labels(wanted: dict[str, float], least: float) -> dict[str, float]:
    """Heights of labels that are at least `least` apart, as near as possible to those wanted."""
    names = sorted(wanted, key=lambda name: wanted[name])
    groups: list[list[str]] = [[name] for name in names]

    def middle(group: Sequence[str]) -> float:
        return sum(wanted[name] for name in group) / len(group)

    merged = True
    while merged:
        merged = False
        for k in range(len(groups) - 1):
            gap = middle(groups[k + 1]) - middle(groups[k])
            if gap < least * (len(groups[k]) + len(groups[k + 1])) / 2:
                groups[k : k + 2] = [groups[k] + groups[k + 1]]
                merged = True
                break
    return {
        name: middle(group) + least * (at - (len(group) - 1) / 2) for group in groups for at, name in enumerate(group)
    }


def _speed(report: Report) -> Figure | None:
    chosen = [o for o in report.outcomes if o.ratings and o.events_per_second]
    if not chosen:
        return None
    named, figure = report.defaults, Figure(figsize=(9, 5))
    colour, axes = colours(_chosen(report, "ratings"), named), figure.subplots()
    places: dict[str, list[tuple[float, float]]] = {}  # points by name; the last one gets the label
    for o in chosen:
        assert o.ratings
        for speed in (o.evaluate_events_per_second, o.events_per_second):
            if speed:
                places.setdefault(o.name, []).append((speed, o.ratings.rmse))
    ours = {o.name for o in chosen if o.side == "ours"}
    for name, points in places.items():
        style: dict[str, Any] = {
            "color": colour[name],
            "marker": "o" if name in ours else "s",
            "markersize": 12 if name in named else 8,
        }
        axes.plot(*zip(*points, strict=True), color=colour[name], linewidth=1, linestyle="-" if name in ours else ":")
        for speed, rmse in points[:-1]:
            axes.plot(speed, rmse, markerfacecolor="white", **style)
        axes.plot(*points[-1], **style)
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.08)
    axes.invert_yaxis()
    ends = {name: points[-1][1] for name, points in places.items()}
    low, high = sorted(axes.get_ylim())
    for name, height in spread_labels(ends, (high - low) * 0.045).items():
        axes.annotate(
            name, (places[name][-1][0], height), (11, 0), textcoords="offset points", va="center",
            color=colour[name], fontweight="bold" if name in named else "normal", annotation_clip=False,
        )  # fmt: skip
    axes.set_xlabel(
        "events a CPU second in memory\n"
        "open circles: ours through streamer evaluate (file, decoding, all that serves, storage); open squares: peers' defaults"
    )
    axes.set_title(f"{report.stream}: RMSE (better above) against speed", loc="left", fontsize=12)
    return figure


if __name__ == "__main__":
    for name in [*measured(), *measured(CLICKS)]:
        save(load(name), RESULTS)
