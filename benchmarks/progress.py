"""How a run says how far it is."""

from collections.abc import Callable

Progress = Callable[[int, int], None]  # gets the number of events done and that of all
SEEN_EVENTS = 2000  # events between two reports of progress


def no_progress(done: int, of: int) -> None:
    """Shows no progress."""
