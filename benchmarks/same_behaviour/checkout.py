"""One side of the comparison: a checkout. Runs its commands and sends calls to its endpoint."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec

SERVE = ("--archive-interval-s", "3600", "--no-renormalise-on-drift")  # so that nothing happens by the clock
START_S, LEARN_S = 120.0, 600.0


@dataclass(frozen=True)
class Ended:
    """A command that ended."""

    code: int
    out: str
    err: str
    cpu_s: float  # CPU time of the process and of its children that have ended


@dataclass(frozen=True)
class Serving:
    """A running `streamer serve`."""

    url: str
    pid: int
    http: httpx.Client

    def ask(self, method: str, body: object) -> httpx.Response:
        """Send an RPC as JSON."""
        content = msgspec.json.encode(body)
        return self.http.post(f"/streamer.v1.{method}", content=content, headers={"content-type": "application/json"})

    def counted(self) -> int:
        """How many events were learned or left out so far; duplicates and dead letters count, too."""
        answer = self.ask("AdminService/GetStatus", {}).json()
        return sum(int(counts["count"]) for counts in answer["events"] if "count" in counts)

    def metrics(self) -> str:
        """The text of /metrics."""
        return self.http.get("/metrics").text

    def cpu_s(self) -> float:
        """The CPU time that the process has used so far."""
        lines = self.metrics().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("process_cpu_seconds_total "))


@dataclass(frozen=True)
class Checkout:
    """A commit with its environment. Commands run in `folder`, and their paths are relative to it, so that they are the same for both sides."""

    root: Path
    folder: Path

    def run(self, *arguments: str, expected: int | None = 0) -> Ended:
        """Run `streamer ARGUMENTS`. Raises SystemExit if the exit code is not `expected`; None allows any."""
        with (self.folder / "out").open("w+b") as out, (self.folder / "err").open("w+b") as err:
            process = self._started(arguments, out.fileno(), err.fileno())
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        output, errors = ((self.folder / name).read_text(encoding="utf-8") for name in ("out", "err"))
        if expected is not None and process.returncode != expected:
            raise SystemExit(
                f"{self.root}: streamer {' '.join(arguments)} ended with {process.returncode}: {errors[-2000:]}"
            )
        return Ended(process.returncode, output, errors, used.ru_utime + used.ru_stime)

    def serve(self, data: str, *arguments: str) -> Ended:
        """Run `streamer serve` on `data` until it ends by itself."""
        return self.run("serve", "--data", data, "--port", "0", *SERVE, *arguments)

    @contextmanager
    def serving(self, data: str, *arguments: str, events: int = 0) -> Iterator[Serving]:
        """Start `streamer serve` on `data` and wait until it has counted `events` events; stop it at the end of the block."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        url, log = f"http://127.0.0.1:{port}", self.folder / "serving.log"
        with log.open("wb") as out, httpx.Client(base_url=url, timeout=60.0, trust_env=False) as http:
            process = self._started(
                ("serve", "--data", data, "--port", str(port), *SERVE, *arguments), out.fileno(), out.fileno()
            )
            try:
                serving, deadline = Serving(url, process.pid, http), time.monotonic() + (LEARN_S if events else START_S)
                while not _ready(serving, events):
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise SystemExit(
                            f"{self.root}: streamer serve was not ready: {log.read_text(encoding='utf-8')[-2000:]}"
                        )
                    time.sleep(0.1)
                yield serving
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait()

    def _started(self, arguments: tuple[str, ...], out: int, err: int) -> "subprocess.Popen[bytes]":
        environ = {name: value for name, value in os.environ.items() if not name.startswith("STREAMER_")}
        environ |= {"COLUMNS": "2000", "NO_COLOR": "1", "TERM": "dumb", "TZ": "UTC"}
        command = [str(self.root / ".venv/bin/streamer"), *arguments]
        return subprocess.Popen(command, cwd=self.folder, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=err)


def _ready(serving: Serving, events: int) -> bool:
    try:
        return serving.counted() >= events
    except httpx.TransportError:  # the port is not open yet
        return False
