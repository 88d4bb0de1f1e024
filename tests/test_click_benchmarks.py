"""The benchmarks measure learners of clicks, ours and peers, as `streamer evaluate` does, on any stream, and write correct tables."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from learning import settings

from benchmarks import clicks, figures, stream, synthetic, tables
from benchmarks.contest import Outcome
from benchmarks.report import Report
from streamer.consumers.files import FileSource
from streamer.core.arrays import F32
from streamer.study.evaluate import Evaluation, evaluate


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Likes among ratings, and clicks: no item is clicked anew, and all are of one time."""
    file, random = tmp_path_factory.mktemp("benchmarks") / "events.jsonl", np.random.default_rng(7)
    pairs = dict.fromkeys((int(random.integers(30)), int(random.zipf(1.5)) % 60) for _ in range(3000))
    lines = [
        {"user_id": f"u{user}", "item_id": f"i{item}", "timestamp_ms": n // 3}
        | ({"kind": "click"} if n % 4 == 0 else {"rating": float(random.integers(1, 11)) / 2})
        for n, (user, item) in enumerate(pairs)
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


def evaluated(name: str, path: Path) -> Evaluation:
    return evaluate(name, settings(), lambda: FileSource(path), rank=True, progress=lambda done, of: None)


class Counted:
    """Popularity as a peer."""

    def __init__(self) -> None:
        self.counts = Counter[int]()
        self.begun = 0

    def begin(self, user: int) -> None:
        self.begun += 1

    def score(self, user: int, count: int) -> F32:
        return np.array([self.counts[item] for item in range(count)], dtype=np.float32)

    def learn(self, user: int, item: int) -> None:
        self.counts[item] += 1


@pytest.fixture(scope="module")
def clicked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clicks with repeats and pauses, so that sessions and both ways of counting differ."""
    file, random = tmp_path_factory.mktemp("clicks") / "events.csv", np.random.default_rng(8)
    times = np.cumsum(random.choice([5_000, 90_000_000], 900, p=[0.97, 0.03]))
    rows = [f"u{random.integers(9)},i{random.zipf(1.5) % 40},{1_700_000_000_000 + time}" for time in times]
    file.write_text("\n".join(["user_id,item_id,timestamp_ms", *rows]))
    return file


ASKED = ("queries", "hit_rate_10", "hit_rate_20", "ndcg_20", "session_queries", "session_hit_rate_20", "session_mrr_20")


def test_the_protocol_of_clicks_is_that_of_evaluate(path: Path, clicked: Path) -> None:
    for file in (path, clicked):
        made = Counted()
        queries, ranks, _ = clicks.rank_clicks(stream.read(file, settings()), made)
        found, wanted = figures.clicks(queries, ranks), evaluated("popularity", file)
        for name in ASKED:
            assert getattr(found, name) == pytest.approx(getattr(wanted, name), abs=1e-12), name
        assert wanted.session_queries is not None
        assert made.begun == wanted.sessions
    assert (wanted.sessions or 0) > wanted.users, "there are pauses"
    assert 0 < found.queries < wanted.clicks, "there are repeats"


def test_our_learners_of_clicks_get_the_figures_of_evaluate_side_by_side(clicked: Path) -> None:
    names = ["skip-gram", "transitions"]
    for name, (_, queries, ranks) in clicks.our_ranks(clicked, settings(), names).items():
        found, wanted = figures.clicks(queries, ranks), evaluated(name, clicked)
        for field in ASKED:
            assert getattr(found, field) == pytest.approx(getattr(wanted, field), abs=1e-12), (name, field)


def of_clicks(stream: str, default: float, best_peer: float) -> Report:
    def outcome(name: str, side: str, hits: float) -> Outcome:
        found = figures.Clicks(9, hits, 0.75, hits / 2, [1.0] * 100, 0.0125, 7, 0.625, 0.25)
        made = Outcome(name=name, side="ours", kind="clicks", variant="default", parameters={}, clicks=found)
        return msgspec.structs.replace(made, side=side)

    return Report(
        stream=stream, events=20, ratings=0, clicks=20, users=1, items=1, machine="a desk", versions={}, minutes=2.0,
        defaults=["click-blend"], outcomes=[
            outcome("ease", "peer", best_peer), outcome("click-blend", "ours", default), outcome("skip-gram", "ours", 0.125),
        ],
    )  # fmt: skip


def test_learners_of_clicks_have_a_page_for_each_stream_and_one_table_of_all(tmp_path: Path) -> None:
    for name, default, other in (("shop", 0.5, 0.4), ("hotels", 0.25, 0.5)):
        tables.save(of_clicks(name, default, other), tmp_path)
        assert tables.load(f"clicks-{name}", tmp_path) == of_clicks(name, default, other)
    page = (tmp_path / "clicks-shop.md").read_text().splitlines()
    ours = "| **`click-blend`** (default) | .5000 | .0125 | .7500 | .2500 | .6250 | .2500 |"
    assert page.index(ours) + 1 == page.index(
        "| `ease`, its defaults | .4000 | .0125 | .7500 | .2000 | .6250 | .2500 |"
    )
    assert any("make bench CLICKS=path/to/shop" in line for line in page)
    tables.save_overview(tmp_path)
    rows = (tmp_path / "clicks.md").read_text().splitlines()
    assert "| [shop](clicks-shop.md), HR@10 | .5000 | .1250 `skip-gram` | .4000 `ease` | +25.0% |" in rows
    assert "| [hotels](clicks-hotels.md), HR@10 | .2500 | .1250 `skip-gram` | .5000 `ease` | -50.0% |" in rows


def test_streams_are_named_by_their_file_or_by_the_folder_of_a_file_that_could_be_any() -> None:
    assert stream.stream_name(Path("data/shop.csv")) == stream.stream_name(Path("data/shop/clicks.csv")) == "shop"


def test_simulated_streams_are_the_same_each_time_and_are_what_they_are_meant_to_be(tmp_path: Path) -> None:
    def repeated(events: list[synthetic.Event]) -> float:
        return 1 - len({(user, item) for user, item, _ in events}) / len(events)

    plays = list(synthetic.music(np.random.default_rng(1), plays=2000))
    assert plays == list(synthetic.music(np.random.default_rng(1), plays=2000))
    reads = list(synthetic.news(np.random.default_rng(1), reads=2000, users=200, articles=500))
    assert repeated(plays) > 0.4
    assert repeated(reads) == 0
    half = len(reads) // 2
    early, late = ({item for _, item, _ in part} for part in (reads[: half // 2], reads[half:]))
    assert not early & late, "articles live short"
    assert all(earlier[2] <= later[2] for of in (plays, reads) for earlier, later in pairwise(of))
