"""The runs that both commits do; the results are noted as facts."""

import hashlib
import json
import shutil
import time
from pathlib import Path

from benchmarks.same_behaviour.asked import note_reading, note_writing
from benchmarks.same_behaviour.checkout import Checkout
from benchmarks.same_behaviour.disk import note_archive_bytes, note_files, tables
from benchmarks.same_behaviour.facts import Facts, masked, numbers, without_sentences
from benchmarks.same_behaviour.surface import note_metrics, note_services

WORLD, FIRST_HALF, SECOND_HALF = "world.jsonl", "first-half.jsonl", "second-half.jsonl"
EVENTS, EVERY_EVENTS = 20_000, 8_000
COMMIT_S = 60.0
SIMULATE = ("--users", "500", "--items", "300", "--events", str(EVENTS), "--seed", "3", "--shock-day", "30")
PROFILES = [
    {"user_id": "fan", "attributes": {"job": "writer", "age": 31}, "preferences": {"Comedy": 5}},
    {"user_id": "u1", "attributes": {"job": "writer"}, "preferences": {"Crime": 2, "Comedy": 4}},
]


def note_world(facts: Facts, side: Checkout) -> None:
    """Write the simulated world, and from it the streams to replay: with users' profiles, whole and in halves."""
    output = side.run("simulate", "simulated.jsonl", *SIMULATE, "--json").out
    written = (side.folder / "simulated.jsonl").read_bytes()
    facts.exact["simulate: output"] = masked(output)
    facts.exact["simulate: bytes"] = hashlib.sha256(written).hexdigest()
    lines = [*(json.dumps(profile).encode() for profile in PROFILES), *written.splitlines()]
    half = len(lines) // 2
    for name, part in ((WORLD, lines), (FIRST_HALF, lines[:half]), (SECOND_HALF, lines[half:])):
        (side.folder / name).write_bytes(b"\n".join(part) + b"\n")
    for name, arguments in {
        "evaluate": ("evaluate", WORLD, "--json"),
        "evaluate stack, without ranking": ("evaluate", WORLD, "--learner", "stack", "--no-ranking", "--json"),
        "train als": ("train", WORLD, "--model", "als", "--json"),
    }.items():
        output = masked(side.run(*arguments).out)
        facts.exact[name], facts.words[name] = without_sentences(output), output


def note_movielens(facts: Facts, side: Checkout, path: str) -> None:
    """Replay MovieLens, inspect the state in every form, back it up, restore the backup, and ask for recommendations."""
    side.serve("movielens", "--replay", path, "--until-drained")
    _note_state(facts, side, "movielens", ("1", "nobody"), ("1", "unheard of"))
    _note_output(facts, side, "movielens: backup", "backup", "backup", "--data", "movielens", "--json")
    note_files(facts, "movielens: backup", side.folder / "backup")
    _note_manifest(facts, "movielens: backup", side.folder / "backup")
    restore_backup(facts, "movielens: restored", side, side.folder / "backup")
    side.run("vectors", "export", "vectors.txt", "--data", "movielens")
    facts.exact["movielens: vectors export, bytes"] = _digest(side.folder / "vectors.txt")
    for arguments in (("1",), ("nobody",), ("--preference", "Documentary=5"), ("--rating", "1=5", "--rating", "2=1")):
        _note_output(
            facts, side, f"movielens: recommend {' '.join(arguments)}", "recommend", *arguments, "--data", "movielens"
        )


def restore_backup(facts: Facts, name: str, side: Checkout, backup: Path) -> None:
    """Restore `backup`, which either side may have made, and note the result."""
    output = side.run("restore", str(backup), "--data", "restored", "--json").out
    facts.exact[f"{name}, output"] = masked(output).replace(str(backup), "BACKUP")
    facts.exact[f"{name}, rows of state"] = tables(side.folder / "restored/state")
    facts.exact[f"{name}, rows of log"] = tables(side.folder / "restored/log")
    shutil.rmtree(side.folder / "restored")


def note_one_log(facts: Facts, side: Checkout, log: Path, path: str) -> None:
    """Learn from a copy of `log`. Both sides get the same log with the same times of appending, so the archives must be equal byte for byte."""
    shutil.copytree(log, side.folder / "one-log/log")
    side.serve("one-log", "--replay", path, "--until-drained")  # PATH is in the log already: nothing is appended
    facts.exact["one log: rows of state"] = tables(side.folder / "one-log/state")
    facts.exact["one log: rows of log"] = tables(side.folder / "one-log/log")
    note_archive_bytes(facts, "one log", side.folder / "one-log/archive")


def note_serving(facts: Facts, side: Checkout) -> None:
    """Learn the simulated world and keep serving: metrics, RPCs, a backup of the running streamer, a user forgotten."""
    lines = (side.folder / WORLD).read_bytes().count(b"\n")
    with side.serving("served", "--replay", WORLD, "--shadow", "bias", events=lines) as serving:
        note_metrics(facts, "served", serving.metrics())
        note_services(facts, serving.url)
        note_reading(facts, "served:", serving)
        _wait_for_commit(side, "served", lines)  # a backup holds what is committed
        note_writing(facts, "served:", serving, side.folder / "served-backup")
    note_files(facts, "served: backup while it answers", side.folder / "served-backup")
    _note_manifest(facts, "served: backup while it answers", side.folder / "served-backup")
    _note_state(facts, side, "served", ("u1", "fan", "ann", "nobody"), ("i15", "new", "unheard of"))


def _wait_for_commit(side: Checkout, data: str, offset: int) -> None:
    deadline = time.monotonic() + COMMIT_S
    while f'"log/0":{offset}' not in side.run("inspect", "offsets", "--data", data, "--json").out:
        if time.monotonic() > deadline:
            raise SystemExit(f"{side.root}: {offset:,} records were learned, but not committed within {COMMIT_S:g} s")


def note_renormalised(facts: Facts, side: Checkout) -> None:
    """Replay the simulated world with retrainings that the stream waits for."""
    hold = ("--renormalise-every-events", str(EVERY_EVENTS), "--hold")
    side.serve("renormalised", "--replay", WORLD, *hold, "--until-drained")
    _note_output(facts, side, "renormalised: generations", "generations", "--data", "renormalised", "--json")
    _note_state(facts, side, "renormalised", ("u1",), ("i15",))


def begin(side: Checkout) -> Path:
    """Learn the first half of the simulated world, with one retraining; returns the data directory, from which both sides continue."""
    hold = ("--renormalise-every-events", str(EVERY_EVENTS), "--hold")
    side.serve("begun", "--replay", FIRST_HALF, *hold, "--until-drained")
    return side.folder / "begun"


def note_gone_on(facts: Facts, side: Checkout, begun: Path) -> None:
    """Open the state that the commit before made, and learn the second half of the world."""
    shutil.copytree(begun, side.folder / "gone-on")
    side.serve("gone-on", "--replay", SECOND_HALF, "--until-drained")
    _note_output(facts, side, "gone on: generations", "generations", "--data", "gone-on", "--json")
    _note_state(facts, side, "gone-on", ("u1",), ("i15",))


def note_refusals(facts: Facts, side: Checkout) -> None:
    """Note the exit codes of bad commands as facts, and the messages as words."""
    for arguments in (
        ("nothing",), ("serve", "--nothing"), ("serve", "--rating-learner", "nobody"), ("serve", "--dim", "-1"), ("inspect", "--data", "nowhere"),
        ("evaluate", "nowhere.csv"), ("recommend", "1", "--data", "nowhere"), ("restore", "nowhere", "--data", "new"),
        ("serve", "--data", "movielens", "--dim", "16"), ("backup", "movielens/inside", "--data", "movielens"), ("promote", "learner"),
    ):  # fmt: skip
        ended = side.run(*arguments, expected=None)
        facts.exact[f"refused: {' '.join(arguments)}"] = str(ended.code)
        facts.words[f"refused: {' '.join(arguments)}"] = ended.err.replace(str(side.folder), "FOLDER")


def _note_state(facts: Facts, side: Checkout, data: str, users: tuple[str, ...], items: tuple[str, ...]) -> None:
    """Note every form of `inspect`, as text and as JSON, and all files."""
    forms = [
        ("--digest",), ("stats",), ("offsets",), ("dead-letters",),
        *(("user", user) for user in users), *(("item", item) for item in items),
        *(("user", user, "--questions", "--limit", "3") for user in users),
    ]  # fmt: skip
    for form in forms:
        for output in ((), ("--json",)):
            _note_output(
                facts, side, f"{data}: inspect {' '.join((*form, *output))}", "inspect", *form, *output, "--data", data
            )
    note_files(facts, data, side.folder / data)


def _note_output(facts: Facts, side: Checkout, name: str, *arguments: str) -> None:
    """Run a command; note its exit code with the printed JSON, or with the numbers and ids of a printed text, as a fact, and all output as words."""
    ended = side.run(*arguments, expected=None)
    out, err = (text.replace(str(side.folder), "FOLDER") for text in (ended.out, ended.err))
    facts.exact[name] = f"{ended.code} {masked(out) if '--json' in arguments else numbers(out)}"
    facts.words[name] = masked(out) + err


def _note_manifest(facts: Facts, name: str, backup: Path) -> None:
    """Note backup.json without the sizes and checksums of files; the files themselves are compared elsewhere."""
    manifest = json.loads((backup / "backup.json").read_text(encoding="utf-8"))
    fields = sorted({field for file in manifest.pop("files") for field in file})
    facts.exact[f"{name}: backup.json"] = masked(json.dumps({**manifest, "fields of files": fields}))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
