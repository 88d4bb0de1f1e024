"""Fixtures of the tests with a real broker."""

import pytest
from broker import Broker, Given


@pytest.fixture
def fresh(fresh_broker: Broker | Given) -> str:
    return fresh_broker.bootstrap
