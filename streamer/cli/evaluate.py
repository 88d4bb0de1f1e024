"""`streamer evaluate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console

from streamer.cli.bad_events import allow_bad, report_bad_events
from streamer.cli.evaluation import print_evaluation, print_side_by_side
from streamer.cli.options import file_options, read_options, settings_of, settings_options
from streamer.cli.progress import bar
from streamer.cli.serve import compiling
from streamer.consumers.files import check_path, read
from streamer.consumers.stream import StreamSource
from streamer.core.errors import StreamerError
from streamer.core.garbage_collection import leave_living_objects_alone
from streamer.core.protocols import Stream
from streamer.models import check_names
from streamer.producers.simulate import World

if TYPE_CHECKING:  # importing them takes most of a second; a bad argument is refused before that
    from streamer.study.click_figures import Repeats
    from streamer.study.evaluate import Evaluation


@click.command(epilog="Example:  streamer evaluate path/to/ml-latest-small --learner bias")
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option(
    "--simulate", is_flag=True, help="a small simulated world instead of a file, as `streamer simulate` makes it"
)
@click.option(
    "--learner", metavar="NAME", help="evaluate this learner as the champion of its kind (default: the rating learner)"
)
@click.option("--ranking/--no-ranking", default=True, help="rank all items for each click (takes most of the time)")
@click.option(
    "--repeats",
    type=click.Choice(["exclude", "allow", "as-data"]),
    default="exclude",
    show_default=True,
    help="clicks on items that their user clicked before: no queries, and the user's own items no candidates; queries "
    "like all others; or allow if at least a tenth of the clicks are such",
)
@click.option("--rank-experts", is_flag=True, help="rank with the experts of composed click learners too")
@click.option(
    "--seeds", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="run N seeds, from --seed on"
)
@click.option(
    "--renormalise-every-events",
    metavar="N",
    type=click.IntRange(1000),
    help="run once more, with a retraining every N events",
)
@click.option("--json", "as_json", is_flag=True, help="one JSON object, or a list of them for several PATHs or seeds")
@allow_bad
@file_options
@settings_options("learning", "renormalisation")
def evaluate(
    paths: Sequence[str], simulate: bool, learner: str | None, ranking: bool, repeats: "Repeats", rank_experts: bool,
    seeds: int, renormalise_every_events: int | None, as_json: bool, allow_bad: float, **options: Any,
) -> None:  # fmt: skip
    """Score learners prequentially on a file: every event is predicted before it is learned.

    PATH is a MovieLens folder, CSV, TSV, JSON Lines, a JSON array, Parquet or Arrow IPC, compressed or not, a folder of parts,
    `-` for standard input, or a streamer's DATA/archive. Several PATHs are streams of their own, shown side by side. The champions
    for ratings and for clicks and the learners of --shadow are all reported. Nothing is kept: the state is in a temporary folder.
    """
    how, settings = read_options(options), settings_of(options)
    learning = settings.learning
    if simulate == bool(paths):
        raise click.UsageError("give a PATH or --simulate, and not both")
    several = len(paths) > 1 or seeds > 1
    if several and renormalise_every_events is not None:
        raise click.UsageError("--renormalise-every-events is for one PATH and one seed")
    name = learner or learning.rating_learner
    check_names([name, learning.rating_learner, learning.click_learner, *learning.shadow])
    for given in paths:
        check_path(given)

    from streamer.compile import learner_names, load_kernels
    from streamer.renormalise.training import candidates
    from streamer.study.evaluate import evaluate as run
    from streamer.study.evaluate import with_champion
    from streamer.study.evaluate_retraining import Trial

    trial = None
    if renormalise_every_events is not None:
        trial = Trial(renormalise_every_events, candidates(settings.renormalisation))
    errors = Console(stderr=True, highlight=False)
    ready = False

    def evaluated(path: str | None, seed: int) -> "Evaluation":
        nonlocal ready
        chosen = msgspec.structs.replace(settings, learning=msgspec.structs.replace(learning, seed=seed))
        stream: Stream = read(path, seed, how) if path else World(seed=seed).stream(catalogue_first=True)
        if path and seed == learning.seed:
            report_bad_events(stream, path, learning, allow_bad)
        what = (Path(path).name if path else "a simulated world") + (f", seed {seed}" if seeds > 1 else "")
        with bar(errors, f"evaluating {what}", 0) as advance:
            if not ready:  # compiled before the clock starts, so that the speed reported is that of learning
                load_kernels(learner_names(with_champion(name, settings)), compiling(errors))
                leave_living_objects_alone()
                ready = True
            found = run(
                name, chosen, lambda: StreamSource(stream), rank=ranking, progress=advance, trial=trial, repeats=repeats,
                rank_experts=rank_experts,
            )  # fmt: skip
        return msgspec.structs.replace(found, stream=path)

    streams: list[str | None] = [*paths] or [None]
    if not several:
        only = evaluated(streams[0], learning.seed)
        click.echo(msgspec.json.encode(only).decode()) if as_json else print_evaluation(only)
        return
    found, failed = list["Evaluation"](), 0
    for path in streams:
        try:
            found += [evaluated(path, learning.seed + n) for n in range(seeds)]
        except StreamerError as error:  # the other streams are still worth their time
            click.echo(f"streamer: {error}", err=True)
            failed = error.exit_code
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    elif found:
        print_side_by_side(found)
    if failed:
        raise SystemExit(failed)
