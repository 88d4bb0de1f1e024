"""Vowpal Wabbit: a linear model with a low-rank interaction of users and items (`--lrq`, or the older `--rank`).

An event is one example, predicted and learned in one call, Vowpal Wabbit's own progressive validation: the prediction is
that before the step (tried: `predict` and then `learn` say the same, at half the speed).
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar, Literal

import msgspec

from benchmarks.protocols import PeerContext
from streamer.core.protocols import Kind


class VowpalWabbitSettings(msgspec.Struct, frozen=True):
    """Its own defaults are a linear model of user and item."""

    interaction: Literal["none", "-q ui --rank 5", "-q ui --rank 10", "--lrq ui5", "--lrq ui10 --lrqdropout"] = "none"
    learning_rate: float = 0.5
    power_t: float = 0.5
    l2: float = 0.0
    categories: Literal["none", "linear", "by user"] = "none"
    bits: int = 22


class VowpalWabbit:
    kind: ClassVar[Kind] = "ratings"
    package = "vowpalwabbit"
    Settings = VowpalWabbitSettings
    tuned = VowpalWabbitSettings(learning_rate=0.35, power_t=0.35, l2=3e-6, categories="by user")
    space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "learning_rate": (0.03, 0.1, 0.2, 0.35, 0.5, 1.0),
        "power_t": (0.0, 0.1, 0.2, 0.25, 0.35, 0.5),
        "interaction": ("none", "-q ui --rank 5", "-q ui --rank 10", "--lrq ui5", "--lrq ui10 --lrqdropout"),
        "l2": (0.0, 1e-7, 1e-6, 3e-6, 1e-5, 1e-4, 1e-3),
        "categories": ("none", "linear", "by user"),
    }

    def __init__(self, settings: VowpalWabbitSettings, context: PeerContext) -> None:
        asked = [
            "--quiet --no_stdin", f"-b {settings.bits}", f"-l {settings.learning_rate}", f"--power_t {settings.power_t}",
            f"--l2 {settings.l2}", f"--random_seed {context.seed}", settings.interaction.removeprefix("none"),
        ]  # fmt: skip
        if settings.categories == "by user":
            asked.append("-q uc")
        self._model = import_module("vowpalwabbit").Workspace(" ".join(asked))
        self._of_item = [
            f" |c {' '.join(name.replace(' ', '_').replace(':', '_').replace('|', '_') for name in names)}"
            if settings.categories != "none" and names
            else ""
            for names in context.categories
        ]

    def predict_then_learn(self, user: int, item: int, rating: float) -> float:
        example = self._model.example(f"{rating} |u {user} |i {item}{self._of_item[item]}")
        self._model.learn(example)
        predicted: float = example.get_simplelabel_prediction()
        self._model.finish_example(example)
        return predicted
