"""The protocol of a peer. A peer is one class, one file in `benchmarks/peers`, and one line in its registry.

Users and items are numbered in the order in which they first appear (for peers that learn from clicks, items in the order of their
first click). Peers keep their state in memory. A peer's library is imported in its constructor, so that the registry can be read
where the library is not installed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import msgspec

from streamer.core.arrays import F32
from streamer.core.protocols import Kind

FITS = 5  # parts of the stream after which peers that cannot learn one event are fitted anew; not after the last


@dataclass(frozen=True)
class PeerContext:
    """What a peer knows before the first event: the catalogue, which our learners know too, and a few numbers."""

    categories: Sequence[Sequence[str]]  # by item: genres, and the decade of its release
    events: int  # number of events of the peer's kind in the stream, for peers that refit after a share of it
    seed: int


class Peer(Protocol):
    """What both kinds have in common; a peer is made by `Class(settings, context)`."""

    kind: ClassVar[Kind]
    package: ClassVar[str | None]  # distribution on PyPI; None: it has none, and its file follows a paper
    Settings: ClassVar[type[msgspec.Struct]]  # its defaults are the library's own
    tuned: ClassVar[
        msgspec.Struct | None
    ]  # the best that `benchmarks.tune` found on ml-latest-small; None: not searched yet
    space: ClassVar[Mapping[str, Sequence[Any]]]  # the settings that the search tries, each with its values in order


class RatingPeer(Protocol):
    """A peer that predicts ratings."""

    def predict_then_learn(self, user: int, item: int, rating: float) -> float:
        """Return its prediction for this rating, not clipped, and then learn the rating."""


class ClickPeer(Protocol):
    """A peer that ranks items."""

    def begin(self, user: int) -> None:
        """A session of the user begins with the next click, which is not yet known."""

    def score(self, user: int, count: int) -> F32:
        """Scores of items 0 to count - 1, all that were ever clicked, (count,); higher is better, NaN where there is none."""

    def learn(self, user: int, item: int) -> None:
        """Learn that the user clicked the item."""
