"""What questions are worth: the errors on held-out users after they have answered questions, by how the questions are chosen.

    python -m benchmarks.questions path/to/ml-latest-small

A quarter of the users is held out, the rest is learned as in the service. For each held-out user with 20 ratings or
more, questions may be about one random half of the ratings, and the other half is predicted: without answers, and after five
answers, which are the true ratings. A service does not know which items somebody has rated, so 15 questions are also chosen among all
items, and the user answers those about rated items. This is repeated for four sets of users; about a minute.
"""

import itertools
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.stream import memory
from benchmarks.tables import table
from streamer.consumers.files import FileSource
from streamer.core.arrays import F64, I32, Array
from streamer.core.events import RATINGS, Rating, Record
from streamer.core.settings import Settings
from streamer.models.hybrid.bayesian_hybrid import BayesianHybrid
from streamer.models.hybrid.rows import SESSION
from streamer.serving.opening import learners
from streamer.serving.questions import RECOMMENDED
from streamer.serving.recommend import POPULARITY, Recommender
from streamer.stream.memory import Memory

FOLDS, ANSWERS, ASKED, LEAST = 4, 5, 15, 20
NO_ITEMS = np.empty(0, dtype=np.int32)
Ratings = Mapping[int, float]  # by item row


def learned(parts: Memory, path: Path, fold: int) -> list[Ratings]:
    """Learn the events of users that are not held out; return the ratings of those that are."""
    source, records = FileSource(path, 1), list[Record]()
    while found := source.poll(1_000, 0.0):
        records += found
    users = sorted({one.key for one in records if one.topic == RATINGS and one.key})
    held = set(np.random.default_rng(fold).permutation(np.array(users, dtype=object))[: len(users) // 4])
    for start in range(0, len(records), 1_000):
        kept = [one for one in records[start : start + 1_000] if one.topic != RATINGS or one.key not in held]
        for _ in parts.learn(kept, parts.commit):
            pass
    row_of, ratings = parts.items.row_of, {user: dict[int, float]() for user in sorted(held)}
    for one in records:
        if one.topic == RATINGS and one.key in held and one.value:
            event = msgspec.json.decode(one.value, type=Rating)
            if event.rating is not None:
                ratings[one.key][row_of[event.item_id]] = event.rating
    return [found for found in ratings.values() if len(found) >= LEAST]


def errors(path: Path, fold: int) -> dict[str, F64]:
    """Measure each way to choose questions.

    Returns an array (users, 5) for each way: the sum of squared errors over recommended items and their number, the same two
    figures for all items, and the number of answers.
    """
    settings = Settings()
    with memory(learners(settings), settings) as parts:
        held, learner = learned(parts, path, fold), parts.learners.rater_with_belief()
        assert isinstance(learner, BayesianHybrid)
        recommender = Recommender(parts, parts.learners.by_name[POPULARITY])
        targets = rows(parts.items.row_of[one.item_id] for one in recommender.recommend("", RECOMMENDED))
        items, nobody = rows(range(len(parts.items))), learner.belief(parts.users.view(""))
        counts = learner.ratings_of(items)
        blind: dict[str, I32] = {
            f"most rated, {ASKED} of all": np.argsort(-counts, kind="stable")[:ASKED].astype(np.int32),
            f"--questions, {ASKED} of all": learner.questions(
                nobody, items, counts / parts.users.count, targets, ASKED
            )[0],
        }
        random, found = np.random.default_rng(100 + fold), dict[str, list[list[float]]]()
        for ratings in held:
            shuffled = random.permutation(rows(ratings))
            pool, rest = np.sort(shuffled[: len(shuffled) // 2]), shuffled[len(shuffled) // 2 :]
            chosen: dict[str, I32] = {
                "none": NO_ITEMS,
                f"at random, {ANSWERS} of theirs": random.choice(pool, ANSWERS, replace=False),
                f"most rated, {ANSWERS} of theirs": pool[np.argsort(-counts[pool], kind="stable")][:ANSWERS],
                f"--questions, {ANSWERS} of theirs": learner.questions(
                    nobody, pool, np.ones(len(pool)), targets, ANSWERS
                )[0],
                **{name: asked[np.isin(asked, pool)] for name, asked in blind.items()},
            }
            for name, asked in chosen.items():
                values = np.array([ratings[item] for item in asked.tolist()], dtype=np.float32)
                row = learner.condition(nobody, {}, rows(asked), values)
                row[SESSION] = 0.0  # the other ratings are of other sessions
                truth = np.array([ratings[item] for item in rest.tolist()])
                squares = (
                    np.clip(learner.score_row(row, rest), parts.encoder.scale.low, parts.encoder.scale.high) - truth
                ) ** 2
                shown = np.isin(rest, targets)
                found.setdefault(name, []).append(
                    [squares[shown].sum(), shown.sum(), squares.sum(), len(rest), len(asked)]
                )
    return {name: np.array(per_user) for name, per_user in found.items()}


def rows(items: Iterable[int]) -> I32:
    """The items as an array of rows."""
    return np.array(list(items), dtype=np.int32)


def rmse(per_user: F64, column: int) -> Array:
    """The RMSE from columns `column` and `column` + 1 of (..., users, 5)."""
    return np.asarray(np.sqrt(per_user[..., column].sum(axis=-1) / per_user[..., column + 1].sum(axis=-1)))


def main(path: Path) -> None:
    """Print a table, and the differences between the questions and the alternatives with 95% intervals over users."""
    folds = [errors(path, fold) for fold in range(FOLDS)]
    found = {name: np.concatenate([fold[name] for fold in folds]) for name in folds[0]}
    columns = {"recommended items": 0, "all items": 2}
    lines = [
        [name, f"{per_user[:, 4].mean():.1f}", *(f"{rmse(per_user, column):.4f}" for column in columns.values())]
        for name, per_user in found.items()
    ]
    print("\n".join(table(("asked about", "answers", *(f"RMSE of {what}" for what in columns)), lines)))
    drawn = np.random.default_rng(1).integers(0, len(found["none"]), (2_000, len(found["none"])))
    for name, base in itertools.product(found, found):
        own = name.startswith("--questions") and base != name and base.partition(",")[2] == name.partition(",")[2]
        for what, column in columns.items() if own else ():
            apart = rmse(found[name][drawn], column) - rmse(found[base][drawn], column)
            low, high = np.percentile(apart, [2.5, 97.5])
            print(f"RMSE of {what}, {name} less {base}: {low:+.4f} to {high:+.4f} ({len(found[name])} users)")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
