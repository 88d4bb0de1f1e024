"""The result of a run of the benchmarks, and where it is stored."""

from pathlib import Path

import msgspec

from benchmarks.contest import Outcome
from benchmarks.speed import Speed

RESULTS = Path(__file__).parent / "results"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """benchmarks/results/NAME.json, and clicks-NAME.json for the learners of clicks: all figures behind the tables and plots."""

    stream: str
    events: int
    ratings: int
    clicks: int
    users: int
    items: int
    machine: str
    versions: dict[str, str | None]  # None: not installed
    minutes: float
    defaults: list[str]  # the default learners of `streamer`, for ratings and for clicks
    outcomes: list[Outcome]
    speed: Speed | None = None  # None for learners of clicks

    @property
    def oracle_rmse(self) -> float | None:
        """In a simulated world, the least possible RMSE."""
        return next((o.oracle_rmse for o in self.outcomes if o.oracle_rmse), None)
