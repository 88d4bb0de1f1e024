"""The report's sections: sentences made from the numbers, pictures, and tables of the numbers."""

from collections.abc import Sequence
from math import isnan, nan, sqrt
from typing import NamedTuple

import numpy as np

from streamer.core.arrays import F64
from streamer.study.diagnosis import FEW, Estimate
from streamer.study.report import errors_by, topten
from streamer.study.report.contenders import Contest
from streamer.study.report.errors_by import Classes
from streamer.study.report.figures import Pictures, dot_plot
from streamer.study.report.topten import Lists, Overlap

BARS = 12  # largest number of intersections in a picture; the others are in the table
NOTHING = "–"


class Picture(NamedTuple):
    """A picture, its sentences and its numbers."""

    svg: str  # empty if there are only sentences and numbers
    words: Sequence[str]
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""


class Section(NamedTuple):
    """A heading, introductory sentences, and pictures."""

    id: str
    title: str
    words: Sequence[str]
    pictures: Sequence[Picture]


def sections(contest: Contest, lists: Lists, pictures: Pictures) -> list[Section]:
    """All sections except the user's page."""
    return [
        models(contest),
        diagnoses(contest),
        curves(contest, pictures),
        distributions(contest, pictures),
        by_value(contest, pictures),
        by_popularity(contest, pictures),
        coverage(contest, lists, pictures),
        top_tens(contest, lists, pictures),
    ]


def number(value: float | None, digits: int = 2) -> str:
    """The number with `digits` decimals; a dash for None and NaN."""
    return NOTHING if value is None or isnan(value) else f"{value:,.{digits}f}"


def signed(value: float) -> str:
    """The number with its sign and two decimals."""
    return f"{value:+.2f}"


def _percent(value: float) -> str:
    return NOTHING if isnan(value) else f"{100 * value:.1f}%"


def models(contest: Contest) -> Section:
    """The models, their errors and their diagnoses."""
    of_bias = sqrt(float(np.mean(np.square(contest.bias_only.astype(np.float64) - contest.parts.test.values))))
    intervals, words, rows = {}, [], []
    for one in contest.contenders:
        if one.mse is None or one.diagnosis is None:
            rows.append((one.name, one.kind, *[NOTHING] * 7))
            continue
        low, high = _interval(one.diagnosis.test_mse)
        intervals[one.name] = low, high
        against = one.diagnosis.over_bias_only
        share, width = (part / of_bias**2 if of_bias else nan for part in (against.mean, against.half_width))
        of_itself = one.name == "bias"
        rows.append(
            (
                one.name, one.kind, *(number(sqrt(mse), 4) for mse in one.mse), NOTHING if isnan(low) else f"{low:.4f} to {high:.4f}",
                NOTHING if of_itself else f"{share:+.1%} +- {width:.1%}", one.diagnosis.verdict, f"{one.best_epoch} of {len(one.curve)}",
            )
        )  # fmt: skip
        rmse = sqrt(one.mse[2])
        if not of_itself:
            words.append(
                f"{one.name} has an RMSE of {rmse:.3f}: its squared error is {abs(share):.1%} {'lower' if share < 0 else 'higher'} than "
                f"that of bias only, give or take {width:.1%}. The diagnosis is {one.diagnosis.verdict}."
            )
    clicks = [one.name for one in contest.contenders if one.mse is None]
    if len(clicks) == 1:
        words.append(f"{clicks[0]} learns from likes and predicts no ratings, so it has top tens but no errors.")
    elif clicks:
        words.append(f"{_listed(clicks)} learn from likes and predict no ratings, so they have top tens but no errors.")
    svg = dot_plot(
        list(intervals), [sqrt(one.mse[2]) for one in contest.contenders if one.mse], list(intervals.values()),
        what="RMSE on the test part (lower is better)", reference=None if "bias" in intervals else ("bias only", of_bias), name="models",
    )  # fmt: skip
    columns = (
        "model", "learns from", "train RMSE", "validation", "test", "95% of test", "test MSE against bias only", "diagnosis", "epoch kept",
    )  # fmt: skip
    about = (
        f"Bias only knows no tastes, only how high each user rates and how high each item is rated; its RMSE is {of_bias:.3f}. Lines "
        "are 95% intervals over users. Most of this uncertainty is common to all models, so differences are more certain than they look."
    )
    return Section("models", "The models", [about], [Picture(svg, words, columns, rows)])


def _interval(mse: Estimate) -> tuple[float, float]:
    """The interval of the RMSE; NaN if there is none."""
    if isnan(mse.half_width):
        return nan, nan
    return sqrt(max(0.0, mse.mean - mse.half_width)), sqrt(mse.mean + mse.half_width)


def diagnoses(contest: Contest) -> Section:
    """The diagnosis of each model of ratings, as in `streamer train`, and its errors by category."""
    shown = []
    for one in contest.raters:
        if one.diagnosis is not None:
            rows = [
                (
                    found.name, f"{found.examples:,}", f"{found.mse.mean:.3f}", number(found.mse.half_width, 3),
                    f"{found.bias_only_mse:.3f}", number(found.mean_value), number(found.mean_predicted),
                )
                for found in one.diagnosis.by_category
            ]  # fmt: skip
            columns = ("category", "ratings", "squared error", "give or take", "of bias only", "given", "predicted")
            shown.append(Picture("", one.diagnosis.sentences, columns, rows, f"{one.name}: {one.diagnosis.verdict}"))
    return Section("diagnosis", "Diagnosis", ["The tables show errors by category, the worst first."], shown)


def curves(contest: Contest, pictures: Pictures) -> Section:
    """Learning curves: of models of ratings and, in other units, of models of next items."""
    shown = []
    for kind, what in (("ratings", "squared error"), ("clicks", "loss")):
        some = [one for one in contest.contenders if one.kind == kind and one.best_epoch is not None]
        if not some:
            continue
        words = []
        for one in some:
            kept = (one.best_epoch or 1) - 1
            train, validation = one.curve[kept].train_loss, one.curve[kept].validation_loss
            called = "pairs of penalties" if one.name == "bias" else "epochs"
            last = called == "epochs" and kept == one.curve[-1].of - 1
            words.append(
                f"Of the {len(one.curve)} {called} of {one.name}, number {kept + 1} is the best on the validation part and was kept: {train:.3f} on "
                f"the training part, {validation:.3f} on the validation part, a gap of {validation - train:.3f}."
                + (" It is the last one allowed, so more might be better." if last else "")
            )
        rows = [
            (one.name, f"{epoch.number}", number(epoch.train_loss, 4), number(epoch.validation_loss, 4))
            for one in some
            for epoch in one.curve
        ]
        svg = pictures.curves(
            {one.name: one.curve for one in some}, {one.name: one.best_epoch for one in some}, what=what, name=f"curves-{kind}"
        )  # fmt: skip
        shown.append(Picture(svg, words, ("model", "epoch", f"training {what}", f"validation {what}"), rows))
    about = [
        "Losses by epoch, on the training part (dashed; as the model computes them) and on the validation part. For bias an epoch "
        "is a pair of penalties that was tried. Where the lines diverge, the model overfits."
    ]
    without = [one.name for one in contest.contenders if one.best_epoch is None]
    if without:
        about.append(f"{_listed(without)} learn{'s' if len(without) == 1 else ''} in one pass, so there is no curve.")
    return Section("curves", "Learning curves", about, shown)


def distributions(contest: Contest, pictures: Pictures) -> Section:
    """Distributions of ratings and of predictions."""
    test = contest.parts.test
    steps = errors_by.scale(contest.data.ratings().values)
    given = steps.shares(test.values)
    predicted = {one.name: steps.shares(one.predicted[2]) for one in contest.raters if one.predicted}
    spread = float(test.values.std())
    words = []
    for one in contest.raters:
        assert one.predicted is not None
        predictions = one.predicted[2]
        words.append(
            f"{one.name} predicts between {predictions.min():.1f} and {predictions.max():.1f}, with a standard deviation of {predictions.std():.2f}; that of the "
            f"ratings is {spread:.2f}: {'the extremes are hardly ever predicted' if predictions.std() < 0.7 * spread else 'predictions are spread nearly as widely'}."
        )
    rows = [
        (label, _percent(given[n]), *(_percent(share[n]) for share in predicted.values()))
        for n, label in enumerate(steps.labels)
    ]
    svg = pictures.shares(steps.labels, given, predicted, along="rating (predictions: the nearest)")
    picture = Picture(svg, words, ("rating", "given", *predicted), rows)
    return Section("distributions", "Ratings and predictions", [], [picture])


def by_value(contest: Contest, pictures: Pictures) -> Section:
    """Errors by rating."""
    found = errors_by.by_value(contest, errors_by.scale(contest.data.ratings().values))
    about = (
        "Errors are largest at the extremes: a model that is uncertain predicts something near the mean, which is the more wrong the "
        "further the true rating is from the mean."
    )
    return Section(
        "by-value", "Errors by rating", [about], [_errors(found, pictures, "rating that was given", "by-value")]
    )


def by_popularity(contest: Contest, pictures: Pictures) -> Section:
    """Errors by the popularity of the item."""
    found = errors_by.by_popularity(contest)
    label = "ratings of the item in the training part"
    picture = _errors(found, pictures, label, "by-popularity")
    words = []
    shown = np.flatnonzero(found.counts >= FEW)
    if len(shown) > 1:
        few, many = int(shown[0]), int(shown[-1])
        words = [
            f"The RMSE of {name} is {rmse[few]:.2f} on items with {found.labels[few]} ratings and {rmse[many]:.2f} on those with {found.labels[many]}."
            for name, rmse in found.rmse.items()
        ]
    return Section("by-popularity", "Errors by popularity", [], [picture._replace(words=words)])


def _errors(found: Classes, pictures: Pictures, along: str, name: str) -> Picture:
    svg = pictures.by_class(found.labels, found.counts, found.rmse, found.mean_error, along=along, name=name)
    columns = [along, "ratings", *(f"{model} {what}" for model in found.rmse for what in ("RMSE", "mean error"))]
    rows = [
        (
            label, f"{found.counts[n]:,}",
            *(text for model in found.rmse for text in (number(found.rmse[model][n]), signed(found.mean_error[model][n]) if found.counts[n] else NOTHING)),
        )
        for n, label in enumerate(found.labels)
    ]  # fmt: skip
    return Picture(svg, [errors_by.in_words(found, model) for model in found.rmse], columns, rows)


def coverage(contest: Contest, lists: Lists, pictures: Pictures) -> Section:
    """Which items are in top tens."""
    every = topten.coverages(lists, contest.parts.train)
    ratings = every.pop("ratings")
    items = int(np.count_nonzero(lists.candidates))
    who = (
        f"{len(lists.users):,} users" if len(lists.users) == lists.of else f"{len(lists.users):,} of {lists.of:,} users"
    )
    words = [
        f"{name} shows {_percent(one.covered)} of the items to at least one user; the 1% most popular items have {_percent(one.head)} of its places "
        f"(and {_percent(ratings.head)} of the ratings), the tail has {_percent(one.tail)}."
        for name, one in every.items()
    ]
    rows = [
        (name, _percent(one.covered), f"{one.gini:.3f}", _percent(one.head), _percent(one.tail))
        for name, one in [("ratings themselves", ratings), *every.items()]
    ]
    columns = ("places of", "items covered", "Gini", "places of the 1% most popular", "places of the tail")
    about = (
        f"This is about the items that would be shown: the top tens of {who} among the {items:,} items with ratings in the training part, without "
        f"those that the user had rated. At most {min(1.0, 10 * len(lists.users) / max(1, items)):.0%} of the items could be covered. The tail is all items outside the "
        "most popular ones that together have 80% of the ratings. Gini: 0 if all items are shown equally often, 1 if it is always the same one."
    )
    shares = {name: one.covered for name, one in every.items()}
    concentration = pictures.concentration({n: one.curve for n, one in every.items()}, ratings=ratings.curve)
    half = {name: int(np.searchsorted(one.curve, 0.5)) for name, one in every.items()}
    seen = [
        f"Half of the ratings are of the {int(np.searchsorted(ratings.curve, 0.5)):,} most popular items.",
        *(
            f"Half of the items that {name} shows are among the {most:,} most popular ({most / items:.1%})."
            for name, most in half.items()
        ),
    ]
    seen.append(
        "Above the grey area, a model shows popular items more often than people rate them; below it, less often."
    )
    return Section(
        "coverage", "Popularity and coverage", [about],
        [
            Picture(pictures.covered(shares), words, columns, rows),
            Picture(concentration, seen, ("most popular items", "ratings", *every), _along(ratings.curve, [one.curve for one in every.values()])),
        ],
    )  # fmt: skip


def _along(ratings: F64, curves_of: Sequence[F64]) -> list[list[str]]:
    items = len(ratings) - 1
    return [
        [
            f"{share:g}%",
            *(_percent(float(curve[max(1, round(items * share / 100))])) for curve in (ratings, *curves_of)),
        ]
        for share in (0.1, 0.3, 1, 3, 10, 30, 100)
    ]


def top_tens(contest: Contest, lists: Lists, pictures: Pictures) -> Section:
    """How top tens agree with one another and with users' highest ratings."""
    items, shown = contest.data.item_count, []
    first = topten.overlap_among_rated(lists, items)
    about = [
        "The items that a user rated highest are whole levels of ratings of the test part from the top, as many as fit in ten items and at "
        "least one. They are compared with top tens of two kinds, which answer two questions. Dark bars count items that were rated highest; the "
        "joined dots show the sets that the items of a bar are in."
    ]
    if first.users:
        words = [
            f"Among what the user rated: each model ranks the items of the test part, for the {first.users:,} users with "
            f"{topten.JUDGED_FROM} of them or more, so every place can be judged. At random, {_percent(first.chance or 0)} of the places would be right.",
            *(f"Of {name}'s places, {_percent(first.share_of_truth(name))} are among the items the user rated highest." for name in contest.names),
            *_agreement(first),
        ]  # fmt: skip
        shown.append(_upset_picture(first, pictures, "upset-among", words))
    else:
        about.append(
            f"No user has {topten.JUDGED_FROM} ratings in the test part, so only the second question can be asked."
        )
    second = topten.overlap_among_unseen(lists, items)
    highest = float(contest.parts.train.values.max())
    outcomes = {name: topten.outcome(lists, name, highest) for name in contest.names}
    words = [
        f"Among everything unseen: the items that would be shown to {second.users:,} users, of all items. Those that the user never rated "
        "cannot be judged; they may be just as good.",
        *(
            f"{name}: of {one.places:,} places the user rated {one.rated:,}, {one.mean:.2f} on average; {one.highest:,} are among the "
            f"highest rated, {one.hated:,} were hated ({topten.HATED_SHARE * highest:g} or less)."
            if one.rated
            else f"{name}: of {one.places:,} places the user rated none, so they cannot be judged."
            for name, one in outcomes.items()
        ),
        *_agreement(second),
    ]
    shown.append(_upset_picture(second, pictures, "upset-unseen", words))
    return Section("top-tens", "Top tens against the truth", about, shown)


def _agreement(found: Overlap) -> list[str]:
    """The shares of places that all models agree on, and that only one model has."""
    places = sum(count for sets, count in found.parts if any(sets[1:]))
    if len(found.names) < 3 or not places:
        return []
    common = sum(count for sets, count in found.parts if all(sets[1:]))
    alone = sum(count for sets, count in found.parts if sum(sets[1:]) == 1)
    return [f"Of all places that any model shows, {_percent(common / places)} are shown by all of them and {_percent(alone / places)} by only one."]  # fmt: skip


def _upset_picture(found: Overlap, pictures: Pictures, name: str, words: Sequence[str]) -> Picture:
    svg = pictures.upset_plot(found.names, found.sizes, found.parts[:BARS], name=name, what="items of users")
    rows = [
        (" + ".join(one for one, inside in zip(found.names, sets, strict=True) if inside), f"{count:,}")
        for sets, count in found.parts
    ]
    left = sum(count for _, count in found.parts[BARS:])
    missed = sum(count for sets, count in found.parts if sets[0] and not any(sets[1:]))
    note = [f"{_percent(missed / max(1, found.sizes[0]))} of the items rated highest are in no model's top ten."]
    if left:
        note.append(f"The table has {left:,} more items in smaller intersections.")
    return Picture(svg, [*words, *note], ("exactly in", "items of users"), rows)


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
