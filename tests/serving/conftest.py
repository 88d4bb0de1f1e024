"""Fixtures of the tests of serving."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from recommending import LiveRecommender


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., LiveRecommender]]:
    """Makes recommenders with these settings, each in a folder of its own, and closes them."""
    made: list[LiveRecommender] = []

    def live(**flags: object) -> LiveRecommender:
        made.append(LiveRecommender(tmp_path / str(len(made)), **flags))
        return made[-1]

    yield live
    for one in made:
        one.store.close()
