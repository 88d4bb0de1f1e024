"""The endpoint under abuse: `python -m benchmarks.abuse`.

A streamer that has learned a simulated world answers an honest client, first alone, then beside four hostile ones that carry out
every attack of `attacks` at once, then alone again. Then the attacks begin once more and the streamer is told to stop. All are
processes on this machine; the attackers have addresses of their own (127.0.0.2 to .5), or the honest client's (--one-address), and run
with a lower priority: they are meant to take the server's attention, not its CPU.
"""

import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.abuse.attacks import ATTACKS
from benchmarks.abuse.honest import Honest, Observed, connector, recommend
from benchmarks.abuse.hostile import abuse
from benchmarks.undisturbed import rss_bytes, serve_command
from streamer.producers.simulate import World

CLIENTS = 4
COLUMNS = ("queries", "failed", "p50 ms", "p99 ms", "longest ms", "memory MB")
RESULT = Path(__file__).parents[1] / "results/abuse.md"
REST_S = 15.0  # after the abuse, before memory is looked at
GROWTH_BYTES, SLOWER, STOP_S = 64 << 20, 10.0, 5.0  # what the endpoint is held to


@dataclass
class Run:
    """What one run showed."""

    name: str
    quiet: Observed
    during: Observed
    after: Observed
    before_bytes: int
    most_bytes: int = 0
    after_bytes: int = 0
    stop_s: float = float("inf")  # never: it was killed
    tracebacks: int = 0
    said: list[str] = field(default_factory=list)  # lines of the log
    seen: Counter[str] = field(default_factory=Counter)

    def verdicts(self) -> Iterator[tuple[str, bool]]:
        """Each bound in words, and whether it held."""
        grown, left = self.most_bytes - self.before_bytes, self.after_bytes - self.before_bytes
        slower = self.during.p99_ms() / self.quiet.p99_ms() if len(self.during.kept_s) > 1 else float("inf")
        made, ended = (
            sum(count for what, count in self.seen.items() if what.endswith(end))
            for end in (": connected", ": closed by the server")
        )
        yield (
            f"the attackers opened {made:,} connections, of which the server closed {ended:,} before the end",
            made > 0,
        )
        yield f"memory grew by {grown / 2**20:.0f} MB, {left / 2**20:.0f} MB afterwards", grown < GROWTH_BYTES
        yield f"p99 was {slower:.1f} times the quiet one", slower < SLOWER
        yield f"{len(self.during.failed)} honest queries failed", not self.during.failed
        yield f"{self.tracebacks} tracebacks", not self.tracebacks
        yield f"SIGTERM ended it in {self.stop_s:.1f} s", self.stop_s < STOP_S


def command(checkout: str, folder: Path, port: int, tls: bool) -> list[str]:
    """How the streamer is started."""
    python = f"{checkout}/.venv/bin/python" if checkout else sys.executable
    made = serve_command(folder, port, "--replay", f"{folder}/w.jsonl", python=python)
    if tls:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2",
             "-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"],
            check=True, capture_output=True,
        )  # fmt: skip
        made += ["--tls-cert-file", f"{folder}/cert.pem", "--tls-key-file", f"{folder}/key.pem"]
    return made


def measure(
    name: str, checkout: str, port: int, seconds: float, tls: bool, sources: Sequence[str], only: Sequence[str]
) -> Run:
    """One run; raises SystemExit when the streamer does not start."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        world = World(users=2_000, items=3_000, events=20_000, bad=0.0)
        messages = world.stream().messages(0, len(world.stream()))
        (folder / "w.jsonl").write_bytes(b"\n".join(m.value for m in messages if m.value) + b"\n")
        users = sorted({m.key.decode() for m in messages if m.key and m.topic == "ratings"})
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                command(checkout, folder, port, tls), stdout=log, stderr=log, cwd=checkout or None
            )
        try:
            run = _observe(name, process, port, seconds, tls, sources, only, users)
        finally:
            process.kill()
            process.wait()
        run.said = (folder / "log").read_text(encoding="utf-8", errors="replace").splitlines()
        run.tracebacks = sum("Traceback (most recent" in line for line in run.said)
        return run


def _observe(
    name: str, process: "subprocess.Popen[bytes]", port: int, seconds: float, tls: bool, sources: Sequence[str],
    only: Sequence[str], users: list[str],
) -> Run:  # fmt: skip
    _wait(process, port, tls, users[0])
    honest = Honest(port, "127.0.0.1", tls, users)
    time.sleep(3)
    quiet = honest.observed = Observed()
    time.sleep(min(20.0, seconds))
    run = Run(name, quiet, Observed(), Observed(), rss_bytes(process.pid))
    over = threading.Event()

    def weigh() -> None:
        while not over.wait(0.1):
            if process.poll() is None:
                run.most_bytes = max(run.most_bytes, rss_bytes(process.pid))

    weighing = threading.Thread(target=weigh, daemon=True)
    weighing.start()
    honest.observed = run.during
    with abuse(port, sources, tls, only, run.seen):
        time.sleep(seconds)
    over.set()
    weighing.join()
    honest.observed = Observed()
    time.sleep(REST_S)
    honest.observed, run.after_bytes = run.after, rss_bytes(process.pid)
    time.sleep(5)
    honest.observed = Observed()
    with abuse(port, sources, tls, only, Counter()):
        time.sleep(5)
        honest.close()
        began = time.monotonic()
        process.terminate()
        try:
            process.wait(60)
            run.stop_s = time.monotonic() - began
        except subprocess.TimeoutExpired:
            pass
    return run


def _wait(process: "subprocess.Popen[bytes]", port: int, tls: bool, user: str) -> None:
    """Until it answers and has learned; raises SystemExit if it ends."""
    answered = 0
    while answered < 50:
        if process.poll() is not None:
            raise SystemExit(f"the streamer ended with {process.returncode}")
        connection = connector(port, "127.0.0.1", tls)()
        try:
            recommend(connection, user)
            answered += 1
        except Exception:
            time.sleep(0.1)
        connection.close()
        time.sleep(0.05)


def rows(run: Run) -> list[list[str]]:
    """The rows of its table: the period, its queries and times, and memory."""
    return [
        ["quiet", *run.quiet.row(), f"{run.before_bytes / 2**20:.0f}"],
        ["under abuse", *run.during.row(), f"{run.most_bytes / 2**20:.0f}"],
        ["afterwards", *run.after.row(), f"{run.after_bytes / 2**20:.0f}"],
    ]


def verdicts(run: Run) -> list[str]:
    """What it was held to, in lines."""
    return [f"{'held' if held else 'NOT HELD'}: {sentence}" for sentence, held in run.verdicts()]


def show(run: Run, console: Console) -> None:
    """Print the run."""
    table = Table(run.name, *COLUMNS, box=None)
    for row in rows(run):
        table.add_row(*row)
    console.print(table)
    for line in verdicts(run):
        console.print(line, highlight=False)
    for what, count in sorted(run.seen.items()):
        console.print(f"    {what}: {count:,}", highlight=False)


def page(runs: Sequence[Run], seconds: float) -> str:
    """The runs as a page in Markdown."""
    lines = [
        "# The endpoint under abuse",
        "",
        f"`python -m benchmarks.abuse --every`: {CLIENTS} clients, {len(ATTACKS)} attacks at once for {seconds:g} s on one machine with the server,",
        "and an honest client that asks `Recommend` 50 times a second, each tenth time on a new connection. Times are the honest client's.",
    ]
    for run in runs:
        lines += ["", f"## {run.name}", "", f"| | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in rows(run)]
        lines += ["", *(f"- {line}" for line in verdicts(run))]
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--seconds", default=60.0, show_default=True, help="how long the abuse lasts")
@click.option("--tls", is_flag=True, help="everything over TLS")
@click.option("--one-address", is_flag=True, help="the attackers have the honest client's address, as behind a proxy")
@click.option(
    "--every", is_flag=True, help="with TLS and without, with one address and several; writes results/abuse.md"
)
@click.option("--only", multiple=True, type=click.Choice(list(ATTACKS)), help="only this attack; may be repeated")
@click.option("--checkout", default="", help="serve from another checkout, by its own .venv")
@click.option("--port", default=8197, show_default=True)
@click.option("--log", is_flag=True, help="print the end of the streamer's log")
def main(
    seconds: float, tls: bool, one_address: bool, every: bool, only: tuple[str, ...], checkout: str, port: int, log: bool
) -> None:  # fmt: skip
    """Measure, print, and end with exit code 1 unless every bound held."""
    console, runs = Console(width=120), []
    for over_tls, shared in product((False, True), (False, True)) if every else [(tls, one_address)]:
        sources = ["127.0.0.1" if shared else f"127.0.0.{n + 2}" for n in range(CLIENTS)]
        name = f"{'TLS' if over_tls else 'Plain'}, {'one address for all' if shared else 'addresses of their own'}"
        run = measure(name, checkout, port, seconds, over_tls, sources, only)
        show(run, console)
        if log:
            console.print("\n".join(run.said[-40:]), markup=False, highlight=False)
        runs.append(run)
    if every:
        RESULT.write_text(page(runs, seconds), encoding="utf-8")
    sys.exit(0 if all(held for run in runs for _, held in run.verdicts()) else 1)


if __name__ == "__main__":
    main()
