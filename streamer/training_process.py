"""The process that trains, seen from the one that serves: started, listened to, ended. It talks in files only.

So it may as well be somebody else's: `streamer renormalise --follow` in a container of its own takes up whatever cut it finds.
"""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from streamer import generations
from streamer.errors import StreamerError
from streamer.generations import PROGRESS, Progress

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class TrainingProcess:
    """Trains one generation."""

    def __init__(self, folder: Path, generation: str, *, external: bool) -> None:
        """Start it, unless it is `external`."""
        self._where = generations.place(folder, generation)
        self.progress = Progress()
        self._process: subprocess.Popen[bytes] | None = None
        if not external:
            (self._where / PROGRESS).unlink(missing_ok=True)
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "streamer", "renormalise"),
                    *("--data", str(folder), "--generation", generation),
                ],
                env={**os.environ, **_ONE_THREAD, "OMP_WAIT_POLICY": "PASSIVE"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def done(self) -> bool:
        """Whether it is; raises StreamerError with what it said when it failed."""
        ended = self._process is not None and self._process.poll() is not None  # before its last words are read
        with suppress(OSError, msgspec.DecodeError):
            self.progress = msgspec.json.decode((self._where / PROGRESS).read_bytes(), type=Progress)
        if self.progress.failed:
            raise StreamerError(self.progress.failed)
        if ended and not self.progress.done:
            code = self._process.returncode if self._process else 0
            raise StreamerError(f"the process that trains ended with code {code} and said nothing")
        return self.progress.done

    def close(self) -> None:
        """End it; what it has written stays. Safe to call twice."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
