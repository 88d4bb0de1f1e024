"""`streamer recommend`."""

from collections.abc import Sequence
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from streamer.answers import Recommendation
from streamer.cli.options import plain, settings_of, settings_options
from streamer.config import read_secret
from streamer.decoder import check_id
from streamer.producers.client import URL, Client, Recommendations


@click.command(epilog="Example:  streamer recommend 7 --limit 5")
@click.argument("user_id", metavar="USER")
@click.option("--limit", type=click.IntRange(1, 1000), default=10, show_default=True, help="how many items")
@click.option("--url", default=URL, show_default=True, help="a running streamer")
@click.option("--freshness-token", default="", metavar="TOKEN", help="wait for the events that this token names")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@settings_options("state", "security")
def recommend(user_id: str, limit: int, url: str, freshness_token: str, as_json: bool, **options: Any) -> None:
    """What should this user see now?

    Asks the streamer at --url; with --data it reads that state as of its last commit instead, with no streamer running.
    """
    check_id(user_id, "the user's id")
    offline = options.get("data") is not None
    settings = settings_of(options)
    if offline:
        from streamer.inspection import recommendations  # brings the learners in

        answer = Recommendations(items=tuple(recommendations(settings.state.data, user_id, limit)))
    else:
        token = read_secret(settings.security.token_file, "token") if settings.security.token_file else ""
        with Client(url, token=token) as client:
            answer = client.recommend(user_id, limit, freshness_token)
    if as_json:
        click.echo(msgspec.json.encode({"user_id": user_id, **msgspec.to_builtins(answer)}))
    else:
        show(user_id, answer.items)


def show(user_id: str, items: Sequence[Recommendation]) -> None:
    """A table for people."""
    if not items:
        click.echo(f"nothing to recommend to {user_id!r}: no item is known that this user has not seen")
        return
    table = Table("", "item", "title", "score", "source", box=None, pad_edge=False, header_style="bold")
    for n, item in enumerate(items, 1):
        table.add_row(str(n), plain(item.item_id), plain(item.title), f"{item.score:.3f}", item.source)
    Console(highlight=False, markup=False).print(table)  # a title may look like markup
