"""A progress bar on a terminal, shown after two seconds; no output elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SHOWN_AFTER_S = 2.0


@contextmanager
def bar(console: Console, what: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """Yields a function `advance(done, total)` that updates the bar."""
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    shown = Progress(*columns, console=console, transient=True)
    task = shown.add_task(what, total=total, speed="")
    began, running = time.monotonic(), False

    def advance(done: int, of: int) -> None:
        nonlocal running
        took_s = time.monotonic() - began
        if not running and took_s > SHOWN_AFTER_S and console.is_terminal:
            running = True
            shown.start()
        if running:
            shown.update(task, completed=done, total=of, speed=f"{done / took_s:,.0f}/s")

    try:
        yield advance
    finally:
        if running:
            shown.stop()
