"""Maintenance of a running streamer's files: backups and the forgetting of users, one at a time."""

import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from streamer.core.answers import BackupMade, ReceiptShown
from streamer.core.protocols import Sink
from streamer.privacy.forgetting import Forgetting
from streamer.storage.archive.archiver import Archiver
from streamer.storage.backup import back_up
from streamer.storage.log import EmbeddedLog
from streamer.stream.engine import Engine
from streamer.stream.memory import Memory


class Maintenance:
    """Call `start` when the engine starts, and `close` when the engine has ended."""

    def __init__(
        self, folder: Path, engine: Engine, log: EmbeddedLog | None, archiver: Archiver | None, sink: Sink
    ) -> None:
        """`folder` is the data directory."""
        self._folder, self._engine, self._log, self._archiver, self._sink = folder, engine, log, archiver, sink
        self._lock = threading.Lock()
        self._forgetting = Forgetting(folder, self._memories, log, archiver, engine.run_between_steps, self._lock)
        self.start, self.close = self._forgetting.start, self._forgetting.close
        self.committed = self._forgetting.committed

    def _memories(self) -> list[Memory]:
        """The memory of the live generation, then that of the one in the shadow, if there is one."""
        shadow = self._engine.shadow
        return [self._engine.memory, *([shadow] if shadow is not None else [])]

    def backup(self, directory: str) -> BackupMade:
        """See Answers."""
        with self._lock, self._log.trimming_paused() if self._log else nullcontext():
            opened = {
                memory.store.path.relative_to(self._folder).as_posix(): memory.store.checkpoint
                for memory in self._memories()
            }
            if self._archiver is not None:
                opened["archive"] = self._archiver.checkpoint
            if self._log is not None:  # last, so that it has every record that the others have applied
                opened["log"] = self._log.checkpoint
            return back_up(self._folder, Path(directory), opened).to_answer(directory)

    def forget(self, user_id: str) -> Sequence[ReceiptShown]:
        """See Answers."""
        return self._forgetting.forget(user_id, self._sink.publish)

    def receipt(self, number: int) -> ReceiptShown:
        """See Answers."""
        return self._forgetting.receipt(number)
