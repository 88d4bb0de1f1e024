"""What the report says: sections of sentences that are made from the numbers, pictures, and the numbers behind them."""

from collections.abc import Sequence
from math import isnan, nan, sqrt
from typing import NamedTuple

import numpy as np

from streamer.core.arrays import F64
from streamer.study.diagnosis import FEW, Estimate
from streamer.study.report import errors_by, topten
from streamer.study.report.contenders import Contest
from streamer.study.report.errors_by import Classes
from streamer.study.report.figures import Pictures, compared
from streamer.study.report.topten import Lists, Overlap

BARS = 12  # intersections in a picture; the others are in the table
NOTHING = "–"


class Picture(NamedTuple):
    """A picture, what it shows in words, and its numbers."""

    svg: str  # empty: there are only words and numbers
    words: Sequence[str]
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""


class Section(NamedTuple):
    """A heading, what there is to know before, and pictures."""

    id: str
    title: str
    words: Sequence[str]
    pictures: Sequence[Picture]


def sections(contest: Contest, lists: Lists, pictures: Pictures) -> list[Section]:
    """All but the user's page."""
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
    """A dash for what there is not."""
    return NOTHING if value is None or isnan(value) else f"{value:,.{digits}f}"


def signed(value: float) -> str:
    """Two digits."""
    return f"{value:+.2f}"


def _percent(value: float) -> str:
    return NOTHING if isnan(value) else f"{100 * value:.1f}%"


def models(contest: Contest) -> Section:
    """Which models there are, how they do, and what is wrong with each."""
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
                f"{one.name} is off by {rmse:.3f}: its squared error is {abs(share):.1%} {'lower' if share < 0 else 'higher'} than "
                f"bias only's, give or take {width:.1%}. The diagnosis is {one.diagnosis.verdict}."
            )
    clicks = [one.name for one in contest.contenders if one.mse is None]
    if len(clicks) == 1:
        words.append(
            f"{clicks[0]} ranks by what was liked and predicts no ratings: it has no error, but it has top tens."
        )
    elif clicks:
        words.append(
            f"{_listed(clicks)} rank by what was liked and predict no ratings: they have no errors, but top tens."
        )
    svg = compared(
        list(intervals), [sqrt(one.mse[2]) for one in contest.contenders if one.mse], list(intervals.values()),
        what="RMSE on the test part (lower is better)", reference=None if "bias" in intervals else ("bias only", of_bias), name="models",
    )  # fmt: skip
    columns = (
        "model", "learns from", "train RMSE", "validation", "test", "95% of test", "test MSE against bias only", "diagnosis", "epoch kept",
    )  # fmt: skip
    about = (
        f"Bias only, a model that knows no taste, only what all rate high and who rates high, is off by {of_bias:.3f} (RMSE). Lines "
        "are 95% intervals, users being drawn; most of that is common to all models, so that differences are surer than they look."
    )
    return Section("models", "The models", [about], [Picture(svg, words, columns, rows)])


def _interval(mse: Estimate) -> tuple[float, float]:
    """Of the RMSE; NaN where nothing can be said."""
    if isnan(mse.half_width):
        return nan, nan
    return sqrt(max(0.0, mse.mean - mse.half_width)), sqrt(mse.mean + mse.half_width)


def diagnoses(contest: Contest) -> Section:
    """What `streamer train` says of each model of ratings, and its errors by category."""
    on_progress = []
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
            on_progress.append(
                Picture("", one.diagnosis.sentences, columns, rows, f"{one.name}: {one.diagnosis.verdict}")
            )
    return Section("diagnosis", "Diagnosis", ["The numbers are errors by category, the worst first."], on_progress)


def curves(contest: Contest, pictures: Pictures) -> Section:
    """How the errors fell while they learned: those of ratings, and, in other units, those of next items."""
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
                f"Of {one.name}'s {len(one.curve)} {called} number {kept + 1} was kept, the best on the validation part: {train:.3f} on "
                f"what it learned from, {validation:.3f} beside it, a gap of {validation - train:.3f}."
                + (" It is the last one allowed: more might be better." if last else "")
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
        "By epoch, on the part that was learned from (dashed; as the model counts it) and on the validation part. For bias an epoch "
        "is a pair of penalties that was tried. Where the two part, the model learns by heart."
    ]
    without = [one.name for one in contest.contenders if one.best_epoch is None]
    if without:
        about.append(f"{_listed(without)} learn{'s' if len(without) == 1 else ''} in one pass: there is no curve.")
    return Section("curves", "Learning curves", about, shown)


def distributions(contest: Contest, pictures: Pictures) -> Section:
    """What was given, and what was predicted."""
    test = contest.parts.test
    steps = errors_by.scale(contest.data.ratings().values)
    given = steps.shares(test.values)
    predicted = {one.name: steps.shares(one.predicted[2]) for one in contest.raters if one.predicted}
    spread = float(test.values.std())
    words = []
    for one in contest.raters:
        assert one.predicted is not None
        said = one.predicted[2]
        words.append(
            f"{one.name} says between {said.min():.1f} and {said.max():.1f}, with a deviation of {said.std():.2f} where the ratings "
            f"have {spread:.2f}: {'the extremes are hardly ever predicted' if said.std() < 0.7 * spread else 'nearly as wide as they are'}."
        )
    rows = [
        (label, _percent(given[n]), *(_percent(share[n]) for share in predicted.values()))
        for n, label in enumerate(steps.labels)
    ]
    svg = pictures.shares(steps.labels, given, predicted, along="rating (predictions: the nearest)")
    picture = Picture(svg, words, ("rating", "given", *predicted), rows)
    return Section("distributions", "What is given, what is predicted", [], [picture])


def by_value(contest: Contest, pictures: Pictures) -> Section:
    """Errors by the rating that was given."""
    found = errors_by.by_value(contest, errors_by.scale(contest.data.ratings().values))
    about = (
        "The extremes are where models fail: whoever is unsure says something near the mean, and that is the more wrong the "
        "further from the mean the truth is."
    )
    return Section(
        "by-value", "Errors by rating", [about], [_errors(found, pictures, "rating that was given", "by-value")]
    )


def by_popularity(contest: Contest, pictures: Pictures) -> Section:
    """Errors by how often the item had been rated."""
    found = errors_by.by_popularity(contest)
    label = "ratings of the item in the training part"
    picture = _errors(found, pictures, label, "by-popularity")
    words = []
    shown = np.flatnonzero(found.counts >= FEW)
    if len(shown) > 1:
        few, many = int(shown[0]), int(shown[-1])
        words = [
            f"{name} is off by {rmse[few]:.2f} on items with {found.labels[few]} ratings, by {rmse[many]:.2f} on those with {found.labels[many]}."
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
    """Which items get into top tens."""
    every = topten.coverages(lists, contest.parts.train)
    ratings = every.pop("ratings")
    items = int(np.count_nonzero(lists.candidates))
    who = (
        f"{len(lists.users):,} users" if len(lists.users) == lists.of else f"{len(lists.users):,} of {lists.of:,} users"
    )
    words = [
        f"{name} shows {_percent(one.covered)} of the items to anybody; the 1% most popular have {_percent(one.head)} of its places "
        f"(of the ratings {_percent(ratings.head)}), the tail {_percent(one.tail)}."
        for name, one in every.items()
    ]
    rows = [
        (name, _percent(one.covered), f"{one.gini:.3f}", _percent(one.head), _percent(one.tail))
        for name, one in [("ratings themselves", ratings), *every.items()]
    ]
    columns = ("places of", "items covered", "Gini", "places of the 1% most popular", "places of the tail")
    about = (
        f"Of what would be shown: the top tens of {who} among all {items:,} items that somebody rated in the training part and the "
        f"user had not. {min(1.0, 10 * len(lists.users) / max(1, items)):.0%} of the items could be covered at most. The tail is the items beyond the "
        "most popular ones that together got 80% of the ratings. Gini: 0 where all items are shown as often, 1 where one always is."
    )
    shares = {name: one.covered for name, one in every.items()}
    concentration = pictures.concentration({n: one.curve for n, one in every.items()}, ratings=ratings.curve)
    half = {name: int(np.searchsorted(one.curve, 0.5)) for name, one in every.items()}
    seen = [
        f"Half of the ratings are of the {int(np.searchsorted(ratings.curve, 0.5)):,} most popular items.",
        *(
            f"Half of what {name} shows is among the {most:,} most popular ({most / items:.1%})."
            for name, most in half.items()
        ),
    ]
    seen.append("Above the grey, a model shows the popular more than people rate them; below it, less.")
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
    """How top tens agree with one another and with the truth."""
    items, shown = contest.data.item_count, []
    first = topten.among(lists, items)
    about = [
        "What a user truly rated highest: whole levels of rating of the test part from the top, as many as fit in ten, the highest "
        "always. Against it stand top tens of two kinds, because they answer two questions. Strong bars are of what was rated highest; joined dots "
        "say in which sets the items of a bar are, and in no others."
    ]
    if first.users:
        words = [
            f"Among what the user rated: each model puts the items of the test part in order, for the {first.users:,} users with "
            f"{topten.JUDGED_FROM} of them or more, and every place can be judged. By lot {_percent(first.chance or 0)} of the places would be right.",
            *(f"Of {name}'s places, {_percent(first.share_of_truth(name))} are among what the user rated highest." for name in contest.names),
            *_agreement(first),
        ]  # fmt: skip
        shown.append(_upset(first, pictures, "upset-among", words))
    else:
        about.append(
            f"No user has {topten.JUDGED_FROM} ratings in the test part, so only the second question can be asked."
        )
    second = topten.unseen(lists, items)
    highest = float(contest.parts.train.values.max())
    outcomes = {name: topten.outcome(lists, name, highest) for name in contest.names}
    words = [
        f"Among everything unseen: what would be shown, of all items, to {second.users:,} users. A place that the user never rated "
        "may be as good as one that was: nobody knows.",
        *(
            f"{name}: of {one.places:,} places the user rated {one.rated:,}, {one.mean:.2f} on average; {one.highest:,} are among the "
            f"highest, {one.hated:,} were hated ({topten.HATED_SHARE * highest:g} or less)."
            if one.rated
            else f"{name}: of {one.places:,} places the user rated none, so nothing can be said."
            for name, one in outcomes.items()
        ),
        *_agreement(second),
    ]
    shown.append(_upset(second, pictures, "upset-unseen", words))
    return Section("top-tens", "Top tens against the truth", about, shown)


def _agreement(found: Overlap) -> list[str]:
    """How many places all models agree on, and how many one has to itself."""
    places = sum(count for sets, count in found.parts if any(sets[1:]))
    if len(found.names) < 3 or not places:
        return []
    common = sum(count for sets, count in found.parts if all(sets[1:]))
    alone = sum(count for sets, count in found.parts if sum(sets[1:]) == 1)
    return [f"All models agree on {_percent(common / places)} of what any of them shows; {_percent(alone / places)} only one of them shows."]  # fmt: skip


def _upset(found: Overlap, pictures: Pictures, name: str, words: Sequence[str]) -> Picture:
    svg = pictures.upset(found.names, found.sizes, found.parts[:BARS], name=name, what="items of users")
    rows = [
        (" + ".join(one for one, inside in zip(found.names, sets, strict=True) if inside), f"{count:,}")
        for sets, count in found.parts
    ]
    left = sum(count for _, count in found.parts[BARS:])
    missed = sum(count for sets, count in found.parts if sets[0] and not any(sets[1:]))
    note = [f"{_percent(missed / max(1, found.sizes[0]))} of what was rated highest is in no model's top ten."]
    if left:
        note.append(f"{left:,} more are in smaller intersections, in the table.")
    return Picture(svg, [*words, *note], ("exactly in", "items of users"), rows)


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
