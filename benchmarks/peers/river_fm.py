"""River's `facto.FMRegressor`: a factorisation machine over user, item and, where it helps, the item's categories."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar

import msgspec

from benchmarks.protocols import PeerContext
from streamer.core.protocols import Kind


class RiverFMSettings(msgspec.Struct, frozen=True):
    """The rates are half of those in the literature: River's gradient of the squared loss is 2e."""

    factors: int = 10
    weight_rate: float = 0.01
    latent_rate: float = 0.01
    intercept_rate: float = 0.01
    weight_l2: float = 0.0
    latent_l2: float = 0.0
    first_deviation: float = 0.1
    categories: bool = False  # whether each category is a feature, with value 1 / root of their number


class RiverFM:
    kind: ClassVar[Kind] = "ratings"
    package = "river"
    Settings = RiverFMSettings
    tuned = RiverFMSettings(
        factors=20, weight_rate=0.02, latent_rate=0.03, intercept_rate=0.01, weight_l2=0.02, latent_l2=0.01,
        first_deviation=0.03, categories=True,
    )  # fmt: skip
    space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "weight_rate": (0.01, 0.02, 0.03, 0.04, 0.06),
        "latent_rate": (0.003, 0.01, 0.02, 0.03),
        "intercept_rate": (0.0003, 0.001, 0.003, 0.01),
        "weight_l2": (0.0, 0.001, 0.005, 0.02),
        "latent_l2": (0.0, 0.01, 0.05, 0.1),
        "categories": (False, True),
        "first_deviation": (0.03, 0.1),
        "factors": (5, 10, 20),
    }

    def __init__(self, settings: RiverFMSettings, context: PeerContext) -> None:
        facto, optim = import_module("river.facto"), import_module("river.optim")
        self._model = facto.FMRegressor(
            n_factors=settings.factors,
            weight_optimizer=optim.SGD(settings.weight_rate),
            latent_optimizer=optim.SGD(settings.latent_rate),
            intercept_lr=settings.intercept_rate,
            l2_weight=settings.weight_l2,
            l2_latent=settings.latent_l2,
            latent_initializer=optim.initializers.Normal(sigma=settings.first_deviation, seed=context.seed),
        )
        self._of_item: list[dict[str, float]] = [
            dict.fromkeys([f"c_{name}" for name in names], max(1, len(names)) ** -0.5) if settings.categories else {}
            for names in context.categories
        ]

    def predict_then_learn(self, user: int, item: int, rating: float) -> float:
        features = {f"u_{user}": 1.0, f"i_{item}": 1.0, **self._of_item[item]}
        predicted: float = self._model.predict_one(features)
        self._model.learn_one(features, rating)
        return predicted
