"""Categories: their numbers, and the categories of each item, for the learners that use them.

Categories are numbered by first appearance in the catalogue, for ever, because learners have weights by number. An item's
categories are the bits of two words. The first 64 categories have a bit each. Each later category has four of the 64 bits of
the second word, chosen by a hash of its name (as in a Bloom filter), so that it differs from others although it shares every
bit. Attributes can be declared as categories: the year 1994, in steps of 10, is the category `year:1990`.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from math import floor, isfinite

import numpy as np

from streamer.core.errors import BadState, UnknownCategory
from streamer.core.events import ItemUpdate
from streamer.core.protocols import Row, StateStore
from streamer.core.tables import Table
from streamer.stream.catalogue.category_sets import CategorySets

OWN_BITS = 64  # categories with a bit of their own, in the first word
CACHED = 4096  # most entries of each cache: bits by set of categories, names by value
SHARED_BITS = 4  # bits of each later category, in the second word
_LOG = logging.getLogger("streamer.categories")


class Categories:
    """All categories, and the items' words; protocols.Persistent for the names (the words follow from the catalogue)."""

    def __init__(self, attributes: Mapping[str, float]) -> None:
        """`attributes` used as categories too: name -> bin width, 0 to take the value as it is."""
        self._attributes = dict(attributes)
        self.words = Table("item", [0, 0], dtype=np.uint64)  # bit n: the item has category n
        self.category_sets = CategorySets()
        self.names: list[str] = []
        self.number_of: dict[str, int] = {}
        self.beyond_limit: set[str] = set()  # names after the first 64, as far as seen since the start
        self._bits: dict[tuple[str, ...], int] = {}  # a cache: set of categories -> bits
        self._binned: dict[tuple[str, type, object], str] = {}  # a cache: attribute and value -> category name
        self._committed_names = 0  # names with this number or a higher one are not committed

    def put(self, row: int, item: ItemUpdate) -> None:
        """Set the categories of the item in `row`."""
        names = tuple(self._names(item))
        bits = self._bits.get(names)
        if bits is None:
            if len(self._bits) >= CACHED:
                self._bits.clear()
            bits = self._bits[names] = self._bits_of(names)
        words = self.words.values
        words[row, 0], words[row, 1] = bits & (1 << OWN_BITS) - 1, bits >> OWN_BITS
        self.category_sets.put(row, bits)

    def _bits_of(self, names: Sequence[str]) -> int:
        """The bits of categories, which are registered if they are new. The bits of a name never change."""
        bits = 0
        for name in names:
            self._register(name)
            for number in self.numbers(name):
                bits |= 1 << number
        return bits

    def _names(self, item: ItemUpdate) -> list[str]:
        names = [*item.categories]
        for attribute, step in self._attributes.items():
            value = item.attributes.get(attribute)
            if value is not None:
                value_key = attribute, type(value), value or str(value)  # 0 and -0 are equal, but differ as text
                name = self._binned.get(value_key)
                if name is None:
                    if len(self._binned) >= CACHED:
                        self._binned.clear()
                    name = self._binned[value_key] = f"{attribute}:{binned(value, step)}"
                names.append(name)
        return names

    def _register(self, name: str) -> None:
        if name in self.number_of or name in self.beyond_limit:
            return
        if len(self.names) < OWN_BITS:
            self.number_of[name] = len(self.names)
            self.names.append(name)
            return
        if not self.beyond_limit:
            _LOG.warning(
                "category %r is the first beyond %d: it and all later ones share their weights", name, OWN_BITS
            )
        self.beyond_limit.add(name)

    def numbers(self, name: str) -> tuple[int, ...]:
        """The numbers of a category, none for an unknown one. Depends only on the first 64 names, like the state."""
        number = self.number_of.get(name)
        if number is not None:
            return (number,)
        if len(self.names) < OWN_BITS:
            return ()
        drawn = dict.fromkeys(OWN_BITS + byte % 64 for byte in hashlib.blake2b(name.encode()).digest())
        return tuple(sorted(list(drawn)[:SHARED_BITS]))

    def resolve(self, name: str) -> tuple[int, ...]:
        """The numbers of a category by name, ignoring case; raises UnknownCategory, with the most similar names."""
        known = [*self.names, *sorted(self.beyond_limit)]
        folded = {one.casefold(): one for one in reversed(known)}
        found = name if name in self.number_of or name in self.beyond_limit else folded.get(name.casefold())
        if found is not None:
            return self.numbers(found)
        near = get_close_matches(name[:100].casefold(), folded, n=3, cutoff=0.5)
        nearest = " or ".join(repr(folded[one]) for one in near)
        hint = f"did you mean {nearest}?" if near else f"there are: {', '.join(known[:20]) or 'none'}"
        raise UnknownCategory(f"no item has the category {name[:100]!r}; {hint}")

    def restore(self, store: StateStore) -> None:
        """See protocols.Persistent. Must precede the items."""
        stored = sorted((int.from_bytes(value, "little"), key.decode()) for key, value in store.scan("categories"))
        if [number for number, _ in stored] != list(range(len(stored))):
            raise BadState(f"the state has {len(stored)} categories, but their numbers have gaps: restore a backup")
        self.names = [name for _, name in stored]
        self.number_of = {name: number for number, name in stored}
        self._committed_names = len(stored)

    def changed(self) -> Sequence[Row]:
        """See protocols.Persistent."""
        new = enumerate(self.names[self._committed_names :], self._committed_names)
        return [Row("categories", name.encode(), number.to_bytes(4, "little")) for number, name in new]

    def committed(self) -> None:
        """See protocols.Persistent."""
        self._committed_names = len(self.names)


def binned(value: str | float | bool, step: float) -> str:
    """An attribute's value as text: the lower end of a number's bin of width `step`, anything else as it is."""
    if isinstance(value, int | float) and not isinstance(value, bool) and step > 0:
        steps = value / step
        return f"{(floor(steps) if isfinite(steps) else steps) * step:.12g}"
    return str(value)
