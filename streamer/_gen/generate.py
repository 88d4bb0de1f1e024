"""Generate all other files in this folder from streamer/proto; with --check, only print which files differ (exit code 1).

This works offline: buf and both plugins come with the development environment. Only this file is written by hand.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROTO = HERE.parent / "proto"


def read(folder: Path) -> dict[str, bytes]:
    """Every generated file under `folder`, by its path."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.py"))}
    files.pop(Path(__file__).name, None)
    return files


def generate() -> dict[str, bytes]:
    """The files that buf generates from streamer/proto, by path."""
    beside = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": beside + os.pathsep + os.environ.get("PATH", "")}
    buf = shutil.which("buf", path=environment["PATH"])
    if buf is None:
        sys.exit(f"no buf beside {sys.executable}: set up the development environment (make setup)")
    with tempfile.TemporaryDirectory() as folder:
        command = [buf, "generate", str(PROTO), "--template", str(PROTO / "buf.gen.yaml"), "-o", folder]
        subprocess.run(command, env=environment, check=True)
        return read(Path(folder))


def main() -> int:
    """Write the files that differ, or list them with --check; returns the exit code."""
    wanted, found = generate(), read(HERE)
    differing = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))
    if "--check" in sys.argv[1:]:
        for name in differing:
            print(f"streamer/_gen/{name} is not what streamer/proto says: run `make generate` and commit", file=sys.stderr)
        return 1 if differing else 0
    for name in differing:
        path = HERE / name
        if name not in wanted:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wanted[name])
    print(f"{len(wanted)} files from streamer/proto, {len(differing)} of them changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
