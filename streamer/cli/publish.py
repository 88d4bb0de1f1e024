"""`streamer publish`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console

from streamer.cli.bad_events import allow_bad, report_bad_events
from streamer.cli.options import file_options, plain, read_options, settings_of, settings_options
from streamer.cli.progress import bar
from streamer.core.errors import BadEvent, SourceUnavailable, StreamerError
from streamer.core.events import Message, Offsets, Record
from streamer.core.protocols import Sink
from streamer.core.settings import Settings, read_secret
from streamer.producers.client import URL
from streamer.producers.replay import replay

if TYPE_CHECKING:
    from streamer.stream.decoder import Decoder

SHOWN = 5


@click.command(epilog="Example:  streamer publish path/to/ml-latest-small")
@click.argument("path")
@click.option("--url", default=URL, show_default=True, help="a running streamer")
@click.option(
    "--start", type=click.IntRange(0), default=0, metavar="ROW", help="start at this row, as an interrupted run advises"
)
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@allow_bad
@file_options
@settings_options("kafka", "security")
def publish(path: str, url: str, start: int, as_json: bool, allow_bad: float, **options: Any) -> None:
    """Send the events of a file to a running streamer or, with --kafka, to a broker.

    PATH is a MovieLens folder, CSV, TSV, JSON Lines, a JSON array, Parquet or Arrow IPC, compressed or not, a folder of parts,
    `-` for standard input, or a streamer's DATA/archive. Events are sent in order of time.
    Events that no streamer can read are not sent. Exit code 1: nothing was accepted, or less than --allow-bad allows.
    """
    how, settings = read_options(options), settings_of(options)

    from streamer.consumers.files import check_path, read
    from streamer.stream.examination import UNREADABLE

    check_path(path)
    console = Console(stderr=True, highlight=False)
    rejected: list[tuple[Message, str]] = []
    stream = read(Path(path), settings.learning.seed, how)
    report_bad_events(stream, path, settings.learning, allow_bad, UNREADABLE, learned=False)
    out = _sink(settings, url, rejected)
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
    else:
        click.echo(
            f"published {published:,} events to {where}" + (f"; {len(rejected):,} were rejected:" if rejected else "")
        )
        for refused, reason in rejected[:SHOWN]:
            click.echo(plain(f"  {refused.topic}: {reason}: {(refused.value or b'')[:80].decode(errors='replace')}"))
    if rejected and (not published or len(rejected) > allow_bad * done.messages):
        raise StreamerError(
            f"{len(rejected):,} of {done.messages:,} events were rejected: mend them and publish the file again, or accept "
            "that with --allow-bad"
        )


class _Readable:
    """A Sink that passes on the events that a streamer can read, and keeps the others in `rejected`: Kafka would take them all."""

    def __init__(self, sink: Sink, decoder: "Decoder", rejected: list[tuple[Message, str]]) -> None:
        self._sink, self._decoder, self._rejected = sink, decoder, rejected

    def publish(self, messages: Sequence[Message]) -> Offsets:
        """See protocols.Sink."""
        from streamer.stream.examination import UNREADABLE

        records = [Record(one.topic, -1, n, 0, one.key, one.value) for n, one in enumerate(messages)]
        good = []
        for one, event in zip(messages, self._decoder.decode(records, (), ()), strict=True):
            if isinstance(event, BadEvent) and event.reason in UNREADABLE:
                self._rejected.append((one, f"{event.reason}: {event}"))
            else:
                good.append(one)
        return self._sink.publish(good) if good else {}

    def close(self) -> None:
        """See protocols.Sink."""
        self._sink.close()


def _sink(settings: Settings, url: str, rejected: list[tuple[Message, str]]) -> Sink:
    if settings.kafka.kafka:
        from streamer.producers.kafka import KafkaSink  # imported only if there is a broker
        from streamer.stream.decoder import Decoder

        return _Readable(KafkaSink(settings.kafka), Decoder(settings.learning), rejected)
    token = read_secret(settings.security.token_file, "token") if settings.security.token_file else ""
    from streamer.producers.http import HttpSink

    return HttpSink(url, token=token, on_rejected=lambda refused, reason: rejected.append((refused, reason)))
