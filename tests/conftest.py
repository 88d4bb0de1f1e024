"""Fixtures that several files use."""

import os
from pathlib import Path

import pytest
from broker import broker, own_broker

__all__ = ["broker", "own_broker"]


@pytest.fixture(scope="session")
def movielens() -> Path:
    """The folder of ml-latest-small; without it a test is skipped, and fails where CI says that it must be there."""
    folder = Path(os.environ.get("STREAMER_TEST_DATA", "no STREAMER_TEST_DATA"))
    if not folder.is_dir():
        reason = f"no ml-latest-small: {folder} is not a folder; set STREAMER_TEST_DATA to one"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
