"""The models of the field, fitted offline on a whole history: one a file, equation and paper on top.

Those that need torch or gensim come with the extra `offline`; the others with the base install. A new one is one file and
one line of `MODELS`; `streamer.checks.offline` runs over every line.
"""

from typing import cast

from streamer.models import registered
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
    "autorec": "streamer.models.offline.autorec:AutoRec",
    "popularity": "streamer.models.offline.popularity:Popularity",
    "transitions": "streamer.models.offline.transitions:Transitions",
    "gru4rec": "streamer.models.offline.gru4rec:GRU4Rec",
    "youtube-dnn": "streamer.models.offline.youtube_dnn:YouTubeDNN",
}
# Models of ratings that are products of a user's and an item's vector: they may refit learners like biased-mf (factors.py).
FACTORISING = ("als", "stochastic-mf", "funk-svd", "embedding-mf", "embedding-dot-bias", "two-tower", "autorec")
# The same of clicks: they may refit learners like skip-gram (click_factors.py).
CLICK_FACTORISING = ("youtube-dnn",)


def model(name: str, *, seed: int, **chosen: object) -> OfflineModel:
    """A new model of the registry; raises BadSettings for a name that is not in it, MissingExtra where its library is not installed.

    `chosen` are parameters (`dim`, `epochs`, ...); a model that has no such parameter ignores it.
    """
    made, given = registered(MODELS, "model", name, chosen)
    return cast(OfflineModel, made(name, given, seed=seed))
