"""The eraser, step by step and in this process: afterwards a user is in no record, dead letter, row or file."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from learning import settings

from streamer.core.events import Message, Offsets, Rating, UserRemoval, UserUpdate, message
from streamer.privacy.eraser import Eraser
from streamer.privacy.forgetting import Forgetting
from streamer.serving.opening import learners
from streamer.storage import generations
from streamer.storage.generations import GenerationRecord
from streamer.storage.log import EmbeddedLog, LogSource
from streamer.storage.state import RocksStore
from streamer.stream.dead_letters import dead_letters
from streamer.stream.engine import Engine, NullObserver
from streamer.stream.memory import Memory
from streamer.stream.removals import unfinished

ZOE, BEN, ANN = "zoe-4711", "ben-0815", "ann-1234"
ESCAPED = b'{"user_id": "zo\\u0065-4711", "item_id": "i1", "rating": 2.0}'
BAD = b'{"user_id": "zoe-4711", "item_id": "i1", "rating": NaN}'


class Learning:
    """A log, a state, and an engine that learns on request."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        chosen = settings(data=str(folder), rating_learner="bias", click_learner="popularity")
        self.store, self.log = RocksStore(folder), EmbeddedLog(folder)
        self.memory = Memory(learners(chosen), chosen, self.store)
        source = LogSource(self.log)
        source.seek(self.memory.ledger.offsets)
        self.engine = Engine(source, self.memory, NullObserver(), max_records=100, commit_interval_s=3600.0)
        self.parts = folder, lambda: [self.memory], self.log, None, self.run_between_steps
        self.eraser = Eraser(*self.parts, threading.Event())

    def run_between_steps(self, task: Callable[[], Any]) -> "Future[Any]":
        answer: Future[Any] = Future()
        answer.set_result(task())
        return answer

    def publish(self, messages: Sequence[Message]) -> Offsets:
        """Publish, learn and commit."""
        offsets = self.log.publish(messages)
        while self.engine.step(0.0):
            pass
        self.engine.commit()
        return offsets

    def files_with(self, user_id: str) -> list[str]:
        files = [place for place in self.folder.rglob("*") if place.is_file()]
        return [str(file.relative_to(self.folder)) for file in files if user_id.encode() in file.read_bytes()]


@pytest.fixture
def learning(tmp_path: Path) -> Iterator[Learning]:
    """Ratings by Ann and Zoe; one of Zoe's has an escape in its JSON, and one is a bad event."""
    made = Learning(tmp_path)
    events = [Rating(ANN, "i1", 4.0, event_id="e1"), Rating(ZOE, "i1", 5.0, event_id="e2")]
    made.publish([*map(message, events), Message("ratings", None, ESCAPED), Message("ratings", None, BAD)])
    yield made
    made.log.close()
    made.store.close()


def test_an_erased_user_is_in_no_record_dead_letter_or_receipt(learning: Learning) -> None:
    assert [letter.value for letter in dead_letters(learning.store)] == [BAD]
    learning.publish([message(UserRemoval(ZOE))])
    learning.eraser.erase(unfinished(learning.store))
    records = [record for run in learning.log.read(0) for record in run]
    assert [(record.topic, record.key) for record in records] == [("ratings", ANN.encode()), *[("", None)] * 4]
    assert [record.value for record in records[1:]] == [None] * 4
    assert list(dead_letters(learning.store)) == []
    (found,) = unfinished(learning.store)
    assert (found.stage, found.user_id) == ("erased", "")
    assert (found.records, found.dead_letters, found.event_ids) == (4, 1, 1)


def test_an_erased_users_event_id_counts_as_new(learning: Learning) -> None:
    learning.publish([message(UserRemoval(ZOE))])
    learning.eraser.erase(unfinished(learning.store))
    learning.publish([message(Rating("mia", "i1", 3.0, event_id="e1")), message(Rating(BEN, "i1", 3.0, event_id="e2"))])
    assert learning.memory.users.known(["mia", BEN]).tolist() == [False, True]  # e1 is a duplicate still


def test_no_file_has_the_id_after_the_sweep(learning: Learning) -> None:
    learning.publish([message(UserRemoval(ZOE))])
    learning.eraser.erase(unfinished(learning.store))
    assert learning.files_with(ZOE)  # bytes of what was deleted
    assert learning.eraser.sweep(unfinished(learning.store))
    assert learning.files_with(ZOE) == []
    assert learning.files_with(ANN) != []
    assert unfinished(learning.store) == []


def test_a_file_that_the_sweep_of_a_kept_generation_leaves_behind_is_deleted_before_the_receipt(
    learning: Learning, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RocksDB deletes replaced tables in the background, and a generation may come to rest meanwhile."""
    made, kept = GenerationRecord(id="g1").at_stage("kept"), generations.state_folder(learning.folder, "g1")
    learning.store.checkpoint(kept)
    generations.write_record(learning.folder, made)
    learning.publish([message(UserRemoval(ZOE))])
    learning.eraser.erase(unfinished(learning.store))
    close, left_behind = RocksStore.close, list[Path]()

    def leave_a_file(store: RocksStore) -> None:
        close(store)
        if store.path == kept and not left_behind:
            left_behind.append(kept / "000001.sst")
            left_behind[0].write_bytes(ZOE.encode())

    monkeypatch.setattr(RocksStore, "close", leave_a_file)
    assert learning.eraser.sweep(unfinished(learning.store))
    assert learning.files_with(ZOE) == []


def test_references_in_other_profiles_are_erased(learning: Learning) -> None:
    learning.publish([message(UserUpdate(BEN, {"age": 30.0}, same_as=ZOE)), message(UserRemoval(ZOE))])
    learning.eraser.erase(unfinished(learning.store))
    assert learning.memory.users.profile(BEN) == UserUpdate(BEN, {"age": 30.0})


def test_aliases_are_forgotten_too(learning: Learning) -> None:
    """Ben's profile names Zoe in `same_as`."""
    learning.publish([message(Rating(BEN, "i1", 3.0)), message(UserUpdate(BEN, same_as=ZOE))])
    assert learning.memory.users.known([ANN, ZOE, BEN]).tolist() == [True, True, True]
    forgetting = Forgetting(*learning.parts, threading.Lock())
    assert [shown.stage for shown in forgetting.forget(ZOE, learning.publish)] == ["pending", "pending"]
    assert learning.memory.users.known([ANN, ZOE, BEN]).tolist() == [True, False, False]
