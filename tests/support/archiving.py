"""Archives of a few events, and what another tool reads in their files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq
from learning import settings

from streamer.core.events import LOG, Event, Message, Offsets, Record, TopicPartition, message
from streamer.storage.archive.archive import Archive
from streamer.storage.archive.rows import Rows

DAY_MS = 86_400_000
AT_MS = 1_700_006_400_000  # 2023-11-15, at midnight
LEARNING = settings().learning


def logged(events: Sequence[Event | bytes], start: int = 0, at_ms: int = AT_MS) -> list[Record]:
    """The records as the embedded log has them, all appended on one day."""
    made = []
    for n, event in enumerate(events, start):
        sent = Message("ratings", b"u", event) if isinstance(event, bytes) else message(event)
        made.append(Record(sent.topic, -1, n, at_ms + n, sent.key, sent.value))
    return made


def archived(folder: Path, records: Sequence[Record], *, cut: int = 10**9, **flags: Any) -> Archive:
    """Archive `records` in commits of `cut` records each, continuing where the archive ends."""
    archive = Archive(folder)
    archive.open()
    rows = Rows(settings(**flags))
    rows.remember(archive.newest_event_ids(settings(**flags).state.dedupe_events))
    for start in range(0, len(records), cut):
        part = records[start : start + cut]
        rows.add(part)
        archive.commit(rows.by_topic(), ends(part), rows.forgotten)
        rows.clear()
    return archive


def ends(records: Sequence[Record]) -> Offsets:
    """The next offset of each sequence after `records`."""
    found: dict[TopicPartition, int] = {}
    for record in records:
        at = LOG if record.partition < 0 else TopicPartition(record.topic, record.partition)
        found[at] = record.offset + 1
    return found


def table(folder: Path) -> list[dict[str, Any]]:
    """What another tool reads: all files below the folder, by plain pyarrow."""
    found = ds.dataset(folder / "archive", format="parquet", partitioning="hive").to_table().to_pylist()
    return sorted(found, key=lambda row: (row["topic"], row["partition"], row["offset"]))


def holds(folder: Path, text: bytes) -> list[Path]:
    """Files that contain these bytes, in the file itself or in a decoded column."""
    found = []
    for path in (folder / "archive").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if path.suffix == ".parquet":
                content += str(pq.ParquetFile(path).read().to_pydict()).encode()
            found += [path] if text in content else []
    return found
