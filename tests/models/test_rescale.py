"""What a learner of ratings knows is converted when their scale changes, and then learned on as if it had never been another."""

import numpy as np
import pytest

from streamer.checks.batches import Feed, sample_events
from streamer.core.batch import RATING
from streamer.core.protocols import Rescaled
from streamer.models import LEARNERS, learner

FACTOR, SHIFT = 24.75, -23.75  # 1 to 5 becomes 1 to 100
NAMES = [name for name in LEARNERS if learner(name, seed=1).kind == "ratings"]


@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_converted_and_later_ones_too(name: str) -> None:
    events = [one for one in sample_events(600) if one.kind == RATING and not one.user_id.endswith("s")]  # no profiles
    before, after = events[:300], events[300:]
    plain, scaled = Feed(learner(name, seed=1)), Feed(learner(name, seed=1))
    plain.learn(before)
    scaled.learn(before)
    for one in scaled.learners.by_name.values():
        for table in one.tables().values():
            table.clean(table.dirty())
        assert isinstance(one, Rescaled)
        one.rescale(FACTOR, SHIFT)
        assert any(table.side == "stream" and table.touched[0] for table in one.tables().values())
    ahead = plain.batch(after)
    expected = FACTOR * plain.step(ahead).astype(np.float64) + SHIFT
    converted = scaled.learn([one._replace(value=FACTOR * one.value + SHIFT) for one in after])
    assert converted == pytest.approx(expected, abs=0.02)  # as stored in float32
