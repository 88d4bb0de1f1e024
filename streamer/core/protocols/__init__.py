"""The protocols between the rooms and for plug-ins. Each is a few methods; classes fit them without inheriting.

All rooms and plug-ins import them from this package, not from its modules. A change usually adds an optional protocol for
learners, or a sentence to a contract.

`streams` (sources, sinks, streams, and records that are read again), `stores` (state, and how it is committed), `learners` (learners, and their optional
abilities), `trainers` (trainers of learners, and offline models).
"""

from streamer.core.protocols.learners import (
    Asking,
    Belief,
    Categorised,
    Composed,
    Conditioned,
    Described,
    Guarded,
    ItemSets,
    ItemVectors,
    Kind,
    OnlineLearner,
    Probed,
    Proposing,
    Rebuilt,
    Rescaled,
    Stated,
    Stating,
    Watched,
)
from streamer.core.protocols.stores import Persistent, Row, Rows, Stateful, StateStore
from streamer.core.protocols.streams import (
    Extent,
    Hinted,
    Identified,
    KeptRecords,
    Located,
    Noted,
    Sink,
    Source,
    Stream,
    Understood,
)
from streamer.core.protocols.trainers import (
    Epoch,
    Factorised,
    Factors,
    Informed,
    NextItem,
    OfflineModel,
    Rater,
    Trainer,
)

__all__ = [
    "Asking",
    "Belief",
    "Categorised",
    "Composed",
    "Conditioned",
    "Described",
    "Epoch",
    "Extent",
    "Factorised",
    "Factors",
    "Guarded",
    "Hinted",
    "Identified",
    "Informed",
    "ItemSets",
    "ItemVectors",
    "KeptRecords",
    "Kind",
    "Located",
    "NextItem",
    "Noted",
    "OfflineModel",
    "OnlineLearner",
    "Persistent",
    "Probed",
    "Proposing",
    "Rater",
    "Rebuilt",
    "Rescaled",
    "Row",
    "Rows",
    "Sink",
    "Source",
    "StateStore",
    "Stated",
    "Stateful",
    "Stating",
    "Stream",
    "Trainer",
    "Understood",
    "Watched",
]
