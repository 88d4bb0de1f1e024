"""The benchmarks measure peers by the protocol of `streamer evaluate`, run without the peers' packages, and write correct tables."""

import json
from collections.abc import Callable
from pathlib import Path

import click
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from learning import settings

from benchmarks import clicks, contest, figures, peers, rerank, tables, world
from benchmarks.contest import Outcome
from benchmarks.peers import PEERS, missing, peer
from benchmarks.report import Report
from benchmarks.run import competitors
from benchmarks.same_behaviour import disk, surface
from benchmarks.same_behaviour.facts import Facts, masked, numbers, unworded, without_sentences
from benchmarks.same_behaviour.facts import compared as facts_compared
from benchmarks.same_behaviour.speed import Measured
from benchmarks.speed import MEASURED, summarise
from benchmarks.stream import read
from streamer.consumers.files import FileSource
from streamer.core.batch import RATING, Batch, Seen
from streamer.core.events import LOG, RATINGS, Message
from streamer.core.protocols import Row
from streamer.core.seed import id_key
from streamer.models import LEARNERS, learner
from streamer.storage.log import EmbeddedLog
from streamer.storage.state import RocksStore
from streamer.study.evaluate import Evaluation, evaluate

ROOT = Path(__file__).parent.parent
NOTHING = Seen(np.empty((0, 1), np.int32), np.empty((0, 0), np.int32), np.empty(0, np.int64), 1)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings with equal times, events sent twice and a bad one. No user rates an item anew, as no peer can take back."""
    file, random = tmp_path_factory.mktemp("benchmarks") / "events.jsonl", np.random.default_rng(7)
    lines: list[dict[str, object]] = [
        {"item_id": f"i{n}", "title": f"Film {n}", "categories": ["Drama"]} for n in range(9)
    ]
    pairs = dict.fromkeys((int(random.integers(30)), int(random.zipf(1.5)) % 60) for _ in range(6000))
    for n, (user, item) in enumerate(pairs):
        event = {"user_id": f"u{user}", "item_id": f"i{item}", "timestamp_ms": n // 3}
        what = {"kind": "click"} if n % 4 == 0 else {"rating": float(random.integers(1, 11)) / 2}
        lines.append({**event, **what, "event_id": f"e{n % (len(pairs) - 50)}"})
    file.write_text("\n".join([*map(json.dumps, lines), '{"user_id": 3}']))
    return file


def evaluated(name: str, path: Path) -> Evaluation:
    return evaluate(name, settings(), lambda: FileSource(path), rank=True, progress=lambda done, of: None)


class BiasAsPeer:
    """Our `bias` as a peer, one event at a time."""

    def __init__(self, users: int, items: int) -> None:
        self.learner = learner("bias", seed=1)
        for table in self.learner.tables().values():
            if table.side != "stream":
                rows = np.arange(users if table.side == "user" else items, dtype=np.int32)
                table.reserve(len(rows))
                table.begin(rows, [id_key(1, table.side, str(row)) for row in rows.tolist()])

    def predict_then_learn(self, user: int, item: int, rating: float) -> float:
        one = np.zeros(1)
        batch = Batch(
            np.full(1, RATING, np.uint8), np.full(1, user, np.int32), np.full(1, item, np.int32),
            np.full(1, rating, np.float32), one.astype(np.float32), one.astype(np.int64), one.astype(np.uint64),
            np.full(1, -np.inf, np.float32), np.full(1, np.inf, np.float32), one.astype(np.int64), NOTHING,
        )  # fmt: skip
        return float(self.learner.learn(batch)[0])


def test_the_protocol_of_ratings_is_that_of_evaluate(path: Path) -> None:
    events = read(path, settings())
    made = BiasAsPeer(events.user_count, len(events.item_ids))
    predicted, seconds = contest.predict(events, made)
    found, wanted = figures.ratings(events, predicted), evaluated("bias", path)
    assert len(predicted) == wanted.ratings
    for name in ("rmse", "rmse_last_half", "rmse_new_users", "rmse_new_items", "unpredicted"):
        assert getattr(found, name) == pytest.approx(getattr(wanted, name), abs=1e-9), name
    assert seconds > 0
    ratings = [len(part) for part in np.array_split(predicted, 100)]
    assert np.sqrt(np.average(found.squares, weights=ratings)) == pytest.approx(found.rmse, abs=1e-9)


@pytest.mark.parametrize("name", ["bias"])
def test_our_learners_get_the_figures_of_evaluate(name: str, path: Path) -> None:
    outcome, wanted = contest.run_ours(name, path, settings()), evaluated(name, path)
    found = outcome.ratings
    assert found is not None
    for field in msgspec.structs.fields(type(found)):
        if hasattr(wanted, field.name):
            assert getattr(found, field.name) == pytest.approx(getattr(wanted, field.name), abs=1e-9), field.name
    assert (outcome.events_per_second or 0) > 0
    assert (outcome.evaluate_events_per_second or 0) > 0


def test_predictions_are_clipped_to_the_range_seen_before() -> None:
    ones = np.ones(3, dtype=np.float32)
    events = read_by_hand(values=[4.0, 2.0, 4.0], lows=[-np.inf, 4, 2], highs=[np.inf, 4, 4])
    found = figures.ratings(events, np.array([3.0, 9.0, 3.0]) * ones)
    assert found.rmse == pytest.approx(np.sqrt((1 + 4 + 1) / 3))  # 9 counts as 4
    assert found.rmse_last_half == pytest.approx(np.sqrt((4 + 1) / 2))
    missing = figures.ratings(events, np.array([3.0, np.nan, 3.0]))
    assert (missing.rmse, missing.unpredicted) == (1.0, 1)


def read_by_hand(values: list[float], lows: list[float], highs: list[float]) -> figures.Events:
    n = len(values)
    rows, zeros = np.zeros(n, dtype=np.int32), np.zeros(n, dtype=np.float32)
    given = (np.array(column, dtype=np.float32) for column in (values, lows, highs))
    value, low, high = given
    return figures.Events(np.ones(n, dtype=np.bool_), rows, rows, value, zeros, rows, low, high, 1, ["a"], [[]])


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_runs_or_is_skipped_with_a_reason(name: str, path: Path) -> None:
    found = peer(name)
    assert set(found.space) <= {field.name for field in msgspec.structs.fields(found.Settings)}
    tuned = [peers.best(name, one.stem.removeprefix("tuning-")) for one in peers.TUNED.glob("tuning-*.json")]
    for setting, values in found.space.items():
        for best in [found.tuned, *tuned]:
            assert best is None or getattr(best, setting) in values, "the best is one of those tried"
    outcome = contest.run_peer(name, "tuned" if found.tuned else "default", read(path, settings()), 1)
    assert (outcome.name, outcome.kind, outcome.package) == (name, found.kind, found.package)
    if missing(name):
        assert f"{found.package} is not installed" in (outcome.skipped or "")
    else:
        measured = outcome.ratings or outcome.clicks
        assert measured is not None
        assert (outcome.events_per_second or 0) > 0


def test_a_peer_without_its_package_is_skipped(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer("river-baseline"), "package", "no-such-distribution")
    outcome = contest.run_peer("river-baseline", "default", read(path, settings()), 1)
    assert outcome.skipped == "no-such-distribution is not installed: `make bench` installs what the peers need"
    assert outcome.ratings is None


def test_all_our_learners_and_both_variants_of_each_peer_compete() -> None:
    chosen = list(competitors())
    ours = clicks.our_names()
    of_ratings = [name for name in PEERS if peer(name).kind == "ratings"]
    assert {(name, "default") for name in [*LEARNERS, *of_ratings]} - {(name, "default") for name in ours} <= set(
        chosen
    )
    assert {(name, "tuned") for name in of_ratings if peer(name).tuned is not None} <= set(chosen)
    assert len(chosen) == len(set(chosen))
    assert {"click-blend", "transitions"} <= set(ours)


def report() -> Report:
    squares = [1.0] * 100

    def rated(name: str, side: str, variant: str, rmse: float) -> Outcome:
        ratings = figures.Ratings(rmse, rmse, None, rmse, 0, squares)
        outcome = {"name": name, "side": side, "kind": "ratings", "variant": variant, "parameters": {"rate": 0.5}}
        return msgspec.convert(outcome | {"ratings": ratings, "events_per_second": 123456.7}, Outcome)

    absent = Outcome(
        name="river-fm", side="peer", kind="ratings", variant="tuned", parameters={}, skipped="river is not installed",
    )  # fmt: skip
    rounds = {name: [100.0 * n, 300.0 * n] for n, name in enumerate(MEASURED, 1)}
    return Report(
        stream="hand-made", events=3, ratings=2, clicks=1, users=1, items=1, machine="a desk", versions={"river": None},
        minutes=2.0, defaults=["bayesian-hybrid", "skip-gram"], outcomes=[
            rated("river-baseline", "peer", "tuned", 1.25), rated("bayesian-hybrid", "ours", "default", 0.875),
            absent,
        ],
        speed=summarise("bayesian-hybrid", rounds),
    )  # fmt: skip


def test_tables_say_what_was_measured_best_first_and_name_what_did_not_run(tmp_path: Path) -> None:
    tables.save(report(), tmp_path)
    assert tables.load("hand-made", tmp_path) == report()
    page = (tmp_path / "hand-made.md").read_text().splitlines()
    ours = "| **`bayesian-hybrid`** (default) | .8750 | .8750 | - | .8750 | 123,000 | - |"
    peers = "| `river-baseline`, tuned | 1.2500 | 1.2500 | - | 1.2500 | 123,000 | - |"
    assert page.index(ours) + 1 == page.index(peers)
    assert "- `river-fm`, tuned: river is not installed" in page
    assert "- `river-baseline`, tuned: rate 0.5" in page
    assert any(line.startswith("- ") and "river not installed" in line for line in page)


def test_speeds_are_compared_within_a_round_and_with_the_faster_of_the_two() -> None:
    rounds = {"evaluate": [30.0, 10.0, 40.0], "river-default": [10.0, 5.0, 10.0], "river-tuned": [8.0, 8.0, 20.0]}
    found = summarise("bias", rounds)
    assert found.medians == {"evaluate": 30.0, "river-default": 10.0, "river-tuned": 8.0}
    assert found.over_river["evaluate"] == 2.0  # of 3, 1.25 and 2


def test_the_readme_shows_what_the_last_run_measured() -> None:
    written = tables.readme(tables.load(tables.SHOWN), tables.load(f"{tables.CLICKS}{tables.SHOWN}"))
    assert written in (ROOT / "README.md").read_text(), "run python -m benchmarks.tables"
    assert {tables.SHOWN, world.NAME} <= set(tables.measured())
    for name in tables.measured():
        assert (tables.RESULTS / f"{name}.md").read_text() == tables.page(tables.load(name))
    assert f"{tables.CLICKS}{tables.SHOWN}" in tables.measured(tables.CLICKS)
    for name in tables.measured(tables.CLICKS):
        assert (tables.RESULTS / f"{name}.md").read_text() == tables.clicks_page(tables.load(name))
    reports = [tables.load(name) for name in tables.measured(tables.CLICKS)]
    assert (tables.RESULTS / "clicks.md").read_text() == tables.overview(reports)


def test_rerankers_are_measured_on_the_clicks_that_evaluate_asks_about(path: Path) -> None:
    chosen = settings(rating_learner="bias", click_learner="popularity-recent", reranker="bias", rerank_candidates=5)
    (found,), events = rerank.worth(str(path), chosen, ["bias"])
    said = evaluate("popularity-recent", chosen, lambda: FileSource(path, 1), rank=True, progress=lambda done, of: None)
    assert (found.queries, events) == (said.queries, said.events)
    assert found.hit_rate == found.reranked_hit_rate == said.hit_rate_10, "the first 5 in any order are the first 10"
    chosen = settings(rating_learner="bias", click_learner="popularity-recent", reranker="bias")
    (found,), _ = rerank.worth(str(path), chosen, ["bias"])
    assert found.hit_rate == said.hit_rate_10 != found.reranked_hit_rate
    assert found.difference == pytest.approx(found.reranked_hit_rate - found.hit_rate)
    assert found.low <= found.difference <= found.high


def test_the_page_of_the_reranker_is_what_was_measured() -> None:
    measured = msgspec.json.decode((rerank.RESULTS / "rerank.json").read_bytes(), type=rerank.Measured)
    assert (rerank.RESULTS / "rerank.md").read_text() == rerank.page(measured)
    assert sum(measured.served.outcomes.values()) >= measured.served.queries


def data_directory(
    folder: Path, *, now_ms: int, row: bytes = b"value", event: bytes = b"{}", title: str = "Heat"
) -> Path:
    """What a streamer leaves, made at a given time: a state, a log, an archive and a generation."""
    store = RocksStore(folder)
    store.commit([Row("items", b"318", row), Row("monitor", b"318", b"0")], {LOG: 1})
    store.close()
    log = EmbeddedLog(folder)
    log.append([Message(RATINGS, value=event, key=b"1", timestamp_ms=now_ms)], None)
    log.close()
    generation, archive = folder / "generations/g1", folder / "archive/topic=items"
    generation.mkdir(parents=True)
    archive.mkdir(parents=True)
    (generation / "life.json").write_text(json.dumps({"id": "g1", "moments": [{"stage": "live", "at_ms": now_ms}]}))
    (generation / "bias.safetensors").write_bytes(row)
    columns = {"partition": [-1, -1], "offset": [0, 1], "timestamp_ms": [5, now_ms], "appended_ms": [now_ms, now_ms]}
    pq.write_table(pa.table({**columns, "value": [title, title]}), archive / "0.parquet")
    (folder / "archive/_archive.json").write_text(
        json.dumps({"offsets": {"log/0": 2}, "files": [{"newest_ms": now_ms}]})
    )
    return folder


def noted(folder: Path) -> dict[str, str]:
    facts = Facts()
    disk.note_files(facts, "made", folder)
    return facts.exact


def test_two_data_directories_are_equal_whenever_they_were_made(tmp_path: Path) -> None:
    before = noted(data_directory(tmp_path / "before", now_ms=1_000))
    after = noted(data_directory(tmp_path / "after", now_ms=2_000))
    assert all(one.equal for one in facts_compared(before, after))
    assert {"made: rows of state", "made: rows of log", "made: generations/g1/bias.safetensors, bytes"} <= before.keys()


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        ({"row": b"valuf"}, ["generations/g1/bias.safetensors, bytes", "rows of state"]),
        ({"event": b"[]"}, ["rows of log"]),
        ({"title": "Heap"}, ["archive, rows without times of appending"]),
    ],
)
def test_one_changed_byte_of_a_data_directory_is_seen_and_named(
    tmp_path: Path, change: dict[str, bytes], differing: list[str]
) -> None:
    before = noted(data_directory(tmp_path / "before", now_ms=1_000))
    after = noted(data_directory(tmp_path / "after", now_ms=1_000, **change))
    found = [one for one in facts_compared(before, after) if not one.equal]
    assert [one.what.removeprefix("made: ") for one in found] == differing
    assert all(list(one.difference()) for one in found)


def test_a_file_that_one_side_lacks_is_a_difference(tmp_path: Path) -> None:
    before = noted(data_directory(tmp_path / "before", now_ms=1_000))
    made = data_directory(tmp_path / "after", now_ms=1_000)
    (made / "generations/g1/bias.safetensors").unlink()
    found = {one.what: one.after for one in facts_compared(before, noted(made)) if not one.equal}
    assert found["made: generations/g1/bias.safetensors, bytes"] is None
    assert "made: files" in found


def test_only_times_and_ids_by_chance_are_masked() -> None:
    said = (
        '{"rmse": 0.9, "seconds":{"cut":0.1}, "at_ms":17,"recommendationId":"x","archive":{"bytes":"9","records":"4"}}'
    )
    assert masked(said) == (
        '{"rmse": 0.9, "seconds":"*", "at_ms":"*","recommendationId":"*","archive":{"bytes":"*","records":"4"}}'
    )


def test_sentences_may_be_reworded_and_what_they_are_about_may_not() -> None:
    refused = '{"code":"not_found", "message":"no learner \\"x\\" runs"}'
    assert unworded(refused) == '{"code":"not_found", "message":"*"}'
    rejected = '{"rejected":[{"index":1,"reason":"unknown_kind: kind \'poke\' has no weight"}]}'
    assert unworded(rejected) == '{"rejected":[{"index":1,"reason":"unknown_kind: *"}]}'
    waits = '{"receipts":[{"number":"1","waits":["the next renormalisation"]}]}'
    assert unworded(waits) == '{"receipts":[{"number":"1","waits":"*"}]}'
    assert numbers("user '7': known to 0.56\nof 1,000") == numbers("of 7 is known, to 0.56, 1,000.") == "7 0.56 1,000"
    assert without_sentences('{"mse":0.5,"diagnosis":["32% worse than bias"]}') == '{"mse":0.5,"diagnosis":["32%"]}'


def test_options_are_read_without_what_they_are_for() -> None:
    def helped(word: str, default: int) -> list[str]:
        @click.command(context_settings={"max_content_width": 70})
        @click.option(
            "--limit", default=default, show_default=True, type=click.IntRange(1, 100), help=f"how many {word}"
        )
        @click.option("--token-file", help=f"file with the token that {word} must bear, for example ./token")
        def command(limit: int, token_file: str) -> None:
            """Say something."""

        return surface.options(command.get_help(click.Context(command)))

    assert helped("items", 5) == helped("things that may be of use to somebody, in the end", 5)
    assert helped("items", 5)[1] == "--limit INTEGER RANGE [default: 5; 1<=x<=100]"
    assert helped("items", 5) != helped("items", 6)


PAGE = """# HELP streamer_items items in memory
# TYPE streamer_items gauge
streamer_items 3.0
# HELP streamer_log_bytes size
# TYPE streamer_log_bytes gauge
streamer_log_bytes 100.0
"""


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        (lambda page: page.replace("items in memory", "known items").replace("100.0", "101.0"), set[str]()),
        (lambda page: page.replace("items 3.0", "items 4.0"), {"values of metrics that follow from the events"}),
        (lambda page: page.replace("log_bytes 1", 'log_bytes{of="log"} 1'), {"series of metrics"}),
        (lambda page: page.replace("streamer_items gauge", "streamer_items counter"), {"series of metrics"}),
    ],
)
def test_series_of_metrics_are_compared_by_name_label_and_type(
    change: Callable[[str], str], differing: set[str]
) -> None:
    both = Facts(), Facts()
    for facts, page in zip(both, (PAGE, change(PAGE)), strict=True):
        surface.note_metrics(facts, "served", page)
    found = [one.what for one in facts_compared(both[0].exact, both[1].exact) if not one.equal]
    assert {what.removeprefix("served: ") for what in found} >= differing
    assert bool(found) == bool(differing)


def test_speed_is_compared_round_by_round() -> None:
    assert Measured("CPU", [1.0, 2.0, 4.0], [1.1, 2.0, 8.0]).row() == ("CPU", "2", "2", "1.100 [1.000, 2.000]")
