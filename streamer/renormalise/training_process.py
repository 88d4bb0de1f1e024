"""The training process as the serving process handles it: start it, read its progress, end it.

The two communicate by files only, so the training may run elsewhere: `streamer renormalise --follow` in a container of its
own trains every cut that it finds.
"""

import logging
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from streamer.core.errors import StreamerError
from streamer.storage import generations
from streamer.storage.generations import PROGRESS, Progress

TRIES = 3  # how often a training is tried when its process is killed, by a user or for lack of memory
_LOG = logging.getLogger("streamer.training_process")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class TrainingProcess:
    """Trains one generation."""

    def __init__(self, folder: Path, generation: str, *, external: bool) -> None:
        """Starts the process, unless an `external` one does the training."""
        self._folder, self._generation = folder, generation
        self._progress_file = generations.generation_folder(folder, generation) / PROGRESS
        self.progress = Progress()
        self._process: subprocess.Popen[bytes] | None = None
        self._left = 0 if external else TRIES
        if not external:
            self._start()

    def _start(self) -> None:
        self._left -= 1
        self._progress_file.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "streamer", "renormalise"),
                *("--data", str(self._folder), "--generation", self._generation),
            ],
            env={**os.environ, **ONE_THREAD, "OMP_WAIT_POLICY": "PASSIVE"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def done(self) -> bool:
        """Whether the training is done; raises StreamerError with the process's message when it failed.

        A process that was killed is started again, TRIES times in all.
        """
        # Checked before the progress is read: the process may write its last progress just before it ends
        ended = self._process is not None and self._process.poll() is not None
        with suppress(OSError, msgspec.DecodeError):
            self.progress = msgspec.json.decode(self._progress_file.read_bytes(), type=Progress)
        if self.progress.failed:
            raise StreamerError(self.progress.failed)
        if ended and not self.progress.done:
            code = self._process.returncode if self._process else 0
            if code >= 0:
                raise StreamerError(f"the process that trains ended with code {code} without a message: see the log")
            if not self._left:
                raise StreamerError(
                    f"the process that trains was killed {TRIES} times, the last time by signal {-code}"
                )
            _LOG.warning("the process that trains was killed by signal %d: it is started again", -code)
            self._start()
        return self.progress.done

    def close(self) -> None:
        """End the process; the files it has written stay. Safe to call twice."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
