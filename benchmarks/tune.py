"""Searches each peer's best settings on a stream, with the same number of trials for all.

    python -m benchmarks.tune PATH [--peer NAME] [--trials 48] [--events N]

A search starts with the library's defaults, goes on with random settings from the peer's `space` up to a quarter of the trials, and
then moves from the best so far to a neighbouring value of one setting. The measure is RMSE, or hit rate @10, over the whole stream or its
first N events: peers are tuned on the data that they are then measured on, unlike our learners. Writes every trial to
results/tuning-NAME.json, from where the benchmark of this stream takes the best; on other streams it takes `tuned` in the peer's
file, which is copied by hand from the search on ml-latest-small.
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from benchmarks.contest import Outcome, run_settings
from benchmarks.peers import PEERS, missing, peer
from benchmarks.report import RESULTS
from benchmarks.stream import Events, read, stream_name
from streamer.core.settings import load

TRIALS = 48


class Trial(msgspec.Struct, frozen=True):
    """One run of the search; a lower `loss` is better."""

    settings: dict[str, Any]
    loss: float


def loss(outcome: Outcome) -> float:
    """RMSE, or 1 - HR@10; infinite if any rating has no prediction."""
    if outcome.ratings:
        return outcome.ratings.rmse if not outcome.ratings.unpredicted else float("inf")
    return 1.0 - outcome.clicks.hit_rate_10 if outcome.clicks else float("inf")


def search(name: str, events: Events, trials: int, seed: int) -> Iterator[Trial]:
    """The trials of a peer in order; the same ones in every run."""
    found, draw = peer(name), random.Random(seed)
    tried: dict[str, float] = {}
    best: tuple[float, dict[str, Any]] = (float("inf"), {})
    while len(tried) < trials:
        near = [other for other in _neighbours(found, best[1]) if repr(found.Settings(**other)) not in tried]
        if not tried:
            chosen = {}
        elif len(tried) < trials // 4 or not near:
            chosen = {setting: draw.choice(values) for setting, values in found.space.items()}
        else:
            chosen = draw.choice(near)
        settings = found.Settings(**chosen)
        key = repr(settings)
        if key not in tried:
            tried[key] = loss(run_settings(name, "trial", settings, events, seed))
            best = min(best, (tried[key], msgspec.to_builtins(settings)), key=lambda pair: pair[0])
            yield Trial(msgspec.to_builtins(settings), tried[key])


def _neighbours(found: Any, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """`settings` with one of them moved a step up or down."""
    chosen = []
    for setting, values in found.space.items():
        at = values.index(settings[setting]) if settings.get(setting) in values else 0
        chosen += [{**settings, setting: values[k]} for k in (at - 1, at + 1) if 0 <= k < len(values)]
    return chosen


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("path", type=Path, metavar="PATH")
    parser.add_argument("--peer", choices=PEERS, action="append", help="only these")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--events", type=int, help="only the first so many events of the stream; default: all")
    asked = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    settings, console = load({}, environ={}), Console(soft_wrap=True)
    events, file = read(asked.path, settings), RESULTS / f"tuning-{stream_name(asked.path)}.json"
    events = events.first(asked.events or len(events))
    written: dict[str, Any] = msgspec.json.decode(file.read_bytes()) if file.exists() else {}
    for name in asked.peer or PEERS:
        if missing(name):
            console.print(f"{name}: {missing(name)}")
            continue
        trials = []
        for trial in search(name, events, asked.trials, settings.learning.seed):
            trials.append(trial)
            console.print(f"{name} {len(trials)}: {trial.loss:.4f} {trial.settings}", highlight=False)
        best = min(trials, key=lambda trial: trial.loss)
        console.print(f"{name}: best {best.loss:.4f} {best.settings}", style="bold", highlight=False)
        written[name] = {"best": best, "trials": trials, "events": len(events)}
        file.write_bytes(msgspec.json.format(msgspec.json.encode(written), indent=1) + b"\n")


if __name__ == "__main__":
    main()
