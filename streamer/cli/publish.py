"""`streamer publish`."""

from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from streamer.cli.options import plain, settings_of, settings_options
from streamer.cli.progress import bar
from streamer.core.errors import SourceUnavailable
from streamer.core.events import Message
from streamer.core.protocols import Sink
from streamer.core.settings import Settings, read_secret
from streamer.producers.client import URL
from streamer.producers.replay import replay

SHOWN = 5


@click.command(epilog="Example:  streamer publish path/to/ml-latest-small")
@click.argument("path")
@click.option("--url", default=URL, show_default=True, help="a running streamer")
@click.option(
    "--start", type=click.IntRange(0), default=0, metavar="ROW", help="start at this row, as an interrupted run advises"
)
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@settings_options("kafka", "security")
def publish(path: str, url: str, start: int, as_json: bool, **options: Any) -> None:
    """Send the events of a file to a running streamer or, with --kafka, to a broker.

    PATH is a MovieLens folder, a CSV or TSV file with a header, JSON Lines, or a streamer's DATA/archive. Events are sent in order of time.
    """
    settings = settings_of(options)

    from streamer.consumers.files import check_path, read

    check_path(path)
    console = Console(stderr=True, highlight=False)
    rejected: list[tuple[Message, str]] = []
    out = _sink(settings, url, rejected)
    stream = read(Path(path), settings.learning.seed)
    durable = start

    def advance(done: int, total: int) -> None:
        nonlocal durable
        durable = done
        shown(done, total)

    try:
        with bar(console, "publishing", len(stream)) as shown:
            done = replay(stream, out, start, advance)
    except KeyboardInterrupt:
        click.echo(
            f"streamer: stopped; rows before {durable:,} are published: continue with --start {durable}", err=True
        )
        raise
    except SourceUnavailable as error:
        if durable == start:
            raise
        raise type(error)(f"{error}; rows before {durable:,} are published: continue with --start {durable}") from None
    finally:
        out.close()
    published, where = done.messages - len(rejected), settings.kafka.kafka or url
    if as_json:
        reasons = [{"topic": refused.topic, "reason": reason} for refused, reason in rejected]
        click.echo(msgspec.json.encode({"published": published, "to": where, "rejected": reasons}))
        return
    click.echo(
        f"published {published:,} events to {where}" + (f"; {len(rejected):,} were rejected:" if rejected else "")
    )
    for refused, reason in rejected[:SHOWN]:
        click.echo(plain(f"  {refused.topic}: {reason}: {(refused.value or b'')[:80].decode(errors='replace')}"))


def _sink(settings: Settings, url: str, rejected: list[tuple[Message, str]]) -> Sink:
    if settings.kafka.kafka:
        from streamer.producers.kafka import KafkaSink  # imported only if there is a broker

        return KafkaSink(settings.kafka)
    token = read_secret(settings.security.token_file, "token") if settings.security.token_file else ""
    from streamer.producers.http import HttpSink

    return HttpSink(url, token=token, on_rejected=lambda refused, reason: rejected.append((refused, reason)))
