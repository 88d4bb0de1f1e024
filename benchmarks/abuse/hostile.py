"""Hostile clients as processes of their own."""

import asyncio
import logging
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection

from benchmarks.abuse.attacks import attack, rounds

CONNECTIONS = 30  # connections with a zero window of each client
NICE = 19


def attacker(port: int, source: str, tls: bool, only: Sequence[str], results: Connection) -> None:
    """One hostile client, until SIGTERM; sends what it saw."""
    os.nice(NICE)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of writing to a closed connection
    seen: Counter[str] = Counter()

    async def main() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        names = [name for name in rounds(CONNECTIONS) if not only or name in only]
        tasks = [asyncio.create_task(attack(name, port, source, tls, seen)) for name in names]
        await stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    asyncio.run(main())
    results.send(seen)


@contextmanager
def abuse(port: int, sources: Sequence[str], tls: bool, only: Sequence[str], seen: Counter[str]) -> Iterator[None]:
    """Hostile clients while the block runs; what they saw is added to `seen`."""
    spawn = multiprocessing.get_context("spawn")
    running = []
    for source in sources:
        mine, theirs = spawn.Pipe(duplex=False)
        process = spawn.Process(target=attacker, args=(port, source, tls, only, theirs), daemon=True)
        process.start()
        running.append((process, mine))
    try:
        yield
    finally:
        for process, _ in running:
            process.terminate()
        for process, mine in running:
            with suppress(EOFError):  # it failed, and has said so
                if mine.poll(20):
                    seen.update(mine.recv())
            process.join(5)
            process.kill()
