"""Norms and widths are read from the live rows, or from a sample of them if there are many; an empty memory has none."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from learning import records, settings

from streamer.consumers.memory import MemorySource
from streamer.core.events import Event, ItemUpdate, Rating, Record
from streamer.core.tables import evenly_spaced
from streamer.models import LEARNERS
from streamer.monitoring.stability import SAMPLED_ROWS, Stability
from streamer.serving.opening import learners
from streamer.storage.state import RocksStore
from streamer.stream.engine import Engine, NullObserver
from streamer.stream.memory import Memory


class Running:
    """A memory that learns events, and its stability readings."""

    def __init__(self, folder: Path, **flags: object) -> None:
        chosen = settings(**flags)
        self.store, self.entries = RocksStore(folder), list[Record]()
        self.memory = memory = Memory(learners(chosen), chosen, self.store)
        source = MemorySource(self.entries)
        source.seek({})
        self.engine = Engine(source, memory, NullObserver(), max_records=500, commit_interval_s=3600.0)
        self.stability = Stability(memory.learners.by_name, memory.users.sample, memory.items)

    def tell(self, *told: Event) -> None:
        self.entries += records(told, len(self.entries))
        while self.engine.step(0.0):
            pass

    def norms(self) -> dict[tuple[str, str, str], float]:
        return {(n.learner, n.side, n.of): n.value for n in self.stability.norms()}

    def widths(self) -> dict[tuple[str, str, str], float]:
        return {(n.learner, n.side, n.of): n.value for n in self.stability.widths()}


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path)
    yield made
    made.store.close()


def ratings(count: int, *, users: int = 20) -> list[Event]:
    return [
        Rating(f"u{n % users}", f"i{n * 7 % 31}", 1.0 + n * n % 5, 1_600_000_000_000 + n * 1000) for n in range(count)
    ]


def test_an_empty_memory_has_no_readings(running: Running) -> None:
    assert running.norms() == {}
    assert running.widths() == {}
    assert set(running.stability.refused().values()) == {0}


def test_norms_are_the_lengths_of_rows(tmp_path: Path) -> None:
    running = Running(tmp_path, rating_learner="bias")
    running.tell(*ratings(500))
    bias, memory = running.memory.learners.by_name["bias"], running.memory
    biases = np.sort(np.abs(bias.tables()["user"].values[list(memory.users.row_of.values()), 0].astype(np.float64)))
    norms = running.norms()
    assert norms["bias", "user", "max"] == biases[-1]
    assert biases[9] <= norms["bias", "user", "p50"] <= biases[10]
    assert norms["bias", "user", "p95"] == biases[18]
    running.store.close()


def test_beliefs_narrow_with_events_and_never_to_0(running: Running) -> None:
    running.tell(ItemUpdate("i0", "Zero", ("Drama",)), *ratings(20))
    early = running.widths()
    running.tell(*ratings(2000))
    late = running.widths()
    assert {key for key in late if key[0] == "bayesian-hybrid"} == {
        ("bayesian-hybrid", "user", "bias"), ("bayesian-hybrid", "user", "category"),
        ("bayesian-hybrid", "item", "bias"), ("bayesian-hybrid", "item", "latent"),
    }  # fmt: skip
    for key, width in late.items():
        assert 0.005 < width < early[key], key
    hybrid = running.memory.learners.by_name["bayesian-hybrid"]
    row = int(running.memory.users.row_of["u0"])
    doubt = hybrid.widths("user", np.array([row], dtype=np.int32))  # type: ignore[attr-defined]
    user, n = hybrid.tables()["user"].values[row], 52
    drama = 4 + 8 + running.memory.categories.number_of["Drama"]
    assert doubt["bias"][0] == pytest.approx(user[n] ** 0.5)
    assert doubt["category"][0] == pytest.approx(user[n + drama * (drama + 3) // 2] ** 0.5)


@pytest.mark.parametrize("name", [name for name in LEARNERS if name in ("bias", "biased-mf", "bayesian-hybrid")])
def test_a_diverging_row_is_seen(tmp_path: Path, name: str) -> None:
    running = Running(tmp_path, rating_learner=name)
    running.tell(*ratings(500))
    sound = running.norms()
    table = running.memory.learners.by_name[name].tables()["item"]
    table.values[running.memory.items.row_of["i5"]] = 1e6
    assert running.norms()[name, "item", "max"] > 1e5 > 1000 * sound[name, "item", "max"] > 0
    table.values[running.memory.items.row_of["i5"]] = np.nan
    assert np.isnan(running.norms()[name, "item", "max"])
    running.tell(Rating("u1", "i5", 3.0))
    assert running.stability.refused()[name] == 1
    running.store.close()


def test_a_sample_is_bounded_evenly_spaced_and_of_users_in_memory_only(tmp_path: Path) -> None:
    assert evenly_spaced(0, 10).tolist() == []
    assert evenly_spaced(3, 10).tolist() == [0, 1, 2]
    assert evenly_spaced(1001, 5).tolist() == [0, 250, 500, 750, 1000]
    running = Running(tmp_path, rating_learner="bias", user_cache_bytes=400_000)
    running.tell(*ratings(5000, users=1500))
    users = running.memory.users
    assert users.evictions > 100
    sampled = users.sample(SAMPLED_ROWS).tolist()
    assert set(sampled) <= set(users.row_of.values())
    assert len(sampled) > 0.9 * min(SAMPLED_ROWS, users.cached)
    assert len(users.sample(7)) <= 7
    running.store.close()
