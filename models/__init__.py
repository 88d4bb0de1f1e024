"""Learners and trainers: one a file, equation and paper on top, its kernel beside it.

A new learner is one file and one line of `LEARNERS`; `streamer.checks.learners` runs over every line.
"""

from importlib import import_module
from typing import Any, cast

from streamer.errors import BadSettings
from streamer.protocols import OnlineLearner

if __name__ == "models":
    raise ImportError("import streamer.models, not models")

# Name to "module:Class", imported when it is first asked for.
LEARNERS = {
    "popularity": "streamer.models.popularity:Popularity",
    "popularity-recent": "streamer.models.popularity:RecentPopularity",
    "bias": "streamer.models.bias:Bias",
    "biased-mf": "streamer.models.biased_mf:BiasedMF",
    "bayesian-hybrid": "streamer.models.bayesian_hybrid:BayesianHybrid",
    "skip-gram": "streamer.models.skip_gram:SkipGram",
}


def learner(name: str, *, seed: int, dim: int | None = None, latent_dim: int | None = None) -> OnlineLearner:
    """A new learner of the registry; raises BadSettings for a name that is not in it.

    `dim` is the length of vectors that are descended (biased-mf, skip-gram), `latent_dim` that of filtered ones, where a
    user's covariance grows with its square (bayesian-hybrid). A learner that has no such parameter ignores it.
    """
    if name not in LEARNERS:
        raise BadSettings(f"no learner {name!r}; choose one of: {', '.join(sorted(LEARNERS))}")
    module, _, attribute = LEARNERS[name].partition(":")
    made: Any = getattr(import_module(module), attribute)
    sizes = {"dim": dim, "latent_dim": latent_dim}
    chosen = {size: n for size, n in sizes.items() if n is not None and size in made.Parameters.__struct_fields__}
    return cast(OnlineLearner, made(name, made.Parameters(**chosen), seed=seed))
