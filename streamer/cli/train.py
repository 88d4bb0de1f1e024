"""`streamer train`."""

from collections.abc import Callable, Sequence
from math import isfinite, isnan, nan
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from streamer.cli.bad_events import allow_bad, report_bad_events
from streamer.cli.options import file_options, plain, read_options, settings_of, settings_options
from streamer.cli.progress import bar
from streamer.consumers.delimited.header import ReadOptions
from streamer.consumers.files import read as read_stream
from streamer.consumers.stream import StreamSource
from streamer.core.dataset import Dataset
from streamer.core.errors import BadSettings
from streamer.core.protocols import Epoch
from streamer.models.offline import MODELS, model
from streamer.study.comparison import plot_clicks, plot_ratings, share_over_bias_only
from streamer.study.diagnosis import FEW, Diagnosis, diagnose
from streamer.study.next_item_diagnosis import NextItemDiagnosis, diagnose_next_items
from streamer.study.splits import SPLITS
from streamer.study.train import Fit, OnProgress, Plan, Trained
from streamer.study.train import train as fit
from streamer.study.training_data import read

REFERENCE = "For reference: a well-known course reports a test MSE of .76 on ml-latest-small for its best model."
SHOWN = 8  # categories listed


@click.command(epilog="Example:  streamer train path/to/ml-latest-small --compare bias,als,stochastic-mf")
@click.argument("path")
@click.option("--model", "name", metavar="NAME", help=f"one of {', '.join(MODELS)}")
@click.option("--compare", metavar="NAME,NAME,...", help="several models, in one table and one picture")
@click.option(
    "--split", type=click.Choice(list(SPLITS)), default="random", show_default=True, help="which ratings are held out"
)
@click.option(
    "--test-share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.2,
    show_default=True,
    metavar="X",
    help="share of the ratings, or of the users",
)
@click.option(
    "--validation-share", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.1, show_default=True,
    metavar="X", help="share of the ratings outside the test part",
)  # fmt: skip
@click.option(
    "--picture", metavar="FILE", default="comparison.svg", show_default=True, help="the picture of --compare (SVG)"
)
@click.option("--json", "as_json", is_flag=True, help="one JSON object for each model, on a line of its own")
@allow_bad
@file_options
@settings_options("learning")
def train(
    path: str, name: str | None, compare: str | None, split: str, test_share: float, validation_share: float, picture: str,
    as_json: bool, allow_bad: float, **options: Any,
) -> None:  # fmt: skip
    """Fit models of the field on a file, measure them on a part that they never saw, and diagnose them.

    PATH is as for `streamer evaluate`. Models of ratings are measured on the test part of --split, models of clicks on each
    user's last click. Nothing is kept.
    """
    if bool(name) == bool(compare):
        raise click.UsageError("give --model NAME or --compare NAME,NAME,..., and not both")
    names = [name] if name else list(dict.fromkeys(one.strip() for one in (compare or "").split(",") if one.strip()))
    if not names:
        raise click.UsageError("--compare names no model: give NAME,NAME,...")
    how, settings = read_options(options), settings_of(options)
    for one in names:
        model(
            one, seed=settings.learning.seed
        )  # unknown models and missing libraries are reported before anything is read
    if compare and not as_json and (Path(picture).is_dir() or not Path(picture).absolute().parent.is_dir()):
        raise BadSettings(
            f"cannot write the picture {picture}: wanted a file in an existing folder; give another --picture"
        )
    errors = Console(stderr=True)
    data = history(path, settings, errors, allow_bad, how)
    plan = Plan(split=split, test_share=test_share, validation_share=validation_share, seed=settings.learning.seed)
    fits, refused = list[Fit](), dict[str, BadSettings]()
    for one in names:
        try:
            with bar(errors, f"fitting {one}", 0) as advance:
                fits.append(fit(one, data, plan, on_progress(advance)))
        except BadSettings as error:
            refused[one] = error
    for one, why in refused.items():
        if not fits:
            raise why
        errors.print(f"{one} was left out: {why}", style="yellow", soft_wrap=True)
    diagnoses = [diagnose(found) if found.predicted else diagnose_next_items(found) for found in fits]
    if as_json:
        for found, diagnosis in zip(fits, diagnoses, strict=True):
            click.echo(msgspec.json.encode({**msgspec.structs.asdict(found.trained), "diagnosis": diagnosis}).decode())
        return
    console = Console(highlight=False, markup=False)  # a category may look like markup
    if name:
        console.print(_table(fits[0].trained))
        console.print()
        for sentence in diagnoses[0].sentences:
            console.print(sentence)
        if isinstance(diagnoses[0], Diagnosis):
            _errors(console, diagnoses[0])
        else:
            _hits(console, diagnoses[0])
        return
    diagnosed = [(found.trained, diagnosis) for found, diagnosis in zip(fits, diagnoses, strict=True)]
    ratings = [(found, diagnosis) for found, diagnosis in diagnosed if isinstance(diagnosis, Diagnosis)]
    clicks = [(found, diagnosis) for found, diagnosis in diagnosed if isinstance(diagnosis, NextItemDiagnosis)]
    if ratings:
        ratings.sort(key=lambda one: one[1].test_mse.mean)
        console.print(_ratings(ratings))
        console.print(REFERENCE, soft_wrap=True)
        _draw(console, Path(picture), plot_ratings, ratings)
    if clicks:
        clicks.sort(key=lambda one: -one[1].test.hit_rate_10)
        console.print(_next_items(clicks))
        _draw(
            console,
            Path(picture).with_stem(f"{Path(picture).stem}-next-items" if ratings else Path(picture).stem),
            plot_clicks,
            [found for found, _ in clicks],
        )


def _draw(console: Console, file: Path, drawn: Callable[[Any], str], chosen: Any) -> None:
    try:
        file.write_text(drawn(chosen), encoding="utf-8")
    except BadSettings as error:  # the table is still useful
        console.print(f"no picture: {error}", soft_wrap=True)
    except OSError as error:
        raise BadSettings(f"cannot write the picture {file}: {error.strerror}; give another --picture") from None
    else:
        console.print(f"drawn in {file}", soft_wrap=True)


def _errors(console: Console, diagnosis: Diagnosis) -> None:
    columns = ("ratings", "MSE", "+-", "bias only", "given", "predicted")
    for title, slices, shown in (
        ("by category, worst first", diagnosis.by_category, SHOWN),
        ("by rating", diagnosis.by_value, None),
    ):
        rows = [
            (
                one.name,
                one.examples,
                one.mse.mean,
                one.mse.half_width,
                one.bias_only_mse,
                one.mean_value,
                one.mean_predicted,
            )
            for one in slices
        ]
        _slices(console, f"Test error {title}", columns, rows, shown)
    console.print()
    console.print(REFERENCE)


def _hits(console: Console, diagnosis: NextItemDiagnosis) -> None:
    columns = ("clicks", "HR@10", "from", "to", "popularity")
    for title, slices in (
        ("by category, worst first", diagnosis.by_category),
        ("by how often the item was clicked", diagnosis.by_popularity),
        ("by the user's earlier clicks", diagnosis.by_history),
    ):
        rows = [
            (one.name, one.examples, one.hit_rate_10, one.low, one.high, one.popularity_hit_rate_10) for one in slices
        ]
        _slices(console, f"Test hit rate {title}", columns, rows, SHOWN)


def _slices(
    console: Console, title: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]], shown: int | None
) -> None:
    """Print a table of the first `shown` of `rows`, each a name, the number of examples, and numbers."""
    if not rows:
        return
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in ("", *columns):
        table.add_column(name, justify="left" if not name else "right")
    for name, examples, *numbers in rows[:shown]:
        cells = ("-" if isnan(number) else f"{number:.3f}" for number in numbers)
        table.add_row(plain(name), f"{examples:,}", *cells, style="yellow" if examples < FEW else "")
    if shown and len(rows) > shown:
        table.caption = f"and {len(rows) - shown} more (--json has all)"
    console.print()
    console.print(table)


def _side_by_side(title: str, columns: Sequence[str]) -> Table:
    """An empty table with these columns, for one model in each row."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), title=title)
    table.title_justify, table.title_style = "left", "bold"
    for name in columns:
        table.add_column(name, justify="left" if name in ("model", "verdict") else "right", no_wrap=True)
    return table


def _ratings(chosen: Sequence[tuple[Trained, Diagnosis]]) -> Table:
    columns = ("model", "test", "over bias", "train", "validation", "s", "verdict")
    table = _side_by_side("Ratings, mean squared errors", columns)
    for found, diagnosis in chosen:
        over, width = share_over_bias_only(found, diagnosis)
        share = "-" if found.model == "bias" or not isfinite(over) else f"{100 * (over - 1):+.1f}%"
        if isfinite(width):
            share += f" ± {100 * width:.1f}"
        table.add_row(
            found.model, _format(found.test_mse), share, _format(found.train_mse),
            _format(found.validation_mse), f"{found.seconds:.0f}", diagnosis.verdict,
        )  # fmt: skip
    return table


def _next_items(chosen: Sequence[tuple[Trained, NextItemDiagnosis]]) -> Table:
    columns = ("model", "HR@10", "NDCG@10", "over transitions (95%)", "train", "s", "verdict")
    table = _side_by_side("Next items", columns)
    for found, diagnosis in chosen:
        low, high = found.hit_rate_10_over_transitions_interval or (nan, nan)
        itself = found.model == "transitions"
        table.add_row(
            found.model, _format(found.hit_rate_10), _format(found.ndcg_10),
            "-" if itself else f"{found.hit_rate_10_over_transitions or 0.0:+.3f} ({low:+.3f} to {high:+.3f})", _format(diagnosis.train.hit_rate_10 if diagnosis.train else None), f"{found.seconds:.0f}", diagnosis.verdict,
        )  # fmt: skip
    return table


def history(path: str, settings: Any, errors: Console, allowed_share: float, how: ReadOptions) -> Dataset:
    """The data in PATH, with a progress bar while it is read."""
    stream = read_stream(
        path, options=how
    )  # not with --seed, so that the order of simultaneous events is always the same
    report_bad_events(stream, path, settings.learning, allowed_share)
    source = StreamSource(stream)
    try:
        with bar(errors, f"reading {Path(path).name}", 0) as advance:
            found = read(source, settings, advance)
    finally:
        source.close()
    for sentence in found.left_out():
        errors.print(sentence, style="yellow", soft_wrap=True)
    return found.data


def on_progress(advance: Any) -> OnProgress:
    """A callback that shows epochs as steps of a progress bar."""

    def report(name: str, epoch: Epoch) -> None:
        advance(epoch.number, epoch.of)

    return report


def _table(found: Trained) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for row in _rows(found):
        table.add_row(*row)
    return table


def _rows(found: Trained) -> list[tuple[str, str, str]]:
    rows = [(found.model, f"{found.epochs} epochs", f"{found.seconds:.1f} s; epoch {found.best_epoch} was kept")]
    if found.kind == "ratings":
        return [
            *rows,
            ("  train MSE", _format(found.train_mse), f"{found.train_events:,} ratings"),
            ("  validation MSE", _format(found.validation_mse), f"{found.validation_events:,}"),
            ("  test MSE", _format(found.test_mse), f"{found.test_events:,}, split {found.split}"),
            ("  test RMSE", _format(found.test_rmse), ""),
            ("  bias only", _format(found.bias_only_test_mse), "test MSE on the same parts"),
        ]
    return [
        *rows,
        ("  hit rate @10", _format(found.hit_rate_10), f"last clicks of {found.test_events:,} users, among all items"),
        ("  NDCG @10", _format(found.ndcg_10), ""),
        ("  popularity", _format(found.popularity_hit_rate_10), "hit rate on the same parts"),
        ("  transitions", _format(found.transitions_hit_rate_10), "one pass, hit rate on the same parts"),
        (
            "  over transitions",
            _format(found.hit_rate_10_over_transitions),
            _between(found.hit_rate_10_over_transitions_interval),
        ),
    ]


def _between(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else "{:+.4f} to {:+.4f} in 95% of resamples of the users".format(*interval)


def _format(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
