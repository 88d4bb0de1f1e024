"""`streamer recommend`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from streamer.cli.options import plain, settings_of, settings_options
from streamer.core.answers import Recommendation
from streamer.core.settings import read_secret
from streamer.producers.client import URL, Client, Recommendations
from streamer.stream.decoder import check_id

if TYPE_CHECKING:
    from streamer.serving.recommend import Recommender


def _numbers_by_name(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    """The numbers of all NAME=RATING options by name; a name may contain `=` itself."""
    numbers = {}
    for value in values:
        name, _, number = value.rpartition("=")
        try:
            numbers[name] = float(number)
        except ValueError:
            name = ""
        if not name:
            raise click.BadParameter(f"{value!r} is not NAME=RATING, as in Documentary=5", ctx, param)
    return numbers


@click.command(
    epilog="Example:  streamer recommend 7 --limit 5\n\n          streamer recommend --preference Documentary=5"
)
@click.argument("user_id", metavar="[USER]", required=False)
@click.option("--preference", "preferences", multiple=True, callback=_numbers_by_name, metavar="CATEGORY=RATING",
              help="instead of USER: somebody who gives a category this rating; may be repeated")  # fmt: skip
@click.option("--rating", "ratings", multiple=True, callback=_numbers_by_name, metavar="ITEM=RATING",
              help="instead of USER: somebody who gives an item this rating; may be repeated")  # fmt: skip
@click.option("--limit", type=click.IntRange(1, 1000), default=10, show_default=True, help="how many items")
@click.option("--url", default=URL, show_default=True, help="a running streamer")
@click.option("--freshness-token", default="", metavar="TOKEN", help="wait for the events that this token names")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@settings_options("state", "security")
def recommend(
    user_id: str | None,
    preferences: dict[str, float],
    ratings: dict[str, float],
    limit: int,
    url: str,
    freshness_token: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Recommend items to a user, or to somebody with the tastes that --preference and --rating state.

    Asks the streamer at --url. With --data it reads that state as of its last commit instead; no streamer needs to run.
    """
    if (user_id is None) == (not preferences and not ratings):
        raise click.UsageError("give either a USER, or somebody's tastes with --preference and --rating")
    if user_id is not None:
        check_id(user_id, "the user's id")
    offline = options.get("data") is not None
    settings = settings_of(options)
    if offline:
        from streamer.study.inspection import answer_from_state  # imports the learners

        def ask(recommender: "Recommender") -> list[Recommendation]:
            if user_id is None:
                return recommender.recommend_for_preferences(preferences, ratings, limit)
            return recommender.recommend(user_id, limit)

        answer = Recommendations(items=tuple(answer_from_state(settings.state.data, ask)))
    else:
        token = read_secret(settings.security.token_file, "token") if settings.security.token_file else ""
        with Client(url, token=token) as client:
            if user_id is None:
                answer = client.recommend_for_preferences(preferences, ratings, limit, freshness_token)
            else:
                answer = client.recommend(user_id, limit, freshness_token)
    if as_json:
        asked = {"preferences": preferences, "ratings": ratings} if user_id is None else {"user_id": user_id}
        click.echo(msgspec.json.encode({**asked, **msgspec.to_builtins(answer)}))
    else:
        show("them" if user_id is None else repr(user_id), answer.items)


def show(who: str, items: Sequence[Recommendation]) -> None:
    """Print a table of recommendations."""
    if not items:
        click.echo(f"nothing to recommend to {who}: there is no item that this user has not seen")
        return
    table = Table("", "item", "title", "score", "source", box=None, pad_edge=False, header_style="bold")
    for n, item in enumerate(items, 1):
        table.add_row(str(n), plain(item.item_id), plain(item.title), f"{item.score:.3f}", item.source)
    Console(highlight=False, markup=False).print(table)  # a title may look like markup
