"""Learners and trainers: one file each, with equation and paper at the top and the kernel in the same file.

The settings name learners, and `streamer.serving.opening` makes them by `learner`. A new learner is one file and one line of
`LEARNERS`; `streamer.checks.learners` runs over every line.

Learners: `popularity`, `bias`, `biased_mf`, `skip_gram` (with `noise` for its negatives), `repeats`, and the stack of others,
`blend`; `evidence` (how an earlier rating is taken back). Folders of their own: `hybrid/`, `networks/`, `sessions/`, `transitions/`,
and `click_blend/`, which is made of others. Trainers: `als`, `replay`.
`twins/` holds the kernels in NumPy, `offline/` well-known models that are fitted on a whole history.
"""

import sys
from collections.abc import Iterable, Mapping
from pkgutil import resolve_name
from types import ModuleType
from typing import Any, cast

from streamer.core.errors import BadSettings, MissingExtra
from streamer.core.protocols import OnlineLearner, Trainer

if __name__ == "models":
    raise ImportError("import streamer.models, not models")

EXTRA = ("torch", "gensim")  # the libraries of the extra `offline`

# Name to "module:Class", imported when it is first asked for.
LEARNERS = {
    "popularity": "streamer.models.popularity:Popularity",
    "popularity-recent": "streamer.models.popularity:RecentPopularity",
    "popularity-now": "streamer.models.popularity:RecentPopularity",
    "bias": "streamer.models.bias:Bias",
    "biased-mf": "streamer.models.biased_mf:BiasedMF",
    "stochastic-mf": "streamer.models.biased_mf:BiasedMF",
    "embedding-mf": "streamer.models.biased_mf:BiasedMF",
    "embedding-dot-bias": "streamer.models.biased_mf:BiasedMF",
    "autorec": "streamer.models.biased_mf:BiasedMF",
    "two-tower": "streamer.models.biased_mf:BiasedMF",
    "funk-svd": "streamer.models.biased_mf:BiasedMF",
    "deep-fm": "streamer.models.networks.network:Network",
    "embedding-network": "streamer.models.networks.network:Network",
    "bayesian-hybrid": "streamer.models.hybrid.bayesian_hybrid:BayesianHybrid",
    "bayesian-hybrid-latent": "streamer.models.hybrid.bayesian_hybrid:BayesianHybrid",
    "bayesian-hybrid-categories": "streamer.models.hybrid.bayesian_hybrid:BayesianHybrid",
    "bayesian-hybrid-plain": "streamer.models.hybrid.bayesian_hybrid:BayesianHybrid",
    "stack": "streamer.models.blend:Stack",
    "neighbours": "streamer.models.sessions.neighbours:Neighbours",
    "repeats": "streamer.models.repeats:Repeats",
    "transitions": "streamer.models.transitions.transitions:Transitions",
    "skip-gram": "streamer.models.skip_gram:SkipGram",
    "youtube-dnn": "streamer.models.skip_gram:SkipGram",
    "gru4rec": "streamer.models.networks.gru:GRU",
    "click-blend": "streamer.models.click_blend.click_blend:ClickBlend",
}

# Learners that are another learner with other parameters, and these parameters. The variants of the hybrid are experts of the
# stack: they are so different that their errors differ. Each alone is a little worse than the default.
_VARIANTS: dict[str, dict[str, float]] = {
    "embedding-network": {"products": False},
    # A horizon of popularity, as an expert of click-blend.
    "popularity-now": {"half_life": 500.0},
    # Assumes that tastes are latent: twice the factors, with wide priors; categories count for little.
    "bayesian-hybrid-latent": {
        "latent_dim": 16, "latent_prior": 1.2, "vector_noise": 0.03, "category_prior": 0.02,
    },
    # Assumes that tastes are categories, and that a session lasts a day.
    "bayesian-hybrid-categories": {
        "latent_dim": 2, "category_prior": 0.2, "session_prior": 0.15, "session_events": 100.0, "session_gap_s": 43200.0,
    },
    # Ignores categories and follows changes quickly. A user takes 124 bytes.
    "bayesian-hybrid-plain": {
        "latent_dim": 2, "categories": 0, "bias_process": 3e-3, "latent_process": 1e-4, "item_process": 2e-3,
        "consensus_process": 1e-3,
    },
}  # fmt: skip


# Name to "module:Class". A new trainer is one file and one line here; `streamer.checks.trainers` runs over every line.
TRAINERS = {
    "replay": "streamer.models.replay:Replay",
    "als": "streamer.models.als:AlternatingLeastSquares",
    "joint-fit": "streamer.models.hybrid.joint_fit:JointFit",
    "word2vec": "streamer.models.offline.clicks.word2vec:Word2Vec",
    "factors": "streamer.models.offline.factorisation.factors:FittedFactors",
    "click-factors": "streamer.models.offline.clicks.click_factors:ClickFactors",
    "network": "streamer.models.offline.networks.network_trainer:NetworkTrainer",
    "gru4rec": "streamer.models.offline.clicks.gru_trainer:GRUTrainer",
}

# The trainer that refits each learner. A learner without one is carried over unchanged: learners composed of others have
# few weights, and these describe their experts as they are now.
REFITTED_BY = {
    "popularity": "replay",
    "popularity-recent": "replay",
    "popularity-now": "replay",
    "bias": "replay",
    "biased-mf": "als",
    # "factors" and "click-factors" fit the model of the learner's name in streamer.models.offline.
    "stochastic-mf": "factors",
    "embedding-mf": "factors",
    "embedding-dot-bias": "factors",
    "autorec": "factors",
    "two-tower": "factors",
    "funk-svd": "factors",
    "deep-fm": "network",
    "embedding-network": "network",
    "bayesian-hybrid": "joint-fit",
    "bayesian-hybrid-latent": "joint-fit",
    "bayesian-hybrid-categories": "joint-fit",
    "bayesian-hybrid-plain": "replay",  # without categories there are hardly any priors to start from
    "transitions": "replay",
    "neighbours": "replay",
    "repeats": "replay",
    "skip-gram": "replay",
    "youtube-dnn": "click-factors",
    "gru4rec": "gru4rec",
}

# Further trainers of a learner, for candidates that name one (`streamer.renormalise.training.Candidate.model`).
ALSO_REFITTED_BY = {
    "skip-gram": ("word2vec",),
}


def trainer(name: str, **chosen: object) -> Trainer:
    """A new trainer of the registry; raises BadSettings for a name that is not in it, MissingExtra where its library is missing.

    `chosen` are parameters (`window_days`, `half_life_days`, `warm`, `vectors`, `fixed`); a trainer ignores those it does not have.
    """
    cls, parameters = registered(TRAINERS, "trainer", name, chosen)
    return cast(Trainer, cls(name, parameters))


def registered(where: Mapping[str, str], what: str, name: str, chosen: Mapping[str, object]) -> tuple[Any, Any]:
    """The class registered under `name`, imported now, and its parameters, set from those of `chosen` that it has.

    Raises BadSettings for a name that is not in it, MissingExtra where a library of the extra is missing.
    """
    if name not in where:
        raise BadSettings(f"no {what} {name!r}; choose one of: {', '.join(sorted(where))}")
    if where[name].startswith("streamer.models.offline"):
        # Keeps torch from importing triton: nothing here compiles for a GPU, and triton reports leaks of its own at exit.
        sys.modules.setdefault("triton", cast(ModuleType, None))
    try:
        cls: Any = resolve_name(where[name])
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        raise MissingExtra(
            f"the {what} {name} needs {error.name}, which is not installed: pip install 'streamer-recs[offline]', or make setup"
        ) from None
    fields = cls.Parameters.__struct_fields__
    return cls, cls.Parameters(**{key: value for key, value in chosen.items() if key in fields})


def check_names(names: Iterable[str]) -> None:
    """Raises BadSettings for a name that is not a learner's.

    Imports no learner, so that a command can refuse a bad name at once.
    """
    for name in names:
        if name not in LEARNERS:
            raise BadSettings(f"no learner {name!r}; choose one of: {', '.join(sorted(LEARNERS))}")


def learner(name: str, *, seed: int, dim: int | None = None, latent_dim: int | None = None) -> OnlineLearner:
    """A new learner of the registry; raises BadSettings for a name that is not in it.

    `dim` is the length of vectors learned by gradient descent (biased-mf, skip-gram), `latent_dim` that of filtered ones, where
    a user's covariance grows with its square (bayesian-hybrid). A learner without such a parameter, or a variant that sets
    it itself, ignores it.
    """
    check_names([name])
    cls: Any = resolve_name(LEARNERS[name])
    sizes = {"dim": dim, "latent_dim": latent_dim}
    chosen = {size: n for size, n in sizes.items() if n is not None and size in cls.Parameters.__struct_fields__}
    return cast(OnlineLearner, cls(name, cls.Parameters(**(chosen | _VARIANTS.get(name, {}))), seed=seed))
