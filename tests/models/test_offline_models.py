"""Every model in the registry of offline models passes streamer.checks.offline."""

from collections.abc import Callable

import pytest

from streamer.checks.offline import OFFLINE_CHECKS, MakeModel
from streamer.core.errors import BadSettings
from streamer.models.offline import MODELS, model

pytestmark = pytest.mark.slow


def made_by(name: str) -> MakeModel:
    return lambda seed: model(name, seed=seed)


MAKES = {name: made_by(name) for name in MODELS}


@pytest.mark.parametrize("check", OFFLINE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(f"fits of {name}")) for name in MODELS]
)
def test_every_model_keeps_its_promises(name: str, check: Callable[[MakeModel], None]) -> None:
    check(MAKES[name])


def test_an_unknown_model_is_refused_with_a_list_of_models() -> None:
    with pytest.raises(BadSettings, match="no model 'nothing'; choose one of: als, "):
        model("nothing", seed=1)
