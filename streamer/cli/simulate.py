"""`streamer simulate`."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec
from rich.console import Console

from streamer.cli.progress import bar
from streamer.core.errors import BadSettings
from streamer.producers.simulate import Simulation, World

CHUNK_EVENTS = 10_000
STDOUT = "-"
DEFAULTS = {field.name: field.default for field in fields(World)}


class Written(msgspec.Struct, kw_only=True):
    """What `streamer simulate --json` prints."""

    path: str
    bytes: int
    events: int  # ratings and clicks that are good and new
    ratings: int
    clicks: int
    items: int
    duplicates: int  # lines that say again what an earlier one said
    late: int  # of the events
    bad: int  # lines that are no events
    oracle_rmse: float | None  # of whoever knows the truth: no learner gets below it but by luck
    arrays_per_second: float  # events, of CPU: the world as arrays
    lines_per_second: float  # lines, of CPU: from there to the file


def _option(name: str, kind: click.ParamType[Any], metavar: str, text: str) -> Callable[[Any], Any]:
    default = DEFAULTS[name]
    flag = f"--{name.replace('_', '-')}"
    shown = default is not None
    return click.option(flag, type=kind, default=default, show_default=shown, metavar=metavar, help=text)


_COUNT, _SHARE = click.IntRange(min=1), click.FloatRange(0, 1)


@click.command(epilog="Example:  streamer simulate world.jsonl --events 1000000 --shock-day 30")
@click.argument("path")
@_option("users", _COUNT, "N", "people; four in ten are there from the first day")
@_option("items", _COUNT, "N", "films; six in ten are there from the first day")
@_option("events", _COUNT, "N", "ratings and clicks")
@_option("days", _COUNT, "N", "from the first event to the last")
@_option("seed", click.IntRange(min=0), "N", "the same seed makes the same file")
@_option("turn", click.FloatRange(min=0), "X", "radians that a typical taste turns over all the days")
@_option("shock_day", click.FloatRange(min=0), "X", "when tastes jump, in days from the beginning (default: never)")
@_option("shock_share", _SHARE, "X", "share of the users whose taste jumps then")
@_option("duplicates", _SHARE, "X", "share of the events that come again, with the same event_id")
@_option("late", _SHARE, "X", "share of the events that come hours late")
@_option("bad", _SHARE, "X", "broken events, as a share of the events and beside them")
@click.option("--json", "as_json", is_flag=True, help="one JSON object of what was written")
def simulate(path: str, as_json: bool, **world: Any) -> None:
    """Write a simulated world to a file, as JSON Lines: films when they arrive, and what people do with them.

    PATH is a file for `streamer evaluate`, `publish` and `serve --replay`, or - for the standard output. Ratings carry what
    was to be `expected` of them given the truth: nobody learns from it, and `evaluate` takes the regret over the oracle from it.
    """
    if path == STDOUT and as_json:
        raise click.UsageError("--json describes a file: with - the standard output is the events")
    began = time.process_time()
    settings = World(**world)
    try:
        happenings = settings.happenings()
        arrays_s, began = time.process_time() - began, time.process_time()
        stream = Simulation(settings, happenings)
    except MemoryError:
        raise BadSettings(
            f"no memory for a simulated world with {settings.users:,} users, {settings.items:,} items and "
            f"{settings.events:,} events (80 bytes an event): give less"
        ) from None
    console = Console(stderr=True, highlight=False)
    with bar(console, "simulating", len(stream)) as moved:
        if path == STDOUT:
            _write(stream, sys.stdout.buffer, moved)
            sys.stdout.flush()
            return
        with _file(Path(path)) as file:
            written = _write(stream, file, moved)
        lines_s = time.process_time() - began
    ratings = int(stream.rated.sum())
    found = Written(
        path=path, bytes=written, events=settings.events, ratings=ratings,
        clicks=settings.events - ratings, items=settings.items, duplicates=stream.duplicates, late=stream.late,
        bad=stream.bad, oracle_rmse=stream.oracle_rmse, arrays_per_second=settings.events / arrays_s,
        lines_per_second=len(stream) / lines_s,
    )  # fmt: skip
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
        return
    click.echo(
        f"wrote {found.events:,} events to {path} ({found.ratings:,} ratings, {found.clicks:,} clicks; {found.items:,} items; "
        f"{found.duplicates:,} come twice, {found.late:,} late, {found.bad:,} more are broken)\n"
        + (f"the oracle's RMSE is {found.oracle_rmse:.4f}: no learner gets below it\n" if found.oracle_rmse else "")
        + f"{found.arrays_per_second:,.0f} events/s into arrays, {found.lines_per_second:,.0f} lines/s from there into the file, of CPU"
    )


def _write(stream: Simulation, file: BinaryIO, moved: Callable[[int, int], None]) -> int:
    """How many bytes they were."""
    written = 0
    for start in range(0, len(stream), CHUNK_EVENTS):
        lines = [sent.value or b"" for sent in stream.messages(start, start + CHUNK_EVENTS)]
        written += file.write(b"\n".join(lines) + b"\n")
        moved(start + len(lines), len(stream))
    return written


@contextmanager
def _file(path: Path) -> Iterator[BinaryIO]:
    """The file, there under its name only when it is whole; raises BadSettings where it cannot be made.

    A link stays a link, and what is no file (a pipe, a device) is written to as it is.
    """
    if os.path.isdir(path) or not path.name:
        raise BadSettings(f"cannot write {path}: it is a folder; give a file")
    whole = Path(os.path.realpath(path))
    part = whole if os.path.exists(whole) and not os.path.isfile(whole) else whole.with_name(f"{whole.name}.part")
    try:
        file = part.open("wb")
    except OSError as error:
        raise BadSettings(f"cannot write {path}: {error.strerror}; give a file in a folder that is there") from None
    try:
        with file:
            yield file
        if part != whole:
            os.replace(part, whole)
    finally:
        if part != whole:
            with suppress(OSError):
                part.unlink()
