"""`streamer validate`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console

from streamer.cli.bad_events import allow_bad
from streamer.cli.options import file_options, plain, read_options, settings_of, settings_options
from streamer.core.events import TOPICS
from streamer.core.protocols import Stream
from streamer.core.settings import Settings

if TYPE_CHECKING:
    from streamer.study.validation import Validation


@click.command(epilog="Example:  streamer validate path/to/ml-latest-small")
@click.argument("path")
@click.option(
    "--max-events",
    type=click.IntRange(1),
    default=100_000,
    show_default=True,
    metavar="N",
    help="read at most this many records of a topic, from its beginning",
)
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@allow_bad
@file_options
@settings_options("learning", "kafka")
def validate(path: str, max_events: int, as_json: bool, allow_bad: float, **options: Any) -> None:
    """Look at a file or a topic without learning from it: what is understood, what would be rejected, and what looks odd.

    PATH is as for `streamer evaluate`, or, with --kafka HOST:PORT, a topic: ratings, clicks, items or users. Exit code 1: no
    event can be used, or more than --allow-bad cannot.
    """
    asked = bool(options["kafka"])
    if asked and path not in TOPICS:
        raise click.UsageError(f"--kafka is for a topic, one of {', '.join(TOPICS)}, and PATH is {path!r}")
    how, settings = read_options(options), settings_of(options)
    # with the address in the environment or in streamer.toml, files are looked at as ever
    on_topic = asked or (bool(settings.kafka.kafka) and path in TOPICS and not Path(path).exists())

    from streamer.consumers.files import check_path, read
    from streamer.study.validation import validate as look

    if on_topic:
        stream = _topic(path, max_events, settings)
    else:
        check_path(path)
        stream = read(Path(path), settings.learning.seed, how)
    found, examined = look(stream, path, settings.learning, time.time_ns() // 1_000_000)
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        _print(found)
    examined.require(path, allow_bad)


def _topic(topic: str, max_events: int, settings: Settings) -> Stream:
    """The records of a topic; nothing is created and no offsets are committed."""
    from streamer.consumers.kafka import KafkaSource
    from streamer.consumers.topic import read_topic

    source = KafkaSource(msgspec.structs.replace(settings.kafka, kafka_create_topics=False), (topic,))
    try:
        return read_topic(source, topic, max_events)
    finally:
        source.close()


def _print(found: "Validation") -> None:
    scale = (
        ""
        if found.rating_min is None
        else f"{found.rating_min:g} to {found.rating_max:g}, {found.rating_values:,} different value{'s' * (found.rating_values != 1)}"
    )
    rows = (
        ("columns", ", ".join(f"{what} is {plain(name)}" for what, name in found.columns.items())),
        ("not read", ", ".join(map(plain, found.unread))),
        ("events", f"{found.events:,}"),
        ("  ratings", f"{found.ratings:,}" if found.ratings else ""),
        ("  scale", scale),
        ("  likes", f"{found.likes:,}; at the end {found.like}" if found.ratings else ""),
        ("  clicks", f"{found.clicks:,}" if found.clicks else ""),
        ("  kinds", ", ".join(f"{plain(kind)} {count:,}" for kind, count in found.kinds.items())),
        (
            "  catalogue",
            f"{found.catalogue:,} item{'s' * (found.catalogue != 1)}"
            + f"; it knows {found.items - found.unknown_to_catalogue:,} of the {found.items:,} with events"
            * (found.items > 0)
            if found.catalogue
            else "",
        ),
        ("users", f"{found.users:,}, {found.users_with_one_event:.0%} of them with one event"),
        ("  sessions", f"{found.sessions:,}; {found.session_gap}" if found.sessions else ""),
        ("items", f"{found.items:,}"),
        ("times", f"{found.earliest} to {found.latest}" if found.earliest else "none"),
        ("  in the file", found.time_unit),
        ("repeated", f"{found.repeated:,}"),
        ("withdrawn", f"{found.withdrawn:,}" if found.withdrawn else ""),
    )
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for name, value in rows:
        if value:
            console.print(f"{name:<14} {value}", style="bold" if not name.startswith(" ") else "")
    for title, sentences, style in (
        ("rejected", found.rejected, "red"), ("odd", found.warnings, "yellow"), ("first events", found.first, ""),
    ):  # fmt: skip
        if sentences:
            console.print(f"\n{title}", style="bold")
            for sentence in sentences:
                console.print(f"  {plain(sentence)}", style=style)
