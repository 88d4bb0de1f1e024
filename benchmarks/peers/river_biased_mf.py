"""River's `reco.BiasedMF`: biased matrix factorisation by stochastic gradient descent, the usual choice in Python today."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar

import msgspec

from benchmarks.protocols import PeerContext
from streamer.core.protocols import Kind


class RiverBiasedMFSettings(msgspec.Struct, frozen=True):
    """The rates are half of those in the literature: River's gradient of the squared loss is 2e."""

    factors: int = 10
    bias_rate: float = 0.01
    latent_rate: float = 0.01
    bias_l2: float = 0.0
    latent_l2: float = 0.0
    first_deviation: float = 0.1


class RiverBiasedMF:
    kind: ClassVar[Kind] = "ratings"
    package = "river"
    Settings = RiverBiasedMFSettings
    tuned = RiverBiasedMFSettings(
        factors=40, bias_rate=0.04, latent_rate=0.08, bias_l2=0.3, latent_l2=0.03, first_deviation=0.03
    )
    space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "bias_rate": (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08),
        "latent_rate": (0.01, 0.02, 0.04, 0.06, 0.08, 0.12),
        "bias_l2": (0.0, 0.03, 0.1, 0.2, 0.3),
        "latent_l2": (0.0, 0.03, 0.1, 0.2, 0.3),
        "first_deviation": (0.01, 0.03, 0.05, 0.1, 0.2),
        "factors": (5, 10, 20, 40),
    }

    def __init__(self, settings: RiverBiasedMFSettings, context: PeerContext) -> None:
        reco, optim = import_module("river.reco"), import_module("river.optim")
        self._model = reco.BiasedMF(
            n_factors=settings.factors,
            bias_optimizer=optim.SGD(settings.bias_rate),
            latent_optimizer=optim.SGD(settings.latent_rate),
            l2_bias=settings.bias_l2,
            l2_latent=settings.latent_l2,
            latent_initializer=optim.initializers.Normal(sigma=settings.first_deviation, seed=context.seed),
        )

    def predict_then_learn(self, user: int, item: int, rating: float) -> float:
        predicted: float = self._model.predict_one(user, item)
        self._model.learn_one(user, item, rating)
        return predicted
