"""`streamer serve`."""

import logging
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from streamer.cli.bad_events import allow_bad, report_bad_events
from streamer.cli.options import file_options, read_options, settings_of, settings_options
from streamer.core.errors import BadSettings
from streamer.core.garbage_collection import leave_living_objects_alone

if TYPE_CHECKING:  # importing them takes most of a second; a bad argument is refused before that
    from streamer.app import App
    from streamer.serve import Replayer

EVERY_S = 5.0  # between progress lines if the output is not a terminal


@click.command(epilog="Example:  streamer serve --replay path/to/ml-latest-small")
@click.option("--replay", metavar="PATH", help="append this file to the log first: a path as for evaluate")
@click.option("--simulate", is_flag=True, help="append a small simulated world to the log")
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="events a second of the replay (default: as fast as they are learned)",
)
@click.option("--until-drained", is_flag=True, help="stop when the replay is learned and committed")
@click.option(
    "--renormalise-every-events",
    type=click.IntRange(min=1),
    metavar="N",
    help="retrain everything after every N ratings and clicks of the replay",
)
@click.option("--hold", is_flag=True, help="pause the replay at each of these retrainings until the swap")
@allow_bad
@file_options
@settings_options("server", "state", "archive", "learning", "renormalisation", "kafka", "security", "limits")
def serve(
    replay: str | None, simulate: bool, rate: float | None, until_drained: bool, renormalise_every_events: int | None,
    hold: bool, allow_bad: float, **options: Any,
) -> None:  # fmt: skip
    """Learn from events and answer queries, in one process.

    Without --kafka, events come from the embedded log in --data, which `streamer publish` and the Publish RPC append to.
    """
    how, settings = read_options(options), settings_of(options)
    logging.basicConfig(level=logging.WARNING, format="streamer: %(message)s")
    logging.getLogger("kafka").propagate = False  # streamer itself reports what is wrong, once and in a sentence
    if replay and simulate:
        raise click.UsageError("--replay and --simulate are two streams: choose one")
    if (replay or simulate) and settings.kafka.kafka:
        raise BadSettings(
            "--replay appends to the embedded log; with --kafka use `streamer publish PATH --kafka HOST:PORT`"
        )
    if until_drained and not (replay or simulate):
        raise click.UsageError("--until-drained needs --replay or --simulate")
    if renormalise_every_events is not None and not (replay or simulate):
        raise click.UsageError("--renormalise-every-events needs --replay or --simulate")
    if hold and renormalise_every_events is None:
        raise click.UsageError("--hold needs --renormalise-every-events")
    from streamer.api.sockets import listen
    from streamer.consumers.files import check_path, read
    from streamer.models import check_names
    from streamer.storage import generations
    from streamer.storage.rocks import refuse_in_use

    learning = settings.learning
    check_names([learning.rating_learner, learning.click_learner, *learning.shadow])
    if replay:
        check_path(replay)

    listen(settings.server).close()  # a port and a state in use are reported before anything heavy is imported
    data = Path(settings.state.data)
    refuse_in_use([generations.state_folder(data, generations.live(data)), data / "log"])

    from streamer.compile import compile_kernels, learner_names
    from streamer.serve import Replay, run

    compile_kernels(learner_names(settings), compiling(Console(stderr=True)))
    stream = None
    if replay:
        stream = read(Path(replay), learning.seed, how)
        report_bad_events(stream, replay, learning, allow_bad, learned=False)
    elif simulate:
        from streamer.producers.simulate import World

        stream = World(seed=learning.seed).stream()
    leave_living_objects_alone()
    line = ProgressLine()
    try:
        replaying = Replay(stream, rate, until_drained, renormalise_every_events, hold) if stream else None
        run(settings, replaying, line.started, line.update)
    finally:
        line.ended()


def compiling(console: Console) -> Callable[[str], None]:
    """A function that reports the learner whose kernels are being compiled."""
    return lambda name: console.print(f"compiling the kernels of {name}, once on this machine ...", soft_wrap=True)


class ProgressLine:
    """Progress while the streamer learns: one live line on a terminal, a line every few seconds elsewhere."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False)  # a path may look like markup
        self._live: Live | None = None
        self._due = time.monotonic() + EVERY_S
        self._last: tuple[float, int] | None = None
        self._speed = 0.0
        self._shown = Text("")
        self._printed = ""

    def started(self, url: str, app: "App") -> None:
        """Report that the endpoint answers at `url`."""
        events = f"events from Kafka at {app.settings.kafka.kafka}, " if app.settings.kafka.kafka else ""
        where = f"{events}data in {app.settings.state.data}"
        self._console.print(f"streamer answers on {url}  ({where}; stop with Ctrl-C)", soft_wrap=True)
        sys.stdout.flush()
        if self._console.is_terminal:
            self._live = Live(Text(""), console=self._console, refresh_per_second=8)
            self._live.start()

    def update(self, app: "App", replayer: "Replayer | None") -> None:
        """Show the current progress."""
        now, learned = time.monotonic(), _learned(app)
        self._last = self._last or (now, learned)
        if now - self._last[0] >= 1.0:
            self._speed = (learned - self._last[1]) / (now - self._last[0])
            self._last = (now, learned)
        self._shown = _line(app, replayer, learned, self._speed)
        if self._live is not None:
            self._live.update(self._shown)
        elif now >= self._due:
            self._due = now + EVERY_S
            self._print()

    def ended(self) -> None:
        """Stop, and leave the last line on the terminal."""
        if self._live is not None:
            self._live.stop()
        else:
            self._print()

    def _print(self) -> None:
        if self._shown.plain != self._printed:
            self._printed = self._shown.plain
            self._console.print(self._shown, soft_wrap=True)
            sys.stdout.flush()


def _learned(app: "App") -> int:
    return sum(counts["learned"] for counts in app.memory.monitor.events.values())


def _line(app: "App", replayer: "Replayer | None", learned: int, speed: float) -> Text:
    ready, sentence = app.ready()
    if not ready:
        return Text(f"paused: {sentence}", style="yellow")
    words = [f"learned {learned:,} events"]
    if replayer is not None and replayer.done < replayer.total:
        words.append(f"replayed {replayer.done:,} of {replayer.total:,}")
    if app.renormaliser.describe():
        words.append(app.renormaliser.describe())
    if speed >= 1:
        words.append(f"{speed:,.0f} events/s")
    for name, errors in app.memory.monitor.errors.items():
        if not math.isnan(errors.rmse(10_000)):
            words.append(f"{name} RMSE {errors.rmse(10_000):.4f} over the last {min(10_000, errors.ratings):,}")
    if app.memory.monitor.regret.ratings:
        words.append(f"oracle {app.memory.monitor.regret.oracle_rmse(10_000):.4f}")
    dead = sum(app.memory.monitor.dead_letters.values())
    if dead:
        words.append(f"{dead:,} dead letters")
    return Text(" · ".join(words))
