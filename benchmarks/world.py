"""The simulated world of the benchmark: nothing was tuned on it, and its least possible error is known."""

import subprocess
import sys
from pathlib import Path

NAME = "simulated-world"
OPTIONS = ("--users", "2000", "--items", "1000", "--events", "100000")


def write(folder: Path) -> Path:
    """Write the world with `streamer simulate` into a file in `folder`."""
    path = folder / f"{NAME}.jsonl"
    subprocess.run(
        [sys.executable, "-m", "streamer", "simulate", str(path), *OPTIONS], check=True, stdout=subprocess.PIPE
    )
    return path
