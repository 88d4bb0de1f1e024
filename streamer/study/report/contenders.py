"""The models of a report, fitted on one and the same part of a history, so that they can be set side by side.

Models of ratings are those of `streamer.study.train`. Models of clicks learn here from the likes of the same training part, and not
from all clicks but each user's last, as `streamer train` has it: otherwise they would have seen what the others are asked.
"""

import time
from collections.abc import Sequence

import msgspec
import numpy as np

from streamer.core.arrays import F32
from streamer.core.dataset import Dataset
from streamer.core.errors import BadSettings, MissingExtra
from streamer.core.protocols import Epoch, Kind, OfflineModel
from streamer.models.offline import MODELS, model
from streamer.study.diagnosis import Diagnosis, diagnose
from streamer.study.splits import Split
from streamer.study.train import OnProgress, Plan, cut, train

PREFERRED = ("als", "stochastic-mf", "bias", "transitions", "popularity")
SHOWN, MOST = 4, 8


class Contender(msgspec.Struct, frozen=True, kw_only=True):
    """A fitted model; what has to do with predicted ratings is None for a model of clicks."""

    name: str
    kind: Kind
    model: OfflineModel
    curve: tuple[Epoch, ...]
    best_epoch: int | None = None  # that was kept
    seconds: float  # on the clock, for the fit alone
    predicted: tuple[F32, F32, F32] | None = None  # of train, validation and test, clipped
    mse: tuple[float, float, float] | None = None  # of train, validation and test
    diagnosis: Diagnosis | None = None


class Contest(msgspec.Struct, frozen=True, kw_only=True):
    """Models and the parts they were fitted and judged on."""

    data: Dataset
    plan: Plan
    parts: Split
    contenders: tuple[Contender, ...]
    bias_only: F32  # what bias only says of the test part, clipped
    missing: tuple[str, ...]  # why models that would be shown are not

    @property
    def names(self) -> tuple[str, ...]:
        """Of all of them."""
        return tuple(one.name for one in self.contenders)

    @property
    def raters(self) -> tuple[Contender, ...]:
        """Those that predict ratings."""
        return tuple(one for one in self.contenders if one.predicted is not None)

    @property
    def best(self) -> Contender:
        """The rater with the lowest error on the validation part: nothing is chosen on the test part."""
        return min(self.raters, key=lambda one: one.mse[1] if one.mse else 0.0)


def contest(names: Sequence[str], data: Dataset, plan: Plan, on_progress: OnProgress) -> Contest:
    """Fit the models `names`, or, where none is named, four that can be had here.

    Raises BadSettings for an unknown model, one whose library is missing, more than eight, none of ratings, or too little to
    learn from.
    """
    chosen, missing = (checked(names), ()) if names else _available(plan.seed)
    parts = cut(data, "ratings", plan)
    found: list[Contender] = []
    bias_only: F32 | None = None
    for name in chosen:
        made = model(name, seed=plan.seed)
        if made.kind == "clicks":
            found.append(_clicks(made, parts, on_progress))
            continue
        fit = train(name, data, plan, on_progress)
        said = fit.trained
        assert said.train_mse is not None
        assert said.validation_mse is not None
        assert said.test_mse is not None
        assert fit.bias_only is not None
        bias_only = fit.bias_only[2]
        found.append(
            Contender(
                name=name,
                kind="ratings",
                model=fit.model,
                curve=said.curve,
                best_epoch=said.best_epoch,
                seconds=said.seconds,
                predicted=fit.predicted,
                mse=(said.train_mse, said.validation_mse, said.test_mse),
                diagnosis=diagnose(fit),
            )
        )
    if bias_only is None:
        raise BadSettings(
            f"wanted at least one model of ratings, found only {', '.join(chosen)}, which learn from clicks: add als"
        )
    return Contest(
        data=data, plan=plan, parts=parts, contenders=tuple(found), bias_only=bias_only, missing=tuple(missing)
    )


def checked(names: Sequence[str]) -> list[str]:
    """Each once; raises BadSettings for an unknown model, and for more than can be told apart."""
    chosen = list(dict.fromkeys(names))
    unknown = [name for name in chosen if name not in MODELS]
    if unknown:
        raise BadSettings(f"no model {unknown[0]!r}; choose from: {', '.join(MODELS)}")
    if len(chosen) > MOST:
        raise BadSettings(
            f"wanted at most {MOST} models, which can still be told apart, found {len(chosen)}: name fewer"
        )
    return chosen


def _available(seed: int) -> tuple[list[str], list[str]]:
    found, missing = [], []
    for name in PREFERRED:
        try:
            model(name, seed=seed)
        except MissingExtra as error:
            missing.append(str(error))
        else:
            found.append(name)
    return found[:SHOWN], missing


def _clicks(made: OfflineModel, parts: Split, on_progress: OnProgress) -> Contender:
    curve: list[Epoch] = []

    def heard(epoch: Epoch) -> None:
        curve.append(epoch)
        on_progress(made.name, epoch)

    began = time.perf_counter()
    made.fit(parts.train, parts.validation, heard)
    seconds = time.perf_counter() - began
    losses = [epoch.validation_loss for epoch in curve]
    best = int(np.nanargmin(losses)) + 1 if np.isfinite(losses).any() else None
    return Contender(name=made.name, kind="clicks", model=made, curve=tuple(curve), best_epoch=best, seconds=seconds)
