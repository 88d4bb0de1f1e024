"""The seams. Each is a few methods; nothing inherits from them, anything that fits is one.

Every room and every plug-in imports them from here, whichever module they stand in. A change usually adds a protocol that a
learner may fit, or a sentence to a contract.

`streams` (sources, sinks and streams), `stores` (what is kept, and how it is committed), `learners` (a learner, and what else
one may offer), `trainers` (trainers of learners, and offline models).
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
    Rebuilt,
    Watched,
)
from streamer.core.protocols.stores import Persistent, Row, Rows, Stateful, StateStore
from streamer.core.protocols.streams import Hinted, Sink, Source, Stream
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
    "Factorised",
    "Factors",
    "Guarded",
    "Hinted",
    "Informed",
    "ItemSets",
    "ItemVectors",
    "Kind",
    "NextItem",
    "OfflineModel",
    "OnlineLearner",
    "Persistent",
    "Probed",
    "Rater",
    "Rebuilt",
    "Row",
    "Rows",
    "Sink",
    "Source",
    "StateStore",
    "Stateful",
    "Stream",
    "Trainer",
    "Watched",
]
