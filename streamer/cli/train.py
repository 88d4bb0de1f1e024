"""`streamer train`."""

from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from streamer.cli.options import settings_of, settings_options
from streamer.cli.progress import bar
from streamer.consumers.files import FileSource
from streamer.dataset import Dataset
from streamer.models.offline import MODELS
from streamer.protocols import Epoch
from streamer.splits import SPLITS
from streamer.train import Plan, Told, Trained
from streamer.train import train as fit
from streamer.training_data import read


@click.command(epilog="Example:  streamer train path/to/ml-latest-small --model als")
@click.argument("path")
@click.option("--model", "name", required=True, metavar="NAME", help=f"one of {', '.join(MODELS)}")
@click.option(
    "--split", type=click.Choice(list(SPLITS)), default="random", show_default=True, help="which ratings are put aside"
)
@click.option(
    "--test-share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.2,
    show_default=True,
    metavar="X",
)
@click.option(
    "--validation-share", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.1, show_default=True,
    metavar="X", help="of what the test part leaves",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@settings_options("learning")
def train(
    path: str, name: str, split: str, test_share: float, validation_share: float, as_json: bool, **options: Any
) -> None:
    """Fit a model of the field on a file, and say how well it does on a part that it never saw.

    PATH is what `streamer evaluate` takes. Models of ratings are judged on the test part of --split, models of clicks on each
    user's last click. Nothing is kept.
    """
    settings = settings_of(options)
    errors = Console(stderr=True)
    data = history(path, settings, errors)
    plan = Plan(split=split, test_share=test_share, validation_share=validation_share, seed=settings.learning.seed)
    with bar(errors, f"fitting {name}", 0) as moved:
        found = fit(name, data, plan, told(moved)).trained
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    else:
        Console(highlight=False).print(_table(found))


def history(path: str, settings: Any, errors: Console) -> Dataset:
    """What PATH holds, with a bar while it is read."""
    source = FileSource(path, settings.learning.seed)
    try:
        with bar(errors, f"reading {Path(path).name}", 0) as moved:
            return read(source, settings, moved)
    finally:
        source.close()


def told(moved: Any) -> Told:
    """Epochs as steps of a bar."""

    def heard(name: str, epoch: Epoch) -> None:
        moved(epoch.number, epoch.of)

    return heard


def _table(found: Trained) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for row in _rows(found):
        table.add_row(*row)
    return table


def _rows(found: Trained) -> list[tuple[str, str, str]]:
    return [
        (found.model, f"{found.epochs} epochs", f"{found.seconds:.1f} s; epoch {found.best_epoch} was kept"),
        ("  train MSE", _said(found.train_mse), f"{found.train_events:,} events"),
        ("  validation MSE", _said(found.validation_mse), f"{found.validation_events:,}"),
        ("  test MSE", _said(found.test_mse), f"{found.test_events:,}, split {found.split}"),
        ("  test RMSE", _said(found.test_rmse), ""),
        ("  bias only", _said(found.bias_only_test_mse), "test MSE on the same parts"),
        ("  hit rate @10", _said(found.hit_rate_10), "among all items"),
        ("  NDCG @10", _said(found.ndcg_10), ""),
        ("  popularity", _said(found.popularity_hit_rate_10), "hit rate on the same parts"),
        ("  transitions", _said(found.transitions_hit_rate_10), "one pass, hit rate on the same parts"),
        (
            "  over transitions",
            _said(found.hit_rate_10_over_transitions),
            _between(found.hit_rate_10_over_transitions_interval),
        ),
    ]


def _between(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else "{:+.4f} to {:+.4f} in 95% of resamples of the users".format(*interval)


def _said(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
