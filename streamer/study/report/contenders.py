"""The models of a report, fitted on the same part of a history, so that they can be compared.

Models of ratings are fitted as in `streamer.study.train`. Models of clicks learn from the likes of the same training part, and not,
as in `streamer train`, from all clicks but each user's last: otherwise they would have seen part of the test part.
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
    """A fitted model; fields about predicted ratings are None for a model of clicks."""

    name: str
    kind: Kind
    model: OfflineModel
    curve: tuple[Epoch, ...]
    best_epoch: int | None = None  # the epoch that was kept
    seconds: float  # wall time of the fit alone
    predicted: tuple[F32, F32, F32] | None = None  # for train, validation and test, clipped
    mse: tuple[float, float, float] | None = None  # of train, validation and test
    diagnosis: Diagnosis | None = None


class Contest(msgspec.Struct, frozen=True, kw_only=True):
    """The models of a report and the parts of the history."""

    data: Dataset
    plan: Plan
    parts: Split
    contenders: tuple[Contender, ...]
    bias_only: F32  # predictions of bias only for the test part, clipped
    missing: tuple[str, ...]  # for each default model that is left out, the reason

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all models."""
        return tuple(one.name for one in self.contenders)

    @property
    def raters(self) -> tuple[Contender, ...]:
        """The models that predict ratings."""
        return tuple(one for one in self.contenders if one.predicted is not None)

    @property
    def best(self) -> Contender:
        """The model of ratings with the lowest error on the validation part; nothing is chosen on the test part."""
        return min(self.raters, key=lambda one: one.mse[1] if one.mse else 0.0)


def contest(names: Sequence[str], data: Dataset, plan: Plan, on_progress: OnProgress) -> Contest:
    """Fit the models `names`, or by default four whose libraries are installed.

    Raises BadSettings for an unknown model, one whose library is missing, more than eight, none of ratings, or too few
    ratings.
    """
    chosen, missing = (check_models(names), ()) if names else _available(plan.seed)
    parts = cut(data, "ratings", plan)
    found: list[Contender] = []
    bias_only: F32 | None = None
    for name in chosen:
        made = model(name, seed=plan.seed)
        if made.kind == "clicks":
            found.append(_fit_clicks(made, parts, on_progress))
            continue
        fit = train(name, data, plan, on_progress)
        trained = fit.trained
        assert trained.train_mse is not None
        assert trained.validation_mse is not None
        assert trained.test_mse is not None
        assert fit.bias_only is not None
        bias_only = fit.bias_only[2]
        found.append(
            Contender(
                name=name,
                kind="ratings",
                model=fit.model,
                curve=trained.curve,
                best_epoch=trained.best_epoch,
                seconds=trained.seconds,
                predicted=fit.predicted,
                mse=(trained.train_mse, trained.validation_mse, trained.test_mse),
                diagnosis=diagnose(fit),
            )
        )
    if bias_only is None:
        raise BadSettings(
            f"wanted at least one model of ratings, found only models of clicks ({', '.join(chosen)}): add als"
        )
    return Contest(
        data=data, plan=plan, parts=parts, contenders=tuple(found), bias_only=bias_only, missing=tuple(missing)
    )


def check_models(names: Sequence[str]) -> list[str]:
    """The names without repetitions; raises BadSettings for an unknown model, and for more than eight."""
    chosen = list(dict.fromkeys(names))
    unknown = [name for name in chosen if name not in MODELS]
    if unknown:
        raise BadSettings(f"no model {unknown[0]!r}; choose from: {', '.join(MODELS)}")
    if len(chosen) > MOST:
        raise BadSettings(
            f"wanted at most {MOST} models, the most that pictures can distinguish, found {len(chosen)}: name fewer"
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


def _fit_clicks(made: OfflineModel, parts: Split, on_progress: OnProgress) -> Contender:
    curve: list[Epoch] = []

    def report(epoch: Epoch) -> None:
        curve.append(epoch)
        on_progress(made.name, epoch)

    began = time.perf_counter()
    made.fit(parts.train, parts.validation, report)
    seconds = time.perf_counter() - began
    losses = [epoch.validation_loss for epoch in curve]
    best = int(np.nanargmin(losses)) + 1 if np.isfinite(losses).any() else None
    return Contender(name=made.name, kind="clicks", model=made, curve=tuple(curve), best_epoch=best, seconds=seconds)
