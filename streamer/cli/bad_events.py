"""The option `--allow-bad`, and what the commands that read a file say about events that cannot be used or look odd."""

import time
from collections.abc import Collection

import click

from streamer.cli.options import plain
from streamer.core.errors import Reason, StreamerError
from streamer.core.protocols import Noted, Stream
from streamer.core.settings import LearningSettings

DEFAULT_SHARE = 0.5
COMPARED_USERS = 200_000  # whose ids are compared with each other

allow_bad = click.option(
    "--allow-bad",
    type=click.FloatRange(0, 1),
    default=DEFAULT_SHARE,
    show_default=True,
    metavar="SHARE",
    help="stop before anything is done if more than this share of the events cannot be used",
)


def report_bad_events(
    stream: Stream,
    path: str,
    learning: LearningSettings,
    allowed_share: float,
    reasons: Collection[Reason] = frozenset(Reason),
    *,
    learned: bool = True,
) -> None:
    """Say on stderr what was guessed of the file, how many events cannot be used for these reasons, and what looks odd.

    Raises StreamerError if none can be used, or more than `allowed_share` cannot, or, unless `learned` is False, if there is
    nothing to learn from but a catalogue. Cost: about 2 us an event.
    """
    from streamer.stream.examination import examine  # imported only where a file is read
    from streamer.study.oddities import Oddities

    odd = Oddities(time.time_ns() // 1_000_000, COMPARED_USERS)
    for note in stream.notes if isinstance(stream, Noted) else ():
        click.echo(plain(note), err=True)
    found = examine(stream, learning, reasons, odd.add)
    found.require(path, allowed_share)
    if learned and not odd.users:
        raise StreamerError(
            f"there is nothing to learn in {path}: it has {found.events - found.bad:,} items and users, and no rating or click; "
            "give events as well"
        )
    for sentence in (*found.sentences(), *odd.warnings()):
        click.echo(plain(sentence), err=True)
