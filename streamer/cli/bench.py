"""`streamer bench`."""

import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from streamer.bench import LEARNER_SETS, Learned, Speed, append, learn_kafka, learn_log, world_messages
from streamer.bench_process import Latency, ask_while_learning, compile_s, start_s
from streamer.cli.options import settings_of, settings_options
from streamer.compile import learner_names, load_kernels
from streamer.core.garbage_collection import leave_living_objects_alone
from streamer.core.settings import Settings
from streamer.producers.simulate import World
from streamer.serving.opening import learners
from streamer.storage.log import EmbeddedLog


class Report(msgspec.Struct, kw_only=True):
    """The output of `streamer bench --json`; None where a figure was not measured."""

    processors: int
    machine: str
    python: str
    events: int
    users: int
    items: int
    appended: Speed | None = None  # to the embedded log, fsynced every 1,000 events
    learned: list[Learned] = []
    kafka_published: Speed | None = None
    kafka_learned: list[Learned] = []
    start_s: float | None = None  # from the start of a process with an empty state to its first answer
    start_with_state_s: float | None = None
    recommend: Latency | None = None
    compile_s: float | None = None


@click.command(epilog="Example:  streamer bench --no-serve")
@click.option(
    "--events",
    help="number of events learned before serving",
    type=click.IntRange(min=1000),
    default=500_000,
    show_default=True,
    metavar="N",
)
@click.option(
    "--users",
    help="number of users in the world",
    type=click.IntRange(min=1),
    default=20_000,
    show_default=True,
    metavar="N",
)
@click.option(
    "--items",
    help="number of items in the world",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    metavar="N",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=2),
    default=15.0,
    show_default=True,
    metavar="X",
    help="seconds of queries while it learns",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=1),
    default=10_000.0,
    show_default=True,
    metavar="X",
    help="events per second learned meanwhile",
)
@click.option("--serve/--no-serve", "serving", default=True, help="also measure the real process")
@click.option("--all", "everything", is_flag=True, help="also measure compiling the kernels (under a minute)")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@settings_options("learning", "kafka")
def bench(
    events: int, users: int, items: int, seconds: float, rate: float, serving: bool, everything: bool, as_json: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Measure speed on this machine, in a temporary folder: log to committed state, Recommend while learning, start.

    The world is simulated. The target is 100,000 events per second of CPU from the embedded log with biased-mf at dim 64, and
    40,000 through Kafka (for --kafka use a broker without other data: the bench writes to its topics). Run nothing else meanwhile.
    """
    if options.get("dim") is None:
        options["dim"] = 64
    if options.get("rating_learner") is None:
        options["rating_learner"] = "biased-mf"
    settings = settings_of(options)
    console = Console(stderr=True, quiet=as_json)
    console.print("loading kernels ...")
    load_kernels(learner_names(settings), lambda name: None)
    leave_living_objects_alone()
    report = Report(
        processors=os.cpu_count() or 0, machine=platform.machine(), python=platform.python_version(), events=events,
        users=users, items=items,
    )  # fmt: skip
    console.print(f"simulating {events:,} events ...")
    more = int(seconds * rate) if serving else 0
    world = World(
        users=users, items=items, events=events + more, seed=settings.learning.seed, duplicates=0, late=0, bad=0
    )
    messages = world_messages(world)
    first, later = messages[: len(messages) - more], messages[len(messages) - more :]
    with tempfile.TemporaryDirectory(prefix="streamer-") as folder:
        embedded = msgspec.structs.replace(settings, kafka=type(settings.kafka)())
        log = EmbeddedLog(Path(folder))
        try:
            report.appended = append(log, first)
            for made in LEARNER_SETS:
                console.print(f"learning with {', '.join(made(embedded).by_name)} ...")
                state = Path(folder) if made is learners else Path(folder) / "alone"
                report.learned.append(learn_log(log, embedded, made, state))
        finally:
            log.close()
        if settings.kafka.kafka:
            console.print(f"through Kafka at {settings.kafka.kafka} ...")
            report.kafka_published, report.kafka_learned = learn_kafka(settings, first)
        if serving:
            console.print("starting `streamer serve`, asking it while it learns ...")
            flags = _flags(embedded)
            report.start_s = start_s(Path(folder) / "empty", flags)
            report.start_with_state_s = start_s(Path(folder), flags)
            report.recommend = ask_while_learning(Path(folder), flags, later, rate, users)
    if everything:
        console.print("compiling every kernel into an empty cache ...")
        report.compile_s = compile_s()
    if as_json:
        click.echo(msgspec.json.encode(report).decode())
    else:
        Console(highlight=False).print(_table(report))


def _flags(settings: Settings) -> list[str]:
    """The learning settings as flags, for the process that continues with the state."""
    flags = []
    for name, value in msgspec.structs.asdict(settings.learning).items():
        if value is not None:
            pairs = [f"{kind}={weight}" for kind, weight in value.items()] if isinstance(value, dict) else value
            text = ",".join(pairs) if isinstance(pairs, list | tuple) else pairs
            flags += [f"--{name.replace('_', '-')}", str(text)]
    return flags


def _table(report: Report) -> Table:
    table = Table("", "of CPU", "on the clock", "", box=None, pad_edge=False, header_style="bold")

    def speed(what: str, found: Speed | None, note: str = "") -> None:
        if found is not None:
            table.add_row(what, f"{found.events_per_second:,.0f}/s", f"{found.events_per_second_wall:,.0f}/s", note)

    def took(what: str, found: float | None, note: str) -> None:
        if found is not None:
            table.add_row(what, "", f"{found:.2f} s", note)

    speed("append to the log", report.appended, "an fsync every 1,000 events")
    speed("publish to Kafka", report.kafka_published)
    for where, many in (("log", report.learned), ("Kafka", report.kafka_learned)):
        for found in many:
            others = f" and {len(found.learners) - 1} more" if len(found.learners) > 1 else " alone"
            speed(f"{where} to committed state", found.speed, f"{found.learners[0]}{others}, dim {found.dim}")
            for part, us in found.parts_us.items():
                table.add_row(f"  {part}", f"{us:.2f} us", "", "an event")
    took("start to first answer", report.start_s, "empty state, warm kernel cache")
    took("", report.start_with_state_s, f"{report.events:,} events in the state")
    if report.recommend is not None:
        asked = report.recommend
        table.add_row("Recommend, p50", "", f"{asked.p50_ms:.2f} ms", f"{asked.requests:,} requests, one client")
        table.add_row("  p99", "", f"{asked.p99_ms:.2f} ms", f"{asked.learned_per_second:,.0f} events/s learned")
    took("compile all kernels", report.compile_s, "once")
    return table
