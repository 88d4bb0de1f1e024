"""A start compiles what its own learners need; anything else is compiled on its first use, and says so once."""

import fcntl
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from process import command

from streamer.core.kernel import CACHE_FOLDER

HEAVY = {"torch", "gensim", "numba", "river", "kafka", "pyarrow", "scipy"}
NOT_OF_LEARNERS = (
    "core",
    "monitoring",
    "stream",
    "study",
)  # compiled by `make setup`, and most of the time of a first start


def test_a_start_compiles_its_own_learners_and_another_one_is_compiled_at_its_first_use(tmp_path: Path) -> None:
    ratings = tmp_path / "ratings.csv"
    ratings.write_text(
        "user,item,rating,timestamp\n"
        + "".join(f"u{n % 9},i{n % 23},{1 + n % 5},{1_600_000_000 + n}\n" for n in range(1200))
    )
    cache = tmp_path / "cache"
    for folder in (found for room in NOT_OF_LEARNERS for found in CACHE_FOLDER.glob(f"{room}_*")):
        shutil.copytree(folder, cache / "streamer" / CACHE_FOLDER.name / folder.name)

    def ran(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "STREAMER_CACHE": str(cache)}
        done = subprocess.run(
            command(*arguments), env=environ, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return done

    def markers() -> set[str]:
        return {path.name.rpartition(".")[2] for path in cache.glob("streamer/kernels-*/compiled/*")}

    plain = ("--rating-learner", "bias", "--click-learner", "popularity-recent")
    served = ran("serve", "--data", tmp_path / "d", "--port", "0", "--replay", ratings, "--until-drained", *plain)
    said = [f"compiling the kernels of {name}, once on this machine ..." for name in ("bias", "popularity-recent")]
    assert served.stderr.splitlines() == said
    assert markers() == {"Bias", "RecentPopularity"}

    evaluate = ("evaluate", ratings, "--json", *plain, "--no-ranking")
    first = ran(*evaluate, "--learner", "biased-mf")
    assert first.stderr.splitlines() == ["compiling the kernels of biased-mf, once on this machine ..."]
    assert first.stdout.startswith("{")
    assert ran(*evaluate, "--learner", "funk-svd").stderr == ""  # another name of the same class

    retrain = (*evaluate, "--learner", "biased-mf", "--renormalise-every-events", "1000")
    assert ran(*retrain).stderr.splitlines() == ["compiling the kernels of models.als, once on this machine ..."]
    assert ran(*retrain).stderr == ""


def test_a_bad_argument_is_refused_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[learning]\nnope = 1\n")
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    (tmp_path / "used" / "state").mkdir(parents=True)
    held = (tmp_path / "used" / "state" / "LOCK").open("ab")
    fcntl.lockf(held, fcntl.LOCK_EX)  # as RocksDB locks a state
    refused = [
        ["nonsense"],
        ["serve", "--port", "abc"],
        ["serve", "--rating-learner", "nope"],
        ["serve", "--shadow", "nope"],
        ["serve", "--replay", "missing-file"],
        ["serve", "--config", str(tmp_path / "bad.toml")],
        ["evaluate", "missing-file"],
        ["evaluate", "--simulate", "--learner", "nope"],
        ["doctor", "--port", "abc"],
        ["inspect"],
        ["publish", "missing-file"],
        ["recommend", "7", "--url", "http://127.0.0.1:1"],
        ["serve", "--port", str(port), "--data", "d"],
        ["serve", "--port", "0", "--data", str(tmp_path / "used")],
    ]
    shown = [
        ["--help"],
        *([name, "--help"] for name in ("serve", "evaluate", "recommend", "doctor", "inspect", "publish")),
    ]
    code = f"""
import sys
from streamer.cli import main
for arguments in {refused + shown!r}:
    try:
        main(arguments)
    except SystemExit as ended:
        print(arguments, ended.code, sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)
    else:
        print(arguments, 0, sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, cwd=tmp_path
    )
    taken.close()
    held.close()
    ended = [line for line in done.stderr.splitlines() if line.startswith("[")]
    codes = [2, 78, 78, 78, 78, 78, 78, 78, 78, 2, 78, 1, 78, 78, *([0] * len(shown))]
    assert ended == [f"{arguments} {code} []" for arguments, code in zip(refused + shown, codes, strict=True)]
