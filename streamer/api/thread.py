"""The endpoint in a thread of its own, for callers without an event loop: notebooks and tests."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread

from streamer.api.server import serve
from streamer.core.answers import Answers
from streamer.core.settings import LimitSettings, SecuritySettings, ServerSettings

DEFAULT_LIMITS = LimitSettings()


@contextmanager
def serving(
    answers: Answers, server: ServerSettings, security: SecuritySettings, limits: LimitSettings = DEFAULT_LIMITS
) -> Iterator[str]:
    """Serve while the block runs; yields the address. Raises what `serve` raises."""
    began: SimpleQueue[str | None] = SimpleQueue()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:  # cancels leftover tasks, then closes the loop
                runner.run(serve(answers, server, security, limits, stop, began.put))
        except BaseException as error:
            failures.append(error)
        finally:
            began.put(None)

    thread = Thread(target=run, name="endpoint", daemon=True)
    thread.start()
    try:
        address = began.get()
        if address is not None:
            yield address
    finally:
        if thread.is_alive():
            loop.call_soon_threadsafe(stop.set)
        thread.join()
    if failures:
        raise failures[0]
