"""Starts `streamer` by forking a process that has imported it already, which saves a second of CPU for each of some 150 starts.

What starts is a process like any other: with a memory, files and signals of its own, to be killed at any moment. What a start imports
and how the command is found on the path is tested with `process.command`.
"""

import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

STACKS = signal.SIGUSR2  # the process then writes what each of its threads is doing to its output
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["forked_imports"])


class Forked:
    """A running `streamer ...`, with what our tests use of subprocess.Popen."""

    def __init__(self, arguments: list[str], output: Path) -> None:
        """Both outputs go to the file `output`."""
        output.write_bytes(b"")
        self.args = ["streamer", *arguments]
        self._process = _CONTEXT.Process(target=_run, args=(arguments, str(output), str(Path.cwd()), dict(os.environ)))
        path = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, [path])])
        try:
            self._process.start()  # the first one starts the process that is forked, which imports `forked_imports`
        finally:
            del os.environ["PYTHONPATH"]
            if path is not None:
                os.environ["PYTHONPATH"] = path
        self.pid = self._process.pid or 0

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(arguments: list[str], output: str, folder: str, environment: dict[str, str]) -> None:
    from streamer.cli import main

    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file, stream.fileno())
        stream.reconfigure(write_through=True)  # type: ignore[union-attr]  # they are what Python starts with
    os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faulthandler.register(STACKS, all_threads=True)
    main(arguments)
