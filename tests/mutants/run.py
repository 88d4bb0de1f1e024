"""Breaks one line of the source at a time, in a copy, and reports the mutants that no test notices.

The list is mutants.toml. The work tree is read and never written: each worker has a copy of it in a temporary folder, in
which it breaks one line, runs the tests named for it, and mends the line. Two workers run side by side, each on one area at
a time. The tests of an area must first pass on the unbroken source. A mutant whose tests exceed a time limit counts as
caught, because it makes them hang.
"""

import argparse
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_name("mutants.toml")
WORKERS = 2
LIMIT_S, CPU_LIMIT_S = 600.0, 150  # limits of one run of tests; that of wall time is long, as the machine may be busy
_FIRST = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


class Stale(Exception):
    """The list does not match the source, or tests fail although nothing is broken."""


@dataclass(frozen=True)
class Mutant:
    """One line of the source, and the broken line in its place."""

    number: int
    area: str
    file: str
    old: str
    new: str
    what: str  # what is broken, in a sentence
    tests: tuple[str, ...]  # the tests that must catch it, as arguments of pytest

    def applied(self, text: str) -> str:
        """The file's text with the line broken; raises Stale."""
        found = text.count(self.old)
        if found != 1:
            raise Stale(
                f"mutant {self.number} ({self.what}) wants {self.old!r} once in {self.file}, and it is there {found} times: "
                f"write the new line into {LIST.name}"
            )
        return text.replace(self.old, self.new)


@dataclass(frozen=True)
class Run:
    """The result of a run of tests."""

    passed: bool
    by: str  # the first test that failed, or what else happened
    seconds: float


def mutants() -> list[Mutant]:
    """The list, numbered from 1."""
    listed = tomllib.loads(LIST.read_text(encoding="utf-8"))["mutant"]
    return [Mutant(number, **{**one, "tests": tuple(one["tests"])}) for number, one in enumerate(listed, 1)]


def copy_tree(root: Path, place: Path) -> None:
    """Copy the files that git does not ignore, with their times, by which compiled kernels are found."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        source = root / name
        if name and (source.is_symlink() or source.is_file()):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, place / name, follow_symlinks=False)


class Worker:
    """A copy of the tree, and the tests run in it."""

    def __init__(self, place: Path) -> None:
        self._running: subprocess.Popen[str] | None = None
        self._ended = False
        self.place = place / "tree"
        copy_tree(ROOT, self.place)
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(self.place),
            "STREAMER_CACHE": str(place / "cache"),
            "TMPDIR": str(place / "tmp"),
            "CI": "true",  # a test that cannot run fails instead of being skipped, which would pass for a survivor
        }
        (place / "tmp").mkdir()
        asked = "import streamer, streamer.models; print(streamer.__file__); print(streamer.models.__file__)"
        for file in self._python("-c", asked).stdout.split():
            if not Path(file).resolve().is_relative_to(self.place.resolve()):
                raise Stale(f"the tests would import {file}, which is not in the copy {self.place}")

    def end(self) -> None:
        """Kill what is running and start nothing more; may be called from any thread."""
        self._ended = True
        if self._running is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._running.pid, signal.SIGKILL)

    def _python(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run Python in the copy; raises TimeoutExpired after killing everything that was started, and Stale after `end`."""
        if self._ended:
            raise Stale("ended")
        with subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.place,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            self._running = process
            resource.prlimit(process.pid, resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S))
            try:
                output, _ = process.communicate(timeout=LIMIT_S)
            except BaseException:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
            finally:
                self._running = None
        if self._ended:
            raise Stale("ended")
        return subprocess.CompletedProcess(process.args, process.returncode, output)

    def test(self, tests: Sequence[str]) -> Run:
        """Run them until the first failure; raises Stale when there is nothing to run or nothing can be imported."""
        began = time.monotonic()
        try:
            done = self._python("-m", "pytest", "-x", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", *tests)
        except subprocess.TimeoutExpired:
            return Run(False, f"hangs: ended after {LIMIT_S:.0f} s", time.monotonic() - began)
        seconds = time.monotonic() - began
        if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):  # the limit of CPU time
            return Run(False, f"hangs: ended after {CPU_LIMIT_S} s of CPU", seconds)
        if done.returncode == 0:
            return Run(True, "", seconds)
        first = _FIRST.search(done.stdout)
        if done.returncode != 1 or first is None:
            raise Stale(f"pytest {' '.join(tests)} ended with {done.returncode}:\n{done.stdout[-2000:]}")
        return Run(False, first[1].removeprefix("tests/"), seconds)

    def broken(self, mutant: Mutant) -> Run:
        """Run a mutant's tests with its line broken, and mend the line."""
        file = self.place / mutant.file
        text, stat = file.read_text(encoding="utf-8"), file.stat()
        compiled = self._kernels() if "@kernel" in text else None
        try:
            file.write_text(mutant.applied(text), encoding="utf-8")
            # The time is in a second of its own, so that bytecode and compiled kernels of another mutant are never used.
            os.utime(file, (stat.st_atime, stat.st_mtime + mutant.number))
            if compiled is not None:
                self._spare_compiling(compiled, mutant.file)
            return self.test(mutant.tests)
        finally:
            file.write_text(text, encoding="utf-8")
            os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    def _kernels(self) -> Path:
        """The folder of the compiled kernels of the source as it is now: its name is a hash of all kernels."""
        return Path(
            self._python("-c", "from streamer.core.kernel import CACHE_FOLDER; print(CACHE_FOLDER)").stdout.strip()
        )

    def _spare_compiling(self, compiled: Path, broken: str) -> None:
        """Let the source with a broken file use the kernels compiled before.

        Those of the broken file, and of files that import from it directly or through others, are left out and compiled again.
        """
        folder = self._kernels()
        if compiled.exists():
            shutil.copytree(compiled, folder, dirs_exist_ok=True)
        callers, before = {_module(broken)}, 0
        sources = {_module(name): (self.place / name).read_text(encoding="utf-8") for name in self._kernel_files()}
        while len(callers) > before:
            before = len(callers)
            callers |= {name for name, text in sources.items() if any(f"from {one} import" in text for one in callers)}
        for name in callers:
            for file in folder.rglob(f"{name.rpartition('.')[2]}.*"):
                file.unlink()

    def _kernel_files(self) -> list[str]:
        files = [*self.place.glob("streamer/*/*.py"), *self.place.glob("models/**/*.py")]
        return [str(file.relative_to(self.place)) for file in files if "@kernel" in file.read_text(encoding="utf-8")]


def _module(file: str) -> str:
    """The name by which other modules import a file; `models` is linked into the package `streamer`."""
    name = file.removesuffix(".py").replace("/", ".")
    return name if name.startswith("streamer.") else f"streamer.{name}"


def run(chosen: Sequence[Mutant], workers: int) -> Iterator[tuple[Mutant, Run]]:
    """Run the tests of each mutant and yield the results, an area at a time; raises Stale."""
    areas: dict[str, list[Mutant]] = {}
    for mutant in chosen:
        mutant.applied((ROOT / mutant.file).read_text(encoding="utf-8"))
        areas.setdefault(mutant.area, []).append(mutant)
    with tempfile.TemporaryDirectory(prefix="streamer-mutants-") as folder:
        places = [Path(folder) / str(n) for n in range(min(workers, len(areas)))]
        for place in places:
            place.mkdir()
        made = [Worker(place) for place in places]
        free: SimpleQueue[Worker] = SimpleQueue()
        for worker in made:
            free.put(worker)

        def one_area(of: Sequence[Mutant]) -> list[tuple[Mutant, Run]]:
            worker = free.get()
            try:
                unbroken = worker.test(sorted({test for mutant in of for test in mutant.tests}))
                if not unbroken.passed:
                    raise Stale(f"the tests of {of[0].area} fail although nothing is broken: {unbroken.by}")
                print(
                    f"        {of[0].area}: its tests pass on the unbroken source, {unbroken.seconds:.0f} s", flush=True
                )
                return [told(mutant, worker.broken(mutant)) for mutant in of]
            finally:
                free.put(worker)

        def told(mutant: Mutant, run: Run) -> tuple[Mutant, Run]:
            said = "SURVIVED" if run.passed else run.by
            print(
                f"{mutant.number:3} {run.seconds:4.0f} s  {mutant.file}: {mutant.what}\n            {said}", flush=True
            )
            return mutant, run

        with ThreadPoolExecutor(len(made)) as pool:
            asked = [pool.submit(one_area, of) for of in areas.values()]
            try:
                for answer in as_completed(asked):
                    yield from answer.result()
            finally:  # after an error or an interrupt, end at once
                for worker in made:
                    worker.end()
                pool.shutdown(cancel_futures=True)


def main() -> int:
    """Exit status 0 when every mutant was caught, 1 when one survived, 2 when the mutants could not be run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("only", nargs="*", help="numbers or areas; all when none is given")
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--list", action="store_true", help="print the list and run nothing")
    arguments = parser.parse_args()
    listed = mutants()
    for name in arguments.only:
        if not any(name in (str(mutant.number), mutant.area) for mutant in listed):
            parser.error(f"no mutant or area {name!r}; areas: {', '.join(dict.fromkeys(m.area for m in listed))}")
    chosen = [m for m in listed if not arguments.only or {str(m.number), m.area} & set(arguments.only)]
    if arguments.list:
        for mutant in chosen:
            print(f"{mutant.number:3} {mutant.area}: {mutant.file}: {mutant.what}")
        return 0
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    try:
        found = list(run(chosen, arguments.workers))
    except Stale as error:
        print(error, file=sys.stderr)
        return 2
    survived = [mutant for mutant, one in found if one.passed]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{len(found) - len(survived)} of {len(found)} mutants caught in {time.monotonic() - began:.0f} s, "
        f"with {used.ru_utime + used.ru_stime:.0f} s of CPU"
    )
    for mutant in survived:
        print(f"SURVIVED {mutant.number}: {mutant.file}: {mutant.what}: {mutant.old!r} as {mutant.new!r}")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
