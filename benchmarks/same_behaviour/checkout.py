"""One side of the comparison: a checkout, whose commands are run and whose endpoint is asked."""

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
    cpu_s: float  # of the process and of those that it waited for


@dataclass(frozen=True)
class Serving:
    """A streamer that answers."""

    url: str
    pid: int
    http: httpx.Client

    def ask(self, method: str, body: object) -> httpx.Response:
        """An RPC in JSON."""
        content = msgspec.json.encode(body)
        return self.http.post(f"/streamer.v1.{method}", content=content, headers={"content-type": "application/json"})

    def counted(self) -> int:
        """Events learned, repeated and left out so far."""
        answer = self.ask("AdminService/GetStatus", {}).json()
        return sum(int(counts["count"]) for counts in answer["events"] if "count" in counts)

    def metrics(self) -> str:
        """The page."""
        return self.http.get("/metrics").text

    def cpu_s(self) -> float:
        """What the process has taken so far."""
        lines = self.metrics().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("process_cpu_seconds_total "))


@dataclass(frozen=True)
class Checkout:
    """A commit with its environment. Paths that commands are given lie below `folder`, where they run, and are the same for both sides."""

    root: Path
    folder: Path

    def run(self, *arguments: str, expected: int | None = 0) -> Ended:
        """`streamer ARGUMENTS`; raises SystemExit for another exit code than expected, None: any."""
        with (self.folder / "out").open("w+b") as out, (self.folder / "err").open("w+b") as err:
            process = self._started(arguments, out.fileno(), err.fileno())
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        said, wrong = ((self.folder / name).read_text(encoding="utf-8") for name in ("out", "err"))
        if expected is not None and process.returncode != expected:
            raise SystemExit(
                f"{self.root}: streamer {' '.join(arguments)} ended with {process.returncode}: {wrong[-2000:]}"
            )
        return Ended(process.returncode, said, wrong, used.ru_utime + used.ru_stime)

    def serve(self, data: str, *arguments: str) -> Ended:
        """`streamer serve` on `data` until it ends by itself."""
        return self.run("serve", "--data", data, "--port", "0", *SERVE, *arguments)

    @contextmanager
    def serving(self, data: str, *arguments: str, events: int = 0) -> Iterator[Serving]:
        """`streamer serve` on `data`, once it has counted so many events; it is told to end afterwards, and waited for."""
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
    except httpx.TransportError:  # not yet there
        return False
