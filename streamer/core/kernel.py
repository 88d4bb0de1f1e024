"""How kernels are compiled: the one place that knows Numba's settings.

`nogil` lets the endpoint answer while a kernel learns; no `fastmath` and no `parallel`, so that the same log gives the
same bytes. Numba's cache does not see changes in kernels imported from other files, so the cache folder is named by a
hash of every kernel source: a changed kernel compiles all of them anew, once.
"""

import hashlib
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

import numba
import numpy as np

P = ParamSpec("P")
R = TypeVar("R")

_PACKAGE = Path(__file__).parents[1]


def _cache_folder() -> Path:
    digest = hashlib.sha256(f"{numba.__version__} {np.__version__} {platform.python_version()}".encode())
    for source in sorted({*_PACKAGE.glob("*/*.py"), *(_PACKAGE / "models").rglob("*.py")}):
        text = source.read_bytes()
        if b"@kernel" in text:  # with path and time, because Numba's own index goes by them: "compiled" must mean it
            digest.update(f"{source} {source.stat().st_mtime}".encode() + text)
    parent = os.environ.get("STREAMER_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(parent) / "streamer" / f"kernels-{digest.hexdigest()[:16]}"


CACHE_FOLDER = _cache_folder()
vars(numba.config)["CACHE_DIR"] = str(CACHE_FOLDER)


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` on its first call, without the GIL, kept on disk between processes."""
    compiled = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    return cast(Callable[P, R], compiled)
