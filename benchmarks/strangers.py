"""What users who come once cost: memory and CPU time, compared with a stream in which few users come back again and again.

Both streams have the same items in the same order of frequency and as many clicks, and differ in who clicks: a new user each
time, or one of `REGULARS` users. Each is learned in a process of its own with the defaults and one commit a second, in turns; the
events are made on the way, and the time for that is left out. `--ttl-days` forgets users, `--clicks-a-day` says how fast the clock runs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from streamer.core.events import Record
from streamer.core.settings import load
from streamer.serving.opening import learners
from streamer.storage.state import RocksStore
from streamer.stream.memory import Memory

REGULARS, ITEMS, BATCH = 2_000, 3_000, 2_000
START_MS, DAY_MS = 1_600_000_000_000, 86_400_000
MARKS = 10  # parts of the stream for which figures are given


class Mark(msgspec.Struct, frozen=True):
    """What was measured up to here; CPU time is that of the part before."""

    events: int
    resident_mb: float
    cpu_us: float  # an event
    users: int  # not forgotten
    disk_mb: float


def clicks(first: int, count: int, users: int, clicks_a_day: int, random: np.random.Generator) -> list[Record]:
    """Clicks number `first` and the `count` - 1 after it, each by another user, or by one of `users` if that is above 0."""
    share = 1.0 / (10.0 + np.arange(ITEMS))
    items = np.searchsorted(np.cumsum(share / share.sum()), random.random(count)).clip(max=ITEMS - 1).tolist()
    who = (random.integers(users, size=count) if users else np.arange(first, first + count)).tolist()
    records = []
    for offset, user, item in zip(range(first, first + count), who, items, strict=True):
        at_ms = START_MS + offset * DAY_MS // clicks_a_day
        value = b'{"user_id":"s%08x","item_id":"i%d","kind":"click","timestamp_ms":%d}'
        records.append(Record("clicks", -1, offset, at_ms, None, value % (user * 2654435761 % 2**32, item, at_ms)))
    return records


def learn(events: int, users: int, clicks_a_day: int, flags: dict[str, str]) -> list[Mark]:
    """Learn a stream in this process."""
    settings, random, marks = load(flags, {}, None), np.random.default_rng(1), []
    with tempfile.TemporaryDirectory(prefix="streamer-") as folder:
        store = RocksStore(Path(folder))
        memory = Memory(learners(settings), settings, store)
        for part in range(MARKS):
            due, cpu_s, cut = time.monotonic() + 1.0, 0.0, events * part // MARKS
            while cut < events * (part + 1) // MARKS:
                records = clicks(cut, min(BATCH, events * (part + 1) // MARKS - cut), users, clicks_a_day, random)
                cut += len(records)
                began = time.process_time()
                for _ in memory.learn(records, memory.commit):
                    pass
                if time.monotonic() >= due:
                    memory.commit()
                    due = time.monotonic() + 1.0
                cpu_s += time.process_time() - began
            began = time.process_time()
            memory.commit()
            cpu_us = 1e6 * (cpu_s + time.process_time() - began) / (events // MARKS)
            marks.append(Mark(cut, resident_mb(), cpu_us, memory.users.count, store.size_bytes / 1e6))
            print(f"{marks[-1]}", file=sys.stderr, flush=True)
        store.close()
    return marks


def resident_mb() -> float:
    """Memory of this process that is in use now."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both streams, and print a table; with `--users`, one of them in this process, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clicks", type=int, default=2_000_000)
    parser.add_argument("--clicks-a-day", type=int, default=200_000)
    parser.add_argument("--ttl-days", type=float)
    parser.add_argument("--users", type=int, help="measure one stream: 0: each user clicks once")
    given = parser.parse_args(arguments)
    if given.users is not None:
        flags = {"user_ttl_days": str(given.ttl_days)} if given.ttl_days else {}
        print(msgspec.json.encode(learn(given.clicks, given.users, given.clicks_a_day, flags)).decode())
        return
    print("| users | resident at a tenth | resident at the end | CPU an event | on disk |\n|---|---|---|---|---|")
    for users in (0, REGULARS):
        command = [sys.executable, "-m", "benchmarks.strangers", "--users", str(users)]
        for name, value in vars(given).items():
            if value is not None and name != "users":
                command += [f"--{name.replace('_', '-')}", str(value)]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        cpu_us = sum(mark["cpu_us"] for mark in found[1:]) / (MARKS - 1)  # kernels are loaded in the first part
        who = f"{users:,}" if users else "one a click"
        first, last = found[0], found[-1]
        print(
            f"| {who} | {first['resident_mb']:.0f} MB | {last['resident_mb']:.0f} MB | {cpu_us:.1f} us | {last['disk_mb']:.0f} MB |"
        )


if __name__ == "__main__":
    main()
