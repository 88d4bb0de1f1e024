"""What renormalising is worth: a table and a picture that compare learning with and without retrainings, rating by rating.

    python -m benchmarks.renormalise path/to/ml-latest-small      writes benchmarks/results/renormalise.{json,md,svg}
    python -m benchmarks.renormalise                              rewrites the page and the picture from that JSON

Every stream is learned as in `streamer evaluate --renormalise-every-events N`: it pauses at each cut while candidates are trained
on all events so far, and they must pass the gate of `serve` with its default settings. It takes some five minutes.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import msgspec
import numpy as np
from matplotlib.figure import Figure

from benchmarks.plots import STYLE
from benchmarks.report import RESULTS
from benchmarks.tables import table
from streamer.checks.batches import Feed, rating
from streamer.consumers.files import FileSource
from streamer.consumers.stream import StreamSource
from streamer.core.batch import Batch
from streamer.core.protocols import Source
from streamer.core.settings import load
from streamer.models import learner, trainer
from streamer.producers.simulate import World
from streamer.renormalise.training import candidate
from streamer.study.evaluate_retraining import RetrainingComparison, Trial, compare_with_retraining

LEARNERS = ("biased-mf", "bayesian-hybrid")
COLOURS = {"biased-mf": "#E69F00", "bayesian-hybrid": "#0072B2"}
DAYS = 60
MANY = 200_000  # events in a world whose users rate as often as on MovieLens, some 100 times each


class Stream(NamedTuple):
    """A stream and how often it is retrained."""

    name: str
    what: str
    opened: Callable[[], Source]
    parts: int  # number of parts between retrainings
    candidates: tuple[str, ...] = ("all",)


class Figures(msgspec.Struct, frozen=True):
    """One learner on one stream."""

    stream: str
    what: str
    learner: str
    found: RetrainingComparison


class Measured(msgspec.Struct, frozen=True):
    """benchmarks/results/renormalise.json."""

    figures: tuple[Figures, ...]
    als_cpu_seconds_per_million: float  # 3 sweeps of 32 factors, with the pass before them
    wall_seconds: float


def streams(path: str) -> list[Stream]:
    """The streams that are measured."""

    def world(turn: float, events: int) -> Callable[[], Source]:
        return lambda: StreamSource(World(turn=turn, events=events).stream(catalogue_first=True))

    return [
        Stream(Path(path).name, "every 20%", lambda: FileSource(path, 1), 5),
        Stream("still world", f"{MANY:,} events, 60 days, tastes stand still, every 5 days", world(0.0, MANY), 12),
        Stream(
            "small still world", "60,000 events, as `--simulate` but tastes stand still, every 5 days", world(0.0, World.events), 12
        ),
        Stream(
            "turning world",
            f"{MANY:,} events, 60 days, tastes turn by .05 rad a day, every 5 days; candidates: all, the last 30 days",
            world(0.05 * DAYS, MANY), 12, ("all", "window:30"),
        ),
    ]  # fmt: skip


def measure(path: str) -> Measured:
    """Measure every learner on every stream, one after the other."""
    began, figures = time.monotonic(), []
    for stream in streams(path):
        events = _events(stream.opened())
        trial = Trial(-(-events // stream.parts), tuple(candidate(name) for name in stream.candidates))
        for name in LEARNERS:
            settings = load({"rating_learner": name, "click_learner": "popularity"}, environ={})
            print(f"{stream.name}: {name} ...", flush=True)
            found = compare_with_retraining(settings, stream.opened, trial, lambda done, of: None)
            figures.append(Figures(stream.name, stream.what, name, found))
    return Measured(tuple(figures), als_seconds(), time.monotonic() - began)


def _events(source: Source) -> int:
    """The approximate number of ratings and clicks in a source."""
    counted = 0
    while records := source.poll(2000, 0.0):
        counted += sum(record.topic in ("ratings", "clicks") for record in records)
    source.close()
    return counted


def als_seconds(ratings: int = 200_000) -> float:
    """CPU seconds of the trainer `als` per million ratings, on random ratings of 2,000 users and 1,000 items."""
    random = np.random.default_rng(1)

    def batch(count: int) -> tuple[Feed, Batch]:
        feed = Feed(learner("biased-mf", seed=1), users=2000, longest=1)
        users, items, values = (
            random.integers(0, 2000, count),
            random.integers(0, 1000, count),
            random.integers(1, 11, count) / 2,
        )
        return feed, feed.batch(
            [rating(f"u{u}", f"i{i}", v) for u, i, v in zip(users, items, values.tolist(), strict=True)]
        )

    feed, history = batch(1000)
    trainer("als").fit(feed.learner, history, lambda share: None)  # compiles the kernels
    feed, history = batch(ratings)
    began = time.process_time()
    trainer("als").fit(feed.learner, history, lambda share: None)
    return (time.process_time() - began) * 1e6 / ratings


def page(measured: Measured) -> str:
    """The page with the table, in Markdown."""
    head = (
        "stream",
        "learner",
        "online only",
        "renormalised",
        "change",
        "paired 95%",
        "worst tenth",
        "regret, end",
        "promoted",
        "top tens kept",
    )
    rows = []
    for one in measured.figures:
        found = one.found
        assert found.rmse is not None
        assert found.online_rmse is not None
        assert found.difference is not None
        worst = max(b / a - 1 for a, b in zip(found.online_rmse_tenths, found.rmse_tenths, strict=True))
        share = found.rmse / found.online_rmse - 1
        regret = "-"
        if found.regret_last_days is not None and found.online_regret_last_days:
            regret = f"{found.online_regret_last_days:.4f} -> {found.regret_last_days:.4f} ({found.regret_last_days / found.online_regret_last_days:.0%})"
        kept = [g.churn.top_ten_overlap for g in found.generations if g.churn is not None and g.outcome == "promoted"]
        promoted = sum(g.outcome == "promoted" for g in found.generations)
        rows.append(
            (
                one.stream, f"`{one.learner}`", f"{found.online_rmse:.4f}", f"{found.rmse:.4f}", f"{share:+.2%}",
                f"{found.difference:+.5f} +- {found.half_width:.5f}", f"{worst:+.2%}", regret,
                f"{promoted} of {len(found.generations)}", f"{np.mean(kept):.0%}" if kept else "-",
            )
        )  # fmt: skip
    named = dict.fromkeys((one.stream, one.what) for one in measured.figures)
    return "\n".join(
        [
            "# What renormalising is worth",
            "",
            "Written by `python -m benchmarks.renormalise`. RMSE is prequential: every rating is predicted before it is learned, by the generation that was live then. The paired",
            "interval is that of the mean difference of squared errors, by batch means. The worst tenth of the stream (by ratings) is the one in which RMSE is highest against",
            "online only. Regret is RMSE above the oracle's over the last ten days. Candidates pass the gate of `serve`, with its default settings.",
            "",
            *table(head, rows),
            "",
            *[f"- **{name}**: {what}." for name, what in named],
            "",
            f"The ratings trainer takes {measured.als_cpu_seconds_per_million:.1f} s of CPU a million ratings (one thread, 32 factors, a pass of descent and 3 sweeps).",
            f"All of it took {measured.wall_seconds / 60:.0f} minutes.",
            "",
            "![RMSE of each tenth of the stream against online only](renormalise.svg)",
            "",
        ]
    )


def picture(measured: Measured) -> Figure:
    """RMSE of each tenth against online only, one panel for each stream."""
    names = list(dict.fromkeys(one.stream for one in measured.figures))
    figure = Figure(figsize=(10, 2.6 * -(-len(names) // 2) + 0.6), layout="constrained")
    fields = figure.subplots(-(-len(names) // 2), 2, squeeze=False).ravel()
    for axes, name in zip(fields, names, strict=False):
        for one in measured.figures:
            if one.stream == name:
                pairs = zip(one.found.online_rmse_tenths, one.found.rmse_tenths, strict=True)
                share = [100 * (b / a - 1) for a, b in pairs]
                axes.plot(range(1, 11), share, marker="o", color=COLOURS[one.learner], label=one.learner, linewidth=2)
        axes.axhline(0.0, color="#666666", linewidth=1.0, linestyle=":")
        axes.set_title(name, loc="left", fontsize=11)
        axes.set_xticks(range(1, 11))
    for axes in fields[len(names) :]:
        axes.set_visible(False)
    fields[0].legend(frameon=False, fontsize=9)
    figure.supxlabel("tenth of the ratings", fontsize=10)
    figure.supylabel("RMSE against online only (%)", fontsize=10)
    return figure


def main(arguments: list[str]) -> None:
    """Measure if a path is given, then write page and picture."""
    file = RESULTS / "renormalise.json"
    if arguments:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(measure(arguments[0]))) + b"\n")
    measured = msgspec.json.decode(file.read_bytes(), type=Measured)
    (RESULTS / "renormalise.md").write_text(page(measured), encoding="utf-8")
    with mpl.rc_context(STYLE):
        picture(measured).savefig(RESULTS / "renormalise.svg", metadata={"Date": None}, bbox_inches="tight")


if __name__ == "__main__":
    main(sys.argv[1:])
