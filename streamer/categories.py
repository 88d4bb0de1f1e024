"""Categories: names to numbers, and which items are of which, for the learners that use them.

A category's number is its order of first appearance in the catalogue, kept for ever, as learners have weights by number.
An item's categories are the bits of one word. Attributes can be declared as categories: the year 1994, in steps of 10,
is the category `year:1990`.
"""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches

import numpy as np

from streamer.embeddings import Table
from streamer.errors import BadState, UnknownCategory
from streamer.events import ItemUpdate
from streamer.protocols import Row, StateStore

MOST = 64  # bits of a word


class Categories:
    """The vocabulary of categories and the items' words; protocols.Persistent for the names (words follow from the catalogue)."""

    def __init__(self, attributes: Mapping[str, float]) -> None:
        """`attributes` that are categories too: name -> width of a step, 0 for taking the value as it is."""
        self._attributes = dict(attributes)
        self.words = Table("item", [0], dtype=np.uint64)  # bit n: the item is of category n
        self.names: list[str] = []
        self.number_of: dict[str, int] = {}
        self.left_out: set[str] = set()  # names beyond the 64th, since the start
        self._new = 0  # numbers from here on are not committed

    def put(self, row: int, item: ItemUpdate) -> None:
        """What the catalogue says of the item in `row` now."""
        word = 0
        for name in self._names(item):
            number = self._number(name)
            if number is not None:
                word |= 1 << number
        self.words.values[row, 0] = word

    def _names(self, item: ItemUpdate) -> Iterator[str]:
        yield from item.categories
        for name, step in self._attributes.items():
            value = item.attributes.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool) and step > 0:
                yield f"{name}:{np.floor(value / step) * step:.12g}"
            elif value is not None:
                yield f"{name}:{value}"

    def _number(self, name: str) -> int | None:
        number = self.number_of.get(name)
        if number is None and len(self.names) < MOST:
            number = self.number_of[name] = len(self.names)
            self.names.append(name)
        elif number is None:
            self.left_out.add(name)
        return number

    def number(self, name: str) -> int:
        """The number of a category that somebody names, in any case; raises UnknownCategory with the nearest names."""
        number = self.number_of.get(name)
        if number is None:
            folded = {known.casefold(): known for known in reversed(self.names)}
            number = self.number_of.get(folded.get(name.casefold(), ""))
        if number is not None:
            return number
        if name in self.left_out:
            raise UnknownCategory(f"category {name!r} is known and not learned of: it came after the first {MOST}")
        near = get_close_matches(name[:100].casefold(), folded, n=3, cutoff=0.5)
        known = [folded[found] for found in near] or self.names[:20]
        hint = f"did you mean {' or '.join(map(repr, known))}?" if near else f"there are: {', '.join(known) or 'none'}"
        raise UnknownCategory(f"no item is of category {name[:100]!r}; {hint}")

    def restore(self, store: StateStore) -> None:
        """See protocols.Persistent; before the items."""
        stored = sorted((int.from_bytes(value, "little"), key.decode()) for key, value in store.scan("categories"))
        if [number for number, _ in stored] != list(range(len(stored))):
            raise BadState(f"the state holds {len(stored)} categories, but not one of each number: restore a backup")
        self.names = [name for _, name in stored]
        self.number_of = {name: number for number, name in stored}
        self._new = len(stored)

    def changed(self) -> Sequence[Row]:
        """See protocols.Persistent."""
        new = enumerate(self.names[self._new :], self._new)
        return [Row("categories", name.encode(), number.to_bytes(4, "little")) for number, name in new]

    def committed(self) -> None:
        """See protocols.Persistent."""
        self._new = len(self.names)
