"""Pictures as SVG that stands inside a page, or alone in a file. The one place that knows matplotlib.

A picture is 360 points wide with text of 9 and 10, so that it is legible on a phone and may be twice as wide on a desk. Text
stays text. Colours are Okabe and Ito's, which people of all colour vision tell apart, beside markers and dashes for paper
without colour; a page may give each another value as a CSS variable (`--series-0`, `--ink`, ...), so that they suit a dark
background. The same numbers are the same bytes, and ids begin with the picture's name, so that two pictures in one page never
share one.

Importing this module raises MissingExtra where matplotlib is not installed.
"""

import re
from collections.abc import Sequence
from html import escape
from io import StringIO

from streamer.errors import MissingExtra

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
    "font.family": "DejaVu Sans", "font.size": 9, "axes.labelsize": 9, "axes.titlesize": 10, "xtick.labelsize": 9,
    "ytick.labelsize": 9, "legend.fontsize": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8,
    "axes.edgecolor": SOFT, "axes.labelcolor": INK, "axes.titlecolor": INK, "xtick.color": SOFT, "ytick.color": SOFT,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "text.color": INK, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": FAINT, "grid.linewidth": 0.8, "legend.frameon": False, "axes.facecolor": "none", "lines.linewidth": 1.8,
    "lines.markersize": 5, "axes.titlelocation": "left", "svg.fonttype": "none", "svg.hashsalt": "streamer",
    "text.parse_math": False,
}  # fmt: skip


def compared(
    names: Sequence[str],
    values: Sequence[float],
    intervals: Sequence[tuple[float, float]],
    *,
    what: str,
    reference: tuple[str, float] | None = None,
    name: str = "compared",
) -> str:
    """Models below one another in this order, each a point with its interval and its value in digits, as SVG.

    `intervals` are (low, high); one of NaN is not drawn. `what` is measured along the bottom ("test RMSE, lower is better").
    `reference` is a line with a label ("bias only", .88). Points and not bars: bars that do not begin at 0 lie, and those that
    do show no difference of some percent.
    """
    with mpl.rc_context(STYLE):
        figure, axes = _one(0.9 + 0.3 * len(names))
        for row, (value, (low, high)) in enumerate(zip(values, intervals, strict=True)):
            colour, marker = COLOURS[row % len(COLOURS)], MARKERS[row % len(MARKERS)]
            axes.plot([low, high], [row, row], color=colour, linewidth=2.2, solid_capstyle="butt")
            axes.plot([value], [row], color=colour, marker=marker, markersize=7)
            axes.annotate(
                f"{value:.4f}", (value, row), (0, 6), textcoords="offset points", ha="center", va="bottom", fontsize=9
            )
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.8)
        axes.margins(x=0.1)
        axes.set_xlabel(what)
        if reference is not None:
            axes.axvline(reference[1], color=SOFT, linewidth=1.2, linestyle=(0, (4, 2)), zorder=0)
            axes.annotate(
                reference[0], (reference[1], 0), (3, -1), xycoords=("data", "axes fraction"), textcoords="offset points",
                color=SOFT, va="bottom", fontsize=9,
            )  # fmt: skip
        axes.grid(visible=False, axis="y")
        return _svg(figure, name, what)


def _one(height_in: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    figure.patch.set_visible(False)
    return figure, figure.subplots()


def _svg(figure: Figure, name: str, title: str) -> str:
    """Without what belongs to a file alone: no declaration, no size, no style sheet (it would hold for the whole page)."""
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
