"""Errors of models by rating and by popularity of the item, and distributions of predictions, all on the test part."""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from streamer.core.arrays import F32, F64, I64, Array
from streamer.study.diagnosis import FEW
from streamer.study.report.contenders import Contest

LEVELS = 12  # up to this many distinct ratings are shown one by one; with more there are ten steps
COUNTS = (0, 1, 3, 6, 11, 21, 51, 101)  # the smallest number of training ratings of an item in each class


class Classes(msgspec.Struct, frozen=True):
    """Ratings of the test part in classes, and each model's errors in them; NaN for empty classes."""

    labels: tuple[str, ...]  # (classes,)
    counts: I64  # (classes,)
    rmse: Mapping[str, F64]  # by model, (classes,)
    mean_error: Mapping[str, F64]  # by model, (classes,): above 0 where predictions are too high


def classes(contest: Contest, of: I64, labels: Sequence[str]) -> Classes:
    """Errors of the models of ratings; `of` (test ratings,) is the class number of each rating."""
    test, count = contest.parts.test, len(labels)
    counts = np.bincount(of, minlength=count)
    rmse, mean_error = {}, {}
    for one in contest.raters:
        assert one.predicted is not None
        errors = one.predicted[2].astype(np.float64) - test.values
        with np.errstate(invalid="ignore"):
            rmse[one.name] = np.sqrt(np.bincount(of, np.square(errors), count) / counts)
            mean_error[one.name] = np.bincount(of, errors, count) / counts
    return Classes(tuple(labels), counts, rmse, mean_error)


class Scale(msgspec.Struct, frozen=True):
    """Steps in which ratings are counted: the distinct ratings, or ten equal parts of their range."""

    middles: F64  # (steps,), ascending
    labels: tuple[str, ...]

    def of(self, values: Array) -> I64:
        """The number of the step nearest to each value, (n,)."""
        return np.searchsorted((self.middles[1:] + self.middles[:-1]) / 2, values, side="right").astype(np.int64)

    def shares(self, values: Array) -> F64:
        """The share of `values` (n,) in each step, (steps,)."""
        found: F64 = np.bincount(self.of(values), minlength=len(self.middles)) / max(1, len(values))
        return found


def scale(values: F32) -> Scale:
    """The steps for these ratings."""
    distinct = np.unique(values).astype(np.float64)
    if len(distinct) > LEVELS:
        edges = np.linspace(distinct[0], distinct[-1], 11)
        distinct = (edges[1:] + edges[:-1]) / 2
    return Scale(distinct, tuple(f"{value:.3g}" for value in distinct))


def by_value(contest: Contest, steps: Scale) -> Classes:
    """Errors by the rating that was given."""
    return classes(contest, steps.of(contest.parts.test.values), steps.labels)


def by_popularity(contest: Contest) -> Classes:
    """Errors by how many ratings the item had in the training part."""
    train, test = contest.parts.train, contest.parts.test
    counts = np.bincount(train.items, minlength=train.item_count)[test.items]
    ends = [*(first - 1 for first in COUNTS[1:]), None]
    labels = [
        f"{first}+" if last is None else f"{first}" if first == last else f"{first}-{last}"
        for first, last in zip(COUNTS, ends, strict=True)
    ]
    return classes(contest, (np.searchsorted(COUNTS, counts, side="right") - 1).astype(np.int64), labels)


def in_words(found: Classes, name: str) -> str:
    """A sentence on the ratings at which a model errs most."""
    enough = np.flatnonzero(found.counts >= (FEW if found.counts.max() >= FEW else 1))
    errors, rmse = found.mean_error[name][enough], found.rmse[name][enough]
    high, low, worst = int(np.argmax(errors)), int(np.argmin(errors)), int(np.argmax(rmse))
    parts = []
    if errors[high] > 0:
        parts.append(f"{errors[high]:.2f} too high on ratings of {found.labels[enough[high]]}")
    if errors[low] < 0:
        parts.append(f"{-errors[low]:.2f} too low on ratings of {found.labels[enough[low]]}")
    errs = " and ".join(parts) or "right on average at every rating"
    return f"{name} is {errs}; its RMSE is highest at {found.labels[enough[worst]]}, {rmse[worst]:.2f}."
