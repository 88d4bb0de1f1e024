"""The integrity of a data directory: what is missing or damaged, at a glance or by reading everything; repair of its archive.

At a glance, as at each start: small files are read with their checksums, of large ones presence and size are compared with the
lists that name them. RocksDB itself refuses a database of which a table is missing or cut.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from streamer.consumers.kafka_records import KafkaRecords
from streamer.core.errors import BadSettings, BadState, SourceUnavailable, StreamerError
from streamer.core.settings import KafkaSettings
from streamer.recovery import examine as examine_log
from streamer.renormalise import manifest
from streamer.serving.opening import recorded_settings
from streamer.storage import generations
from streamer.storage.archive.archive import Archive
from streamer.storage.archive.manifest import read_manifest
from streamer.storage.archive.repair import Repaired, begin_anew, repair
from streamer.storage.backup import Backup, back_up_closed
from streamer.storage.generations import GenerationRecord
from streamer.storage.kept import KeptLog
from streamer.storage.log import FOLDER as LOG_FOLDER
from streamer.storage.log import EmbeddedLog
from streamer.storage.rocks import in_use, locked
from streamer.storage.state import RocksStore
from streamer.stream.removals import every

LOOK_INTERVAL_S = 60.0
_LOGGER = logging.getLogger("streamer.integrity")


def damaged_generations(folder: Path) -> list[str]:
    """What is missing or damaged of the generations that are kept, at a glance: a sentence for each. Cost: some 1 ms."""
    found = []
    for one in generations.read_records(folder):
        place = generations.generation_folder(folder, one.id)
        try:
            record = generations.read_record(folder, one.id)
            if _has_files(folder, record):
                manifest.look(place)
        except StreamerError as error:
            found.append(str(error))
    return found


class GenerationsWatched:
    """`damaged_generations` for a process that serves: it looks again once a minute, and logs what is new."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._looked_at = folder, -math.inf
        self._found: list[str] = []
        self.damaged()

    def damaged(self) -> Sequence[str]:
        """A sentence for each generation that is missing something or damaged. Safe from any thread."""
        if time.monotonic() >= self._looked_at + LOOK_INTERVAL_S:
            self._looked_at, known = time.monotonic(), self._found
            self._found = damaged_generations(self._folder)
            for sentence in self._found:
                if sentence not in known:
                    _LOGGER.warning("%s", sentence)
        return self._found


def _has_files(folder: Path, record: GenerationRecord) -> bool:
    """Whether a generation is kept and so needs its files, from which its state would be rebuilt."""
    kept = generations.state_folder(folder, record.id).exists() and record.stage not in generations.UNDER_WAY
    return kept and record.id != generations.FIRST


def deep_checks(folder: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    """Names of parts, and functions that read all of one; these return what was found, or raise StreamerError for damage."""
    yield "all of the archive", lambda: _whole_archive(folder)
    for one in generations.read_records(folder):
        if _has_files(folder, one):
            yield f"all files of {one.id}", lambda one=one: _whole_files(folder, one.id)  # type: ignore[misc]
        if generations.state_folder(folder, one.id).exists():
            yield f"all of the state of {one.id}", lambda one=one: _whole_state(folder, one.id)  # type: ignore[misc]
    if (folder / LOG_FOLDER).is_dir():
        yield "all of the log", lambda: examine_log(folder, deep=True)


def _whole_archive(folder: Path) -> str:
    archive = verify_archive(folder)
    archive.refuse_damaged(f"{len(archive.damaged):,} of {len(archive.manifest.files):,} files are damaged")
    return f"{len(archive.manifest.files):,} files with {archive.rows:,} rows are whole"


def _whole_files(folder: Path, generation: str) -> str:
    found, _ = manifest.read(generations.generation_folder(folder, generation))
    return f"{len(found.files):,} files are whole"


def _whole_state(folder: Path, generation: str) -> str:
    store = RocksStore(folder, read_only=True, generation=generation)
    try:
        return f"{store.verify():,} rows were read, with the checksum of every block"
    finally:
        store.close()


def verify_archive(folder: Path) -> Archive:
    """Read all files of the archive; a streamer may run on it. Its `damaged` says which are. Raises BadState."""
    archive = Archive(folder)
    archive.verify(note=False)
    listed = {file.path for file in read_manifest(archive.folder).files}  # others were merged meanwhile
    archive.damaged = {path: what for path, what in archive.damaged.items() if path in listed}
    return archive


def back_up_verified(folder: Path, destination: Path) -> Backup:
    """Back up a data directory that no process has open, unless its archive is damaged; see `back_up_closed`."""
    verify_archive(folder).refuse_damaged("not backed up")
    return back_up_closed(folder, destination)


def repair_archive(folder: Path, kafka: KafkaSettings | None) -> tuple[Archive, list[Repaired]]:
    """Repair the archive, see `streamer.storage.archive.repair`.

    `kafka`: where to find the topics of a state that learns from Kafka; None: they are not asked. Raises BadState, also when a
    streamer runs on it, SourceUnavailable and BadSettings; then the archive's files are as they were.
    """
    if not generations.state_folder(folder, generations.live(folder)).exists():
        raise BadState(
            f"there is no state in {folder}, and events are decoded again with its settings: run `streamer serve` first, which makes one"
        )
    store = RocksStore(folder, read_only=True)
    try:
        meta = store.meta()
        if meta is None:
            raise BadState(f"the state in {folder} is empty: nothing was ever archived")
        settings = recorded_settings(meta)
        learned = store.offsets()
        removals = every(store)
    finally:
        store.close()
    with locked(store.path, in_use(store.path)):
        archive = Archive(folder)
        log = EmbeddedLog(folder, read_only=True) if (folder / LOG_FOLDER).is_dir() else None
        topics = KafkaRecords(kafka) if settings.kafka.kafka and kafka is not None else None
        try:
            if not archive.exists and any(learned.values()) and (log is None or log.begin() > 0):
                return archive, [begin_anew(archive, log)]
            return archive, repair(archive, settings, KeptLog(log) if log is not None else topics, removals)
        except (SourceUnavailable, BadSettings) as error:
            raise type(error)(
                f"{error}; the archive's files are as they were: repair again with --kafka HOST:PORT when it answers, or with "
                "--without-kafka to give up the rows of the damaged files"
            ) from None
        finally:
            for one in (log, topics):
                if one is not None:
                    one.close()
