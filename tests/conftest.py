"""Fixtures that several files use."""

from broker import broker, own_broker

__all__ = ["broker", "own_broker"]
