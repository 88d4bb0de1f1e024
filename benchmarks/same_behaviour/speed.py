"""CPU seconds of both commits, measured by turns in one run, so that other work of the machine slows both equally."""

import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

from benchmarks.same_behaviour.asked import RECOMMEND
from benchmarks.same_behaviour.checkout import Checkout, Serving

ROUNDS, QUERIES, USERS = 5, 1_000, 600


@dataclass
class Measured:
    """One measurement of both sides, round by round."""

    what: str
    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)

    def row(self) -> tuple[str, str, str, str]:
        """The row of the table: medians, and the ratio with its lowest and highest round."""
        ratios = [after / before for before, after in zip(self.before, self.after, strict=True)]
        before, after = (f"{statistics.median(taken):.4g}" for taken in (self.before, self.after))
        return self.what, before, after, f"{statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]"


def evaluated(before: Checkout, after: Checkout, path: str) -> Iterator[Measured]:
    """Time `streamer evaluate PATH --no-ranking`, in a new process each time."""
    cpu, speed = (
        Measured("evaluate: CPU seconds of the process"),
        Measured("evaluate: events a second of CPU, as it reports"),
    )
    for turn in range(ROUNDS + 1):  # the first one warms up
        for n, side in enumerate((before, after)):
            ended = side.run("evaluate", path, "--no-ranking", "--json")
            if turn:
                (cpu.after if n else cpu.before).append(ended.cpu_s)
                (speed.after if n else speed.before).append(_events_per_second(ended.out))
    yield from (cpu, speed)


def _events_per_second(output: str) -> float:
    return float(output.split('"events_per_second":')[1].split(",")[0])


def answered(before: Checkout, after: Checkout) -> Iterator[Measured]:
    """Time `Recommend` over one connection, with servers that have learned MovieLens; the other server is idle meanwhile."""
    cpu = Measured(f"Recommend: CPU seconds of the server for {QUERIES:,} calls")
    with ExitStack() as stack:
        servers = [stack.enter_context(side.serving("movielens")) for side in (before, after)]
        for turn in range(ROUNDS + 1):
            for n, serving in enumerate(servers):
                taken = _asked(serving)
                if turn:
                    (cpu.after if n else cpu.before).append(taken)
    yield cpu


def _asked(serving: Serving) -> float:
    began = serving.cpu_s()
    for n in range(QUERIES):
        serving.ask(RECOMMEND, {"userId": str(1 + n % USERS)})
    return serving.cpu_s() - began
