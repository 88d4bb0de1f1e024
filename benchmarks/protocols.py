"""What a peer is: one class, one file in `benchmarks/peers`, one line in its registry.

Users and items are numbers in the order in which they first came (for those who learn from clicks: items in the order of their first click). Whatever a peer keeps, it keeps in memory; its library
is imported in its constructor, so that the registry can be read where the library is not installed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import msgspec

from streamer.core.arrays import F32
from streamer.core.protocols import Kind


@dataclass(frozen=True)
class OnProgress:
    """What a peer knows before the first event, as our learners do: the catalogue."""

    categories: Sequence[Sequence[str]]  # by item: genres, and the decade of its release
    events: int  # of the peer's kind that will come, for those who refit after a share of the stream
    seed: int


class Peer(Protocol):
    """What both kinds have: made by `Class(settings, told)`."""

    kind: ClassVar[Kind]
    package: ClassVar[str]  # distribution on PyPI
    Settings: ClassVar[type[msgspec.Struct]]  # its defaults are the library's own
    tuned: ClassVar[msgspec.Struct | None]  # the best that `benchmarks.tune` found; None: not searched yet
    space: ClassVar[Mapping[str, Sequence[Any]]]  # what it searched: a setting's values, in order


class RatingPeer(Protocol):
    """A peer that predicts ratings."""

    def predict_then_learn(self, user: int, item: int, rating: float) -> float:
        """What it predicted before it learned this rating; not clipped."""


class ClickPeer(Protocol):
    """A peer that ranks items."""

    def score(self, user: int, count: int) -> F32:
        """(count,) of items 0 to count - 1, all that were ever clicked; higher is better, NaN where it cannot."""

    def learn(self, user: int, item: int) -> None:
        """The user clicked the item."""
