"""VMIS-kNN: session neighbours from the last sessions of each item, rare items counting more. It follows the paper, in NumPy and Numba.

It has no package on PyPI. An item remembers its m last sessions; the m most recent of all that a session's items remember are
candidates. An item's score is multiplied by log(sessions / sessions with it). The paper builds its index once a day; here every
click is in it at once.

Kersbergen, Sprangers, Schelter (2022), Serenade: low-latency session-based recommendation in e-commerce at scale, SIGMOD.
"""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any, ClassVar, Literal

import msgspec

from benchmarks.peers.session_neighbours import Sessions, Shape
from benchmarks.protocols import PeerContext
from streamer.core.arrays import F32
from streamer.core.protocols import Kind


class VMISKNNSettings(msgspec.Struct, frozen=True):
    k: int = 100
    m: int = 500  # last sessions of each item
    weighting: Shape = "div"  # the paper's pi
    decay: Shape = "linear"  # the paper's lambda
    idf: Literal["none", "alone", "added"] = "alone"
    last_items: int = 9  # beyond these lambda is 0
    unit: Literal["session", "history"] = "session"


class VMISKNN:
    kind: ClassVar[Kind] = "clicks"
    package: ClassVar[str | None] = None
    Settings = VMISKNNSettings
    tuned: ClassVar[VMISKNNSettings | None] = VMISKNNSettings(
        k=100, m=500, weighting="div", decay="linear", idf="added", last_items=9, unit="session"
    )
    space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "unit": ("session", "history"),
        "k": (50, 100, 200, 500, 1000),
        "m": (100, 250, 500, 1000, 2500),
        "weighting": ("same", "linear", "div", "quadratic", "log"),
        "decay": ("same", "linear", "div", "quadratic", "log"),
        "idf": ("none", "added", "alone"),
        "last_items": (3, 5, 9, 20),
    }

    def __init__(self, settings: VMISKNNSettings, context: PeerContext) -> None:
        self._settings, self._idf = settings, {"none": 0.0, "added": 1.0, "alone": inf}[settings.idf]
        self._sessions = Sessions(context.events, settings.unit, settings.last_items)

    def begin(self, user: int) -> None:
        self._sessions.begin(user)

    def score(self, user: int, count: int) -> F32:
        chosen = self._settings
        return self._sessions.score(user, count, chosen.m, chosen.k, (chosen.weighting, chosen.decay), idf=self._idf)

    def learn(self, user: int, item: int) -> None:
        self._sessions.learn(user, item)
