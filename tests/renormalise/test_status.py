"""The age of a generation: since its cut, or for the first one, which was never cut, since its state was made."""

import os
from pathlib import Path

from learning import events, learn, records

from streamer.storage.generations import FIRST, GenerationRecord, StageChange, made_at_ms, read_record


def test_a_generation_is_as_old_as_its_cut_whatever_happened_since(tmp_path: Path) -> None:
    moments = (
        StageChange("cut", 1000),
        StageChange("live", 2000),
        StageChange("kept", 3000),
        StageChange("live", 4000),
    )
    assert made_at_ms(tmp_path, GenerationRecord(id="g3", moments=moments)) == 1000


def test_the_first_generation_is_as_old_as_its_state_over_restarts_and_rollbacks(tmp_path: Path) -> None:
    learn(tmp_path, records(events(50)))
    made_s = 1_700_000_000
    os.utime(tmp_path / "state/IDENTITY", (made_s, made_s))
    learn(tmp_path, records(events(100))[50:])
    for first in (read_record(tmp_path, FIRST), read_record(tmp_path, FIRST).at_stage("kept").at_stage("live")):
        assert made_at_ms(tmp_path, first) == 1000 * made_s
