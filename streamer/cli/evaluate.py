"""`streamer evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from streamer.cli.bad_events import allow_bad, report_bad_events
from streamer.cli.options import file_options, read_options, settings_of, settings_options
from streamer.cli.progress import bar
from streamer.cli.serve import compiling
from streamer.consumers.files import check_path, read
from streamer.consumers.stream import StreamSource
from streamer.core.garbage_collection import leave_living_objects_alone
from streamer.core.protocols import Stream
from streamer.models import check_names
from streamer.producers.simulate import World

if TYPE_CHECKING:  # importing them takes most of a second; a bad argument is refused before that
    from streamer.study.evaluate import Evaluation
    from streamer.study.evaluate_retraining import RetrainingComparison


@click.command(epilog="Example:  streamer evaluate path/to/ml-latest-small --learner bias")
@click.argument("path", required=False)
@click.option(
    "--simulate", is_flag=True, help="a small simulated world instead of a file, as `streamer simulate` makes it"
)
@click.option(
    "--learner", metavar="NAME", help="evaluate this learner as the champion of its kind (default: the rating learner)"
)
@click.option("--ranking/--no-ranking", default=True, help="rank all items for each click (takes most of the time)")
@click.option(
    "--renormalise-every-events",
    metavar="N",
    type=click.IntRange(1000),
    help="run once more, with a retraining every N events",
)
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@allow_bad
@file_options
@settings_options("learning", "renormalisation")
def evaluate(
    path: str | None, simulate: bool, learner: str | None, ranking: bool, renormalise_every_events: int | None,
    as_json: bool, allow_bad: float, **options: Any,
) -> None:  # fmt: skip
    """Score learners prequentially on a file: every event is predicted before it is learned.

    PATH is a MovieLens folder, CSV, TSV, JSON Lines, a JSON array, Parquet or Arrow IPC, compressed or not, a folder of parts,
    `-` for standard input, or a streamer's DATA/archive. The champions for ratings
    and for clicks are both reported. Nothing is kept: the state is in a temporary folder.
    """
    how, settings = read_options(options), settings_of(options)
    learning = settings.learning
    if simulate == bool(path):
        raise click.UsageError("give a PATH or --simulate, and not both")
    name = learner or learning.rating_learner
    check_names([name, learning.rating_learner, learning.click_learner, *learning.shadow])
    if path:
        check_path(path)

    from streamer.compile import learner_names, load_kernels
    from streamer.renormalise.training import candidates
    from streamer.study.evaluate import evaluate as run
    from streamer.study.evaluate import with_champion
    from streamer.study.evaluate_retraining import Trial

    trial = None
    if renormalise_every_events is not None:
        trial = Trial(renormalise_every_events, candidates(settings.renormalisation))
    errors = Console(stderr=True, highlight=False)
    stream: Stream = read(path, learning.seed, how) if path else World(seed=learning.seed).stream(catalogue_first=True)
    if path:
        report_bad_events(stream, path, learning, allow_bad)
    what = Path(path).name if path else "a simulated world"
    with bar(errors, f"evaluating {what}", 0) as advance:
        # compiled before the clock starts, so that the speed reported is that of learning
        load_kernels(learner_names(with_champion(name, settings)), compiling(errors))
        leave_living_objects_alone()
        found = run(
            name,
            settings,
            lambda: StreamSource(stream),
            rank=ranking,
            progress=advance,
            trial=trial,
        )
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    else:
        Console(highlight=False).print(_table(found))


def _table(found: "Evaluation") -> Table:
    from streamer.study.evaluate import NEW_RATINGS

    table = Table(box=None, show_header=False, pad_edge=False)
    speed = found.events_per_second
    for name, value, what in (
        ("ratings learner", found.rating_learner, f"{found.ratings:,} ratings"),
        ("  RMSE", _format(found.rmse), "each predicted before it was learned"),
        ("  last half", _format(found.rmse_last_half), "of the ratings"),
        ("  new users", _format(found.rmse_new_users), f"fewer than {NEW_RATINGS} earlier ratings"),
        ("  new items", _format(found.rmse_new_items), f"fewer than {NEW_RATINGS} earlier ratings"),
        *_oracle_rows(found),
        *_other_learners(found),
        *_retraining_rows(found.renormalised),
        ("clicks learner", found.click_learner, f"{found.clicks:,} clicks and likes"),
        ("  hit rate @10", _format(found.hit_rate_10), "among all items clicked before, without the user's own"),
        ("  hit rate @20", _format(found.hit_rate_20), ""),
        ("  NDCG @20", _format(found.ndcg_20), ""),
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


def _oracle_rows(found: "Evaluation") -> list[tuple[str, str, str]]:
    if found.oracle_rmse is None:
        return []
    return [
        ("  oracle", _format(found.oracle_rmse), "the least possible: the world is simulated"),
        ("  regret", _format(found.regret), "RMSE above the oracle's"),
    ]


def _format(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
