"""The integrity of a data directory: verifying and repairing its archive, also before a backup."""

from pathlib import Path

from streamer.core.errors import BadState
from streamer.serving.opening import recorded_settings
from streamer.storage.archive.archive import Archive
from streamer.storage.archive.manifest import read_manifest
from streamer.storage.archive.repair import Repaired, repair
from streamer.storage.backup import Backup, back_up_closed
from streamer.storage.log import EmbeddedLog
from streamer.storage.rocks import in_use, locked
from streamer.storage.state import RocksStore
from streamer.stream.removals import unfinished


def verify_archive(folder: Path) -> Archive:
    """Read all files of the archive; a streamer may run on it. Its `damaged` says which are. Raises BadState."""
    archive = Archive(folder)
    archive.verify(note=False)
    listed = {file.path for file in read_manifest(archive.folder).files}  # others were merged meanwhile
    archive.damaged = {path: what for path, what in archive.damaged.items() if path in listed}
    return archive


def back_up_verified(folder: Path, destination: Path) -> Backup:
    """Back up a data directory that no process has open, unless its archive is damaged; see `back_up_closed`."""
    verify_archive(folder).refuse_damaged("it is not backed up")
    return back_up_closed(folder, destination)


def repair_archive(folder: Path) -> tuple[Archive, list[Repaired]]:
    """Repair the archive, see `streamer.storage.archive.repair`. Raises BadState, also when a streamer runs on it."""
    store = RocksStore(folder, read_only=True)
    try:
        meta = store.meta()
        if meta is None:
            raise BadState(f"the state in {folder} is empty: nothing was ever archived")
        settings = recorded_settings(meta)
        removed = {removal.user_id: removal.offset for removal in unfinished(store) if removal.user_id}
    finally:
        store.close()
    with locked(store.path, in_use(store.path)):
        archive = Archive(folder)
        log = EmbeddedLog(folder, read_only=True) if (folder / "log").is_dir() else None
        try:
            return archive, repair(archive, settings, log, removed)
        finally:
            if log is not None:
                log.close()
