"""Every learner of the registry keeps every promise, and each check catches a learner that breaks it."""

from collections.abc import Callable

import pytest

from streamer.checks.learners import CHECKS, Make
from streamer.models import LEARNERS, learner


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", LEARNERS)
def test_learner_keeps_its_promises(name: str, check: Callable[[Make], None]) -> None:
    check(lambda seed: learner(name, seed=seed))
