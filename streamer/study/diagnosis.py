"""A diagnosis of a fitted model, in words: high bias, high variance or fine, and where its errors are.

A mean squared error comes with a 95% interval that treats a user's ratings as one draw, since their errors are correlated
(cluster-robust standard error): 1.96 / n sqrt(sum over users of (sum of e^2 - mse)^2). A difference from bias only is the mean
of paired differences on the same ratings.

Cameron, Miller (2015), A practitioner's guide to cluster-robust inference, Journal of Human Resources 50(2), sect. II.
"""

from collections.abc import Sequence
from math import inf, isfinite, isnan, nan, sqrt

import msgspec
import numpy as np

from streamer.core.arrays import F32, F64, I32, Bool
from streamer.core.dataset import Dataset
from streamer.core.protocols import Rater
from streamer.study.train import Fit

FEW = 30  # slices with fewer examples say little
FEW_USERS = (
    5  # fewer users say little; users with n ratings each count as (sum of n)^2 / sum of n^2 effective ones (Kish 1965)
)
VALUES = 12  # up to this many distinct ratings are listed one by one, more in tenths
LISTED_USERS, LISTED_ITEMS, TOP = 60, 2_000, 10
SMALL_GAIN = 3.0  # percent: a model whose training error is not lower than that of bias only by this much has not fitted anything
HARDLY_PERSONAL = 0.8  # from this share of top tens in common on, recommendations count as hardly personal


class Estimate(msgspec.Struct, frozen=True):
    """A mean with the half width of its 95% interval, NaN where there are too few users for one."""

    mean: float
    half_width: float


class Slice(msgspec.Struct, frozen=True):
    """The errors on a group of the test ratings."""

    name: str
    examples: int
    mse: Estimate
    bias_only_mse: float
    mean_value: float
    mean_predicted: float


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """The diagnosis of a fit; lists are empty and values None where nothing can be measured."""

    verdict: str  # high bias, high variance or fine
    sentences: tuple[str, ...]  # the reasons, and what to do
    train_mse: Estimate
    validation_mse: Estimate
    test_mse: Estimate
    over_bias_only: Estimate  # test: squared error minus that of bias only (for bias only: of the mean alone)
    by_category: tuple[Slice, ...]  # worst first
    by_value: tuple[Slice, ...]  # by the rating, ascending
    users_never_seen: Slice | None  # test ratings of users without one in the training part
    items_never_seen: Slice | None
    top_tens_in_common: float | None  # share, mean over pairs of users with different histories
    never_seen_alike: bool | None  # whether all unseen users get the same predictions although their profiles differ


def diagnose(fit: Fit) -> Diagnosis:
    """Diagnose a fit of a model of ratings. Cost: a pass over the parts, and predictions for 60 users and 2,000 items."""
    assert fit.predicted is not None
    assert fit.bias_only is not None
    squares = [_squares(predicted, part) for predicted, part in zip(fit.predicted, fit.parts, strict=True)]
    reference = _reference(fit)
    of_parts = [_estimate(found, part.users) for found, part in zip(squares, fit.parts, strict=True)]
    differences = [
        _estimate(found - other, part.users) for found, other, part in zip(squares, reference, fit.parts, strict=True)
    ]
    test = fit.parts.test
    by_category = sorted(_by_category(fit, squares[2]), key=lambda found: -found.mse.mean)
    by_value = _by_value(fit, squares[2])
    seen_users, seen_items = np.unique(fit.parts.train.users), np.unique(fit.parts.train.items)
    new_users, new_items = ~np.isin(test.users, seen_users), ~np.isin(test.items, seen_items)
    users_never_seen = _slice("users never seen", new_users, fit, squares[2])
    items_never_seen = _slice("items never seen", new_items, fit, squares[2])
    in_common, alike = _top_tens_in_common(fit), _never_seen_alike(fit)
    verdict, sentences = _verdict(fit, of_parts, differences, [float(other.mean()) for other in reference])
    sentences += _of_slices(by_category, by_value, of_parts[2], [users_never_seen, items_never_seen])
    sentences += sentences_about_answers(in_common, alike)
    return Diagnosis(
        verdict=verdict, sentences=tuple(sentences), train_mse=of_parts[0], validation_mse=of_parts[1],
        test_mse=of_parts[2], over_bias_only=differences[2], by_category=tuple(by_category), by_value=tuple(by_value),
        users_never_seen=users_never_seen, items_never_seen=items_never_seen, top_tens_in_common=in_common,
        never_seen_alike=alike,
    )  # fmt: skip


def _squares(predicted: F32, part: Dataset) -> F64:
    return np.square(predicted.astype(np.float64) - part.values)


def _reference(fit: Fit) -> list[F64]:
    """Squared errors of bias only on the three parts, or of the mean alone if the model is bias only itself."""
    assert fit.bias_only is not None
    if fit.trained.model != "bias":
        return [_squares(predicted, part) for predicted, part in zip(fit.bias_only, fit.parts, strict=True)]
    mean = np.float32(fit.parts.train.values.mean())
    return [_squares(np.full(len(part), mean, dtype=np.float32), part) for part in fit.parts]


def _estimate(squares: F64, users: I32) -> Estimate:
    """Mean of `squares` (n,) and the half width of its interval, with users as clusters."""
    if not len(squares):
        return Estimate(nan, nan)
    mean = float(squares.mean())
    _, number = np.unique(users, return_inverse=True)
    sums = np.bincount(number, squares - mean)
    if len(sums) < 2:
        return Estimate(mean, nan)
    return Estimate(mean, 1.96 * sqrt(float(np.square(sums).sum()) * len(sums) / (len(sums) - 1)) / len(squares))


def _slice(name: str, chosen: Bool, fit: Fit, squares: F64) -> Slice | None:
    if not chosen.any():
        return None
    assert fit.predicted is not None
    assert fit.bias_only is not None
    test = fit.parts.test
    return Slice(
        name, int(np.count_nonzero(chosen)), _estimate(squares[chosen], test.users[chosen]),
        float(_squares(fit.bias_only[2], test)[chosen].mean()), float(test.values[chosen].mean()),
        float(fit.predicted[2][chosen].mean()),
    )  # fmt: skip


def _by_category(fit: Fit, squares: F64) -> list[Slice]:
    side, items = fit.parts.test.side, fit.parts.test.items
    found = [
        _slice(name, side.categories[items, number] > 0, fit, squares)
        for number, name in enumerate(side.category_names)
    ]
    if side.category_names:
        found.append(_slice("(no category)", np.equal(side.categories[items].max(axis=1), 0), fit, squares))
    return [one for one in found if one is not None]


def _by_value(fit: Fit, squares: F64) -> list[Slice]:
    values = fit.parts.test.values
    distinct = np.unique(values)
    if len(distinct) <= VALUES:
        chosen = [(f"{value:g}", values == value) for value in distinct.tolist()]
    else:
        edges = np.unique(np.quantile(values, np.linspace(0, 1, 11)))
        chosen = [
            (
                f"{low:.3g} to {high:.3g}",
                np.logical_and(values >= low, (values < high) | (high == edges[-1])),
            )
            for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        ]
    return [one for name, which in chosen if (one := _slice(name, which, fit, squares)) is not None]


def _verdict(
    fit: Fit, of_parts: Sequence[Estimate], differences: Sequence[Estimate], reference: Sequence[float]
) -> tuple[str, list[str]]:
    """The verdict and the sentences for it.

    high bias: it does not fit even the training part better than the reference. high variance: it does, but it is not better on
    the validation part. fine: it is better on both, or there is nothing to learn.
    """
    train, validation, test = of_parts
    name = "the mean alone" if fit.trained.model == "bias" else "bias only"
    fits, helps = (found.mean + found.half_width < 0 for found in (differences[0], differences[1]))
    gap = 1 - train.mean / validation.mean if validation.mean > 0 else 0.0
    shares = [_percent(found.mean, other) for found, other in zip(differences, reference, strict=True)]
    where = "below" if shares[2] < 0 else "above" if shares[2] > 0 else "the same as"
    by = f"{abs(shares[2]):.1f}% " if shares[2] and isfinite(shares[2]) else ""
    give = "" if isnan(differences[2].half_width) else f" +- {differences[2].half_width:.4f}"
    sentences = [
        f"Squared error: train {_format(train)}, validation {_format(validation)}, test {_format(test)}; on the test part "
        f"{by}{where} {name} ({differences[2].mean:+.4f}{give}, paired)."
    ]
    shown = fit.parts.train.values
    if shown.min() == shown.max():
        sentences.append(
            f"There is nothing to learn: all {len(shown):,} ratings of the training part are {shown[0]:g}, which every model predicts."
        )
        return "fine", sentences
    if not fits or shares[0] > -SMALL_GAIN:
        verdict = "high bias"
        sentences.append(
            f"High bias: even on its training ratings it is {_degree(shares[0])} better than {name} ({shares[0]:+.1f}%), so it is too simple for "
            "them. Try more factors or layers, weaker penalties, more epochs, or features of users and items."
        )
    elif not helps:
        verdict = "high variance"
        sentences.append(
            f"High variance: it fits its training ratings {-shares[0]:.0f}% better than {name}, but unseen ones {_degree(shares[1])} better ({shares[1]:+.1f}% on "
            "the validation part), so it has learned noise. Try fewer factors, stronger penalties, more dropout, or more data."
        )
    else:
        verdict = "fine"
        more = (
            f" Its error on the training ratings is {100 * gap:.0f}% lower than on the validation part: more data, or stronger penalties, may still help."
            if gap > 0.2
            else ""
        )
        unlike = f" On the test part it is not better than {name}." if shares[2] >= 0 else ""
        sentences.append(f"Fine: better than {name} on its training ratings and on the validation part.{unlike}{more}")
    _, of_users = np.unique(fit.parts.validation.users, return_counts=True)
    ratings, most = int(of_users.sum()), int(of_users.max(initial=0))
    if ratings < FEW or ratings**2 < FEW_USERS * int(np.square(of_users).sum()):
        by_one = f", {most:,} of them by one user" if 1 < most < ratings else ""
        sentences.append(
            f"The data are too few to be sure: the validation part has {count_of(ratings, 'rating')} by {count_of(len(of_users), 'user')}{by_one}."
        )
    apart = abs(test.mean - validation.mean)
    if apart > sqrt(test.half_width**2 + validation.half_width**2):
        sentences.append(
            f"Test and validation errors differ by {apart:.3f}, more than their intervals allow: the two parts differ (because of a split by time, or "
            "few users), so a choice on one may not suit the other."
        )
    return verdict, sentences


def _percent(difference: float, reference: float) -> float:
    """A difference in percent of the reference, which may be 0."""
    return 100 * difference / reference if reference else inf if difference else 0.0


def _degree(share: float) -> str:
    return "no" if share >= 0 else "hardly" if share > -SMALL_GAIN else "not significantly"


def count_of(number: int, what: str) -> str:
    """A count with its noun, such as 1 click or 2,000 clicks."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _of_slices(
    by_category: Sequence[Slice], by_value: Sequence[Slice], test: Estimate, new: Sequence[Slice | None]
) -> list[str]:
    sentences = []
    worse = [one for one in by_category if one.examples >= FEW and one.mse.mean - one.mse.half_width > test.mean]
    if worse:
        sentences.append(
            "Categories with larger errors than the rest: "
            + ", ".join(f"{one.name} ({one.mse.mean:.3f}, {one.examples:,} ratings)" for one in worse[:5])
            + "."
        )
    few = [one for one in by_category if one.examples < FEW]
    if few:
        sentences.append(
            "Categories with too few ratings to tell, or to learn from: "
            + ", ".join(f"{one.name} ({one.examples})" for one in few[:8])
            + "."
        )
    enough = [one for one in by_value if one.examples >= FEW]
    if len(enough) >= 2:
        low, high = enough[0], enough[-1]
        sentences.append(
            f"The extremes: for ratings of {low.name} it predicts {low.mean_predicted:.2f} on average (squared error {low.mse.mean:.2f}), for ratings of "
            f"{high.name} {high.mean_predicted:.2f} ({high.mse.mean:.2f})."
        )
    for one in new:
        if one is not None:
            sentences.append(
                f"{one.name.capitalize()}: {one.examples:,} ratings, squared error {_format(one.mse)}; bias only {one.bias_only_mse:.4f}."
            )
    if new[0] is None:
        sentences.append(
            "Every user of the test part was seen in training; --split unseen-users measures how well it does for new users."
        )
    return sentences


def sentences_about_answers(in_common: float | None, alike: bool | None = None) -> list[str]:
    """Sentences on whether recommendations are personal."""
    sentences = []
    if in_common is not None:
        personal = "hardly personal" if in_common >= HARDLY_PERSONAL else "personal"
        sentences.append(
            f"Two users with different histories have {in_common:.0%} of their top tens in common: recommendations are {personal}."
        )
    if alike is not None:
        sentences.append(
            "Unseen users all get the same predictions, whatever their profiles say."
            if alike
            else "Unseen users get predictions that follow their profiles."
        )
    return sentences


def _format(found: Estimate) -> str:
    return f"{found.mean:.4f}" + ("" if isnan(found.half_width) else f" +- {found.half_width:.4f}")


def _top_tens_in_common(fit: Fit) -> float | None:
    """For the users with the most training ratings, whose histories all differ, over the most rated items."""
    train = fit.parts.train
    users = np.argsort(-np.bincount(train.users, minlength=train.user_count), kind="stable")[:LISTED_USERS]
    return top_ten_overlap(_answers(fit, users[np.isin(users, train.users)].astype(np.int32)))


def top_ten_overlap(scores: F32) -> float | None:
    """The share of top tens that two users have in common, averaged over pairs, from scores (users, items).

    None with too few of either.
    """
    if len(scores) < 2 or scores.shape[1] <= TOP:
        return None
    tops = np.zeros(scores.shape, dtype=np.float32)
    np.put_along_axis(tops, np.argsort(-scores, axis=1, kind="stable")[:, :TOP], 1.0, axis=1)
    shared = tops @ tops.T / TOP
    return float((shared.sum() - len(scores)) / (len(scores) * (len(scores) - 1)))


def _never_seen_alike(fit: Fit) -> bool | None:
    """Whether all unseen users get the same predictions; None without such users, or if their profiles do not differ."""
    side, train = fit.parts.train.side, fit.parts.train
    new = np.setdiff1d(np.unique(fit.parts.test.users), train.users)[:LISTED_USERS].astype(np.int32)
    if len(new) < 2 or len(np.unique(side.groups[new], axis=0)) < 2:
        return None
    scores = _answers(fit, new)
    return bool((np.abs(scores - scores[0]) < 1e-5).all())


def _answers(fit: Fit, users: I32) -> F32:
    """(users, items) predictions for the most rated items."""
    train = fit.parts.train
    assert isinstance(fit.model, Rater)
    items = np.argsort(-np.bincount(train.items, minlength=train.item_count), kind="stable")[:LISTED_ITEMS].astype(
        np.int32
    )
    found = fit.model.predict(np.repeat(users, len(items)), np.tile(items, len(users)))
    return found.reshape(len(users), len(items))
