"""`make bench`: every learner and every peer on the same streams; writes benchmarks/results.

python -m benchmarks.run [PATH ...] [--clicks PATH ...]    ratings on the simulated world and PATHs; clicks on these, on music
                                                           and news that are simulated, and on the PATHs of --clicks
python -m benchmarks.run PATH --one NAME                   one learner of ratings or one peer, one JSON object on standard output
python -m benchmarks.run --only clicks [--again NAME ...]  only one kind; of clicks only these again, `ours` for all of ours
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
from rich.console import Console

from benchmarks import figures, synthetic, world
from benchmarks.clicks import our_names, our_ranks
from benchmarks.contest import Outcome, run_ours, run_peer
from benchmarks.peers import PEERS, best, peer
from benchmarks.report import RESULTS, Report
from benchmarks.speed import MEASURED, ROUNDS, by_turns
from benchmarks.stream import read, stream_name
from streamer import __version__
from streamer.cli.progress import bar
from streamer.compile import compile_everything
from streamer.core.settings import load
from streamer.models import LEARNERS

PACKAGES = ("numpy", "numba", "river", "vowpalwabbit", "gensim", "implicit", "torch")
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
    """Name and variant of the learners of ratings, ours first."""
    yield from ((name, "default") for name in LEARNERS if name not in our_names())
    for name in PEERS:
        if peer(name).kind == "ratings":
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
        return run_peer(name, variant, read(path, settings), settings.learning.seed, advance, stream_name(path))


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


def everyone_of_clicks(
    path: Path, name: str, again: Sequence[str], console: Console, known: Report | None
) -> Iterator[Report]:
    """Run the learners of clicks on one stream: ours in one pass, then each peer, tuned, in a process of its own.

    With `again` only those named; the others keep their figures of the report `known`. Yields what is known after each.
    """
    settings, began = load({}, environ={}), time.monotonic()
    events, ours = read(path, settings), our_names()
    named = {*again, *(ours if "ours" in again else ())}
    kept = {o.name: o for o in known.outcomes} if known and again else {}
    outcomes: dict[str, Outcome] = {}

    def report() -> Report:
        found = {one: outcomes.get(one) or kept.get(one) for one in [*ours, *PEERS]}
        return Report(
            stream=name, events=len(events), ratings=int(events.rated.sum()), clicks=int((events.clicks > 0).sum()),
            users=events.user_count, items=len(events.item_ids), machine=machine(), versions=versions(),
            minutes=(time.monotonic() - began) / 60, defaults=[settings.learning.click_learner],
            outcomes=[outcome for outcome in found.values() if outcome],
        )  # fmt: skip

    if chosen := [one for one in ours if not again or one in named]:
        for outcome in msgspec.json.decode(_child(path, "--ranks", *chosen), type=list[Outcome]):
            outcomes[outcome.name] = outcome
            console.print(f"{name}: {outcome.name:40} {summary(outcome)}", highlight=False, soft_wrap=True)
        yield report()
    for one in (one for one in PEERS if peer(one).kind == "clicks" and (not again or one in named)):
        variant = "default" if (best(one, name) or peer(one).tuned) is None else "tuned"
        outcomes[one] = msgspec.json.decode(_child(path, "--one", one, "--variant", variant), type=Outcome)
        console.print(f"{name}: {one:40} {summary(outcomes[one])}", highlight=False, soft_wrap=True)
        yield report()


def _child(path: Path, *options: str) -> bytes:
    command = [sys.executable, "-m", "benchmarks.run", str(path), *options]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def ours_of_clicks(path: Path, names: Sequence[str]) -> list[Outcome]:
    """The outcomes of our learners `names`, in one pass in this process."""
    compile_everything(lambda kernel: None)
    with bar(Console(stderr=True), stream_name(path), 0) as advance:
        found = our_ranks(path, load({}, environ={}), names, advance)
    return [
        Outcome(
            name=name, side="ours", kind="clicks", variant="default", parameters=parameters,
            clicks=figures.clicks(queries, ranks),
        )
        for name, (parameters, queries, ranks) in found.items()
    ]  # fmt: skip


def summary(outcome: Outcome) -> str:
    """An outcome in one line."""
    if outcome.skipped:
        return f"skipped: {outcome.skipped}"
    speed = f", {outcome.events_per_second:,.0f} events/s" if outcome.events_per_second else ""
    if found := outcome.clicks:
        return f"HR@10 {found.hit_rate_10:.4f}, NDCG@20 {found.ndcg_20:.4f}, in sessions HR@20 {found.session_hit_rate_20 or 0:.4f}{speed}"
    return f"RMSE {outcome.ratings.rmse:.4f}{speed}" if outcome.ratings else ""


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "paths", nargs="*", type=Path, metavar="PATH", help="streams in addition to the simulated world"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for tables and plots")
    parser.add_argument("--clicks", nargs="+", type=Path, default=[], metavar="PATH", help="further streams of clicks")
    parser.add_argument("--only", choices=("ratings", "clicks"), help="learners of one kind only")
    parser.add_argument("--again", nargs="+", default=[], metavar="NAME", help="of clicks, measure only these again")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of the speed comparison")
    parser.add_argument("--no-world", action="store_true", help="only PATHs, without the simulated streams")
    parser.add_argument("--one", metavar="NAME", help="run one competitor and print its outcome")
    parser.add_argument("--ranks", nargs="+", metavar="NAME", help="run these learners of clicks of ours, in one pass")
    parser.add_argument("--variant", choices=("default", "tuned"), default="default")
    parser.add_argument("--title", default="", help=argparse.SUPPRESS)
    parser.add_argument("--speed", choices=MEASURED, help="take one speed measurement and print it")
    asked = parser.parse_args()
    os.environ.update(ONE_THREAD)
    if asked.one:
        print(msgspec.json.encode(one(asked.paths[0], asked.one, asked.variant, asked.title or asked.one)).decode())
        return
    if asked.ranks:
        print(msgspec.json.encode(ours_of_clicks(asked.paths[0], asked.ranks)).decode())
        return
    if asked.speed:
        compile_everything(lambda kernel: None)
        print(MEASURED[asked.speed](asked.paths[0], load({}, environ={})))
        return
    from benchmarks import plots, tables  # imported here: plots need matplotlib, and competitors are timed without it

    console = Console()
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="streamer-bench-") as folder:
        paths = asked.paths if asked.no_world else [world.write(Path(folder)), *asked.paths]
        for path in paths if asked.only != "clicks" else ():
            report = everyone(path, name := stream_name(path), console, asked.rounds)
            tables.save(report, asked.out)
            plots.save(report, asked.out)
            console.print(f"{name}: {report.minutes:.1f} minutes, see {asked.out / (name + '.md')}", highlight=False)
        paths += asked.clicks if asked.no_world else [*synthetic.write(Path(folder)), *asked.clicks]
        for path in paths if asked.only != "ratings" else ():
            name = f"{tables.CLICKS}{stream_name(path)}"
            known = tables.load(name, asked.out) if (asked.out / f"{name}.json").exists() else None
            for report in everyone_of_clicks(path, stream_name(path), asked.again, console, known):
                tables.save(report, asked.out)
                plots.save(report, asked.out)
            console.print(f"{name}: see {asked.out / (name + '.md')}", highlight=False)
        if asked.only != "ratings":
            tables.save_overview(asked.out)


if __name__ == "__main__":
    main()
