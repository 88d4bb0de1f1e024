"""How kernels are compiled: the only place that sets Numba's options.

`nogil` lets the endpoint answer while a kernel learns. Without `fastmath` and `parallel`, the same log gives the same
bytes. Numba's cache does not notice changes in kernels imported from other files, so the cache folder's name is a hash
of all kernel sources: after a change in one of them all are compiled again, once.

A kernel is compiled when it is first called. `streamer.compile` calls those that a start needs. For any other kernel
that must be compiled, the log gets a line for its family, because that may take seconds.
"""

import fcntl
import hashlib
import logging
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numba
import numpy as np
from numba.core import event
from numba.core.caching import FunctionCache

P = ParamSpec("P")
R = TypeVar("R")

_PACKAGE = Path(__file__).parents[1]
_LOG = logging.getLogger("streamer.kernels")


def _cache_folder() -> Path:
    digest = hashlib.sha256(f"{numba.__version__} {np.__version__} {platform.python_version()}".encode())
    for source in sorted({*_PACKAGE.glob("*/*.py"), *(_PACKAGE / "models").rglob("*.py")}):
        text = source.read_bytes()
        if b"@kernel" in text:  # hashed with path and time, by which Numba's own index decides whether to compile
            digest.update(f"{source} {source.stat().st_mtime}".encode() + text)
    parent = os.environ.get("STREAMER_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(parent) / "streamer" / f"kernels-{digest.hexdigest()[:16]}"


CACHE_FOLDER = _cache_folder()
vars(numba.config)["CACHE_DIR"] = str(CACHE_FOLDER)


class _Announcer(event.Listener):
    """Logs that kernels are compiled, once for each family; kernels read from the cache are not logged."""

    def __init__(self) -> None:
        self._families = set[str]()
        self._depth = 0  # while a kernel is compiled, those that it calls are compiled too
        self.quiet = False

    def on_start(self, compiling: Any) -> None:
        """Log the family of a kernel whose compilation begins."""
        self._depth += 1
        package, _, rest = compiling.data["dispatcher"].py_func.__module__.partition(".")
        family = ".".join(rest.split(".")[:2])
        if package == "streamer" and self._depth == 1 and not self.quiet and family not in self._families:
            self._families.add(family)
            _LOG.warning("compiling the kernels of %s, once on this machine ...", family)

    def on_end(self, compiling: Any) -> None:
        """Note that the compilation of a kernel has ended."""
        self._depth -= 1


_ANNOUNCER = _Announcer()
event.register("numba:compile", _ANNOUNCER)  # type: ignore[no-untyped-call]  # Numba gives no types


@contextmanager
def unannounced() -> Iterator[None]:
    """A context in which compiling is not logged, because the caller has announced it."""
    before, _ANNOUNCER.quiet = _ANNOUNCER.quiet, True
    try:
        yield
    finally:
        _ANNOUNCER.quiet = before


class _SharedCache(FunctionCache):
    """Numba's cache with a lock: two processes that add signatures of one kernel at once could get each other's code."""

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save compiled code, one process at a time."""
        folder = Path(self.cache_path)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]  # Numba gives no types


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` on its first call, to run without the GIL; the result is cached on disk for later processes."""
    compiled = numba.njit(nogil=True, error_model="numpy")(function)
    vars(compiled)["_cache"] = _SharedCache(function)  # type: ignore[no-untyped-call]  # Numba gives no types
    return cast(Callable[P, R], compiled)
