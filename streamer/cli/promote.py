"""`streamer promote`."""

from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from streamer.cli.options import settings_of, settings_options
from streamer.core.answers import LearnerStatus
from streamer.core.settings import read_secret
from streamer.producers.client import URL, Client


@click.command(epilog="Example:  streamer promote learner stack")
@click.argument("what", type=click.Choice(["learner", "generation"]))
@click.argument("name")
@click.option("--url", default=URL, show_default=True, help="a running streamer")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@settings_options("security")
def promote(what: str, name: str, url: str, as_json: bool, **options: Any) -> None:
    """Let another running learner, or another generation, answer queries, also after a restart.

    Learning does not change. NAME is a learner that `serve` runs, for example because of --shadow NAME; it answers from the next
    query on. Or NAME is a generation whose state is kept; it answers as soon as it has caught up, whatever the gate says.
    """
    security = settings_of(options).security
    token = read_secret(security.token_file, "token") if security.token_file else ""
    with Client(url, token=token) as client:
        answer = client.promote(name) if what == "learner" else client.promote_generation(name)
    if what == "generation":
        click.echo(msgspec.json.encode({"asked": name}) if as_json else f"{name} answers as soon as it has caught up")
        return
    if as_json:
        click.echo(msgspec.json.encode(answer))
        return
    (chosen,) = (learner for learner in answer.learners if learner.name == name)
    click.echo(f"{name} answers for {chosen.kind} from now on")
    Console(highlight=False, markup=False).print(table(answer.learners))


def table(learners: tuple[LearnerStatus, ...]) -> Table:
    """A table of the learners of a streamer."""
    windows = sorted({error.window for one in learners for error in one.rmse})
    titles = [f"RMSE of {window:,}" for window in windows]
    shown = Table("learner", "learns from", "answers", *titles, box=None, pad_edge=False, header_style="bold")
    for one in learners:
        found = {error.window: error.rmse for error in one.rmse}
        errors = ["-" if found.get(window) is None else f"{found[window]:.4f}" for window in windows]
        champion = "promoted" if one.promoted else "yes" if one.champion else "-"
        shown.add_row(one.name, one.kind, champion, *errors)
    return shown
