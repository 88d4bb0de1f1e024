"""gensim's Word2Vec as a trainer: locked vectors stay bit by bit, new items find their place, and every process gives the same result."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streamer.checks.batches import Feed, FeedEvent, click, sample_events
from streamer.checks.learners import Make
from streamer.checks.trainers import TRAINER_CHECKS, MakeTrainer
from streamer.core.arrays import Array
from streamer.core.dataset import empty_side_information
from streamer.core.errors import StreamerError
from streamer.models import ALSO_REFITTED_BY, REFITTED_BY, TRAINERS, learner, trainer
from streamer.models.offline.clicks.vector_file import write
from streamer.models.offline.clicks.word2vec import Word2Vec, Word2VecParameters

DIM = 4


@pytest.mark.parametrize("check", TRAINER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("name", "by"), [(name, by) for name, others in ALSO_REFITTED_BY.items() for by in others])
def test_trainer_keeps_its_promises(name: str, by: str, check: Callable[[MakeTrainer, Make], None]) -> None:
    check(lambda: trainer(by), lambda seed: learner(name, seed=seed))


def test_every_entry_of_the_registry_exists() -> None:
    others = {by for names in ALSO_REFITTED_BY.values() for by in names}
    assert set(REFITTED_BY.values()) | others == set(TRAINERS)
    assert ALSO_REFITTED_BY.keys() <= REFITTED_BY.keys()


def two_tastes(new: bool) -> list[FeedEvent]:
    """20 users click red items and 20 blue ones; the users of blue items also click the new item."""
    events = []
    for u in range(40):
        colour = "red" if u % 2 else "blue"
        mine = [f"{colour}{(u * 7 + 3 * n) % 8}" for n in range(8)]
        if new and colour == "blue":
            mine.insert(u // 4 % 7 + 1, "new")
        events += [click(f"u{u}", item) for item in mine]
    return events


COLOURS = [f"{colour}{n}" for colour in ("red", "blue") for n in range(8)]


def fit_model(events: Sequence[FeedEvent], **chosen: object) -> tuple[Feed, Array]:
    """A feed of a learner with the trainer's tables, and v of its items by row."""
    feed = Feed(learner("skip-gram", seed=1, dim=DIM))
    history = feed.batch(events)
    parameters = {"epochs": 20, "learning_rate": 0.1, **chosen}
    made = Word2Vec("word2vec", Word2VecParameters(**parameters))  # type: ignore[arg-type] # what the case says
    ids = list(feed.ids("item"))
    made.inform(replace(empty_side_information(0, len(ids)), item_ids=ids))
    made.fit(feed.learner, history, lambda share: None)
    return feed, made.export()["item"][: len(feed.ids("item")), :DIM]


def elsewhere(file: Path) -> dict[str, Array]:
    """Vectors trained elsewhere: red items point in one direction, blue ones in another, and no two are equal."""
    drawn = np.random.default_rng(1).normal(0, 0.05, (16, DIM)).astype(np.float32)
    drawn[:8, 0] += 1.0
    drawn[8:, 1] += 1.0
    write(file, COLOURS, drawn, binary=True)
    return dict(zip(COLOURS, drawn, strict=True))


def cosine(a: Array, b: Array) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_only_new_items_train_into_a_space_that_is_fixed(tmp_path: Path) -> None:
    given = elsewhere(tmp_path / "v")
    feed, v = fit_model(two_tastes(new=True), vectors=str(tmp_path / "v"), fixed=True)
    row_of = {item_id: row for row, item_id in enumerate(feed.ids("item"))}
    for item_id, vector in given.items():
        assert v[row_of[item_id]].tobytes() == vector.tobytes(), item_id
    new = v[row_of["new"]]
    assert min(cosine(new, given[f"blue{n}"]) for n in range(8)) > 0.6
    assert max(cosine(new, given[f"red{n}"]) for n in range(8)) < 0.3


def test_a_warm_start_continues_from_the_vectors_of_the_file(tmp_path: Path) -> None:
    """The vectors are trained, but stay in the file's space, which is not the learner's own."""
    given = elsewhere(tmp_path / "v")
    feed, v = fit_model(two_tastes(new=True), vectors=str(tmp_path / "v"), learning_rate=0.01, epochs=2)
    _, own = fit_model(two_tastes(new=True), learning_rate=0.01, epochs=2)
    rows = [list(feed.ids("item")).index(item_id) for item_id in COLOURS]
    near = [cosine(v[row], given[item_id]) for row, item_id in zip(rows, COLOURS, strict=True)]
    assert min(near) > 0.9
    assert v[rows[0]].tobytes() != given[COLOURS[0]].tobytes()
    assert np.mean([cosine(own[row], given[item_id]) for row, item_id in zip(rows, COLOURS, strict=True)]) < 0.7


@pytest.mark.parametrize("fixed", [False, True])
def test_users_are_learned_anew_for_the_space_of_the_file(tmp_path: Path, fixed: bool) -> None:
    """Afterwards, users of blue items get a blue item before a red one."""
    elsewhere(tmp_path / "v")
    events = two_tastes(new=False)
    feed, _ = fit_model(events, vectors=str(tmp_path / "v"), fixed=fixed)
    items = np.array([list(feed.ids("item")).index(item_id) for item_id in COLOURS], dtype=np.int32)
    for user in ("u0", "u1"):
        row = feed.learner.tables()["user"].values[list(feed.ids("user")).index(user), :DIM]
        reds, blues = np.split(feed.learner.tables()["item"].values[items, :DIM] @ row, 2)
        assert (blues.min() > reds.max()) if user == "u0" else (reds.min() > blues.max())


def test_both_matrices_start_from_the_learners() -> None:
    """With steps of almost 0 nothing changes: neither v nor x, nor users or counts."""
    feed, _ = fit_model(sample_events(600), learning_rate=1e-12)
    plain = Feed(learner("skip-gram", seed=1, dim=DIM))
    plain.learner.learn(plain.batch(sample_events(600)))
    for name, table in feed.learner.tables().items():
        np.testing.assert_allclose(table.values, plain.learner.tables()[name].values, rtol=1e-5, atol=1e-6)


def test_rows_are_not_longer_than_the_gate_allows() -> None:
    feed, _ = fit_model(sample_events(900), epochs=100)
    plain = Feed(learner("skip-gram", seed=1, dim=DIM))
    plain.learner.learn(plain.batch(sample_events(900)))
    clicked = np.flatnonzero(plain.learner.tables()["noise"].values[:, 0])
    lengths = [
        np.median(np.linalg.norm(one.learner.tables()["item"].values[clicked, : 2 * DIM], axis=1))
        for one in (plain, feed)
    ]
    assert lengths[1] == pytest.approx(1.5 * lengths[0], rel=1e-3)


def test_a_warm_fit_starts_from_the_live_rows_and_keeps_users_and_counts() -> None:
    events = sample_events(900)
    feed = Feed(learner("skip-gram", seed=1, dim=DIM))
    feed.learn(events)
    history = feed.batch(events[600:])
    live = {name: table.values.copy() for name, table in feed.learner.tables().items()}
    made = Word2Vec("word2vec", Word2VecParameters(warm=True))
    made.fit(feed.learner, history, lambda share: None)
    changed = {name for name, values in made.export().items() if not np.array_equal(values, live[name])}
    assert changed == {"item"}


def test_the_bytes_do_not_depend_on_the_process() -> None:
    """Python's string hashes differ between processes; they must not affect the vectors."""
    code = (
        "import hashlib, sys; sys.path[:0] = sys.argv[1:]; from test_word2vec import fit_model; from streamer.checks.batches import sample_events;"
        "print(hashlib.sha256(fit_model(sample_events(600))[1].tobytes()).hexdigest())"
    )
    here = Path(__file__).parent
    found = {
        subprocess.run(
            [sys.executable, "-c", code, str(here), str(here.parent)],
            capture_output=True, text=True, check=True, timeout=120, env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1


def test_unsuitable_files_are_refused_with_a_sentence(tmp_path: Path) -> None:
    write(tmp_path / "long", ["red0"], np.ones((1, 7), np.float32), binary=True)
    with pytest.raises(StreamerError, match="have 7 numbers, those of skip-gram here 4"):
        fit_model(two_tastes(new=False), vectors=str(tmp_path / "long"))
    write(tmp_path / "others", ["green0", "green1"], np.ones((2, DIM), np.float32), binary=True)
    with pytest.raises(StreamerError, match=r"none of the 2 items .* is known .*first is 'green0'"):
        fit_model(two_tastes(new=False), vectors=str(tmp_path / "others"))
    feed = Feed(learner("bias", seed=1))
    with pytest.raises(StreamerError, match="fits skip-gram, not bias"):
        trainer("word2vec").fit(feed.learner, feed.batch(sample_events(10)), lambda share: None)


def test_without_gensim_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['gensim'] = None\n"
        "from streamer.core.errors import BadSettings\nfrom streamer.models import trainer\n"
        "try: trainer('word2vec')\nexcept BadSettings as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "pip install 'streamer-recs[offline]'" in done.stdout
