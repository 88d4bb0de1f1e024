"""Challengers: they learn beside the champions, can be added to an existing state and removed, and do not change the others."""

from pathlib import Path

import pytest
from learning import digest, events, learn, records

from streamer.consumers.memory import Abort
from streamer.core.errors import BadState
from streamer.storage.state import RocksStore

STREAM = records(events(400))
HALF = STREAM[:200]


def tables(folder: Path, name: str) -> set[str]:
    """The store's tables that have rows of the learner."""
    store = RocksStore(folder, read_only=True)
    try:
        found = {table for table, _ in store.sizes() if f"/{name}/" in table}
        return found | {"monitor" for key, _ in store.scan("monitor") if key.startswith(f"{name}/".encode())}
    finally:
        store.close()


def since(folder: Path) -> dict[str, dict[str, int]]:
    store = RocksStore(folder, read_only=True)
    try:
        meta = store.meta()
        assert meta is not None
        return meta.since
    finally:
        store.close()


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """A state learned without a shadow."""
    learn(tmp_path / "alone", STREAM)
    return tmp_path / "alone"


def test_a_shadow_does_not_change_the_champions(tmp_path: Path, alone: Path) -> None:
    learn(tmp_path / "d", STREAM, shadow="bias,stack")
    learned, found = digest(alone).learners, digest(tmp_path / "d").learners
    assert found.keys() - learned.keys() == {
        "bias", "stack", "bayesian-hybrid-latent", "bayesian-hybrid-categories", "bayesian-hybrid-plain",
    }  # fmt: skip
    assert {name: found[name] for name in learned} == learned


def test_a_shadow_learns_as_it_would_as_the_champion(tmp_path: Path) -> None:
    learn(tmp_path / "d", STREAM, shadow="biased-mf")
    learn(tmp_path / "other", STREAM, rating_learner="biased-mf")
    assert digest(tmp_path / "d").learners["biased-mf"] == digest(tmp_path / "other").learners["biased-mf"]


def test_a_shadow_can_be_added_to_an_existing_state(tmp_path: Path, alone: Path) -> None:
    learn(tmp_path / "d", HALF)
    learn(tmp_path / "d", STREAM, shadow="bias")
    assert since(tmp_path / "d") == {"bias": {"log/0": 200}}
    assert tables(tmp_path / "d", "bias") == {
        "learned/bias/user",
        "learned/bias/item",
        "learned/bias/stream",
        "monitor",
    }
    learned, found = digest(alone).learners, digest(tmp_path / "d").learners
    assert {name: found[name] for name in learned} == learned
    learn(tmp_path / "whole", STREAM, shadow="bias")
    assert found["bias"] != digest(tmp_path / "whole").learners["bias"]  # it never saw the first half
    assert since(tmp_path / "whole") == {}


def test_a_shadow_that_is_removed_leaves_no_trace(tmp_path: Path, alone: Path) -> None:
    learn(tmp_path / "d", HALF, shadow="bias,biased-mf")
    learn(tmp_path / "d", STREAM[:300], shadow="biased-mf")
    assert tables(tmp_path / "d", "bias") == set()
    learn(tmp_path / "other", STREAM[:300], shadow="biased-mf")  # whose name begins alike
    assert digest(tmp_path / "d").digest == digest(tmp_path / "other").digest
    learn(tmp_path / "d", STREAM)
    assert digest(tmp_path / "d").digest == digest(alone).digest


def test_a_shadow_that_returns_begins_with_nothing_learned(tmp_path: Path) -> None:
    learn(tmp_path / "d", STREAM[:100], shadow="bias")
    learn(tmp_path / "d", HALF)
    learn(tmp_path / "d", STREAM, shadow="bias")
    learn(tmp_path / "once", HALF)
    learn(tmp_path / "once", STREAM, shadow="bias")
    assert digest(tmp_path / "d").digest == digest(tmp_path / "once").digest


def test_a_learner_that_stays_must_keep_its_parameters(tmp_path: Path) -> None:
    learn(tmp_path, HALF, shadow="biased-mf")
    with pytest.raises(BadState, match="made with learners biased-mf dim 32, the settings say 16: use 32"):
        learn(
            tmp_path, STREAM, rating_learner="biased-mf", shadow="bayesian-hybrid", click_learner="popularity", dim=16
        )


def test_a_champion_cannot_be_removed_by_leaving_it_out(tmp_path: Path) -> None:
    learn(tmp_path, HALF)
    before = digest(tmp_path)
    with pytest.raises(
        BadState, match=r"click-blend is the champion for clicks .* add --shadow click-blend to keep it"
    ):
        learn(tmp_path, STREAM, click_learner="popularity")
    assert digest(tmp_path) == before
    learn(tmp_path, STREAM[:300], click_learner="popularity", shadow="click-blend")
    learn(tmp_path, STREAM, click_learner="popularity")  # it answers no more
    assert tables(tmp_path, "click-blend") == set()


def test_a_crash_while_a_shadow_learns_loses_and_repeats_nothing(tmp_path: Path) -> None:
    learn(tmp_path / "d", [*STREAM[:150], Abort(), *STREAM[150:]], commit_every=1, max_records=70, shadow="stack")
    learn(tmp_path / "once", STREAM, shadow="stack")
    assert digest(tmp_path / "d").learners == digest(tmp_path / "once").learners
