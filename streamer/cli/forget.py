"""`streamer forget`."""

import time
from typing import Any

import click
import msgspec
from rich.console import Console

from streamer.cli.options import settings_of, settings_options
from streamer.core.answers import ReceiptShown
from streamer.core.settings import read_secret
from streamer.producers.client import URL, Client
from streamer.stream.decoder import check_id

LOOK_S, WAIT_S = 0.2, 60.0  # how often the receipts are looked up, as nothing announces a change, and for how long


@click.command(epilog="Example:  streamer forget 7\n\n          streamer forget --receipt 3")
@click.argument("user_id", metavar="[USER]", required=False)
@click.option(
    "--receipt", type=click.IntRange(1), metavar="N", help="instead of USER: show the progress of this receipt"
)
@click.option(
    "--wait/--no-wait",
    default=True,
    show_default=True,
    help="wait until no file contains anything about the user, at most a minute",
)
@click.option("--url", default=URL, show_default=True, help="a running streamer")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@settings_options("security")
def forget(user_id: str | None, receipt: int | None, wait: bool, url: str, as_json: bool, **options: Any) -> None:
    """Forget a user, and all users who are the same person by `same_as`.

    From then on they are treated as unknown users, and everything about them is erased. The receipt
    shows what is erased, and what still waits for a renormalisation or for Kafka.
    """
    if (user_id is None) == (receipt is None):
        raise click.UsageError("give either a USER to forget or a --receipt to show")
    if user_id is not None:
        check_id(user_id, "the user's id")
    security = settings_of(options).security
    token = read_secret(security.token_file, "token") if security.token_file else ""
    with Client(url, token=token, timeout_s=60.0) as client:
        answer = client.forget(user_id) if user_id is not None else client.receipt(receipt or 0)
        if wait and user_id is not None:
            with Console(stderr=True, highlight=False).status("erasing"):
                until = time.monotonic() + WAIT_S
                while any(one.stage != "complete" for one in answer.receipts) and time.monotonic() < until:
                    time.sleep(LOOK_S)  # see LOOK_S
                    found = [one for old in answer.receipts for one in client.receipt(old.number).receipts]
                    answer = msgspec.structs.replace(answer, receipts=tuple(found))
    if as_json:
        click.echo(msgspec.json.encode(answer))
        return
    for shown in answer.receipts:
        click.echo(sentence(shown))
        for waits in shown.waits:
            click.echo(f"  waits for: {waits}")


def sentence(receipt: ReceiptShown) -> str:
    """A receipt as a sentence."""
    counts = f"{receipt.records:,} records, {receipt.dead_letters:,} dead letters, {receipt.event_ids:,} event ids"
    return f"receipt {receipt.number}: {receipt.stage}; {counts} erased"
