"""The state store: batches are atomic, and a state with other settings is refused."""

import hashlib
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from learning import digest, events, learn, records

from streamer.core.errors import BadState, StoreUnavailable
from streamer.core.events import LOG, Rating, TopicPartition
from streamer.core.protocols import Row, Rows
from streamer.storage.rocks import Rocks
from streamer.storage.state import RocksStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RocksStore]:
    opened = RocksStore(tmp_path)
    yield opened
    opened.close()


def test_rows_and_offsets_are_read_as_they_were_committed(store: RocksStore) -> None:
    rows = [Row("t", b"b", b"2"), Row("t", b"a", b""), Row("t2", b"a", b"3"), Row("t", b"\xff\0", b"\0")]
    store.commit(rows, {LOG: 5, TopicPartition("a/b", 11): 2**40})
    assert store.read("t", [b"a", b"none", b"b", b"a"]) == [b"", None, b"2", b""]
    assert store.read("t", []) == []
    assert list(store.scan("t")) == [(b"a", b""), (b"b", b"2"), (b"\xff\0", b"\0")]
    assert list(store.scan("t2")) == [(b"a", b"3")]
    assert list(store.scan("none")) == []
    assert store.offsets() == {LOG: 5, TopicPartition("a/b", 11): 2**40}


def test_of_several_rows_with_one_key_in_a_batch_the_last_wins(store: RocksStore) -> None:
    """A forgotten user who has already come back depends on it."""
    store.commit([Row("t", b"a", b"1"), Row("t", b"b", b"1")], {})
    store.commit([Row("t", b"a", None), Row("t", b"b", None), Row("t", b"a", b"2")], {})
    assert store.read("t", [b"a", b"b"]) == [b"2", None]


def test_a_batch_that_fails_changes_nothing(store: RocksStore) -> None:
    store.commit([Row("t", b"a", b"1")], {LOG: 1})

    def rows() -> Iterator[Row]:
        yield Row("t", b"a", b"2")
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        store.commit(rows(), {LOG: 2})
    assert (store.read("t", [b"a"]), store.offsets()) == ([b"1"], {LOG: 1})


def test_tables_with_a_common_prefix_stay_separate(store: RocksStore) -> None:
    store.commit([Row(name, b"k", name.encode()) for name in ("users", "users/head", "users/heads", "user")], {})
    assert {name: list(store.scan(name)) for name in ("users", "users/head", "user")} == {
        name: [(b"k", name.encode())] for name in ("users", "users/head", "user")
    }


# Digest.


def test_the_digest_is_of_sorted_rows_each_part_with_its_length(store: RocksStore) -> None:
    store.commit([Row("t", b"b", b"2"), Row("t", b"a", b"1")], {LOG: 5})
    whole = b""
    for parts in [(b"offsets", b"log/0", (5).to_bytes(8, "big")), (b"t", b"a", b"1"), (b"t", b"b", b"2")]:
        whole += b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    assert store.digest().digest == hashlib.sha256(whole).hexdigest()
    assert msgspec.json.decode(store.digest().to_json()) == {
        "digest": store.digest().digest, "learners": {}, "offsets": {"log/0": 5},
    }  # fmt: skip


def test_the_digest_leaves_out_the_journal_and_dead_letters_and_nothing_else(store: RocksStore) -> None:
    store.commit([Row("learned/bias/user", b"u", b"1"), Row("users", b"count", b"1")], {LOG: 5})
    before = store.digest()
    store.commit([Row("journal", b"0", b"1"), Row("dead-letters", b"#0", b"1")], {LOG: 5})
    assert store.digest() == before
    seen = {before.digest}
    for row, offset in [
        (Row("users", b"count", b"2"), 5),
        (Row("learned/bias/user", b"u", b"2"), 5),
        (Row("dedupe", b"log/0\0", b"2"), 5),
        (Row("monitor", b"x", b"2"), 5),
        (Row("meta", b"meta2", b"2"), 5),
        (Row("users", b"count", b"2"), 6),
    ]:
        store.commit([row], {LOG: offset})
        seen.add(store.digest().digest)
    assert len(seen) == 7


def test_rows_are_committed_like_single_rows(store: RocksStore) -> None:
    store.commit([Rows("t", [b"a", b"b"], [b"1", b"2"]), Row("t", b"a", None)], {LOG: 1})
    assert list(store.scan("t")) == [(b"b", b"2")]
    with pytest.raises(ValueError, match="zip"):
        store.commit([Rows("t", [b"a", b"b"], [b"1"])], {LOG: 2})


def test_each_learner_has_a_digest_of_its_own(store: RocksStore) -> None:
    store.commit([Row("learned/bias/user", b"u", b"1"), Row("learned/skip-gram/item", b"u", b"1")], {})
    before = store.digest().learners
    store.commit([Row("learned/skip-gram/item", b"u", b"2")], {LOG: 1})
    after = store.digest().learners
    assert set(after) == {"bias", "skip-gram"}
    assert after["bias"] == before["bias"]
    assert after["skip-gram"] != before["skip-gram"]


# Opening.


def test_a_state_is_opened_with_the_settings_it_was_made_with(store: RocksStore) -> None:
    made: dict[str, object] = {
        "seed": 1,
        "kinds": {"view": 0.2},
        "learners": {"bias": {"noise": 0.1}, "mf": {"dim": 64}},
    }
    store.open_as(made)
    store.open_as({**made})
    for change, sentence in [
        ({"seed": 2}, "made with seed 1, the settings say 2: use 1, or move "),
        ({"kinds": {"view": 0.3}}, "made with kinds view 0.2, the settings say 0.3"),
        ({"kinds": {"click": 1.0}}, "made with kinds view, the settings say click"),
        (
            {"learners": {"bias": {"noise": 0.1}, "mf": {"dim": 32}}},
            "made with learners mf dim 64, the settings say 32: use 64",
        ),
        (  # a constant, which no setting reaches
            {"learners": {"bias": {"noise": 0.2}, "mf": {"dim": 64}}},
            "made with learners bias noise 0.1, the settings say 0.2: use the version of streamer that made it, or move ",
        ),
        ({"source": "kafka"}, 'made with source null, the settings say "kafka"'),
    ]:
        with pytest.raises(BadState) as raised:
            store.open_as({**made, "unknown_kinds": "reject", **change})
        assert f"the state in {store.folder} was {sentence}" in str(raised.value)
        assert raised.value.exit_code == 78


def test_what_becomes_of_unknown_kinds_may_change_and_is_recorded(store: RocksStore) -> None:
    """A state made before the setting existed has no value of it, like one made with the default."""
    made: dict[str, object] = {"seed": 1, "kinds": {"view": 0.2}}
    for given in (made, {**made, "unknown_kinds": "reject"}, made):
        assert store.open_as(given) == ([], [])
        meta = store.meta()
        assert meta is not None
        assert meta.settings == given


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"seed": 2}, "made with seed 1, the settings say 2"),
        ({"latent_dim": 16}, "made with learners bayesian-hybrid latent_dim 8, the settings say 16"),
        ({"dim": 16}, "made with learners skip-gram dim 32, the settings say 16"),
        (
            {"rating_learner": "bias"},
            'made with experts click-blend ratings "bayesian-hybrid", the settings say "bias"',
        ),
        ({"click_learner": "skip-gram"}, "click-blend is the champion for clicks in the state in "),
        ({"click_learner": "skip-gram"}, "what it learned would be lost; add --shadow click-blend to keep it"),
        ({"like_share": 0.9}, "made with like_share 0.8, the settings say 0.9"),
        ({"dedupe_events": 7}, "made with dedupe_events 1000000, the settings say 7"),
        ({"kafka": "localhost:9092"}, 'made with source "embedded log", the settings say "kafka"'),
    ],
)
def test_a_different_setting_is_refused_by_name_and_changes_nothing(
    tmp_path: Path, flags: dict[str, object], sentence: str
) -> None:
    learn(tmp_path, records(events(10)))
    before = digest(tmp_path)
    with pytest.raises(BadState) as raised:
        learn(tmp_path, records(events(20)), **flags)
    assert sentence in str(raised.value)
    assert digest(tmp_path) == before


def test_the_limits_of_ratings_may_be_others_from_now_on(tmp_path: Path) -> None:
    stream = records(events(100))
    learn(tmp_path, stream[:50])
    learn(tmp_path, stream, rating_min=-1, rating_max=5)
    learn(tmp_path / "once", stream)  # no rating is outside
    assert digest(tmp_path).learners == digest(tmp_path / "once").learners
    learn(tmp_path, [*stream, *records([Rating("u1", "i1", 100.0)], start=len(stream))], rating_min=-1)
    assert digest(tmp_path).learners != digest(tmp_path / "once").learners


def test_a_state_from_before_scales_were_learned_goes_on(tmp_path: Path) -> None:
    stream = records(events(200))
    learn(tmp_path, stream[:100], shadow="bias")
    store = RocksStore(tmp_path)
    (row,) = store.read("learned/bias/stream", [b"stream"])
    assert row is not None
    rows = [Row("stream", b"scale", None), Row("stream", b"range", struct.pack("<dd", 0.5, 5.0))]
    store.commit([*rows, Row("learned/bias/stream", b"stream", row[:24])], {})
    store.close()
    learn(tmp_path, stream, shadow="bias")
    learn(tmp_path / "once", stream, shadow="bias")
    assert digest(tmp_path).learners == digest(tmp_path / "once").learners


def test_settings_that_do_not_change_the_meaning_may_change(tmp_path: Path) -> None:
    stream = records(events(100))
    learn(tmp_path, stream[:50])
    learn(tmp_path, stream, max_records=7, user_cache_bytes=20_000, commit_interval_s=9.0, port=1)
    learn(tmp_path / "once", stream)
    assert digest(tmp_path).digest == digest(tmp_path / "once").digest


def test_another_format_is_refused_with_advice(store: RocksStore) -> None:
    store.commit([Row("meta", b"meta", b'{"format":3,"generation":"g0","settings":{},"more":1}')], {})
    with pytest.raises(BadState, match="has format 3, this streamer writes format 2: use the version that made it"):
        store.open_as({})
    store.commit([Row("meta", b"meta", b"\x80\x04.")], {})
    with pytest.raises(BadState, match=r"the record of settings in .* cannot be read"):
        store.open_as({})


OWNER = """
import sys
from pathlib import Path
from streamer.storage.state import RocksStore
from streamer.core.protocols import Row
store = RocksStore(Path(sys.argv[1]))
n = 0
print("open", flush=True)
for _ in sys.stdin:
    n += 1
    store.commit([Row("t", b"k", b"%d" % n)], {})
    print(n, flush=True)
"""


@pytest.fixture
def owner(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that has the state open, and commits once for every line of input."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


def test_a_state_in_use_is_refused(owner: "subprocess.Popen[str]", tmp_path: Path) -> None:
    with pytest.raises(BadState, match="is in use by another process: stop it, or use another --data directory"):
        RocksStore(tmp_path)


def test_a_state_in_use_can_be_read(owner: "subprocess.Popen[str]", tmp_path: Path) -> None:
    assert owner.stdin is not None
    assert owner.stdout is not None
    for n in range(1, 6):
        owner.stdin.write("\n")
        owner.stdin.flush()
        assert owner.stdout.readline() == f"{n}\n"
        reader = RocksStore(tmp_path, read_only=True)
        assert reader.read("t", [b"k"]) == [b"%d" % n]
        with pytest.raises(StoreUnavailable):
            reader.commit([Row("t", b"k", b"x")], {})
        reader.close()


def test_the_same_process_cannot_open_it_twice_and_can_again_once_closed(tmp_path: Path) -> None:
    first = RocksStore(tmp_path)
    with pytest.raises(BadState, match="in use"):
        RocksStore(tmp_path)
    first.close()
    first.close()
    RocksStore(tmp_path).close()


def test_reading_never_creates_a_state(tmp_path: Path) -> None:
    with pytest.raises(BadState, match=r"no state in .* give the --data directory of a streamer that has run"):
        RocksStore(tmp_path / "none", read_only=True)
    assert not (tmp_path / "none").exists()


def test_a_file_in_place_of_the_directory_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadState, match="cannot open the state in"):
        RocksStore(tmp_path / "file")


def test_a_failed_write_raises_and_changes_nothing(tmp_path: Path) -> None:
    rocks = Rocks(tmp_path / "x")
    rocks.write([(b"a", b"1")])
    rocks.close()
    reader = Rocks(tmp_path / "x", read_only=True)
    for write in (lambda: reader.write([(b"a", b"2")]), lambda: reader.delete_range(b"a", b"b"), reader.flush):
        with pytest.raises(StoreUnavailable, match="cannot write to"):
            write()
    assert reader.get(b"a") == b"1"
    reader.close()


def test_neighbours_are_found_within_their_bounds(tmp_path: Path) -> None:
    rocks = Rocks(tmp_path / "x")
    rocks.write([(key, b"v") for key in (b"a", b"r1", b"r3", b"s")])
    assert rocks.last(b"r", b"s") == (b"r3", b"v")
    assert rocks.last(b"t", b"u") is None
    assert [rocks.floor(key, b"r") for key in (b"r3", b"r2", b"r1", b"r0", b"z")] == [b"r3", b"r1", b"r1", None, b"s"]
    assert [key for key, _ in rocks.scan(b"r", b"s", b"r2")] == [b"r3"]
    rocks.delete_range(b"r", b"r3")
    assert [key for key, _ in rocks.scan(b"", b"\xff")] == [b"a", b"r3", b"s"]
    rocks.close()
    assert rocks.size_bytes == 0
