"""The speed of the default beside River's: each measured in a process of its own, by turns, medians of the rounds.

evaluate     the defaults through `streamer evaluate`: file, decoding, all learners that serve, committed storage
ratings      the same with the default for ratings and popularity alone: River's model learns nothing of clicks
kernel       the default's kernel alone, in memory, with all of its categories
kernel-20    the same with 20 categories
river-*      River's BiasedMF predicting and learning in memory, with its defaults and with the settings found best
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks.contest import in_memory, run_peer
from benchmarks.stream import read
from streamer.core.settings import Settings
from streamer.models import learner
from streamer.serving.recommend import POPULARITY
from streamer.stream.learners import Learners
from streamer.study.evaluate import Evaluation

ROUNDS = 5
RIVER = ("river-default", "river-tuned")


class Speed(msgspec.Struct, frozen=True):
    """Events a CPU second, each the median of the rounds, and what they come to."""

    learner: str
    rounds: dict[str, list[float]]
    medians: dict[str, float]
    over_river: dict[str, float]  # median of each round's own ratios, as a busy neighbour slows all of a round


def _evaluated(path: Path, *options: str) -> float:
    command = [sys.executable, "-m", "streamer", "evaluate", str(path), "--no-ranking", "--json", *options]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return msgspec.json.decode(printed, type=Evaluation).events_per_second or 0.0


def _alone(path: Path, settings: Settings, categories: int | None = None) -> float:
    name, seed = settings.learning.rating_learner, settings.learning.seed
    made = learner(name, seed=seed)
    if categories is not None:
        learning = msgspec.structs.replace(settings.learning, category_attributes={})
        settings = msgspec.structs.replace(settings, learning=learning)
        parameters = msgspec.structs.replace(made.parameters, categories=categories)
        made = type(made)(name, parameters, seed=seed)  # type: ignore[call-arg]  # as models.learner makes it
    return in_memory(Learners([made], {"ratings": name}), name, path, settings)


def _river(variant: str) -> Callable[[Path, Settings], float]:
    def measured(path: Path, settings: Settings) -> float:
        seed = settings.learning.seed
        return run_peer("river-biased-mf", variant, read(path, settings), seed).events_per_second or 0.0

    return measured


MEASURED: dict[str, Callable[[Path, Settings], float]] = {
    "evaluate": lambda path, settings: _evaluated(path),
    "river-default": _river("default"),
    "ratings": lambda path, settings: _evaluated(path, "--click-learner", POPULARITY),
    "kernel": _alone,
    "river-tuned": _river("tuned"),
    "kernel-20": lambda path, settings: _alone(path, settings, 20),
}


def by_turns(path: Path, rounds: int, on_progress: Callable[[str], None]) -> Speed:
    """Every one of `MEASURED` in a process of its own, `rounds` times by turns. River counts with the faster of its two."""
    found: dict[str, list[float]] = {name: [] for name in MEASURED}
    for n in range(rounds):
        for name in MEASURED:
            on_progress(f"speed, round {n + 1} of {rounds}: {name}")
            command = [sys.executable, "-m", "benchmarks.run", str(path), "--speed", name]
            found[name].append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    return compared(Settings().learning.rating_learner, found)


def compared(learner_name: str, rounds: dict[str, list[float]]) -> Speed:
    """What the rounds come to."""
    river = [max(pair) for pair in zip(*(rounds[name] for name in RIVER), strict=True)]
    medians = {name: statistics.median(values) for name, values in rounds.items()}
    ratios = {
        name: statistics.median(value / peer for value, peer in zip(values, river, strict=True))
        for name, values in rounds.items()
    }
    return Speed(learner_name, rounds, medians, ratios)
