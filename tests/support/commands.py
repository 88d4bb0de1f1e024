"""Runs `streamer ...` in this process, so that nothing is imported again; its output and exit code are as users see them.

Tests that need a real process, for instance to kill it or to read its pipe, use process.py.
"""

import contextlib
import gc
import io
import logging
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from streamer.cli import main


@dataclass(frozen=True)
class Ended:
    """What a command printed."""

    stdout: str
    stderr: str


def run(*arguments: str | Path, code: int = 0, cwd: Path | None = None) -> str:
    """Run to the end and check the exit code; return stdout, followed by stderr if `code` is not 0."""
    ended = invoke(*arguments, code=code, cwd=cwd)
    return ended.stdout + (ended.stderr if code else "")


def invoke(*arguments: str | Path, code: int = 0, cwd: Path | None = None) -> Ended:
    """Run to the end and check the exit code; return both outputs."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    found: object = 0
    with (
        _process_restored(),
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as over:
            found = over.code or 0
    ended = Ended(*(stream.buffer.getvalue().decode() for stream in (out, err)))  # type: ignore[attr-defined]  # a BytesIO
    assert found == code, f"{arguments} ended with {found}: {ended.stdout}{ended.stderr}"
    return ended


@contextlib.contextmanager
def _process_restored() -> Iterator[None]:
    """Undo at the end what a command changes in its process: log handlers, garbage collection and signal handlers."""
    handlers, thresholds = list(logging.root.handlers), gc.get_threshold()
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    kafka = logging.getLogger("kafka")
    propagate = kafka.propagate
    try:
        yield
    finally:
        logging.root.handlers[:] = handlers
        kafka.propagate = propagate
        gc.set_threshold(*thresholds)
        gc.unfreeze()
        for number, before in signals.items():
            signal.signal(number, before)
