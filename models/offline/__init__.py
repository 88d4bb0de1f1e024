"""The models of the field: well-known recommenders, fitted offline on a whole history. One file each, equation and paper at the top.

`factorisation/`, `networks/` and `clicks/` hold them by family; `fitting` (batches, early stopping) and `content` (features of
users and items) are shared. Those that need torch or gensim come with the extra `offline`, the others with the base install.
A new model is one file and one line of `MODELS`; `streamer.checks.offline` runs over every line.
"""

from typing import cast

from streamer.core.protocols import OfflineModel
from streamer.models import registered

# Name to "module:Class", imported when it is first asked for: torch alone takes seconds.
MODELS = {
    "bias": "streamer.models.offline.factorisation.bias:BiasOnly",
    "als": "streamer.models.offline.factorisation.als:AlternatingLeastSquares",
    "stochastic-mf": "streamer.models.offline.factorisation.stochastic_mf:StochasticMF",
    "funk-svd": "streamer.models.offline.factorisation.funk_svd:FunkSVD",
    "deep-fm": "streamer.models.offline.networks.deep_fm:DeepFM",
    "embedding-network": "streamer.models.offline.networks.embedding_network:EmbeddingNetwork",
    "embedding-mf": "streamer.models.offline.factorisation.embedding_mf:EmbeddingMF",
    "embedding-dot-bias": "streamer.models.offline.factorisation.embedding_dot_bias:EmbeddingDotBias",
    "two-tower": "streamer.models.offline.networks.two_tower:TwoTower",
    "autorec": "streamer.models.offline.networks.autorec:AutoRec",
    "popularity": "streamer.models.offline.clicks.popularity:Popularity",
    "transitions": "streamer.models.offline.clicks.transitions:Transitions",
    "gru4rec": "streamer.models.offline.clicks.gru4rec:GRU4Rec",
    "youtube-dnn": "streamer.models.offline.clicks.youtube_dnn:YouTubeDNN",
}
# Models of ratings that are products of a user's and an item's vector: they can refit learners like biased-mf (factors.py).
FACTORISING = ("als", "stochastic-mf", "funk-svd", "embedding-mf", "embedding-dot-bias", "two-tower", "autorec")
# The same for clicks: they can refit learners like skip-gram (click_factors.py).
CLICK_FACTORISING = ("youtube-dnn",)


def model(name: str, *, seed: int, **chosen: object) -> OfflineModel:
    """A new model of the registry; raises BadSettings for a name that is not in it, MissingExtra where its library is not installed.

    `chosen` are parameters (`dim`, `epochs`, ...); a model ignores those it does not have.
    """
    made, given = registered(MODELS, "model", name, chosen)
    return cast(OfflineModel, made(name, given, seed=seed))
