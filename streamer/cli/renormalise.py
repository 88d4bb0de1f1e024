"""`streamer renormalise`, `generations` and `rollback`."""

import fcntl
import os
import time
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from streamer.cli.options import settings_of, settings_options
from streamer.core.answers import Generation, Generations
from streamer.core.errors import BadState, StreamerError
from streamer.core.settings import read_secret
from streamer.producers.client import URL, Client
from streamer.storage.files import write_atomically
from streamer.storage.generations import PROGRESS, Progress, generation_folder, live, read_record, read_records, summary

LOOK_S = 0.5  # how often the state is looked up: the server and the files announce no change
ENDED = ("live", "rejected", "failed", "rolled back", "kept")
NICE = 10
WIDE = 120  # from this number of columns on, a terminal has room for the reasons in the table
GATE = "  the gate waits for ratings after the cut to compare on; `streamer promote generation {}` skips it"


@click.command(epilog="Example:  streamer renormalise --wait")
@click.option("--url", default=URL, show_default=True, help="a running streamer")
@click.option(
    "--wait", is_flag=True, help="wait until the new generation answers, or is rejected (then the exit code is 1)"
)
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@click.option("--data", metavar="DIR", help="run as the training process for the streamer with this data directory")
@click.option("--follow", is_flag=True, help="with --data: train every generation that is cut, until stopped")
@click.option("--generation", metavar="ID", help="with --data: train this generation and stop")
@settings_options("security")
def renormalise(
    url: str, wait: bool, as_json: bool, data: str | None, follow: bool, generation: str | None, **options: Any
) -> None:
    """Retrain everything on the whole history while a streamer runs; it swaps the result in if it is not worse.

    With --data this is the training process, which `serve` starts by itself unless its setting `renormaliser` is
    `external`: then run it with --follow on any machine with access to the data directory.
    """
    settings = settings_of(options)
    if data is not None:
        if follow == bool(generation):
            raise click.UsageError("--data needs --follow or --generation ID, and not both")
        _train(Path(data), generation)
        return
    if follow or generation:
        raise click.UsageError("--follow and --generation need --data DIR")
    token = read_secret(settings.security.token_file, "token") if settings.security.token_file else ""
    with Client(url, token=token) as client:
        before = {one.id for one in client.generations().generations}
        client.renormalise()
        found = _wait_for_end(client, before, as_json) if wait else None
    if found is None:
        click.echo('{"asked":true}' if as_json else "requested: `streamer generations` shows the progress")
        return
    click.echo(msgspec.json.encode(found) if as_json else f"{found.id}: {found.stage}, {found.why}")
    if found.stage != "live":
        raise SystemExit(1)


def _wait_for_end(client: Client, before: set[str], silent: bool) -> Generation:
    """Wait for the final stage of the new generation and return it. Raises StreamerError if there is none."""
    console, shown = Console(stderr=True, highlight=False, markup=False), ""
    while True:
        found = client.generations()
        new = [one for one in found.generations if one.id not in before]
        if new and new[-1].stage in ENDED:
            return new[-1]
        if not found.now and not new:
            raise StreamerError("no generation was made: see the streamer's log for the reason")
        step = found.now.rstrip("%0123456789 ").partition(",")[0]
        if step != shown and not silent:
            shown = step
            console.print(found.now if "," in found.now else step, soft_wrap=True)
            if step.endswith(": gate") and "," in found.now:
                console.print(GATE.format(step.partition(":")[0]), soft_wrap=True)
        time.sleep(LOOK_S)  # see LOOK_S


def _train(folder: Path, generation: str | None) -> None:
    os.nice(NICE)
    if generation is not None:
        of = read_record(folder, generation)
        if of.stage != "cut":
            raise StreamerError(
                f"cannot train {generation}: its stage is {of.stage}, not cut; `streamer renormalise` makes another generation"
            )
        _train_one(folder, generation, os.getppid())
        return
    from streamer.renormalise.training_job import is_archived

    while True:
        for one in read_records(folder):
            if one.stage == "cut" and not _is_done(folder, one.id) and is_archived(folder, one):
                _train_one(folder, one.id, None)
        time.sleep(LOOK_S)  # see LOOK_S


def _is_done(folder: Path, generation: str) -> bool:
    try:
        found = msgspec.json.decode((generation_folder(folder, generation) / PROGRESS).read_bytes(), type=Progress)
    except (OSError, msgspec.DecodeError):
        return False
    return found.done or bool(found.failed)


def _train_one(folder: Path, generation: str, parent: int | None) -> None:
    """Train one generation; an error is written to its progress file, for the streamer that waits. Ends when `parent` does."""
    from streamer.renormalise.training_job import retrain

    where = generation_folder(folder, generation)

    def report(progress: Progress) -> None:
        if parent is not None and os.getppid() != parent:
            raise SystemExit("the streamer that started this process has ended")
        write_atomically(where / PROGRESS, msgspec.json.encode(progress))

    with (where / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a process left over from before a crash may hold it
        if parent is None and _is_done(folder, generation):
            return  # another follower has trained it, and its state may be in use already
        try:
            retrain(folder, generation, report)
        except Exception as error:
            reason = str(error) if isinstance(error, StreamerError) else f"{type(error).__name__}: {error}"
            report(Progress(failed=reason))
            if parent is not None:
                raise


@click.command(epilog="Example:  streamer generations")
@click.option("--url", default=URL, show_default=True, help="a running streamer")
@click.option("--data", metavar="DIR", help="read a data directory instead")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@settings_options("security")
def generations(url: str, data: str | None, as_json: bool, **options: Any) -> None:
    """List the generations: what each was made from, its stage, and the reasons."""
    security = settings_of(options).security
    if data is not None:
        answering = live(Path(data))
        found = Generations(tuple(summary(one, answering) for one in read_records(Path(data))))
        if not found.generations:
            raise BadState(f"no state in {data}: give the --data directory of a streamer that has run")
    else:
        token = read_secret(security.token_file, "token") if security.token_file else ""
        with Client(url, token=token) as client:
            found = client.generations()
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    console = Console(highlight=False, markup=False)
    wide = console.width >= WIDE
    console.print(table(found, why=wide))
    for one in found.generations:
        if one.why and not wide:
            click.echo(f"{one.id}: {one.why}")
    if found.now:
        click.echo(f"now: {found.now}")


def table(found: Generations, *, why: bool) -> Table:
    """A table of generations; with `why` it has a column for the reasons."""
    names = (
        "",
        "generation",
        "parent",
        "cut after",
        "trigger",
        "stage",
        "RMSE before",
        "after",
        "ratings",
        *(["why"] if why else []),
    )
    shown = Table(*names, box=None, pad_edge=False, header_style="bold")
    for one in found.generations:
        of = next(iter(one.watched or one.scores), None)
        judged = [f"{of.before_rmse:.4f}", f"{of.after_rmse:.4f}", f"{of.ratings:,}"] if of else ["-"] * 3
        cut = f"{one.cut_events:,}" if one.parent else "-"
        cells = ["*" if one.live else "", one.id, one.parent or "-", cut, one.trigger or "-", one.stage, *judged]
        shown.add_row(*cells, *([one.why] if why else []))
    return shown


def _is_live(found: Generations, generation: str) -> bool:
    return any(one.live and one.id == generation for one in found.generations)


@click.command(epilog="Example:  streamer rollback")
@click.option("--url", default=URL, show_default=True, help="a running streamer")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@settings_options("security")
def rollback(url: str, as_json: bool, **options: Any) -> None:
    """Make the previous generation answer again, after it has learned what it missed."""
    security = settings_of(options).security
    token = read_secret(security.token_file, "token") if security.token_file else ""
    with Client(url, token=token) as client:
        back = client.rollback()
        while (now := client.generations()).now and not _is_live(now, back):
            time.sleep(LOOK_S)  # see LOOK_S
    if not _is_live(now, back):
        why = next((one.why for one in now.generations if one.id == back), "it is gone")
        raise StreamerError(f"cannot return to {back}: {why}")
    if as_json:
        click.echo(msgspec.json.encode({"generation": back}))
    else:
        click.echo(f"{back} answers")
