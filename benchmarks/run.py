"""`make bench`: every learner and every peer on the same streams, one process each; writes benchmarks/results.

python -m benchmarks.run [PATH ...] [--out FOLDER]     all competitors on the simulated world and on PATHs
python -m benchmarks.run PATH --one NAME               one of them, one JSON object on standard output
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
from rich.console import Console

from benchmarks.contest import Outcome, run_ours, run_peer
from benchmarks.peers import PEERS, peer
from benchmarks.report import RESULTS, Report
from benchmarks.speed import MEASURED, ROUNDS, by_turns
from benchmarks.stream import read
from benchmarks.world import write
from streamer import __version__
from streamer.cli.progress import bar
from streamer.compile import compile_everything
from streamer.core.settings import load
from streamer.models import LEARNERS

PACKAGES = ("numpy", "numba", "river", "vowpalwabbit", "gensim", "implicit")
LIBRARIES = ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMBA")
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in LIBRARIES} | {"PYTHONHASHSEED": "1"}


def machine() -> str:
    """A description of this machine, without its host name."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    model = platform.machine()
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        lines = (line.partition(":") for line in cpu.read_text().splitlines())
        model = next((value.strip() for name, _, value in lines if name.strip() == "model name"), model)
    system = f"{platform.system()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores of {model}, {memory_gib:.0f} GiB, {system}; one thread each"


def versions() -> dict[str, str | None]:
    """The versions of all packages that take part."""
    found: dict[str, str | None] = {"streamer": __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def competitors() -> Iterator[tuple[str, str]]:
    """Name and variant, ours first."""
    yield from ((name, "default") for name in LEARNERS)
    for name in PEERS:
        yield name, "default"
        if peer(name).tuned is not None:
            yield name, "tuned"


def one(path: Path, name: str, variant: str, title: str) -> Outcome:
    """Run one competitor in this process."""
    settings = load({}, environ={})
    with bar(Console(stderr=True), title, 0) as advance:
        if name in LEARNERS:
            compile_everything(lambda kernel: None)
            return run_ours(name, path, settings, advance)
        return run_peer(name, variant, read(path, settings), settings.learning.seed, advance)


def everyone(path: Path, name: str, console: Console, rounds: int) -> Report:
    """Run all competitors on one stream, one after the other, each in a process of its own."""
    settings, began = load({}, environ={}), time.monotonic()
    events, learning = read(path, settings), settings.learning
    chosen, outcomes = list(competitors()), []
    for n, (competitor, variant) in enumerate(chosen, 1):
        title = f"{name}, {n} of {len(chosen)}: {competitor} {variant}"
        command = [sys.executable, "-m", "benchmarks.run", str(path), "--one", competitor, "--variant", variant]
        printed = subprocess.run([*command, "--title", title], check=True, stdout=subprocess.PIPE).stdout
        outcomes.append(msgspec.json.decode(printed, type=Outcome))
        console.print(f"{title:60} {summary(outcomes[-1])}", highlight=False, soft_wrap=True)
    speed = by_turns(path, rounds, lambda what: console.print(f"{name}, {what}", highlight=False))
    return Report(
        stream=name, events=len(events), ratings=int(events.rated.sum()), clicks=int((events.clicks > 0).sum()),
        users=events.user_count, items=len(events.item_ids), machine=machine(), versions=versions(),
        minutes=(time.monotonic() - began) / 60, defaults=[learning.rating_learner, learning.click_learner],
        outcomes=outcomes, speed=speed,
    )  # fmt: skip


def summary(outcome: Outcome) -> str:
    """An outcome in one line."""
    if outcome.skipped:
        return f"skipped: {outcome.skipped}"
    figure = f"RMSE {outcome.ratings.rmse:.4f}" if outcome.ratings else ""
    figure = f"HR@10 {outcome.clicks.hit_rate_10:.4f}" if outcome.clicks else figure
    return f"{figure}, {outcome.events_per_second or 0:,.0f} events/s"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "paths", nargs="*", type=Path, metavar="PATH", help="streams in addition to the simulated world"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for tables and plots")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of the speed comparison")
    parser.add_argument("--no-world", action="store_true", help="only PATHs, without the simulated world")
    parser.add_argument("--one", metavar="NAME", help="run one competitor and print its outcome")
    parser.add_argument("--variant", choices=("default", "tuned"), default="default")
    parser.add_argument("--title", default="", help=argparse.SUPPRESS)
    parser.add_argument("--speed", choices=MEASURED, help="take one speed measurement and print it")
    asked = parser.parse_args()
    os.environ.update(ONE_THREAD)
    if asked.one:
        print(msgspec.json.encode(one(asked.paths[0], asked.one, asked.variant, asked.title or asked.one)).decode())
        return
    if asked.speed:
        compile_everything(lambda kernel: None)
        print(MEASURED[asked.speed](asked.paths[0], load({}, environ={})))
        return
    from benchmarks import plots, tables  # imported here: plots need matplotlib, and competitors are timed without it

    console = Console()
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="streamer-bench-") as folder:
        paths = asked.paths if asked.no_world else [write(Path(folder)), *asked.paths]
        for path in paths:
            report = everyone(path, name := path.resolve().stem, console, asked.rounds)
            tables.save(report, asked.out)
            plots.save(report, asked.out)
            console.print(f"{name}: {report.minutes:.1f} minutes, see {asked.out / (name + '.md')}", highlight=False)


if __name__ == "__main__":
    main()
