"""Dead letters: the newest 10,000, each with its reason and origin."""

from pathlib import Path

from streamer.core.errors import BadEvent, Reason
from streamer.core.events import Record
from streamer.storage.state import RocksStore
from streamer.stream.dead_letters import KEPT, SHOWN_BYTES, DeadLetters, dead_letters


def put(letters: DeadLetters, first: int, stop: int, value: bytes | None = b"x") -> None:
    for n in range(first, stop):
        letters.put(Record("ratings", n % 3, n, 0, None, value), BadEvent(Reason.NOT_JSON, f"number {n}"))


def commit(letters: DeadLetters, store: RocksStore) -> None:
    store.commit(letters.changed(), {})
    letters.committed()


def test_a_dead_letter_has_the_reason_and_the_origin(tmp_path: Path) -> None:
    store, letters = RocksStore(tmp_path), DeadLetters()
    letters.put(Record("ratings", 3, 77, 0, b"k", b"\xff" * 5000), BadEvent(Reason.TOO_LARGE, "the event has ..."))
    letters.put(Record("items", -1, 78, 0, None, None), BadEvent(Reason.BAD_ID, "x" * 50_000))
    commit(letters, store)
    second, first = dead_letters(store)
    assert (first.reason, first.message) == ("too_large", "the event has ...")
    assert (first.topic, first.partition, first.offset, first.value) == ("ratings", 3, 77, b"\xff" * SHOWN_BYTES)
    assert (second.value, len(second.message)) == (b"", SHOWN_BYTES)  # a sentence may quote a whole event
    store.close()


def test_the_newest_10000_are_kept_across_restarts(tmp_path: Path) -> None:
    store = RocksStore(tmp_path)
    for first, stop in [(0, 10), (10, KEPT - 1), (KEPT - 1, KEPT + 5), (KEPT + 5, 2 * KEPT + 100)]:
        letters = DeadLetters()
        letters.restore(store)
        put(letters, first, stop)
        commit(letters, store)
        found = list(dead_letters(store))
        assert [letter.offset for letter in found] == list(range(stop - 1, max(-1, stop - 1 - KEPT), -1))
        assert found[0].message == f"number {stop - 1}"
    store.close()


def test_a_commit_that_fails_keeps_them_for_the_next(tmp_path: Path) -> None:
    store, letters = RocksStore(tmp_path), DeadLetters()
    put(letters, 0, 2)
    assert letters.count == 2
    assert letters.changed() == letters.changed() != []
    put(letters, 2, 3)
    commit(letters, store)
    assert [letter.offset for letter in dead_letters(store)] == [2, 1, 0]
    assert letters.changed() == []
    store.close()


def test_dead_letters_are_not_part_of_the_digest(tmp_path: Path) -> None:
    store, letters = RocksStore(tmp_path), DeadLetters()
    before = store.digest()
    put(letters, 0, 10)
    commit(letters, store)
    assert store.digest() == before
    store.close()
