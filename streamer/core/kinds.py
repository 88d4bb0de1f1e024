"""Kinds of clicks: which are learned, and with what weight.

The setting `kinds` decides. A kind that it does not name has the weight that people mean by it, if it is one of `WELL_KNOWN`, and
weight 1 otherwise. Names are matched without regard to case, blanks, "_" and "-". With `unknown_kinds` = reject only the kinds of
the setting are learned, and those of `WELL_KNOWN` where the setting was left as it is.
"""

from collections.abc import Callable
from typing import TypeVar

from streamer.core.settings import KINDS, LearningSettings

T = TypeVar("T")

# For kinds that the setting does not name. A kind's code in histories is its place here: add at the end only.
WELL_KNOWN = {"addtocart": 2.0, "transaction": 4.0, "like": 2.0, "skip": -0.2, **KINDS}
UNKNOWN_WEIGHT = 1.0
UNKNOWN_CODE = -1  # in histories, for all kinds without a weight of their own
_WELL_KNOWN_CODES = 1 << 16  # codes from here on; the setting's kinds have 1, 2, ... by name
_CACHED = 1000  # spellings, which are the producers' to choose


class Kinds:
    """The kinds that the settings accept. `weights` and `codes` look a kind up as it is spelled in an event: some .05 us."""

    def __init__(self, settings: LearningSettings) -> None:
        self.names = tuple(settings.kinds)
        self._given = settings.kinds
        self._codes = {kind: 1 + n for n, kind in enumerate(sorted(settings.kinds))}
        self._spelled = {plain(kind): kind for kind in reversed(self.names)}
        self._learn = settings.unknown_kinds == "learn"
        self._well_known = self._learn or settings.kinds == KINDS
        self.weights: dict[str, float | None] = _Lookup(self._weight)  # None: it is not learned
        self.codes: dict[str, int] = _Lookup(self._code)

    def _weight(self, kind: str) -> float | None:
        name = self._name(kind)
        if name is not None:
            return self._given[name]
        if self._well_known and plain(kind) in WELL_KNOWN:
            return WELL_KNOWN[plain(kind)]
        return UNKNOWN_WEIGHT if self._learn else None

    def _code(self, kind: str) -> int:
        name = self._name(kind)
        if name is not None:
            return self._codes[name]
        well_known = [*WELL_KNOWN]
        return _WELL_KNOWN_CODES + well_known.index(plain(kind)) if plain(kind) in WELL_KNOWN else UNKNOWN_CODE

    def _name(self, kind: str) -> str | None:
        return kind if kind in self._given else self._spelled.get(plain(kind))

    def named(self, code: int) -> str:
        """The kind with this code in a history; "other" for one without a weight of its own."""
        names = {one: kind for kind, one in self._codes.items()}
        names |= {_WELL_KNOWN_CODES + n: kind for n, kind in enumerate(WELL_KNOWN)}
        return names.get(code, "other")


class _Lookup(dict[str, T]):
    """The values of `find`, kept for the first spellings."""

    def __init__(self, find: Callable[[str], T]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, kind: str) -> T:
        found = self._find(kind)
        if len(self) < _CACHED:
            self[kind] = found
        return found


def plain(kind: str) -> str:
    """A kind's name without case, blanks, "_" and "-": `Add to cart` and `add_to_cart` are one kind."""
    return kind.casefold().replace("_", "").replace("-", "").replace(" ", "")
