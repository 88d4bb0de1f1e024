"""What a test needs, and whether it takes long, read from its code, so that nobody has to mark it by hand.

A test needs a broker or a browser when it asks for that fixture. It needs a process when its code names `subprocess`,
or calls a function or asks for a fixture of the tests that does. It is slow when it reads ml-latest-small, runs a whole
command, or fits models in the same ways. What is not seen is marked by hand; of processes, the hook in conftest.py says so.
"""

import inspect
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

TESTS = str(Path(__file__).parents[1])
KAFKA = {"broker", "own_broker"}
SLOW = ("commands.", "streamer.models.trainer", "streamer.models.offline.", "streamer.models.twins.",
        "streamer.renormalise.training.", "streamer.study.")  # fmt: skip
NOTHING: frozenset[str] = frozenset()
_SEEN: dict[FunctionType, frozenset[str]] = {}


def needs(item: pytest.Function) -> set[str]:
    """The markers of a test: of kafka, browser, process and slow those that hold."""
    found = set[str]()
    if KAFKA & set(item.fixturenames):
        found.add("kafka")
    if "browser" in item.fixturenames:
        found.add("browser")
    if "movielens" in item.fixturenames:
        found.add("slow")
    return found.union(*(_reached(function) for function in (item.function, *_fixtures(item))))


def shared_fixtures(item: pytest.Function) -> bool:
    """Whether it asks for a fixture that its module makes once for several tests."""
    module = item.nodeid.partition("::")[0]
    definitions = item._fixtureinfo.name2fixturedefs.values()
    return any(last.scope != "function" and last.baseid == module for *_, last in definitions)


def _fixtures(item: pytest.Function) -> Iterator[Callable[..., Any]]:
    for *_, last in item._fixtureinfo.name2fixturedefs.values():
        yield last.func


def _reached(found: object) -> frozenset[str]:
    """What the code of a function or class of the tests comes to, with what it calls there: process, slow, both or neither."""
    if found is subprocess:
        return frozenset({"process"})
    if f"{getattr(found, '__module__', '')}.{getattr(found, '__name__', '')}".startswith(SLOW):
        return frozenset({"slow"})
    if inspect.isclass(found):
        return NOTHING.union(*(_reached(part) for part in vars(found).values() if callable(part)))
    function = inspect.unwrap(found) if callable(found) else None
    if not isinstance(function, FunctionType) or not function.__code__.co_filename.startswith(TESTS):
        return NOTHING
    if function not in _SEEN:
        _SEEN[function] = NOTHING  # until it is known: functions may call one another
        scope = function.__globals__
        _SEEN[function] = NOTHING.union(*(_reached(scope.get(name)) for name in _names(function.__code__)))
    return _SEEN[function]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
