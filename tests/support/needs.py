"""Finds out from a test's code what it needs and whether it is slow, so that most tests need no marker by hand.

A test needs a broker or a browser if it uses that fixture. It needs a process if its code names `subprocess` or `multiprocessing`, or if a
function that it calls or a fixture that it uses, among those in tests/, does. It is slow if it uses the fixture `movielens`,
or if its code, such a function or such a fixture runs a whole command or fits models (`SLOW`). A need that is not found in
this way is marked by hand; a test that starts a process without the marker fails, see `_processes` in conftest.py.
"""

import inspect
import multiprocessing
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

TESTS = str(Path(__file__).parents[1])
KAFKA = {"broker", "own_broker"}
SLOW = ("commands.", "click.testing.", "streamer.models.trainer", "streamer.models.offline.", "streamer.models.twins.",
        "streamer.renormalise.training.", "streamer.study.")  # fmt: skip
NOTHING: frozenset[str] = frozenset()
_SEEN: dict[FunctionType, frozenset[str]] = {}


def needs(item: pytest.Function) -> set[str]:
    """The markers of a test, among kafka, browser, process and slow."""
    found = set[str]()
    if KAFKA & set(item.fixturenames):
        found.add("kafka")
    if "browser" in item.fixturenames:
        found.add("browser")
    if "movielens" in item.fixturenames:
        found.add("slow")
    return found.union(*(_reached(function) for function in (item.function, *_fixtures(item))))


def shared_fixtures(item: pytest.Function) -> bool:
    """Whether the test uses a fixture that its module makes once for several tests."""
    module = item.nodeid.partition("::")[0]
    definitions = item._fixtureinfo.name2fixturedefs.values()
    return any(last.scope != "function" and last.baseid == module for *_, last in definitions)


def _fixtures(item: pytest.Function) -> Iterator[Callable[..., Any]]:
    for *_, last in item._fixtureinfo.name2fixturedefs.values():
        yield last.func


def _reached(found: object) -> frozenset[str]:
    """The markers process and slow that apply to a function or class in tests/, including all that it calls there."""
    if found is subprocess or found is multiprocessing:
        return frozenset({"process"})
    if f"{getattr(found, '__module__', '')}.{getattr(found, '__name__', '')}".startswith(SLOW):
        return frozenset({"slow"})
    if inspect.isclass(found):
        return NOTHING.union(*(_reached(part) for part in vars(found).values() if callable(part)))
    function = inspect.unwrap(found) if callable(found) else None
    if not isinstance(function, FunctionType) or not function.__code__.co_filename.startswith(TESTS):
        return NOTHING
    if function not in _SEEN:
        _SEEN[function] = NOTHING  # until it is known, as functions may call one another
        scope = function.__globals__
        _SEEN[function] = NOTHING.union(*(_reached(scope.get(name)) for name in _names(function.__code__)))
    return _SEEN[function]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
