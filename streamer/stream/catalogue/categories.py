"""Categories: names to numbers, and which items are of which, for the learners that use them.

A category's number is its order of first appearance in the catalogue, kept for ever, as learners have weights by number.
An item's categories are the bits of two words. The first 64 categories have a bit each; each later one has four of the 64
bits of the second word, chosen by its name, so that it is told from the others though it shares every bit. Attributes can
be declared as categories: the year 1994, in steps of 10, is the category `year:1990`.
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

MOST = 64  # categories with a bit of their own: the first word
KEPT = 4096  # sets of categories whose bits, and values whose names are remembered: the same come again and again
SHARED = 4  # bits of a later one, in the second word
_LOG = logging.getLogger("streamer.categories")


class Categories:
    """The vocabulary of categories and the items' words; protocols.Persistent for the names (words follow from the catalogue)."""

    def __init__(self, attributes: Mapping[str, float]) -> None:
        """`attributes` that are categories too: name -> width of a step, 0 for taking the value as it is."""
        self._attributes = dict(attributes)
        self.words = Table("item", [0, 0], dtype=np.uint64)  # bit n: the item is of category n
        self.category_sets = CategorySets()
        self.names: list[str] = []
        self.number_of: dict[str, int] = {}
        self.left_out: set[str] = set()  # names beyond the 64th in what the catalogue said since the start
        self._bits: dict[tuple[str, ...], int] = {}  # of sets of categories met lately
        self._stepped: dict[tuple[str, type, object], str] = {}  # names of attributes' values met lately
        self._new = 0  # numbers from here on are not committed

    def put(self, row: int, item: ItemUpdate) -> None:
        """What the catalogue says of the item in `row` now."""
        names = tuple(self._names(item))
        bits = self._bits.get(names)
        if bits is None:
            if len(self._bits) >= KEPT:
                self._bits.clear()
            bits = self._bits[names] = self._bits_of(names)
        words = self.words.values
        words[row, 0], words[row, 1] = bits & (1 << MOST) - 1, bits >> MOST
        self.category_sets.put(row, bits)

    def _bits_of(self, names: Sequence[str]) -> int:
        """Of categories, which are known from now on: what this answers for them never changes."""
        bits = 0
        for name in names:
            self._note(name)
            for number in self.numbers(name):
                bits |= 1 << number
        return bits

    def _names(self, item: ItemUpdate) -> list[str]:
        names = [*item.categories]
        for attribute, step in self._attributes.items():
            value = item.attributes.get(attribute)
            if value is not None:
                said = attribute, type(value), value or str(value)  # 0 and -0 are equal, and not the same text
                name = self._stepped.get(said)
                if name is None:
                    if len(self._stepped) >= KEPT:
                        self._stepped.clear()
                    name = self._stepped[said] = f"{attribute}:{stepped(value, step)}"
                names.append(name)
        return names

    def _note(self, name: str) -> None:
        if name in self.number_of or name in self.left_out:
            return
        if len(self.names) < MOST:
            self.number_of[name] = len(self.names)
            self.names.append(name)
            return
        if not self.left_out:
            _LOG.warning(
                "category %r is the first beyond %d: it and all later ones share what is learned of them", name, MOST
            )
        self.left_out.add(name)

    def numbers(self, name: str) -> tuple[int, ...]:
        """The numbers that stand for a category, none for an unknown one. Depends on the names before the 65th alone, as state does."""
        number = self.number_of.get(name)
        if number is not None:
            return (number,)
        if len(self.names) < MOST:
            return ()
        drawn = dict.fromkeys(MOST + byte % 64 for byte in hashlib.blake2b(name.encode()).digest())
        return tuple(sorted(list(drawn)[:SHARED]))

    def named(self, name: str) -> tuple[int, ...]:
        """The numbers of a category that somebody names, in any case; raises UnknownCategory with the nearest names."""
        known = [*self.names, *sorted(self.left_out)]
        folded = {one.casefold(): one for one in reversed(known)}
        found = name if name in self.number_of or name in self.left_out else folded.get(name.casefold())
        if found is not None:
            return self.numbers(found)
        near = get_close_matches(name[:100].casefold(), folded, n=3, cutoff=0.5)
        nearest = " or ".join(repr(folded[one]) for one in near)
        hint = f"did you mean {nearest}?" if near else f"there are: {', '.join(known[:20]) or 'none'}"
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


def stepped(value: str | float | bool, step: float) -> str:
    """An attribute's value as the name of its category: a number in steps of a width, anything else as it is."""
    if isinstance(value, int | float) and not isinstance(value, bool) and step > 0:
        steps = value / step
        return f"{(floor(steps) if isfinite(steps) else steps) * step:.12g}"
    return str(value)
