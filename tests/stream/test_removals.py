"""Removals of users: each has its own number, and is found after a restart until it is complete."""

from pathlib import Path

import msgspec

from streamer.core.events import USERS, Record
from streamer.storage.state import RocksStore
from streamer.stream.removals import Removals, read_removal, removal_rows, unfinished


def removal(offset: int) -> Record:
    return Record(USERS, -1, offset, 0, b"u", None)


def commit(removals: Removals, store: RocksStore) -> None:
    store.commit(removals.changed(), {})
    removals.committed()


def test_numbers_continue_after_a_restart_and_unfinished_removals_are_found(tmp_path: Path) -> None:
    store, removals = RocksStore(tmp_path), Removals()
    removals.put(removal(3), "ann")
    assert not removals.waiting  # before it is committed nobody may look
    commit(removals, store)
    assert removals.waiting
    again = Removals()
    again.restore(store)
    assert again.waiting
    again.put(removal(7), "bob")
    commit(again, store)
    assert [(one.number, one.offset, one.user_id) for one in unfinished(store)] == [(1, 3, "ann"), (2, 7, "bob")]
    store.close()


def test_a_complete_removal_is_not_unfinished_and_can_still_be_read(tmp_path: Path) -> None:
    store, removals = RocksStore(tmp_path), Removals()
    removals.put(removal(3), "ann")
    commit(removals, store)
    (found,) = unfinished(store)
    done = msgspec.structs.replace(found, stage="complete", user_id="")
    store.commit(removal_rows([done]), {})
    assert unfinished(store) == []
    assert read_removal(store, 1) == done
    assert read_removal(store, 2) is None
    again = Removals()
    again.restore(store)
    assert not again.waiting
    store.close()
