"""V-SKNN: session neighbours in which the newest items of a session count most. It follows the paper, in NumPy and Numba.

It has no package on PyPI. The candidates are the `sample` most recent sessions that share an item (the last so many of each item are
looked through). Defaults and shapes are those of the authors' code, session-rec, which forgets an item's earlier clicks alike.

Ludewig, Jannach (2018), Evaluation of session-based recommendation algorithms, User Modeling and User-Adapted Interaction 28.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import msgspec

from benchmarks.peers.session_neighbours import Sessions, Shape
from benchmarks.protocols import PeerContext
from streamer.core.arrays import F32
from streamer.core.protocols import Kind


class VSKNNSettings(msgspec.Struct, frozen=True):
    k: int = 100
    sample: int = 1000  # most recent sessions that are compared
    weighting: Shape = "div"  # of the session's items, by position
    decay: Shape = "div"  # of a neighbour, by the newest item that it shares
    idf: float = 0.0  # how much more a rare item counts
    last_items: int = 100  # of the session
    unit: Literal["session", "history"] = "session"


class VSKNN:
    kind: ClassVar[Kind] = "clicks"
    package: ClassVar[str | None] = None
    Settings = VSKNNSettings
    tuned: ClassVar[VSKNNSettings | None] = VSKNNSettings(
        k=1000, sample=500, weighting="linear", decay="linear", idf=10.0, last_items=100, unit="session"
    )
    space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "unit": ("session", "history"),
        "k": (50, 100, 200, 500, 1000),
        "sample": (500, 1000, 2500, 5000),
        "weighting": ("same", "linear", "div", "quadratic", "log"),
        "decay": ("same", "linear", "div", "quadratic", "log"),
        "idf": (0.0, 1.0, 2.0, 5.0, 10.0),
        "last_items": (5, 10, 20, 100),
    }

    def __init__(self, settings: VSKNNSettings, context: PeerContext) -> None:
        self._settings = settings
        self._sessions = Sessions(context.events, settings.unit, settings.last_items)

    def begin(self, user: int) -> None:
        self._sessions.begin(user)

    def score(self, user: int, count: int) -> F32:
        chosen = self._settings
        return self._sessions.score(
            user, count, chosen.sample, chosen.k, (chosen.weighting, chosen.decay), idf=chosen.idf
        )

    def learn(self, user: int, item: int) -> None:
        self._sessions.learn(user, item)
