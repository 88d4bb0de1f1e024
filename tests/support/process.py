"""A real streamer process, as its users run it."""

import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
from forked import STACKS, Forked
from learning import events

READY = re.compile(r"answers on (http://\S+)")
DEADLINE_S = 60.0
WITHOUT_CERTIFICATES = ssl.SSLContext(
    ssl.PROTOCOL_TLS_CLIENT
)  # reading those of the system takes 30 ms of CPU a request


def command(*arguments: str | Path) -> list[str]:
    """`streamer ...` with this interpreter."""
    return [sys.executable, "-m", "streamer", *map(str, arguments)]


def run(*arguments: str | Path, code: int = 0, cwd: Path | None = None) -> str:
    """Run to the end and check the exit code; return stdout, followed by stderr if `code` is not 0."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300, cwd=cwd, check=False)
    assert done.returncode == code, f"{arguments} ended with {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout + (done.stderr if code else "")


class Streamer:
    """A running `streamer serve` that answers; its output goes to a file beside its data."""

    def __init__(self, data: Path, *arguments: str | Path, env: dict[str, str] | None = None) -> None:
        self.data = data
        self.output = data.parent / f"{data.name}.out"
        words = ["serve", "--data", data, "--port", "0", "--metrics-max-age-s", "0", *arguments]
        self.process: subprocess.Popen[bytes] | Forked
        if env is None:
            self.process = Forked([str(word) for word in words], self.output)
        else:
            with self.output.open("wb") as out:
                environment = {**os.environ, "PYTHONUNBUFFERED": "1", **env}
                self.process = subprocess.Popen(command(*words), stdout=out, stderr=subprocess.STDOUT, env=environment)
        try:
            self.url = self._wait_until_ready()
        except BaseException:
            self.kill()  # nothing else would end it, and its Popen would warn during a later test
            raise

    def _wait_until_ready(self) -> str:
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            found = READY.search(self.output.read_text())
            if found:
                return found[1]
            if self.process.poll() is not None:
                raise AssertionError(f"streamer ended with {self.process.returncode}: {self.output.read_text()}")
            self.pause(0.01)
        raise AssertionError(f"streamer does not answer after {DEADLINE_S} s: {self.output.read_text()}")

    def pause(self, seconds: float) -> bool:
        """Let it run for `seconds`, or until it ends; return whether it has ended."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def call(self, method: str, **request: object) -> dict[str, object]:
        """An RPC by JSON: `call("RecommendationService/Recommend", userId="u1")`."""
        answer = httpx.post(f"{self.url}/streamer.v1.{method}", json=request, timeout=30, verify=WITHOUT_CERTIFICATES)
        answer.raise_for_status()
        found: dict[str, object] = answer.json()
        return found

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30, verify=WITHOUT_CERTIFICATES)

    def metrics(self) -> dict[str, float]:
        """The value of every series of /metrics; keys are names with labels, as written there."""
        lines = self.get("/metrics").text.splitlines()
        return {name: float(value) for name, value in (ln.rsplit(" ", 1) for ln in lines if not ln.startswith("#"))}

    def wait_for(self, series: str, at_least: float) -> None:
        """Wait until a series of /metrics is at least that value."""
        deadline = time.monotonic() + DEADLINE_S
        while self.metrics().get(series, 0.0) < at_least:
            assert time.monotonic() < deadline, f"{series} stays below {at_least}: {self.output.read_text()}"
            assert not self.pause(0.05), self.output.read_text()

    def print_stacks(self) -> None:
        """Print the output, with what each thread is doing: a test that waited in vain shows where the process stands."""
        if isinstance(self.process, Forked) and self.process.poll() is None:
            self.process.send_signal(STACKS)
            self.pause(0.5)
        print(self.output.read_text(errors="replace"))

    def kill(self) -> None:
        """End the process at once, as a power cut would."""
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def stop(self) -> int:
        """Ask the process to end, as an orchestrator does; return the exit code."""
        self.process.terminate()
        return self.process.wait(DEADLINE_S)


@contextmanager
def streamer(data: Path, *arguments: str | Path, env: dict[str, str] | None = None) -> Iterator[Streamer]:
    """A running streamer, which is killed at the end of the context if it is still running."""
    running = Streamer(data, *arguments, env=env)
    try:
        yield running
    except BaseException:
        running.print_stacks()
        raise
    finally:
        if running.process.poll() is None:
            running.kill()


LEARNED = 'streamer_events_total{outcome="learned",topic="ratings"}'


def stream_file(folder: Path, rows: int) -> Path:
    """The stream as JSON Lines; removals, which have no value, are left out."""
    path = folder / "events.jsonl"
    with path.open("wb") as out:
        for event in events(rows):
            if isinstance(event, bytes):
                out.write(event + b"\n")
            elif type(event).__name__ != "UserRemoval":
                out.write(msgspec.json.encode(event) + b"\n")
    return path
