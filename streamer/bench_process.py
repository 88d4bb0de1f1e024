"""How fast a real `streamer serve` answers: after its start, and while it learns.

The server runs in a process of its own, as it does for users. This process is the client; it sends JSON over one connection.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import numpy as np

from streamer.core.errors import StreamerError
from streamer.core.events import Message

_ANSWERS = re.compile(r"answers on (http://\S+)")
_LEARNED = re.compile(r'^streamer_events_total\{.*outcome="learned".*\} (\S+)$', re.MULTILINE)
START_S = 120.0


class Latency(msgspec.Struct, frozen=True):
    """Latency of Recommend with ten items, for one client that sends one request after the other."""

    requests: int
    p50_ms: float
    p99_ms: float
    largest_ms: float
    learned_per_second: float  # events that the process learned meanwhile


class Running:
    """A running `streamer serve` on a free port, and the time until its first answer."""

    def __init__(self, data: Path, arguments: Sequence[str]) -> None:
        """Raises StreamerError when the process ends before it answers."""
        began = time.perf_counter()
        command = [sys.executable, "-m", "streamer", "serve", "--data", str(data), "--port", "0", *arguments]
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by `stop`
        self.process = subprocess.Popen(
            command, stdout=self._output, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
        try:
            self.connection = self._connect(began + START_S)
            self.recommend("u1")
        except BaseException:
            self.stop()
            raise
        self.first_answer_s = time.perf_counter() - began

    def _connect(self, deadline: float) -> HTTPConnection:
        while time.perf_counter() < deadline:
            output = os.pread(self._output.fileno(), 65536, 0).decode(errors="replace")
            if found := _ANSWERS.search(output):
                return HTTPConnection(urlsplit(found[1]).netloc, timeout=30)
            if self.process.poll() is not None:
                raise StreamerError(f"`streamer serve` ended with {self.process.returncode}: {output.strip()}")
            time.sleep(0.005)  # a process that has not printed its address yet cannot be asked
        raise StreamerError(f"`streamer serve` does not answer after {START_S:g} s")

    def recommend(self, user_id: str) -> int:
        """Request ten items; returns how many came."""
        body = msgspec.json.encode({"userId": user_id, "limit": 10})
        self.connection.request(
            "POST", "/streamer.v1.RecommendationService/Recommend", body, {"Content-Type": "application/json"}
        )
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise StreamerError(f"Recommend answered {answer.status}: {text.decode(errors='replace')}")
        return len(msgspec.json.decode(text).get("items", ()))

    def learned(self) -> float:
        """The number of learned events, from its metrics."""
        self.connection.request("GET", "/metrics")
        return sum(float(count) for count in _LEARNED.findall(self.connection.getresponse().read().decode()))

    def stop(self) -> None:
        """Stop the process with SIGTERM and wait for its end; kill it after 30 s."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._output.close()


@contextmanager
def running(data: Path, *arguments: str) -> Iterator[Running]:
    """A running process, which is stopped at the end of the block."""
    process = Running(data, arguments)
    try:
        yield process
    finally:
        process.connection.close()
        process.stop()


def ask_while_learning(
    data: Path, arguments: Sequence[str], messages: Sequence[Message], rate: float, users: int
) -> Latency:
    """Start a process on `data` that replays `messages` at `rate` events/s, and send requests of random users meanwhile."""
    with tempfile.TemporaryDirectory(prefix="streamer-") as folder:
        file = Path(folder) / "events.jsonl"
        file.write_bytes(b"\n".join(message.value or b"" for message in messages))
        pace = ("--replay", str(file), "--rate", str(rate))
        with running(data, *arguments, *pace) as process:
            random = np.random.default_rng(1)
            took: list[float] = []
            first, began = process.learned(), time.perf_counter()
            while time.perf_counter() - began < len(messages) / rate - 1.0:
                user = f"u{random.integers(users)}"
                asked = time.perf_counter()
                process.recommend(user)
                took.append(1000 * (time.perf_counter() - asked))
            learned = (process.learned() - first) / (time.perf_counter() - began)
    if not took:
        raise StreamerError("the events were learned before the first request: use a larger --seconds")
    p50, p99 = np.percentile(took, [50, 99]).tolist()
    return Latency(len(took), round(p50, 3), round(p99, 3), round(max(took), 3), round(learned, 1))


def start_s(data: Path, arguments: Sequence[str], times: int = 3) -> float:
    """Seconds from the start of a process to its first answer, the median of `times` starts."""
    found = []
    for _ in range(times):
        with running(data, *arguments) as process:
            found.append(process.first_answer_s)
    return sorted(found)[len(found) // 2]


def compile_s() -> float:
    """Seconds that a process takes to compile every kernel into an empty cache."""
    with tempfile.TemporaryDirectory(prefix="streamer-") as folder:
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "streamer.compile"], env={**os.environ, "STREAMER_CACHE": folder}, check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return time.perf_counter() - began
