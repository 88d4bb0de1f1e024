"""Exporting and importing item vectors: the same neighbours in gensim and here, and a replay gives the same bytes."""

import shutil
from collections import Counter
from pathlib import Path

import click.testing
import msgspec
import numpy as np
import pytest
from learning import digest, settings
from process import streamer

from streamer.app import open_generation
from streamer.cli import group
from streamer.core.errors import BadState, StreamerError
from streamer.models.offline.clicks.vector_file import read, write
from streamer.renormalise.rebuild import rebuild
from streamer.renormalise.vectors import import_vectors
from streamer.storage import generations
from streamer.storage.log import EmbeddedLog, LogSource
from streamer.storage.state import Digest, RocksStore
from streamer.stream.ledger import journal
from streamer.study.inspection import answer_from_state

FLAGS = ("--click-learner", "skip-gram", "--rating-learner", "bias", "--dim", "8", "--no-renormalise-on-drift")
CHOSEN = {"click_learner": "skip-gram", "rating_learner": "bias", "dim": 8}


def clicks(path: Path) -> list[list[str]]:
    """60 users with 12 clicks each on items of one of 4 genres: as a file, and as each user's clicks in order."""
    drawn = np.random.default_rng(5)
    users = [[f"{'abcd'[u % 4]}{n}" for n in drawn.permutation(15)[:12]] for u in range(60)]
    lines = [
        msgspec.json.encode({"user_id": f"u{u}", "item_id": items[n], "kind": "click", "timestamp_ms": 1000 * n})
        for n in range(12)
        for u, items in enumerate(users)
    ]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return users


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[str]]]:
    """The data directory of a streamer that has run and stopped."""
    folder = tmp_path_factory.mktemp("lived")
    users = clicks(folder / "clicks.jsonl")
    data = folder / "data"
    with streamer(data, "--replay", folder / "clicks.jsonl", *FLAGS) as process:
        process.wait_for('streamer_events_total{outcome="learned",topic="clicks"}', 720)
        assert process.stop() == 0
    return data, users


@pytest.fixture
def data(learned: tuple[Path, list[list[str]]], tmp_path: Path) -> Path:
    """A copy of `learned`, for a test to change."""
    import shutil

    return Path(shutil.copytree(learned[0], tmp_path / "data"))


def run(*arguments: str | Path) -> str:
    done = click.testing.CliRunner().invoke(group, [str(one) for one in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def neighbours(data: Path, item_id: str, limit: int) -> list[str]:
    found = answer_from_state(str(data), lambda recommender: recommender.similar_items(item_id, limit))
    assert all(one.source == "skip-gram" for one in found)
    return [one.item_id for one in found]


def elsewhere(users: list[list[str]], file: Path, *, half: bool = False) -> None:
    """gensim's word2vec vectors from the clicks of all users, or of every other user."""
    from gensim.models import Word2Vec

    sentences = users[: len(users) // 2] if half else users
    made = Word2Vec(
        sentences, vector_size=8, sg=1, window=10, min_count=1, sample=0, workers=1, epochs=60, seed=3, ns_exponent=0.75
    )
    made.wv.save_word2vec_format(str(file), binary=True)


@pytest.mark.parametrize("binary", [False, True])
def test_exported_vectors_have_the_same_neighbours_in_gensim(
    learned: tuple[Path, list[list[str]]], tmp_path: Path, binary: bool
) -> None:
    from gensim.models import KeyedVectors

    data, file = learned[0], tmp_path / "vectors"
    said = run("vectors", "export", file, "--data", data, "--json", *(["--binary"] if binary else []))
    assert msgspec.json.decode(said) == {
        "file": str(file), "items": 60, "dim": 8, "format": "binary" if binary else "text",
    }  # fmt: skip
    theirs = KeyedVectors.load_word2vec_format(str(file), binary=binary)
    counts = Counter(item_id for items in learned[1] for item_id in items)
    listed = [counts[item_id] for item_id in theirs.index_to_key]
    assert listed == sorted(listed, reverse=True)
    assert listed[0] > listed[-1]
    for item_id in ("a0", "b7", "c14", "d3"):
        assert [one for one, _ in theirs.most_similar(item_id, topn=20)] == neighbours(data, item_id, 20)


def test_vectors_trained_elsewhere_answer_at_once(
    learned: tuple[Path, list[list[str]]], data: Path, tmp_path: Path
) -> None:
    """gensim trains on half of the users; afterwards similar items here are those of gensim."""
    from gensim.models import KeyedVectors

    file = tmp_path / "elsewhere.bin"
    elsewhere(learned[1], file, half=True)
    theirs = KeyedVectors.load_word2vec_format(str(file), binary=True)
    before = neighbours(data, "a0", 14)
    said = run("vectors", "import", file, "--data", data, "--fixed")
    assert "g1 answers from the next start on: 60 items" in said
    for item_id in ("a0", "b7", "c14", "d3"):
        assert neighbours(data, item_id, 14) == [one for one, _ in theirs.most_similar(item_id, topn=14)]
    assert neighbours(data, "a0", 14) != before
    assert {one[0] for one in neighbours(data, "a0", 14)} == {"a"}


def rebuilt(data: Path, into: Path) -> Digest:
    store = RocksStore(data, read_only=True)
    runs = journal(store)
    store.close()
    made, log = open_generation(settings(data=str(into), **CHOSEN)), EmbeddedLog(data)
    rebuild(made.memory, LogSource(log), runs, data)
    made.close()
    log.close()
    return digest(into)


def test_a_replay_of_the_journal_gives_the_bytes_of_the_state_with_imported_vectors(
    learned: tuple[Path, list[list[str]]], data: Path, tmp_path: Path
) -> None:
    elsewhere(learned[1], tmp_path / "v.bin")
    was = digest(data)
    import_vectors(data, tmp_path / "v.bin", fixed=False)
    now = digest(data)
    changed = {name for name in now.learners if now.learners[name] != was.learners[name]}
    assert changed == {"skip-gram"}
    trained = {file.stem for file in (data / "generations" / "g1").glob("*.safetensors")}
    assert trained == {"ids", "skip-gram"}  # what has no vectors is left alone
    assert now.offsets == was.offsets
    (tmp_path / "v.bin").unlink()  # the generation has what it needs
    assert rebuilt(data, tmp_path / "again") == now


def test_the_streamer_continues_with_imported_vectors_and_can_roll_back(
    learned: tuple[Path, list[list[str]]], data: Path, tmp_path: Path
) -> None:
    elsewhere(learned[1], tmp_path / "v.bin")
    was = digest(data).learners["skip-gram"]
    import_vectors(data, tmp_path / "v.bin", fixed=True)
    with streamer(data, *FLAGS) as process:
        assert process.call("AdminService/GetStatus")["generation"] == "g1"
        run("rollback", "--url", process.url)
        assert process.call("AdminService/GetStatus")["generation"] == "g0"
        assert process.stop() == 0
    assert digest(data).learners["skip-gram"] == was


def test_with_fixed_vectors_only_new_items_are_trained(
    learned: tuple[Path, list[list[str]]], data: Path, tmp_path: Path
) -> None:
    """Exported vectors without one item: it is trained back near its genre, and all other rows stay the same bit for bit."""
    run("vectors", "export", tmp_path / "all", "--data", data)
    ids, vectors = read(tmp_path / "all")
    old = [n for n, item_id in enumerate(ids) if item_id != "b7"]
    write(tmp_path / "old", [ids[n] for n in old], vectors[old], binary=False)
    import_vectors(data, tmp_path / "old", fixed=True)
    run("vectors", "export", tmp_path / "now", "--data", data)
    now = dict(zip(*read(tmp_path / "now"), strict=True))
    assert all(now[ids[n]].tobytes() == vectors[n].tobytes() for n in old)
    assert now["b7"].tobytes() != vectors[ids.index("b7")].tobytes()
    assert [one[0] for one in neighbours(data, "b7", 10)].count("b") >= 8


def test_vectors_of_unknown_items_are_left_out_and_counted(data: Path, tmp_path: Path) -> None:
    write(tmp_path / "v", ["a0", "nobody", "a b"], np.ones((3, 8), np.float32), binary=True)
    found = import_vectors(data, tmp_path / "v", fixed=True)
    assert (found.items, found.unknown) == (1, 2)


def test_a_failed_import_changes_nothing(data: Path, tmp_path: Path) -> None:
    was, there = digest(data), sorted(path.name for path in (data / "generations").glob("*"))
    write(tmp_path / "long", ["a0"], np.ones((1, 9), np.float32), binary=True)
    with pytest.raises(StreamerError, match="have 9 numbers"):
        import_vectors(data, tmp_path / "long", fixed=False)
    with pytest.raises(StreamerError, match="no file of vectors"):
        import_vectors(data, tmp_path / "gone", fixed=False)
    write(tmp_path / "v", ["a0"], np.ones((1, 8), np.float32), binary=True)
    with pytest.raises(BadState, match="no state in"):
        import_vectors(tmp_path / "empty", tmp_path / "v", fixed=False)
    shutil.rmtree(data / "archive")
    with pytest.raises(StreamerError, match=r"the archive in .* ends before the state does"):
        import_vectors(data, tmp_path / "v", fixed=False)
    assert digest(data) == was
    assert generations.live(data) == "g0"
    assert sorted(path.name for path in (data / "generations").glob("*")) == there
    assert not (tmp_path / "empty").exists()


def test_nothing_is_imported_while_a_streamer_runs(data: Path, tmp_path: Path) -> None:
    write(tmp_path / "v", ["a0"], np.ones((1, 8), np.float32), binary=True)
    with streamer(data, *FLAGS), pytest.raises(BadState):
        import_vectors(data, tmp_path / "v", fixed=False)


def test_a_running_streamer_uses_a_file_of_vectors_as_a_candidate(
    learned: tuple[Path, list[list[str]]], data: Path, tmp_path: Path
) -> None:
    """The candidate passes gate and swap, but not when its rows are far longer than the live ones."""
    elsewhere(learned[1], tmp_path / "v.bin")
    ids, vectors = read(tmp_path / "v.bin")
    write(tmp_path / "long.bin", ids, 9 * vectors, binary=True)
    before = neighbours(data, "a0", 14)
    with streamer(data, *FLAGS, "--candidates", f"vectors:{tmp_path / 'v.bin'}") as process:
        assert "g1: live" in run("renormalise", "--wait", "--url", process.url)
        assert process.stop() == 0
    assert neighbours(data, "a0", 14) != before
    with streamer(data, *FLAGS, "--candidates", f"fixed-vectors:{tmp_path / 'long.bin'}") as process:
        done = click.testing.CliRunner().invoke(group, ["renormalise", "--wait", "--url", process.url])
        assert (done.exit_code, "the item rows of skip-gram have a middle length" in done.output) == (1, True)
        assert process.stop() == 0


def test_a_learner_without_vectors_is_reported(tmp_path: Path) -> None:
    data = tmp_path / "data"
    live = open_generation(settings(data=str(data), click_learner="popularity", rating_learner="bias"))
    live.close()
    with pytest.raises(StreamerError, match="the click champion, popularity, has no item vectors"):
        answer_from_state(str(data), lambda recommender: recommender.item_vectors())
