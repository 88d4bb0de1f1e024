"""The quality that each learner must reach on real ratings (ml-latest-small), predicted before learning, in order of time."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import run

from streamer.checks.batches import Ring
from streamer.core.arrays import F32, F64, I32, Bool
from streamer.core.batch import Batch, UserView
from streamer.core.events import LOG
from streamer.core.protocols import OnlineLearner
from streamer.core.seed import event_keys, id_key, sequence_key
from streamer.models import learner


@pytest.fixture(scope="module")
def stream(movielens: Path) -> Batch:
    """All ratings as one batch, in order of time, ties shuffled by seed 1; 4 stars and more are clicks."""
    table = np.loadtxt(movielens / "ratings.csv", delimiter=",", skiprows=1)
    table = table[np.lexsort((np.random.default_rng(1).permutation(len(table)), table[:, 3]))]
    users, items = (by_arrival(table[:, column]) for column in (0, 1))
    values, n = table[:, 2].astype(np.float32), len(table)
    ring = Ring(int(users.max()) + 1, page=128, window=4096, longest=1024)
    seen_counts = np.array([ring.put(u, i) for u, i in zip(users.tolist(), items.tolist(), strict=True)])
    lows, highs = np.full(n, -np.inf, dtype=np.float32), np.full(n, np.inf, dtype=np.float32)
    lows[1:], highs[1:] = np.minimum.accumulate(values)[:-1], np.maximum.accumulate(values)[:-1]
    return Batch(
        np.zeros(n, dtype=np.uint8), users, items, values, (values >= 4.0).astype(np.float32),
        (1000 * table[:, 3]).astype(np.int64), event_keys(sequence_key(1, LOG), np.arange(n)), lows, highs,
        seen_counts, ring.seen(),
    )  # fmt: skip


def by_arrival(ids: F64) -> I32:
    """Ids as rows in the order in which they first come."""
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int32)


def ready(name: str, batch: Batch, dim: int | None = None) -> OnlineLearner:
    """The learner with rows for all users and items."""
    made = learner(name, seed=1, dim=dim)
    for table in made.tables().values():
        if table.side != "stream":
            rows = np.arange(1 + (batch.users if table.side == "user" else batch.items).max(), dtype=np.int32)
            table.reserve(len(rows))
            table.begin(rows, [id_key(1, table.side, str(row)) for row in rows.tolist()])
    return made


def rmse(batch: Batch, out: F32) -> float:
    errors = np.clip(out, batch.lows, batch.highs).astype(np.float64) - batch.values
    return float(np.sqrt((errors**2).mean()))


def hit_rate(made: OnlineLearner, batch: Batch, events: int) -> float:
    """Of the first clicks of a user on an item, those that ranked among the ten best known items without a click of theirs.

    An item's first click is a miss; ties count half.
    """
    items = np.arange(batch.items.max() + 1, dtype=np.int32)
    clicked: Bool = np.zeros((batch.users.max() + 1, len(items)), dtype=np.bool_)
    known: Bool = np.zeros(len(items), dtype=np.bool_)
    hits, queries = 0, 0
    for k in range(events):
        user, item = batch.users[k], batch.items[k]
        if batch.clicks[k] > 0 and not clicked[user, item]:
            queries += 1
            if known[item]:
                rows = {made.name: made.tables()["user"].values[user]} if "user" in made.tables() else {}
                scores = made.score(UserView(str(user), True, rows, items[:0], True), items)
                rivals = scores[known & ~clicked[user]]  # the item itself among them: it ties with itself
                ahead, level = np.count_nonzero(rivals > scores[item]), np.count_nonzero(rivals == scores[item]) - 1
                hits += int(ahead + level / 2 < 10)
            clicked[user, item] = known[item] = True
        made.learn(batch.part(k, k + 1))
    return hits / queries


@pytest.mark.parametrize(
    ("name", "dim", "most"),
    [
        ("bias", None, 0.89),
        ("biased-mf", None, 0.895),
        ("biased-mf", 8, 0.895),
        ("biased-mf", 64, 0.895),
        ("bayesian-hybrid", None, 0.87),
    ],
)
def test_ratings_are_predicted_well_enough(stream: Batch, name: str, dim: int | None, most: float) -> None:
    assert rmse(stream, ready(name, stream, dim).learn(stream)) <= most


def test_skip_gram_beats_all_time_popularity(stream: Batch) -> None:
    rates = {name: hit_rate(ready(name, stream), stream, 30_000) for name in ("popularity", "skip-gram")}
    assert rates["skip-gram"] > rates["popularity"]


def test_session_neighbours_rank_well(stream: Batch) -> None:
    assert hit_rate(ready("neighbours", stream), stream, 12_000) > 0.24


@pytest.fixture
def first_clicks(movielens: Path, tmp_path: Path) -> Path:
    """A folder like ml-latest-small, of its first 12,000 ratings by time."""
    shutil.copy(movielens / "movies.csv", tmp_path)
    head, *rows = (movielens / "ratings.csv").read_text().splitlines(keepends=True)
    rows.sort(key=lambda row: int(row.rsplit(",", 1)[1]))
    (tmp_path / "ratings.csv").write_text("".join([head, *rows[:12_000]]))
    return tmp_path


@pytest.mark.parametrize(
    ("folder", "least"),
    [
        ("first_clicks", (0.232, 0.328, 0.143)),
        pytest.param("movielens", (0.116, 0.180, 0.077), marks=pytest.mark.soak),
    ],
)
def test_the_blend_of_clicks_ranks_well_enough_and_no_worse_than_its_first_expert(
    request: pytest.FixtureRequest, folder: str, least: tuple[float, ...]
) -> None:
    """Measured by `streamer evaluate`; the documentation has its figures on all ratings."""
    stream = request.getfixturevalue(folder)
    blend, first = (
        json.loads(run("evaluate", stream, "--learner", name, "--json")) for name in ("click-blend", "transitions")
    )
    for measure, floor in zip(("hit_rate_10", "hit_rate_20", "ndcg_20"), least, strict=True):
        assert blend[measure] >= max(floor, first[measure])
