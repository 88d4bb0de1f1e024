"""Categories keep their numbers, attributes can be categories, and only 64 have a number of their own."""

from collections.abc import Callable
from pathlib import Path

import pytest
from learning import learn, records, settings

from streamer.core.errors import BadState, UnknownCategory
from streamer.core.events import Event, ItemRemoval, ItemUpdate, Rating
from streamer.core.protocols import Row
from streamer.serving.opening import learners
from streamer.storage.state import RocksStore
from streamer.stream.catalogue.categories import OWN_BITS, Categories
from streamer.stream.memory import Memory


def resolve(categories: Categories, *items: ItemUpdate) -> list[set[str]]:
    """The names of each item's categories, decoded from its word."""
    categories.words.reserve(len(items))
    categories.category_sets.sets.reserve(len(items))
    for row, item in enumerate(items):
        categories.put(row, item)
    words = categories.words.values[: len(items), 0].tolist()
    return [{name for number, name in enumerate(categories.names) if word >> number & 1} for word in words]


def test_numbers_are_given_in_order_of_first_appearance() -> None:
    categories = Categories({})
    found = resolve(
        categories, ItemUpdate("a", categories=("Drama", "War")), ItemUpdate("b", categories=("Comedy", "War"))
    )
    assert found == [{"Drama", "War"}, {"Comedy", "War"}]
    assert categories.number_of == {"Drama": 0, "War": 1, "Comedy": 2}


def test_equal_values_with_different_text_are_different_categories() -> None:
    categories = Categories({"tone": 0.0})
    value_key: list[str | float | bool] = [0, -0.0, False, "0", 1.0, True]
    found = resolve(categories, *[ItemUpdate(f"i{n}", attributes={"tone": value}) for n, value in enumerate(value_key)])
    assert found == [{f"tone:{text}"} for text in ("0", "-0.0", "False", "0", "1.0", "True")]


def test_attributes_are_categories_binned_or_as_they_are() -> None:
    categories = Categories({"year": 10.0, "language": 0.0, "price": 0.5})
    found = resolve(
        categories,
        ItemUpdate("a", attributes={"year": 1994.0, "language": "fr", "price": 1.75}),
        ItemUpdate("b", attributes={"year": -5.0, "language": True}),
        ItemUpdate("c", attributes={"year": "unknown", "other": 3.0, "language": None}),
    )
    assert found == [{"year:1990", "language:fr", "price:1.5"}, {"year:-10", "language:True"}, {"year:unknown"}]


def test_the_last_record_of_an_item_holds() -> None:
    categories = Categories({})
    resolve(categories, ItemUpdate("a", categories=("Drama",)))
    assert resolve(categories, ItemUpdate("a", categories=("Comedy",))) == [{"Comedy"}]


def test_the_65th_category_gets_no_number_and_is_reported() -> None:
    categories = Categories({})
    found = resolve(
        categories,
        ItemUpdate("a", categories=tuple(f"c{n}" for n in range(OWN_BITS + 2))),
        ItemUpdate("b", categories=("c63", "c64")),
    )
    assert len(found[0]) == OWN_BITS
    assert found[1] == {"c63"}
    assert categories.beyond_limit == {"c64", "c65"}


def test_later_categories_differ_by_their_combination_of_shared_bits() -> None:
    categories = Categories({})
    assert categories.numbers("c70") == ()  # nothing is known of it
    items = [ItemUpdate(f"i{n}", categories=(f"c{n}",)) for n in range(200)]
    resolve(categories, *items)
    words = {tuple(word) for word in categories.words.values[:200].tolist()}
    assert len(words) == 200
    assert categories.numbers("c7") == (7,)
    assert categories.numbers("c70") == categories.resolve("C70") != categories.numbers("c71")
    assert all(OWN_BITS <= number < 128 for number in categories.numbers("c70"))
    with pytest.raises(UnknownCategory, match=r"did you mean 'c70'|there are"):
        categories.resolve("x70")


CHANGING: list[Event | bytes] = [
    ItemUpdate("a", categories=("Drama",)),
    ItemUpdate("b", categories=("Comedy",), attributes={"year": 1994.0}),
    Rating("u", "a", 4.0, 1),
    ItemUpdate("a", categories=("Comedy",)),
    ItemRemoval("b"),
    Rating("u", "c", 3.0, 2),
]


def opened(folder: Path, look: Callable[[Memory], object], **flags: object) -> object:
    store, chosen = RocksStore(folder), settings(rating_learner="bayesian-hybrid", **flags)
    try:
        return look(Memory(learners(chosen), chosen, store))
    finally:
        store.close()


def test_numbers_and_words_survive_a_restart_after_catalogue_changes(tmp_path: Path) -> None:
    learn(tmp_path, records(CHANGING), rating_learner="bayesian-hybrid", max_records=2, commit_every=1)
    words = opened(tmp_path, lambda memory: memory.categories.words.values[:3, 0].tolist())
    assert words == [0b010, 0, 0]
    names = opened(tmp_path, lambda memory: memory.categories.names)
    assert names == ["Drama", "Comedy", "year:1990"]  # nothing is a drama any more
    assert opened(tmp_path, lambda memory: list(memory.categories.changed())) == []


def test_other_category_attributes_are_refused_for_an_existing_state(tmp_path: Path) -> None:
    learn(tmp_path, records(CHANGING), rating_learner="bayesian-hybrid")
    with pytest.raises(BadState, match="category_attributes"):
        opened(tmp_path, len, category_attributes="year=20")  # type: ignore[arg-type]  # nothing looks


def test_a_missing_category_name_is_reported_as_damage(tmp_path: Path) -> None:
    learn(tmp_path, records(CHANGING), rating_learner="bayesian-hybrid")
    store = RocksStore(tmp_path)
    store.commit([Row("categories", b"Drama", None)], {})
    store.close()
    with pytest.raises(BadState, match="2 categories"):
        opened(tmp_path, len)  # type: ignore[arg-type]  # nothing looks
