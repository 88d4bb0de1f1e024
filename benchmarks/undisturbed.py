"""How a renormalisation affects the endpoint: `python -m benchmarks.undisturbed`.

A streamer learns a simulated world (300,000 events). Then events are published and queries asked at a steady rate, first for a
while without a renormalisation and then through a whole one: cut, training process, catch-up, gate, swap. For both the table shows
percentiles of the response times as a client sees them, the time from an event's append to the first answer that shows it, and
the memory of the serving process. The clients are one other process on the same machine.
"""

import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from streamer.producers.client import Client
from streamer.producers.http import event_json
from streamer.producers.simulate import World

QUERIES_S, EVENTS_S, CHUNK = 100, 500, 25
QUIET_S = 30.0


@dataclass
class Observed:
    """What the clients observed in one period of time."""

    queries_s: list[float] = field(default_factory=list)  # response times
    fresh_s: list[float] = field(default_factory=list)  # times from publishing an event until an answer showed it
    longest: tuple[float, str] = (
        0.0,
        "",
    )  # the longest time from an event to an answer with it, and the stage at its end
    stage: str = ""  # the current stage
    rss_bytes: int = 0  # largest memory

    def row(self) -> list[str]:
        """The cells of its row in the table."""
        cuts = statistics.quantiles(self.queries_s, n=1000)
        fresh = statistics.quantiles(self.fresh_s, n=100)
        return [
            f"{len(self.queries_s):,}", *(f"{1000 * cuts[n - 1]:.1f}" for n in (500, 950, 990)),
            f"{1000 * fresh[49]:.0f}", f"{1000 * max(self.fresh_s):.0f}", f"{self.rss_bytes / 1e6:.0f}",
        ]  # fmt: skip


class Load:
    """Queries and events at a steady rate, each from a thread of its own, recorded in `observed`."""

    def __init__(self, url: str, pid: int, users: list[str], events: list[bytes]) -> None:
        self.observed, self.stop, self.failure = Observed(), threading.Event(), ""
        self._url, self._pid, self._users, self._events = url, pid, users, events
        self._threads = [threading.Thread(target=self._guarded, args=(work,)) for work in (self._ask, self._publish)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop both threads."""
        self.stop.set()
        for thread in self._threads:
            thread.join()

    def _guarded(self, work: Callable[[Client], None]) -> None:
        try:
            with Client(self._url) as client:
                work(client)
        except Exception as error:
            self.failure = repr(error)

    def _paced(self, every_s: float, act: Callable[[int], None]) -> None:
        began, n = time.perf_counter(), 0
        while not self.stop.is_set():
            act(n)
            n += 1
            self.stop.wait(max(0.0, began + n * every_s - time.perf_counter()))

    def _ask(self, client: Client) -> None:
        def act(n: int) -> None:
            began = time.perf_counter()
            client.recommend(self._users[n % len(self._users)])
            self.observed.queries_s.append(time.perf_counter() - began)
            self.observed.rss_bytes = max(self.observed.rss_bytes, rss_bytes(self._pid))

        self._paced(1 / QUERIES_S, act)

    def _publish(self, client: Client) -> None:
        def act(n: int) -> None:
            start = n * CHUNK % (len(self._events) - CHUNK)
            began = time.perf_counter()
            token = client.publish(self._events[start : start + CHUNK]).freshness_token
            client.recommend(self._users[n % len(self._users)], freshness_token=token)
            took_s, stage = time.perf_counter() - began, self.observed.stage
            self.observed.fresh_s.append(took_s)
            self.observed.longest = max(self.observed.longest, (took_s, stage))

        self._paced(CHUNK / EVENTS_S, act)


def serve_command(folder: str | Path, port: int, *arguments: str, python: str = sys.executable) -> list[str]:
    """How a streamer is started whose data are in the folder."""
    return [python, "-m", "streamer", "serve", "--data", f"{folder}/d", "--port", str(port), *arguments]


def rss_bytes(pid: int) -> int:
    """The resident memory of the process."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))


def ready(url: str, process: "subprocess.Popen[bytes]", done: Callable[[Client], bool]) -> None:
    """Wait until `done` returns True; raises SystemExit if the process ends before."""
    while process.poll() is None:
        try:
            with Client(url) as client:
                if done(client):
                    return
        except Exception:
            pass
        time.sleep(0.2)
    raise SystemExit(f"the streamer ended with {process.returncode}")


@click.command()
@click.option("--events", default=300_000, show_default=True, help="number of events that everything is retrained on")
@click.option("--port", default=8199, show_default=True, help="port of the streamer")
def main(events: int, port: int) -> None:
    """Measure, and print a table."""
    console = Console()
    world, url = World(users=3_000, items=3_000, events=events + 100_000, bad=0.0), f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        messages = world.stream().messages(0, len(world.stream()))
        path = Path(folder) / "world.jsonl"
        path.write_bytes(b"\n".join(m.value for m in messages[: events + 2000] if m.value) + b"\n")
        rest = [event_json(m) for m in messages[events + 2000 :] if m.topic in ("ratings", "clicks")]
        users = [m.key.decode() for m in messages[events : events + 3000] if m.key and m.topic == "ratings"]
        command = serve_command(folder, port, "--replay", str(path))
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            ready(
                url,
                process,
                lambda client: sum(e.count for e in client.status().events if e.outcome == "learned") >= events,
            )
            ready(url, process, lambda client: client.status().state == "up to date")
            load = Load(url, process.pid, users, rest)
            time.sleep(5)
            quiet = load.observed = Observed()
            time.sleep(QUIET_S)
            during = load.observed = Observed()
            with Client(url) as client:
                client.renormalise()
                time.sleep(1)
                while (found := client.generations()).generations[-1].stage in (
                    "cut",
                    "trained",
                    "catching up",
                    "gate",
                ):
                    during.stage = found.now
                    time.sleep(0.1)
                last = client.generations().generations[-1]
            load.close()
        finally:
            process.terminate()
            process.wait()
    if load.failure:
        raise SystemExit(load.failure)
    shown = Table(
        "", "queries", "p50 ms", "p95 ms", "p99 ms", "event to answer p50 ms", "longest ms", "memory MB", box=None
    )
    shown.add_row("not renormalising", *quiet.row())
    shown.add_row("renormalising", *during.row())
    console.print(shown)
    console.print(f"the longest from an event to its answer ended in the stage: {during.longest[1] or 'cut'}")
    console.print(
        f"{last.id}: {last.stage}, {last.why}; seconds " + ", ".join(f"{k} {v:.2f}" for k, v in last.seconds.items())
    )


if __name__ == "__main__":
    main()
