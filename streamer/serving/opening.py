"""Makes the learners that the settings name, or those that a state was made with, to learn into that state or to query it."""

from collections.abc import Iterable, Mapping

import msgspec

from streamer.core.errors import BadState
from streamer.core.protocols import Kind, OnlineLearner
from streamer.core.settings import KafkaSettings, LearningSettings, Settings, StateSettings
from streamer.models import learner
from streamer.serving import rerank
from streamer.serving.recommend import POPULARITY
from streamer.storage.state import Meta, RocksStore
from streamer.stream.learners import Learners, assemble
from streamer.stream.memory import Memory


def learners(settings: Settings, promoted: Iterable[str] = ()) -> Learners:
    """The learners that the settings name, and the `promoted` ones; champions first. Raises BadSettings."""
    learning = settings.learning
    champions: dict[Kind, str] = {"ratings": learning.rating_learner, "clicks": learning.click_learner}
    names = [*champions.values(), POPULARITY, *learning.shadow, *promoted]
    sizes = {"dim": learning.dim, "latent_dim": learning.latent_dim}
    made = assemble(names, champions, lambda name: learner(name, seed=learning.seed, **sizes))
    rerank.check(settings.server, made.by_name)
    return made


def load_memory(store: RocksStore) -> tuple[Memory, Settings]:
    """What a streamer on this state would hold in memory, and the settings that the state was made with; raises BadState if the state is empty."""
    meta = store.meta()
    if meta is None:
        raise BadState(f"the state in {store.folder} is empty: nothing was ever learned into it")
    return recorded_memory(store, meta), recorded_settings(meta)


def recorded_memory(store: RocksStore, meta: Meta) -> Memory:
    """What a streamer on this state would hold in memory."""
    recorded = meta.settings["learners"]
    assert isinstance(recorded, dict)
    chosen = [recorded_learner(name, _seed(meta), sizes) for name, sizes in recorded.items()]
    return Memory(Learners(chosen, meta.champions), recorded_settings(meta), store)


def recorded_learner(name: str, seed: int, recorded: Mapping[str, int]) -> OnlineLearner:
    """A learner with the sizes (`dim`, `latent_dim`) that its state was made with."""
    return learner(name, seed=seed, dim=recorded.get("dim"), latent_dim=recorded.get("latent_dim"))


def _seed(meta: Meta) -> int:
    return msgspec.convert(meta.settings["seed"], int)


def recorded_settings(meta: Meta) -> Settings:
    """The settings that the state was made with, as far as the state depends on them."""
    learning = {field: value for field, value in meta.settings.items() if field in LearningSettings.__struct_fields__}
    dedupe = msgspec.convert(meta.settings["dedupe_events"], int)
    kafka = "as recorded" if meta.settings["source"] == "kafka" else ""
    return Settings(
        learning=msgspec.convert(learning, LearningSettings),
        state=StateSettings(dedupe_events=dedupe),
        kafka=KafkaSettings(kafka=kafka),
    )
