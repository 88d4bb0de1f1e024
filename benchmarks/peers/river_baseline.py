"""River's `reco.Baseline`: mean, user bias, item bias, by stochastic gradient descent."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar

import msgspec

from benchmarks.protocols import PeerContext
from streamer.core.protocols import Kind


class RiverBaselineSettings(msgspec.Struct, frozen=True):
    """The rate is half of that in the literature: River's gradient of the squared loss is 2e."""

    rate: float = 0.01
    l2: float = 0.0


class RiverBaseline:
    kind: ClassVar[Kind] = "ratings"
    package = "river"
    Settings = RiverBaselineSettings
    tuned = RiverBaselineSettings(rate=0.04, l2=0.3)
    space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "rate": (0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08),
        "l2": (0.0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5),
    }

    def __init__(self, settings: RiverBaselineSettings, context: PeerContext) -> None:
        reco, optim = import_module("river.reco"), import_module("river.optim")
        self._model = reco.Baseline(optimizer=optim.SGD(settings.rate), l2=settings.l2, seed=context.seed)

    def predict_then_learn(self, user: int, item: int, rating: float) -> float:
        predicted: float = self._model.predict_one(user, item)
        self._model.learn_one(user, item, rating)
        return predicted
