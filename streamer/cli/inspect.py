"""`streamer inspect`."""

from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from streamer.cli.options import plain, settings_of, settings_options
from streamer.stream.decoder import check_id

if TYPE_CHECKING:  # importing it takes most of a second; a bad argument is refused before that
    from streamer.study.inspection import Answer, Inspection

WHATS = ("user", "item", "offsets", "stats", "dead-letters")


@click.command(
    epilog="Example:  streamer inspect user 7 --data ./streamer-data\n\n          streamer inspect user 7 --questions"
)
@click.argument("what", required=False, type=click.Choice(WHATS))
@click.argument("external_id", required=False, metavar="[ID]")
@click.option("--digest", is_flag=True, help="print the SHA-256 of the whole logical state, last on a line of its own")
@click.option("--questions", is_flag=True, help="for a user: the items whose rating would teach most about them")
@click.option("--limit", type=click.IntRange(1, 100), default=5, show_default=True, help="how many questions")
@click.option("--json", "as_json", is_flag=True, help="one JSON object (JSON Lines for dead letters)")
@settings_options("state")
def inspect(
    what: str | None,
    external_id: str | None,
    digest: bool,
    questions: bool,
    limit: int,
    as_json: bool,
    **options: object,
) -> None:
    """Show the contents of a state directory as of its last commit; a streamer may run on it."""
    if (what is None) == (not digest):
        raise click.UsageError(f"give what to show: one of {', '.join(WHATS)}, or --digest")
    if what in ("user", "item") and external_id is None:
        raise click.UsageError(f"which {what}? streamer inspect {what} ID")
    if questions and what != "user":
        raise click.UsageError(
            f"--questions are about a user, not about {what or 'a digest'}: streamer inspect user ID --questions"
        )
    if what in ("user", "item"):
        check_id(external_id or "", f"the {what}'s id")
    settings = settings_of(dict(options))

    from streamer.study.inspection import Inspection

    inspection = Inspection(settings.state.data)
    try:
        if digest:
            _digest(inspection, as_json)
        elif questions:
            _show(inspection.questions(external_id or "", limit, settings.server.port), as_json)
        else:
            _show(inspection.look(what or "", external_id or ""), as_json)
    finally:
        inspection.close()


def _digest(inspection: "Inspection", as_json: bool) -> None:
    found = inspection.digest()
    if as_json:
        click.echo(found.to_json())
        return
    for name, digest in found.learners.items():
        click.echo(f"{name}: {digest}")
    for at, offset in found.offsets.items():
        click.echo(f"next offset of {at}: {offset}")
    click.echo(found.digest)


def _show(answer: "Answer", as_json: bool) -> None:
    if as_json:
        for line in answer.json_lines():
            click.echo(line)
        return
    console = Console(highlight=False, markup=False)  # a title may look like markup
    for sentence in answer.sentences:
        console.print(plain(sentence), soft_wrap=True)
    if answer.columns:
        table = Table(*answer.columns, box=None, pad_edge=False, header_style="bold")
        for row in answer.rows:
            table.add_row(*(plain(str(cell)) for cell in row))
        console.print(table)
    for sentence in answer.closing:
        console.print(plain(sentence), soft_wrap=True)
