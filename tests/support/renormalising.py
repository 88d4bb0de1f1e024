"""For tests that retrain a running streamer: load on it, and waiting for a generation to reach a stage."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from process import Streamer, streamer

from streamer.producers.client import Client

DEADLINE_S = 120.0


PACE_S = 0.1  # between two calls, so that a busy machine has time left for training, which has a low priority


class Load(threading.Thread):
    """Repeats a call until it is stopped; an exception fails the test."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._act, self._over = act, threading.Event()
        self.times, self.failure = 0, None  # type: int, BaseException | None

    def run(self) -> None:
        try:
            while not self._over.wait(PACE_S):
                self._act()
                self.times += 1
        except BaseException as error:
            self.failure = error

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure

    def end(self) -> None:
        self._over.set()
        self.join(DEADLINE_S)
        self.check()


def external(data: Path, *arguments: str | Path) -> AbstractContextManager[Streamer]:
    """A streamer with an external renormaliser: the test does the training."""
    return streamer(data, "--renormaliser", "external", "--gate-min-events", "400", "--watch-events", "0", *arguments)


def wait(until: Callable[[], bool], what: str, loads: Sequence[Load] = ()) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not until():
        for load in loads:
            load.check()
        assert time.monotonic() < deadline, what
        threading.Event().wait(0.05)


def stage(client: Client, generation: str) -> str:
    return next((one.stage for one in client.generations().generations if one.id == generation), "")


def answers(client: Client, generation: str, loads: Sequence[Load] = ()) -> None:
    """Wait until a generation is live."""

    def there() -> bool:
        return any(one.live and one.id == generation for one in client.generations().generations)

    wait(there, f"{generation} does not go live: {client.generations()}", loads)


def renormalised(client: Client, generation: str, loads: Sequence[Load] = ()) -> None:
    """Train a generation and make it live, whatever the gate says."""
    client.renormalise()
    over = ("gate", "failed", "rejected")
    wait(lambda: stage(client, generation) in over, f"{generation} does not reach the gate", loads)
    assert stage(client, generation) == "gate", client.generations()
    client.promote_generation(generation)
    answers(client, generation, loads)


def drained(client: Client, end: int) -> None:
    """Wait until all records of the log before offset `end` are learned."""
    wait(lambda: any(one.next == end for one in client.status().offsets), f"the log is never learned up to {end}")


def learned(client: Client) -> int:
    return sum(one.count for one in client.status().events if one.outcome == "learned")
