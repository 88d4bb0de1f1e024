"""The serving process: it opens the state, answers and learns, replays a stream into its log on request, and stops without loss."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from streamer.api.security import required_token, tls
from streamer.api.server import serve
from streamer.api.sockets import listen
from streamer.app import App
from streamer.core.errors import BadSettings, StoreUnavailable, StreamerError
from streamer.core.events import CLICKS, LOG, RATINGS, Message
from streamer.core.protocols import Stream
from streamer.core.settings import Settings
from streamer.storage.generations import read_records

CHUNK_EVENTS = 500
AHEAD_EVENTS = 20_000  # the replay waits while more events than this are not yet learned
COUNTED_EVENTS = 10_000  # how many messages of the stream are counted at a time
TICK_S = 0.1


@dataclass(frozen=True)
class Replay:
    """A stream to append to the embedded log, from the row after the last appended one."""

    stream: Stream
    rate: float | None = None  # events a second; None: as fast as they are learned
    until_drained: bool = False  # end the process when everything is learned and committed
    renormalise_every_events: int | None = None  # retrain whenever this many further ratings and clicks are appended
    hold: bool = False  # at each of these cuts, append nothing until the swap


class Replayer(threading.Thread):
    """Appends a stream to the log; each write batch also stores the next row, so a crash neither skips nor repeats a row."""

    def __init__(self, app: App, replay: Replay) -> None:
        super().__init__(name="replay", daemon=True)
        if app.log is None:
            raise BadSettings(
                "--replay writes to the embedded log; with --kafka use `streamer publish PATH --kafka HOST:PORT`"
            )
        self._app, self._log, self._replay = app, app.log, replay
        self.done = self._log.next_replay_row(replay.stream.sha256)
        self._events = 0  # ratings and clicks of the stream that are in the log
        self._cut = 0  # the value of _events at the last cut
        self.total = len(replay.stream)
        self.stop = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Append until the end of the stream or `stop`."""
        try:
            self._begin()
            began, first, rate = time.monotonic(), self.done, self._replay.rate
            while self.done < self.total and not self.stop.is_set():
                chunk = CHUNK_EVENTS if rate is None else max(1, min(CHUNK_EVENTS, int(rate * TICK_S)))
                due_s = 0.0 if rate is None else (self.done - first) / rate - (time.monotonic() - began)
                if self._behind() or due_s > 0:
                    self.stop.wait(max(0.005, min(due_s, TICK_S)))
                    continue
                self._append(self.done + chunk)
                self._renormalise()
        except BaseException as error:
            self.failure = error

    def _begin(self) -> None:
        """Continue where the last run ended: wait for an unfinished retraining, or start the one that was due there."""
        if self._replay.renormalise_every_events is None:
            return
        for first in range(0, self.done, COUNTED_EVENTS):
            self._events += _events(self._replay.stream.messages(first, min(first + COUNTED_EVENTS, self.done)))
        self._wait(lambda: self._app.drained and (self._app.renormaliser.idle or not self._replay.hold))
        if self._log.end in {one.cut.get(f"{LOG.topic}/{LOG.partition}") for one in read_records(self._app.folder)}:
            self._cut = self._events
        self._renormalise()

    def _until_cut(self, messages: list[Message]) -> list[Message]:
        """The `messages` up to the next cut, or all of them."""
        every, left = self._replay.renormalise_every_events, len(messages)
        if every is not None:
            left = every - self._events % every
        for n, message in enumerate(messages):
            left -= message.topic in (RATINGS, CLICKS)
            if left == 0:
                return messages[: n + 1]
        return messages

    def _renormalise(self) -> None:
        every, renormaliser = self._replay.renormalise_every_events, self._app.renormaliser
        if every is None or self._events % every or self._events == self._cut:
            return
        self._cut = self._events
        if self._replay.hold:
            self._wait(lambda: self._app.drained and renormaliser.idle)
        if not self.stop.is_set():
            with suppress(StreamerError):  # a retraining is under way: skip this cut
                renormaliser.renormalise("replay", held=self._replay.hold)
        if self._replay.hold:
            self._wait(lambda: renormaliser.idle)

    def _wait(self, until: Callable[[], bool]) -> None:
        while not (self.stop.is_set() or until()):
            self.stop.wait(0.01)

    def _behind(self) -> bool:
        return sum(n for counts in self._app.lag().values() for n in counts.values()) > AHEAD_EVENTS

    def _append(self, stop: int) -> None:
        messages = self._until_cut(self._replay.stream.messages(self.done, stop))
        try:
            self._log.append(messages, (self._replay.stream.sha256, self.done + len(messages)))
        except StoreUnavailable:  # a full disk: nothing was appended
            self.stop.wait(1.0)
            return
        self.done += len(messages)
        self._events += _events(messages)


def _events(messages: Sequence[Message]) -> int:
    return sum(message.topic in (RATINGS, CLICKS) for message in messages)


Progress = Callable[[App, Replayer | None], None]  # called a few times a second


def run(settings: Settings, replay: Replay | None, started: Callable[[str, App], None], progress: Progress) -> None:
    """Serve until a signal, the end of a drained replay, or a failure, which is raised.

    `started(url, app)` is called once clients can connect, `progress` a few times a second.
    """
    required_token(settings.server, settings.security)
    tls(settings.security)
    sock = listen(settings.server)
    try:
        app = App(settings)
    except BaseException:
        sock.close()
        raise

    async def main() -> bool:
        """Serve; returns whether the whole replay, if there is one, is in the log."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        replayer = Replayer(app, replay) if replay else None
        ready = asyncio.Event()

        def opened(url: str) -> None:
            started(url, app)
            ready.set()

        serving = asyncio.create_task(
            serve(app, settings.server, settings.security, settings.limits, stop, opened, sock)
        )

        def ended(_: asyncio.Task[None]) -> None:  # a server that fails ends the process
            ready.set()
            stop.set()

        serving.add_done_callback(ended)
        await ready.wait()
        if not stop.is_set():
            app.start()
            if replayer is not None:
                replayer.start()
            await _watch(app, replayer, stop, progress, bool(replay and replay.until_drained))
        app.engine.stop.set()
        if replayer is not None and replayer.is_alive():
            replayer.stop.set()
            await asyncio.to_thread(replayer.join)
        stop.set()
        await serving
        if replayer is not None and replayer.failure is not None:
            raise replayer.failure
        return replayer is None or replayer.done >= replayer.total

    try:
        appended = asyncio.run(main())
    finally:
        app.close()
    if app.failure is not None:
        raise app.failure
    if replay is not None and replay.until_drained and not (appended and app.drained):
        raise StreamerError("stopped before everything was learned: start again to continue from there")


async def _watch(app: App, replayer: Replayer | None, stop: asyncio.Event, progress: Progress, drain: bool) -> None:
    while not (stop.is_set() or app.ended):
        progress(app, replayer)
        if replayer is not None and replayer.failure is not None:
            return
        if drain and replayer is not None and not replayer.is_alive() and app.drained:
            return
        try:
            await asyncio.wait_for(stop.wait(), TICK_S)
        except TimeoutError:
            continue
