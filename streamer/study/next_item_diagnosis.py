"""A diagnosis of a fitted model of clicks, in words: high bias, high variance or fine, and which clicks it misses.

A hit rate is the share of clicks, one for each user, that are among the first ten of all items clicked in the training part,
ranked after the user's earlier clicks. For the training part it is each user's last click there, on which the model was fitted.
Its interval is Wilson's. A difference from popularity is on the same clicks, with a bootstrap interval over users.

Wilson (1927), Probable inference, the law of succession, and statistical inference, JASA 22(158).
"""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt
from typing import NamedTuple

import msgspec
import numpy as np

from streamer.core.arrays import F64, I32, I64, Bool
from streamer.core.dataset import Dataset
from streamer.core.protocols import NextItem
from streamer.models.offline import model
from streamer.study.diagnosis import FEW, LISTED_USERS, count_of, sentences_about_answers, top_ten_overlap
from streamer.study.train import BASELINES, RANKED_AT, Fit, interval, next_item_ranks

RANKED = 2_000  # largest number of users whose training and validation clicks are ranked; with more, evenly spaced ones
OVERFITTED = 2.0  # from this ratio of the hit rates on training and validation clicks on, the gap is mentioned
Z = 1.96


class HitRate(msgspec.Struct, frozen=True):
    """The hit rate on a group of clicks, with a 95% interval."""

    name: str
    examples: int
    hit_rate_10: float
    low: float
    high: float
    popularity_hit_rate_10: float


class NextItemDiagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """The diagnosis of a fit; groups are of the test part, lists are empty and values None where nothing can be measured."""

    verdict: str  # high bias, high variance or fine
    sentences: tuple[str, ...]  # the reasons, and what to do
    train: HitRate | None
    validation: HitRate | None
    test: HitRate
    over_popularity: float  # test: the hit rate minus that of popularity
    over_popularity_interval: tuple[float, float]
    by_popularity: tuple[HitRate, ...]  # by popularity of the item, the most clicked first
    by_history: tuple[HitRate, ...]  # by the number of the user's earlier clicks, the fewest first
    by_category: tuple[HitRate, ...]  # worst first
    items_never_clicked: int  # test clicks on items without training clicks, which no model here can rank
    top_tens_in_common: float | None  # share, mean over pairs of users with different histories


class _Part(NamedTuple):
    """Clicks that were ranked, one for each user, and whether they are hits."""

    targets: Dataset
    hits: Bool
    reference: Bool  # hits of popularity

    def share(self, name: str, chosen: Bool | None = None) -> HitRate | None:
        """The hit rate on the chosen clicks; None without any."""
        chosen = np.ones(len(self.hits), dtype=np.bool_) if chosen is None else chosen
        n = int(np.count_nonzero(chosen))
        if not n:
            return None
        rate, reference = float(self.hits[chosen].mean()), float(self.reference[chosen].mean())
        middle, width = rate + Z * Z / (2 * n), Z * sqrt(rate * (1 - rate) / n + (Z / (2 * n)) ** 2)
        low, high = ((middle + sign * width) / (1 + Z * Z / n) for sign in (-1, 1))
        return HitRate(name, n, rate, min(rate, max(0.0, low)), max(rate, min(1.0, high)), reference)  # rounded below 1

    def over(self, seed: int) -> tuple[float, tuple[float, float]]:
        """The hit rate minus that of popularity, and its interval."""
        differences: F64 = self.hits.astype(np.float64) - self.reference
        return float(differences.mean()), interval(differences, seed)


def diagnose_next_items(fit: Fit) -> NextItemDiagnosis:
    """Diagnose a fit of a model of clicks. Cost: a fit of popularity, and ranking for up to 4,000 more users with both models."""
    train, validation, test = fit.parts
    assert isinstance(fit.model, NextItem)
    assert fit.ranks is not None
    assert fit.popularity_ranks is not None
    popularity = model(BASELINES["clicks"], seed=fit.trained.seed)
    popularity.fit(train, validation, lambda epoch: None)
    assert isinstance(popularity, NextItem)
    makers = fit.model, popularity

    def ranked(before: Sequence[Dataset], targets: Dataset) -> _Part:
        targets = _listed(targets)
        hits, reference = (next_item_ranks(made, train, before, targets) <= RANKED_AT for made in makers)
        return _Part(targets, hits, reference)

    earlier, last = _last_new(train)
    own, held = ranked([earlier], last), ranked([train], _new(train, validation))
    tested = _Part(test, fit.ranks <= RANKED_AT, fit.popularity_ranks <= RANKED_AT)
    of_own, of_held, of_test = own.share("train"), held.share("validation"), tested.share("test")
    assert of_test is not None  # a fit has test clicks
    counts = np.bincount(train.items, minlength=train.item_count)
    of_user = np.bincount(np.concatenate([train.users, validation.users]), minlength=train.user_count)
    by_popularity, by_history = _by_popularity(tested, counts), _by_history(tested, of_user[test.users])
    by_category, common = _by_category(tested), _top_tens_in_common(fit.model, train, of_user)
    unknown = int(np.count_nonzero(counts[test.items] == 0))
    over, between = tested.over(fit.trained.seed)
    verdict, sentences = _verdict(fit, (of_own, of_held, of_test), (own, held), over, between)
    sentences += _of_slices(of_test, by_popularity, by_history, by_category, unknown)
    sentences += sentences_about_answers(common)
    return NextItemDiagnosis(
        verdict=verdict, sentences=tuple(sentences), train=of_own, validation=of_held, test=of_test,
        over_popularity=over, over_popularity_interval=between, by_popularity=by_popularity, by_history=by_history, by_category=by_category,
        items_never_clicked=unknown, top_tens_in_common=common,
    )  # fmt: skip


def _listed(targets: Dataset) -> Dataset:
    if len(targets) <= RANKED:
        return targets
    return targets.select(np.linspace(0, len(targets) - 1, RANKED).astype(np.int64))


def _pairs(part: Dataset) -> I64:
    return part.users.astype(np.int64) << 32 | part.items


def _new(before: Dataset, targets: Dataset) -> Dataset:
    """The clicks on items that their user had not clicked before: items that a user knows are not recommended."""
    return targets.select(~np.isin(_pairs(targets), _pairs(before)))


def _last_new(train: Dataset) -> tuple[Dataset, Dataset]:
    """All clicks but each user's last, and these last clicks, if on an item new to the user and not the user's only click."""
    order, starts = train.by_user()
    counts = np.diff(starts)
    last = order[starts[1:][counts >= 2] - 1]
    rest = np.ones(len(train), dtype=np.bool_)
    rest[last] = False
    earlier = train.select(rest)
    return earlier, _new(earlier, train.select(np.sort(last)))


def _verdict(
    fit: Fit, rates: tuple[HitRate | None, HitRate | None, HitRate], parts: Sequence[_Part], over: float,
    between: tuple[float, float],
) -> tuple[str, list[str]]:  # fmt: skip
    """The verdict and the sentences for it.

    high bias: it does not rank even the training clicks better than popularity does. high variance: it ranks only those better.
    If no training click can be judged, the validation part decides whether it learned anything.
    """
    train, validation, test = rates
    itself = fit.trained.model == BASELINES["clicks"]
    compared = (
        ""
        if itself
        else f"; on the test part {over:+.4f} against popularity ({between[0]:+.4f} to {between[1]:+.4f}, paired by user)"
    )
    sentences = [f"Hit rate @10: train {_rate(train)}, validation {_rate(validation)}, test {_rate(test)}{compared}."]
    if itself:
        sentences.append("High bias: it gives all users the same ranking; it is the baseline for the other models.")
        return "high bias", sentences
    if (items := len(np.unique(fit.parts.train.items))) <= RANKED_AT:
        sentences.append(
            f"There is nothing to learn: the training part has {count_of(items, 'item')}, which are always among the first {RANKED_AT}."
        )
        return "fine", sentences
    fits, helps = (len(part.hits) > 0 and part.over(fit.trained.seed)[1][0] > 0 for part in parts)
    unlike = "" if between[0] > 0 else " On the test part the difference is not significant."
    against = " On the test part it is significantly better." if between[0] > 0 else ""
    if train is None:
        verdict = "fine" if helps else "high bias"
        better = "better" if helps else "not significantly better"
        sentences.append(
            f"{verdict.capitalize()}, judged by the validation part alone, which it ranks {better} than popularity: in the training part no user clicks "
            f"a new item after another click, so there was no order to learn. Longer histories would help.{unlike if helps else against}"
        )
    elif not fits:
        verdict = "high bias"
        sentences.append(
            f"High bias: it does not rank even its training clicks significantly better than popularity ({train.popularity_hit_rate_10:.4f}), so it is too simple "
            f"for them. Try more units or epochs, smaller penalties, or longer histories.{against}"
        )
    elif not helps:
        verdict = "high variance"
        reference = f" ({validation.popularity_hit_rate_10:.4f})" if validation else ""
        sentences.append(
            f"High variance: it ranks its training clicks better than popularity ({train.popularity_hit_rate_10:.4f}), but those of the "
            f"validation part not significantly better{reference}, so it has learned noise. Try fewer units, more dropout, or more clicks.{against}"
        )
    else:
        verdict = "fine"
        more = (
            " Its hit rate on training clicks is so much higher that more clicks, or stronger penalties, may still help."
            if validation and train.hit_rate_10 > OVERFITTED * validation.hit_rate_10
            else ""
        )
        sentences.append(
            f"Fine: better than popularity on its training clicks and on the validation part.{unlike}{more}"
        )
    judged = [("validation", validation.examples if validation else 0)]
    judged += [("training", train.examples)] if train else []
    few = [f"the {part} part has {count_of(number, 'click')}" for part, number in judged if number < FEW]
    if few:
        sentences.append(f"The data are too few to be sure: {' and '.join(few)} on new items.")
    return verdict, sentences


def _rate(found: HitRate | None) -> str:
    return "-" if found is None else f"{found.hit_rate_10:.4f} ({found.low:.4f} to {found.high:.4f})"


def _by_popularity(tested: _Part, counts: I64) -> tuple[HitRate, ...]:
    """By thirds of all training clicks, rounded to whole items, so the first third has few items."""
    order = np.argsort(-counts, kind="stable")
    third = np.empty(len(counts), dtype=np.int64)
    third[order] = np.minimum(2, 3 * (np.cumsum(counts[order]) - counts[order]) // max(1, int(counts.sum())))
    of = np.where(counts > 0, third, -1)
    names = ("most clicked items", "items in the middle", "least clicked items")
    found = []
    for number, name in enumerate(names):
        one = tested.share(f"{name} ({np.count_nonzero(of == number):,})", of[tested.targets.items] == number)
        found += [one] if one else []
    return tuple(found)


def _by_history(tested: _Part, before: I64) -> tuple[HitRate, ...]:
    edges = (0, 5, 20, 100, np.iinfo(np.int64).max)
    found = []
    for low, high in pairwise(edges):
        name = f"{low} and more" if high == edges[-1] else f"under {high}" if not low else f"{low} to {high - 1}"
        one = tested.share(f"{name} earlier clicks", (before >= low) & (before < high))
        found += [one] if one else []
    return tuple(found)


def _by_category(tested: _Part) -> tuple[HitRate, ...]:
    side, items = tested.targets.side, tested.targets.items
    found = [tested.share(name, side.categories[items, n] > 0) for n, name in enumerate(side.category_names)]
    if side.category_names:
        found.append(tested.share("(no category)", np.equal(side.categories[items].max(axis=1), 0)))
    return tuple(sorted((one for one in found if one), key=lambda one: one.hit_rate_10))


def _of_slices(
    test: HitRate,
    by_popularity: Sequence[HitRate],
    by_history: Sequence[HitRate],
    by_category: Sequence[HitRate],
    unknown: int,
) -> list[str]:
    sentences = []
    for slices, whose in ((by_popularity, "on the"), (by_history, "by users with")):
        enough = [one for one in slices if one.examples >= FEW]
        if len(enough) > 1:
            first, last = enough[0], enough[-1]
            sentences.append(
                f"The hit rate of clicks {whose} {first.name} is {first.hit_rate_10:.1%}, {whose} {last.name} {last.hit_rate_10:.1%}."
            )
    worse = [one for one in by_category if one.examples >= FEW and one.high < test.hit_rate_10]
    if worse:
        sentences.append(
            "Categories with lower hit rates than the rest: "
            + ", ".join(f"{one.name} ({one.hit_rate_10:.3f}, {one.examples:,} clicks)" for one in worse[:5])
            + "."
        )
    few = [f"{one.name} ({one.examples})" for one in by_category if one.examples < FEW]
    if few:
        sentences.append("Categories with too few test clicks to tell: " + ", ".join(few[:8]) + ".")
    if unknown:
        sentences.append(
            f"{unknown:,} of {test.examples:,} test clicks are on items without training clicks, which every model of clicks misses."
        )
    return sentences


def _top_tens_in_common(made: NextItem, train: Dataset, clicks: I64) -> float | None:
    """For the users with the most clicks, after their histories in the training part."""
    order, starts = train.by_user()
    users = np.argsort(-clicks, kind="stable")[:LISTED_USERS].astype(np.int32)
    users = users[np.diff(starts)[users] > 0]
    known = np.flatnonzero(np.bincount(train.items, minlength=train.item_count))
    histories: list[I32] = [train.items[order[starts[user] : starts[user + 1]]] for user in users.tolist()]
    scores = np.nan_to_num(made.scores(users, histories)[:, known], nan=-np.inf)
    return top_ten_overlap(scores)
