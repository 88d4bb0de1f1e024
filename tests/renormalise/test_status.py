"""How old a generation is: counted from its cut, and for the one that was never cut from when its state was made."""

import os
from pathlib import Path

from learning import events, learn, records

from streamer.storage.generations import FIRST, Life, Moment, began_ms
from streamer.storage.generations import life as life_of


def test_a_generation_is_as_old_as_its_cut_whatever_came_after_it(tmp_path: Path) -> None:
    moments = (Moment("cut", 1000), Moment("live", 2000), Moment("kept", 3000), Moment("live", 4000))
    assert began_ms(tmp_path, Life(id="g3", moments=moments)) == 1000


def test_the_first_is_as_old_as_its_state_over_restarts_and_rollbacks(tmp_path: Path) -> None:
    learn(tmp_path, records(events(50)))
    made_s = 1_700_000_000
    os.utime(tmp_path / "state/IDENTITY", (made_s, made_s))
    learn(tmp_path, records(events(100))[50:])
    for first in (life_of(tmp_path, FIRST), life_of(tmp_path, FIRST).now("kept").now("live")):
        assert began_ms(tmp_path, first) == 1000 * made_s
