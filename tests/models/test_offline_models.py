"""Every model in the registry of offline models passes streamer.checks.offline."""

import pytest

from streamer.checks.offline import OFFLINE_CHECKS
from streamer.core.errors import BadSettings
from streamer.models.offline import MODELS, model


@pytest.mark.parametrize("check", OFFLINE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_keeps_its_promises(name: str, check) -> None:
    check(lambda seed: model(name, seed=seed))


def test_an_unknown_model_is_refused_with_a_list_of_models() -> None:
    with pytest.raises(BadSettings, match="no model 'nothing'; choose one of: als, "):
        model("nothing", seed=1)
