"""The speed of the default learner compared with River's. Each measurement has a process of its own; they take turns, in several rounds.

evaluate     the defaults through `streamer evaluate`: file, decoding, all learners of a service, committed storage
ratings      the same with the default for ratings and popularity alone, as River's model learns no clicks
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
    """Events per CPU second in each round, their medians, and the ratios to River."""

    learner: str
    rounds: dict[str, list[float]]
    medians: dict[str, float]
    over_river: dict[str, float]  # the median of the ratios of each round, as other load slows a whole round


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
    """Measure each of `MEASURED` in a process of its own, `rounds` times in turns. The faster of River's two variants counts."""
    found: dict[str, list[float]] = {name: [] for name in MEASURED}
    for n in range(rounds):
        for name in MEASURED:
            on_progress(f"speed, round {n + 1} of {rounds}: {name}")
            command = [sys.executable, "-m", "benchmarks.run", str(path), "--speed", name]
            found[name].append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    return summarise(Settings().learning.rating_learner, found)


def summarise(learner_name: str, rounds: dict[str, list[float]]) -> Speed:
    """Medians and ratios of the rounds."""
    river = [max(pair) for pair in zip(*(rounds[name] for name in RIVER), strict=True)]
    medians = {name: statistics.median(values) for name, values in rounds.items()}
    ratios = {
        name: statistics.median(value / peer for value, peer in zip(values, river, strict=True))
        for name, values in rounds.items()
    }
    return Speed(learner_name, rounds, medians, ratios)
