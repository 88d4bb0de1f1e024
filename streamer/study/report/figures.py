"""Pictures as SVG, inside a page or in a file of their own. Only this module knows matplotlib.

A picture is 360 points wide with text of 10 and 11 points, so that it is legible on a phone and at twice the width on a desktop.
Text stays text. Colours are those of Okabe and Ito, which people with any colour vision can distinguish, with markers and dashes
for printing without colour. A page can change each as a CSS variable (`--series-0`, `--ink`, ...), for instance for a dark
background. The same numbers give the same bytes, and ids begin with the picture's name, so that two pictures in one page
share none.

Importing this module raises MissingExtra where matplotlib is not installed.
"""

import re
from collections.abc import Mapping, Sequence
from html import escape
from io import StringIO
from typing import Any

import numpy as np

from streamer.core.arrays import F64, Array
from streamer.core.errors import MissingExtra
from streamer.core.protocols import Epoch

try:
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "matplotlib":
        raise
    raise MissingExtra(
        "pictures need matplotlib, which is not installed: pip install 'streamer-recs[offline]', or make setup"
    ) from None

mpl.use("svg")
WIDTH_IN = 5.0  # 360 points
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#5b5fc7")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))
INK, SOFT, FAINT, PAPER = "#16211f", "#5b6b68", "#e2e7e6", "#ffffff"
VARIABLES = {INK: "ink", SOFT: "soft", FAINT: "faint", PAPER: "paper"} | {
    colour: f"series-{number}" for number, colour in enumerate(COLOURS)
}
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 10, "axes.labelsize": 10, "axes.titlesize": 11, "xtick.labelsize": 10,
    "ytick.labelsize": 10, "legend.fontsize": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8,
    "axes.edgecolor": SOFT, "axes.labelcolor": INK, "axes.titlecolor": INK, "xtick.color": SOFT, "ytick.color": SOFT,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "text.color": INK, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": FAINT, "grid.linewidth": 0.8, "legend.frameon": False, "axes.facecolor": "none", "lines.linewidth": 1.8,
    "lines.markersize": 5, "axes.titlelocation": "left", "svg.fonttype": "none", "svg.hashsalt": "streamer",
    "text.parse_math": False,
}  # fmt: skip


def dot_plot(
    names: Sequence[str],
    values: Sequence[float],
    intervals: Sequence[tuple[float, float]],
    *,
    what: str,
    reference: tuple[str, float] | None = None,
    name: str = "compared",
) -> str:
    """A dot plot as SVG: models from top to bottom in this order, each with a dot, its interval and its value in digits.

    `intervals` are (low, high); one of NaN is not drawn. `what` is the label of the axis ("test RMSE, lower is better").
    `reference` is a line with a label ("bias only", .88). These are dots because bars that do not start at 0 mislead, and bars
    that do hide differences of a few percent.
    """
    with mpl.rc_context(STYLE):
        figure, axes = _one(0.9 + 0.3 * len(names))
        for row, (value, (low, high)) in enumerate(zip(values, intervals, strict=True)):
            colour, marker = COLOURS[row % len(COLOURS)], MARKERS[row % len(MARKERS)]
            axes.plot([low, high], [row, row], color=colour, linewidth=2.2, solid_capstyle="butt")
            axes.plot([value], [row], color=colour, marker=marker, markersize=7)
            axes.annotate(f"{value:.4f}", (value, row), (0, 6), textcoords="offset points", ha="center", va="bottom")
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.8)
        axes.margins(x=0.1)
        axes.set_xlabel(what)
        if reference is not None:
            axes.axvline(reference[1], color=SOFT, linewidth=1.2, linestyle=(0, (4, 2)), zorder=0)
            axes.annotate(
                reference[0], (reference[1], 1), (0, 2), xycoords=("data", "axes fraction"), textcoords="offset points",
                color=SOFT, ha="center", va="bottom",
            )  # fmt: skip
        axes.grid(visible=False, axis="y")
        return _svg(figure, name, what)


class Pictures:
    """Pictures of one set of models, with the same colour, marker and dashes for a model in all of them."""

    def __init__(self, names: Sequence[str]) -> None:
        """Colours can distinguish at most eight models."""
        self._number = {name: number for number, name in enumerate(names)}

    def _style(self, name: str, *, marker: bool = True) -> dict[str, Any]:
        number = self._number[name]
        return {
            "color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number % len(DASHES)], "label": name,
            "marker": MARKERS[number % len(MARKERS)] if marker else "",
        }  # fmt: skip

    def curves(
        self, curves: Mapping[str, Sequence[Epoch]], kept: Mapping[str, int | None], *, what: str, name: str
    ) -> str:
        """Learning curves, one panel for each model: `what` on the training part (dashed) and on the validation part, by epoch.

        A dot marks the epoch that was kept. All panels have the same scale, so that models can be compared; values far above,
        as in first epochs, are cut off.
        """
        with mpl.rc_context(STYLE):
            columns = 2 if len(curves) > 1 else 1
            rows = -(-len(curves) // columns)
            figure = Figure(figsize=(WIDTH_IN, 0.5 + 1.65 * rows), layout="constrained")
            figure.patch.set_visible(False)
            panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
            for axes, (model, epochs) in zip(panels, curves.items(), strict=False):
                colour = self._style(model)["color"]
                x = [epoch.number for epoch in epochs]
                axes.plot(
                    x, [epoch.train_loss for epoch in epochs], color=colour, linestyle=(0, (3, 1.5)), label="training"
                )
                axes.plot(x, [epoch.validation_loss for epoch in epochs], color=colour, label="validation")
                best = kept[model]
                if best is not None:
                    axes.plot([best], [epochs[best - 1].validation_loss], "o", color=colour, label="kept")
                axes.set_title(model)
                axes.xaxis.get_major_locator().set_params(integer=True)
            for axes in panels[len(curves) :]:
                axes.set_visible(False)
            panels[0].set_ylim(*_heights([v for epochs in curves.values() for e in epochs for v in e[2:]]))
            for axes in panels[::columns]:
                axes.set_ylabel(what)
            for axes in panels[max(0, len(curves) - columns) : len(curves)]:
                axes.set_xlabel("epoch")
            _legend(figure, panels[0], INK)
            return _svg(figure, name, "learning curves")

    def shares(self, labels: Sequence[str], given: F64, predicted: Mapping[str, F64], *, along: str) -> str:
        """The shares of ratings (bars) and of each model's predictions (lines) in each step, (steps,)."""
        with mpl.rc_context(STYLE):
            figure, axes = _one(3.0)
            axes.bar(labels, 100 * given, color=FAINT, edgecolor=SOFT, linewidth=0.8, label="given")
            for name, share in predicted.items():
                axes.plot(range(len(labels)), 100 * share, **self._style(name))
            axes.set_ylabel("share of the ratings (%)")
            axes.set_xlabel(along)
            axes.grid(visible=False, axis="x")
            _legend(figure, axes)
            return _svg(figure, "shares", "distribution of ratings and predictions")

    def by_class(
        self, labels: Sequence[str], counts: Array, rmse: Mapping[str, F64], mean_error: Mapping[str, F64], *, along: str, name: str
    ) -> str:  # fmt: skip
        """RMSE, mean error and number of ratings by class, in three panels from top to bottom."""
        with mpl.rc_context(STYLE):
            figure = Figure(figsize=(WIDTH_IN, 5.0), layout="constrained")
            figure.patch.set_visible(False)
            above, middle, below = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1.3])
            x = np.arange(len(labels))
            for model in rmse:
                above.plot(x, rmse[model], **self._style(model))
                middle.plot(x, mean_error[model], **self._style(model))
            above.set_ylim(bottom=0)
            above.set_ylabel("RMSE")
            middle.axhline(0, color=SOFT, linewidth=1)
            middle.set_ylabel("mean error\n(above 0: too high)")
            below.bar(x, counts, color=FAINT, edgecolor=SOFT, linewidth=0.8)
            below.set_ylabel("ratings")
            below.yaxis.set_major_formatter("{x:,.0f}")
            below.set_xticks(x, labels)
            below.set_xlabel(along)
            for axes in (above, middle, below):
                axes.grid(visible=False, axis="x")
            _legend(figure, above)
            return _svg(figure, name, f"errors by {along}")

    def concentration(self, curves: Mapping[str, F64], *, ratings: F64) -> str:
        """The share of top tens that the n most popular items have, with n on a logarithmic axis; (items + 1,) each."""
        with mpl.rc_context(STYLE):
            figure, axes = _one(3.2)
            items = len(ratings) - 1
            ticks = np.unique(np.geomspace(1, items, 200).round().astype(int))
            axes.fill_between(100 * ticks / items, 100 * ratings[ticks], color=FAINT, label="ratings", linewidth=0)
            for name, curve in curves.items():
                axes.plot(100 * ticks / items, 100 * curve[ticks], **self._style(name, marker=False))
            axes.set_xscale("log")
            axes.set_xlim(100 / max(items, 2), 100)  # a single item is all of them
            axes.set_ylim(0, 102)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.set_xlabel("most popular items (% of all)")
            axes.set_ylabel("share of the places (%)")
            _legend(figure, axes)
            return _svg(figure, "concentration", "popularity of what is recommended")

    def covered(self, shares: Mapping[str, float]) -> str:
        """Bars: the share of the items that are in at least one top ten."""
        with mpl.rc_context(STYLE):
            figure, axes = _one(0.7 + 0.3 * len(shares))
            for row, (name, share) in enumerate(shares.items()):
                axes.barh([row], [100 * share], color=self._style(name)["color"], height=0.6)
                axes.annotate(
                    f"{100 * share:.1f}%", (100 * share, row), (4, 0), textcoords="offset points", va="center"
                )
            axes.set_yticks(range(len(shares)), list(shares))
            axes.set_ylim(len(shares) - 0.5, -0.5)
            axes.set_xlim(0, max(1.0, 115 * max(shares.values())))
            axes.set_xlabel("items in at least one top ten (% of all)")
            axes.grid(visible=False, axis="y")
            return _svg(figure, "covered", "coverage")

    def upset_plot(
        self, names: Sequence[str], sizes: Sequence[int], parts: Sequence[tuple[Sequence[bool], int]], *, name: str, what: str
    ) -> str:  # fmt: skip
        """An UpSet plot: joined dots below show the sets of an intersection, bars above its size. The first set is the truth.

        Lex, Gehlenborg, Strobelt, Vuillemot, Pfister (2014), UpSet: visualization of intersecting sets, IEEE TVCG 20(12).
        """
        with mpl.rc_context(STYLE):
            figure = Figure(figsize=(WIDTH_IN, 2.1 + 0.28 * len(names)), layout="constrained")
            figure.patch.set_visible(False)
            above, below = figure.subplots(2, 1, sharex=True, height_ratios=[5.5, len(names)])
            for at, (sets, count) in enumerate(parts):
                colour = INK if sets[0] else SOFT
                above.bar(
                    [at], [count], color=colour if sets[0] else FAINT, edgecolor=colour, linewidth=0.8, width=0.66
                )
                text = (
                    f"{count:,}"
                    if count < 1000
                    else f"{count / 1000:.1f}k"
                    if count < 99_950
                    else f"{count / 1000:.0f}k"
                )
                above.annotate(
                    text, (at, count), (0, 2), textcoords="offset points", ha="center", va="bottom", fontsize=8
                )
                rows = [row for row, inside in enumerate(sets) if inside]
                below.plot([at, at], [rows[0], rows[-1]], color=colour, linewidth=1.6)
                for row, inside in enumerate(sets):
                    below.plot([at], [row], "o", color=colour if inside else FAINT, markersize=6.5)
            above.set_ylabel(what)
            above.yaxis.set_major_formatter("{x:,.0f}")
            above.margins(y=0.12)
            above.grid(visible=False, axis="x")
            below.set_yticks(range(len(names)), [f"{one} ({size:,})" for one, size in zip(names, sizes, strict=True)])
            below.set_ylim(len(names) - 0.4, -0.6)
            below.set_xlim(-0.6, len(parts) - 0.4)
            below.grid(visible=False)
            below.tick_params(axis="both", length=0, labelbottom=False)
            above.tick_params(axis="x", length=0, labelbottom=False)
            for side in below.spines.values():
                side.set_visible(False)
            return _svg(figure, name, f"which {what} are in which sets")

    def history(self, times: Sequence[float], values: Sequence[float], missed: Sequence[bool], *, mean: float) -> str:
        """One user's ratings in order of time; the worst misses are marked."""
        with mpl.rc_context(STYLE):
            figure, axes = _one(2.4)
            t, v, m = np.array(times), np.array(values), np.array(missed, dtype=bool)
            half, nothing = 0.004 * max(1, len(t)), np.full(int((~m).sum()), np.nan)
            dashes = np.column_stack([t[~m] - half, t[~m] + half, nothing]).ravel()  # one path, however many ratings
            axes.plot(
                dashes,
                np.repeat(v[~m], 3),
                color=COLOURS[0],
                alpha=0.6,
                linewidth=4,
                solid_capstyle="butt",
                label="rated",
            )
            axes.plot(t[m], v[m], "X", color=COLOURS[1], markersize=7, label="missed (below)")
            axes.axhline(mean, color=SOFT, linewidth=1, linestyle=(0, (4, 2)), label="mean")
            axes.set_xlabel("ratings, in the order in which they came")
            axes.set_ylabel("rating")
            _legend(figure, axes)
            return _svg(figure, "history", "one user's ratings")


def _heights(losses: Sequence[float]) -> tuple[float, float]:
    """Limits of the axis: from just below the lowest loss to a little above the 90% quantile."""
    found = np.array([loss for loss in losses if np.isfinite(loss)])
    if not len(found):
        return 0.0, 1.0
    low, high = float(found.min()), float(np.quantile(found, 0.9))
    room = max(high - low, 1e-3 * abs(low), 1e-9)
    return low - 0.08 * room, high + 0.25 * room


def _legend(figure: Figure, axes: Axes, colour: str | None = None) -> None:
    """A legend above the picture, in as many rows as the names need; with `colour`, all its lines have that colour."""
    handles, labels = axes.get_legend_handles_labels()
    columns = next(n for n in range(len(labels), 0, -1) if n == 1 or _legend_width(labels, n) < WIDTH_IN * 72)
    order = [
        n for first in range(columns) for n in range(first, len(labels), columns)
    ]  # matplotlib fills it column by column
    legend = figure.legend(
        [handles[n] for n in order], [labels[n] for n in order], loc="outside upper left", ncols=columns,
        columnspacing=1.2, handlelength=2.2, borderaxespad=0,
    )  # fmt: skip
    if colour is not None:
        for line in legend.get_lines():
            line.set_color(colour)


def _legend_width(labels: Sequence[str], columns: int) -> float:
    """The approximate width in points."""
    return sum(42 + 6 * max(map(len, labels[first::columns])) for first in range(columns))


def _one(height_in: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    figure.patch.set_visible(False)
    return figure, figure.subplots()


def _svg(figure: Figure, name: str, title: str) -> str:
    """The figure as SVG for a page: without declaration, size and style sheet, which would apply to the whole page."""
    written = StringIO()
    figure.savefig(written, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = written.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, 'DejaVu Sans', sans-serif", text)
    text = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", text)
    text = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(f": {colour}", f": var(--{variable}, {colour})")
    attributes = f'role="img" aria-label="{escape(title)}" style="stroke-linejoin: round; stroke-linecap: butt"'
    return re.sub(
        r'<svg ([^>]*?)width="[^"]*" height="[^"]*" ', rf"<svg \1{attributes} ".replace("\\1", r"\1"), text, count=1
    )
