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
    """The output of `streamer simulate --json`."""

    path: str
    bytes: int
    events: int  # valid ratings and clicks, without duplicates
    ratings: int
    clicks: int
    items: int
    duplicates: int  # lines that repeat an earlier event
    late: int  # events that come late
    bad: int  # lines that are not valid events
    oracle_rmse: float | None  # of an oracle that knows the truth; a learner gets below it only by luck
    arrays_per_second: float  # events per second of CPU: making the world as arrays
    lines_per_second: float  # lines per second of CPU: from the arrays to the file


def _option(name: str, kind: click.ParamType[Any], metavar: str, text: str) -> Callable[[Any], Any]:
    default = DEFAULTS[name]
    flag = f"--{name.replace('_', '-')}"
    shown = default is not None
    return click.option(flag, type=kind, default=default, show_default=shown, metavar=metavar, help=text)


_COUNT, _SHARE = click.IntRange(min=1), click.FloatRange(0, 1)


@click.command(epilog="Example:  streamer simulate world.jsonl --events 1000000 --shock-day 30")
@click.argument("path")
@_option("users", _COUNT, "N", "number of users; four in ten are there from the first day")
@_option("items", _COUNT, "N", "number of films; six in ten are there from the first day")
@_option("events", _COUNT, "N", "number of ratings and clicks")
@_option("days", _COUNT, "N", "days from the first event to the last")
@_option("seed", click.IntRange(min=0), "N", "the same seed gives the same file")
@_option("turn", click.FloatRange(min=0), "X", "radians by which a typical taste turns over all the days")
@_option("shock_day", click.FloatRange(min=0), "X", "day of the world on which tastes jump (default: never)")
@_option("shock_share", _SHARE, "X", "share of the users whose taste jumps on --shock-day")
@_option("duplicates", _SHARE, "X", "share of the events that come a second time, with the same event_id")
@_option("late", _SHARE, "X", "share of the events that come hours late")
@_option("bad", _SHARE, "X", "number of additional broken events, as a share of the events")
@click.option("--json", "as_json", is_flag=True, help="one JSON object about the file")
def simulate(path: str, as_json: bool, **world: Any) -> None:
    """Write a simulated world to a file as JSON Lines: films as they arrive, and users' ratings and clicks.

    PATH is a file for `streamer evaluate`, `publish` and `serve --replay`, or - for the standard output. Ratings carry their
    true expectation as `expected`. No learner uses it; `evaluate` computes regret from it.
    """
    if path == STDOUT and as_json:
        raise click.UsageError("--json describes a file; with - the standard output consists of the events")
    began = time.process_time()
    settings = World(**world)
    try:
        interactions = settings.interactions()
        arrays_s, began = time.process_time() - began, time.process_time()
        stream = Simulation(settings, interactions)
    except MemoryError:
        raise BadSettings(
            f"not enough memory for a simulated world with {settings.users:,} users, {settings.items:,} items and "
            f"{settings.events:,} events (80 bytes each): give smaller numbers"
        ) from None
    console = Console(stderr=True, highlight=False)
    with bar(console, "simulating", len(stream)) as advance:
        if path == STDOUT:
            _write(stream, sys.stdout.buffer, advance)
            sys.stdout.flush()
            return
        with _file(Path(path)) as file:
            written = _write(stream, file, advance)
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
        + (
            f"the oracle's RMSE is {found.oracle_rmse:.4f}: a learner gets below it only by luck\n"
            if found.oracle_rmse
            else ""
        )
        + f"{found.arrays_per_second:,.0f} events/s into arrays, {found.lines_per_second:,.0f} lines/s from there into the file, per second of CPU"
    )


def _write(stream: Simulation, file: BinaryIO, advance: Callable[[int, int], None]) -> int:
    """Write all messages; return the number of bytes."""
    written = 0
    for start in range(0, len(stream), CHUNK_EVENTS):
        lines = [sent.value or b"" for sent in stream.messages(start, start + CHUNK_EVENTS)]
        written += file.write(b"\n".join(lines) + b"\n")
        advance(start + len(lines), len(stream))
    return written


@contextmanager
def _file(path: Path) -> Iterator[BinaryIO]:
    """The file, which appears under its name only when it is complete; raises BadSettings if it cannot be written.

    A link stays a link, and a pipe or device is written to directly.
    """
    if os.path.isdir(path) or not path.name:
        raise BadSettings(f"cannot write {path}: it is a folder; give a file")
    whole = Path(os.path.realpath(path))
    part = whole if os.path.exists(whole) and not os.path.isfile(whole) else whole.with_name(f"{whole.name}.part")
    try:
        file = part.open("wb")
    except OSError as error:
        raise BadSettings(f"cannot write {path}: {error.strerror}; give a file in an existing folder") from None
    try:
        with file:
            yield file
        if part != whole:
            os.replace(part, whole)
    finally:
        if part != whole:
            with suppress(OSError):
                part.unlink()
