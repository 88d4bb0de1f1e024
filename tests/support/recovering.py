"""A log in a data directory that is damaged, recovered, and learned: what tests of `streamer recover` share."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commands import run
from learning import events, records, settings

from streamer.core.events import BLANK, LOG, Message, Record
from streamer.core.settings import SERVED_RECORDS
from streamer.serving.opening import learners
from streamer.storage import wal
from streamer.storage.log import EmbeddedLog, LogSource
from streamer.storage.state import RocksStore
from streamer.stream.engine import Engine, NullObserver
from streamer.stream.memory import Memory

RECORDS = records(events(380))[:400]
A_WRITE = 10
WAL = "*.log"


def learn_log(folder: Path) -> None:
    """Learn what the log has and the state has not."""
    chosen, store, log = settings(), RocksStore(folder), EmbeddedLog(folder)
    try:
        memory = Memory(learners(chosen), chosen, store)
        source = LogSource(log)
        source.seek(memory.ledger.offsets)
        engine = Engine(source, memory, NullObserver(), max_records=SERVED_RECORDS, commit_interval_s=3600.0)
        while engine.step(0.0):
            pass
        engine.commit()
    finally:
        store.close()
        log.close()


def publish(log: EmbeddedLog, some: Sequence[Record]) -> None:
    for start in range(0, len(some), A_WRITE):
        part = some[start : start + A_WRITE]
        log.publish([Message(one.topic, one.key, one.value, one.timestamp_ms) for one in part])


def flip(file: Path) -> None:
    """One bit of the write that begins with offset 300."""
    content = bytearray(file.read_bytes())
    content[list(wal.batches(bytes(content)))[9].end + 100] ^= 1
    file.write_bytes(content)


def zeros(file: Path) -> None:
    """4 KiB in the middle."""
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        opened.write(bytes(4096))


def cut(file: Path) -> None:
    """Behind the write that ends with offset 299, and a little more."""
    os.truncate(file, list(wal.batches(file.read_bytes()))[9].end + 20)


def flip_a_block(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 4] ^= 1
    file.write_bytes(content)


def flip_the_end(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)


def delete(file: Path) -> None:
    file.unlink()


def empty(file: Path) -> None:
    shutil.rmtree(file)


def recovered(data: Path, *more: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(run("recover", "--data", data, "--json", *more))
    report: dict[str, Any] = answer["report"]
    return report


def spanned(spans: Sequence[Sequence[int]]) -> list[int]:
    return [n for first, last in spans for n in range(first, last + 1)]


def report_removals(report: dict[str, Any]) -> list[int]:
    """Offsets of removals, if the state gave some back."""
    return [one.offset for one in RECORDS if one.topic == "users" and one.value is None] if report["from_state"] else []


def counts(some: Sequence[Record], offset: int) -> bool:
    """Whether a record is archived at the end: a valid event, not a duplicate, of a user that nobody removed later."""
    one = some[offset]
    removed = {r.key for r in some if r.topic == "users" and r.value is None and r.offset >= offset}
    return (
        one.topic != "users"
        and b"NaN" not in (one.value or b"")
        and b"event_id" not in (one.value or b"")
        and one.key not in removed
    )


def blank(one: Record) -> Record:
    return Record(BLANK, -1, one.offset, one.timestamp_ms, None, None)


def read(log: EmbeddedLog) -> list[Record]:
    source = LogSource(log)
    source.seek({LOG: log.begin()})
    return list(source.poll(10_000, 0.0))
