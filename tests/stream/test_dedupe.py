"""Each event_id counts once among the newest N of its partition, compared with a plain deque."""

from collections import deque
from pathlib import Path

import numpy as np
import pytest

from streamer.core.events import LOG, TopicPartition
from streamer.storage.state import RocksStore
from streamer.stream.dedupe import BLOCK_IDS, Dedupe


class Newest:
    """The promise in five lines."""

    def __init__(self, window: int) -> None:
        self.ids: deque[str] = deque(maxlen=window)

    def fresh(self, event_id: str) -> bool:
        new = event_id not in self.ids
        if new:
            self.ids.append(event_id)
        return new


@pytest.mark.parametrize("window", [1, 2, 3, 255, 256, 257, 1000])
@pytest.mark.parametrize("spread", [1.2, 3.0])
def test_it_equals_a_deque_for_any_window_batches_and_restarts(tmp_path: Path, window: int, spread: float) -> None:
    store = RocksStore(tmp_path)
    random = np.random.default_rng(window)
    dedupe, models = Dedupe(window), {at: Newest(window) for at in (LOG, TopicPartition("clicks", 3))}
    accepted = 0
    for n in range(120):
        at = list(models)[n % 3 // 2]
        count = int(random.choice([1, 7, 40, 400]))
        ids = [f"e{k}" for k in random.integers(0, int(window * spread) + 2, count)]
        wanted = [models[at].fresh(event_id) for event_id in ids]
        assert dedupe.admit(at, ids).tolist() == wanted
        accepted += sum(wanted)
        if n % 10 == 9:
            store.commit(dedupe.changed(), {})
            dedupe.committed()
            assert dedupe.changed() == []
        if n % 20 == 19:
            dedupe = Dedupe(window)
            dedupe.restore(store)
    assert accepted > window
    store.close()


def test_the_window_is_exact_and_counts_new_ids_only() -> None:
    dedupe = Dedupe(3)
    assert dedupe.admit(LOG, ["a", "b", "c", "a", "a", "b"]).tolist() == [True, True, True, False, False, False]
    assert dedupe.admit(LOG, ["d", "b", "c", "a", "b"]).tolist() == [True, False, False, True, True]


def test_each_partition_has_its_own_window() -> None:
    dedupe = Dedupe(10)
    for at in (LOG, TopicPartition("ratings", 0), TopicPartition("ratings", 1), TopicPartition("clicks", 0)):
        assert dedupe.admit(at, ["a", "a"]).tolist() == [True, False]


def test_a_window_of_0_turns_it_off() -> None:
    dedupe = Dedupe(0)
    assert dedupe.admit(LOG, ["a", "a"]).tolist() == [True, True]
    assert dedupe.changed() == []


def test_removing_an_id_leaves_colliding_ids_findable() -> None:
    """Ids that collide in the table, in a window small enough that every new one removes one."""
    window, random = 40, np.random.default_rng(2)
    dedupe, model = Dedupe(window), Newest(window)
    for _ in range(400):
        ids = [f"{k}" for k in random.integers(0, 60, 25)]
        assert dedupe.admit(LOG, ids).tolist() == [model.fresh(event_id) for event_id in ids]


def test_event_ids_can_be_any_text() -> None:
    ids = ["é", "\0", "a\0", "a" * 10_000, " ", "é".upper(), "e\u0301"]
    dedupe = Dedupe(100)
    assert dedupe.admit(LOG, ids).all()
    assert not dedupe.admit(LOG, ids).any()


def test_stored_bytes_do_not_depend_on_when_they_were_committed(tmp_path: Path) -> None:
    digests = set()
    for every in (1, 3, 50):
        store = RocksStore(tmp_path / f"{every}")
        dedupe = Dedupe(600)
        for n in range(50):
            dedupe.admit(LOG, [f"{n} {k}" for k in range(33)])
            if n % every == every - 1:
                store.commit(dedupe.changed(), {})
                dedupe.committed()
        store.commit(dedupe.changed(), {})
        digests.add(store.digest().digest)
        store.close()
    assert len(digests) == 1


def test_one_event_rewrites_one_block() -> None:
    dedupe = Dedupe(10 * BLOCK_IDS)
    dedupe.admit(LOG, [f"{k}" for k in range(5 * BLOCK_IDS)])
    assert len(dedupe.changed()) == 1 + 5
    dedupe.committed()
    dedupe.admit(LOG, ["new"])
    assert len(dedupe.changed()) == 2  # the count and the block
    assert dedupe.changed() == dedupe.changed()


def test_a_forgotten_id_stays_forgotten_after_a_restart(tmp_path: Path) -> None:
    """The block is stored again, although nothing was added since the last commit."""
    store, dedupe = RocksStore(tmp_path), Dedupe(3)
    dedupe.admit(LOG, ["a", "b", "c"])
    store.commit(dedupe.changed(), {})
    dedupe.committed()
    assert dedupe.forget(LOG, ["b"]) == 1
    store.commit(dedupe.changed(), {})
    again = Dedupe(3)
    again.restore(store)
    store.close()
    assert again.admit(LOG, ["a", "b", "c"]).tolist() == [False, True, False]
