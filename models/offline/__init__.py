"""The models of the field, fitted offline on a whole history: one a file, equation and paper on top.

Those that need torch or gensim come with the extra `offline`; the others with the base install. A new one is one file and
one line of `MODELS`; `streamer.checks.offline` runs over every line.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any, cast

from streamer.errors import BadSettings, MissingExtra
from streamer.models import EXTRA
from streamer.protocols import OfflineModel

# Name to "module:Class", imported when it is first asked for: torch alone takes seconds.
MODELS = {
    "bias": "streamer.models.offline.bias:BiasOnly",
    "als": "streamer.models.offline.als:AlternatingLeastSquares",
    "stochastic-mf": "streamer.models.offline.stochastic_mf:StochasticMF",
    "funk-svd": "streamer.models.offline.funk_svd:FunkSVD",
    "deep-fm": "streamer.models.offline.deep_fm:DeepFM",
    "embedding-network": "streamer.models.offline.embedding_network:EmbeddingNetwork",
    "embedding-mf": "streamer.models.offline.embedding_mf:EmbeddingMF",
    "embedding-dot-bias": "streamer.models.offline.embedding_dot_bias:EmbeddingDotBias",
    "two-tower": "streamer.models.offline.two_tower:TwoTower",
    "popularity": "streamer.models.offline.popularity:Popularity",
    "transitions": "streamer.models.offline.transitions:Transitions",
    "gru4rec": "streamer.models.offline.gru4rec:GRU4Rec",
    "youtube-dnn": "streamer.models.offline.youtube_dnn:YouTubeDNN",
}
# Models of ratings that are products of a user's and an item's vector: they may refit learners like biased-mf (factors.py).
FACTORISING = ("als", "stochastic-mf", "funk-svd", "embedding-mf", "embedding-dot-bias", "two-tower")


def model(name: str, *, seed: int, **chosen: object) -> OfflineModel:
    """A new model of the registry; raises BadSettings for a name that is not in it, MissingExtra where its library is not installed.

    `chosen` are parameters (`dim`, `epochs`, ...); a model that has no such parameter ignores it.
    """
    if name not in MODELS:
        raise BadSettings(f"no model {name!r}; choose one of: {', '.join(MODELS)}")
    module, _, attribute = MODELS[name].partition(":")
    # torch takes up triton where it finds it: nothing here compiles for a GPU, and at the end of a process it complains of its own leaks.
    sys.modules.setdefault("triton", cast(ModuleType, None))
    try:
        made: Any = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        raise MissingExtra(
            f"the model {name} needs {error.name}, which is not installed: pip install 'streamer-recs[offline]', or make setup"
        ) from None
    fields = made.Parameters.__struct_fields__
    given = {key: value for key, value in chosen.items() if key in fields}
    return cast(OfflineModel, made(name, made.Parameters(**given), seed=seed))
