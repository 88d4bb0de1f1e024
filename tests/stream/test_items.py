"""Items: rows in order of arrival, for ever, and the entries of the catalogue."""

from pathlib import Path

import numpy as np
import pytest

from streamer.core.errors import BadState
from streamer.core.events import ItemUpdate
from streamer.core.protocols import Row
from streamer.core.seed import id_key
from streamer.core.tables import Table
from streamer.storage.state import RocksStore
from streamer.stream.catalogue.categories import Categories
from streamer.stream.catalogue.items import Items


def made() -> tuple[Items, Table]:
    table = Table("item", [1.0, 0.0], random=1, scale=1.0)
    return Items([table], Categories({}), seed=1), table


def commit(items: Items, store: RocksStore) -> None:
    store.commit(items.changed(), {})
    items.committed()


def restored(store: RocksStore) -> Items:
    items, _ = made()
    items.restore(store)
    return items


def test_rows_are_given_in_order_of_arrival_and_kept(tmp_path: Path) -> None:
    store, (items, _) = RocksStore(tmp_path), made()
    assert items.rows(["b", "a", "b", "c"]).tolist() == [0, 1, 0, 2]
    commit(items, store)
    assert items.rows(["z", "c", "a"]).tolist() == [3, 2, 1]
    assert items.rows([]).tolist() == []
    commit(items, store)
    assert items.changed() == []
    again = restored(store)
    assert again.ids == ["b", "a", "c", "z"]
    assert again.rows(["new", "z"]).tolist() == [4, 3]
    assert len(again) == 5
    store.close()


def test_new_rows_have_initial_values_determined_by_their_id() -> None:
    one, first = made()
    one.rows([f"i{n}" for n in range(200)])
    other, second = made()
    for n in range(200):
        other.rows([f"i{n}"])
    assert first.values[:200].tobytes() == second.values[:200].tobytes()
    assert first.values[7].tobytes() == first.initial(id_key(1, "item", "i7")).tobytes()
    assert first.dirty().tolist() == []
    assert len(np.unique(first.values[:200, 0])) == 200


def test_the_catalogue_sets_title_and_availability(tmp_path: Path) -> None:
    store, (items, _) = RocksStore(tmp_path), made()
    items.put(ItemUpdate("a", "Alien", ("Horror",), {"year": 1979.0}))
    items.put(ItemUpdate("b", "Brazil", available=False))
    items.rows(["c"])
    for _ in range(2):
        assert [items.title(item) for item in ("a", "b", "c", "nothing")] == ["Alien", "Brazil", "c", "nothing"]
        assert items.available[:3].tolist() == [1, 0, 1]
        assert items.catalogue["a"] == ItemUpdate("a", "Alien", ("Horror",), {"year": 1979.0})
        commit(items, store)
        items = restored(store)
    items.put(ItemUpdate("b"))  # replaces the entry before
    assert items.title("b") == "b"
    assert items.available[1] == 1
    store.close()


def test_a_removed_item_is_unavailable_and_keeps_its_row(tmp_path: Path) -> None:
    store, (items, _) = RocksStore(tmp_path), made()
    items.put(ItemUpdate("a", "Alien"))
    items.remove("a")
    items.remove("never seen")
    commit(items, store)
    for found in (items, restored(store)):
        assert found.rows(["a", "never seen"]).tolist() == [0, 1]
        assert found.available[:2].tolist() == [0, 0]
    items.put(ItemUpdate("a", "Alien"))
    assert items.available[0] == 1
    store.close()


def test_availability_is_kept_when_the_table_grows() -> None:
    items, _ = made()
    items.put(ItemUpdate("a", available=False))
    items.rows([f"i{n}" for n in range(1000)])
    assert items.available[:1001].tolist() == [0] + [1] * 1000


def test_after_a_failed_commit_the_rows_are_returned_again(tmp_path: Path) -> None:
    items, _ = made()
    items.put(ItemUpdate("a", "Alien"))
    first = items.changed()
    assert items.changed() == first
    items.rows(["b"])
    assert [run.keys for run in items.changed()] == [(b"a", b"b"), (b"a",)]


@pytest.mark.parametrize("rows", [[0, 2], [0, 0], [1, 2]])
def test_a_state_with_gaps_in_item_numbers_is_refused(tmp_path: Path, rows: list[int]) -> None:
    store = RocksStore(tmp_path)
    store.commit([Row("items", b"i%d" % n, row.to_bytes(4, "little")) for n, row in enumerate(rows)], {})
    with pytest.raises(BadState, match="has 2 items, but their numbers have gaps: restore a backup"):
        restored(store)
    store.close()
