"""The documents agree with the code; `make generate` rewrites docs/settings.md from here."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import click
import msgspec
import pytest
from commands import run
from process import streamer

from streamer.cli import COMMANDS, group
from streamer.cli.options import describe
from streamer.core import errors
from streamer.core.answers import Refusal
from streamer.core.settings import PARTS
from streamer.models import LEARNERS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = "\n".join(path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])


def settings_page() -> str:
    lines = [
        "# Settings",
        "",
        "Flags go over variables, variables over `streamer.toml`. `user_cache_bytes` is the flag `--user-cache-bytes`, the variable",
        "`STREAMER_USER_CACHE_BYTES`, and the key `user_cache_bytes` of the table `[state]`. This page is written by `make generate`.",
    ]
    for part, kind in PARTS.items():
        assert get_type_hints(kind)
        lines += [
            "",
            f"## [{part}]",
            "",
            (kind.__doc__ or "").strip(),
            "",
            "| setting | default | what |",
            "|---|---|---|",
        ]
        for field in msgspec.structs.fields(kind):
            default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()  # type: ignore[operator]
            shown = (
                {None: "none", "": "empty", (): "none"}.get(default, default)
                if not isinstance(default, dict)
                else ", ".join(f"{k}={v:g}" for k, v in default.items())
            )
            lines.append(f"| `{field.name}` | {shown} | {describe(kind, field.name)} |")
    return "\n".join(lines) + "\n"


def test_every_setting_is_documented() -> None:
    assert (ROOT / "docs/settings.md").read_text() == settings_page()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented_and_its_help_shows_an_example(name: str) -> None:
    assert f"streamer {name}" in README or f"make {name}" in README
    command = group.get_command(click.Context(group), name)
    assert command is not None
    shown = command.get_help(click.Context(command, info_name=f"streamer {name}"))
    assert f"Example:  streamer {name}" in shown
    assert all(p.help for p in command.params if isinstance(p, click.Option))


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md", "docs/decisions.md"])
def test_files_that_a_page_names_are_there(page: str) -> None:
    named = set(re.findall(r"[`(]((?:[\w.-]+/)+[\w.-]+\.(?:py|md|toml))[`)#]", (ROOT / page).read_text()))
    below = (ROOT, ROOT / "streamer", (ROOT / page).parent)
    assert named
    assert [name for name in sorted(named) if not any((folder / name).exists() for folder in below)] == []


def test_the_page_on_architecture_shows_every_room() -> None:
    picture = (ROOT / "ARCHITECTURE.md").read_text().split("```")[1]
    rooms = {path.parent.name for path in (ROOT / "streamer").glob("*/__init__.py") if not path.parent.is_symlink()}
    unseen = {"_gen", "checks", "schemas"}  # generated, shipped for plug-ins, data
    assert {room for room in rooms - unseen if f"{room}/" not in picture} == set()


def test_every_error_and_reason_is_documented() -> None:
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.StreamerError)
    ]
    page = (ROOT / "docs/errors.md").read_text()
    for kind in kinds:
        assert f"`{kind.__name__}`" in page
        assert kind.__name__ in (errors.__doc__ or "")
    for reason in errors.Reason:
        assert f"`{reason}`" in (ROOT / "docs/events.md").read_text()
    for refusal in Refusal:
        assert f"`{refusal}`" in (ROOT / "docs/metrics.md").read_text()


@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_is_documented(name: str) -> None:
    assert f"`{name}`" in DOCUMENTS


def test_every_promise_is_proved_by_tests_that_exist() -> None:
    page = (ROOT / "tests/README.md").read_text()
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", page)
    assert len(named) > 40
    missing = [f"{file}::{test}" for file, test in named if f"def {test}(" not in (ROOT / "tests" / file).read_text()]
    assert missing == []
    promises = re.findall(
        r"^- \*\*(\w[\w ]*)\.\*\*", README.partition("## What it promises")[2].partition("\n## ")[0], re.M
    )
    assert len(promises) >= 7
    assert [promise for promise in promises if f"**{promise}**" not in page] == []


def links() -> Iterator[tuple[str, str]]:
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/README.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
            if "://" not in target:
                yield str(path.relative_to(ROOT)), target


@pytest.mark.parametrize(("page", "target"), sorted(set(links())))
def test_links_lead_somewhere(page: str, target: str) -> None:
    assert ((ROOT / page).parent / target).exists()


ASKING = ("recommend", "publish", "promote", "renormalise", "generations", "backup", "forget")  # a running one


def readme_commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", README, re.S)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture
def some_movielens(movielens: Path, tmp_path: Path) -> Path:
    """A folder like ml-latest-small, of its first users' ratings."""
    folder = tmp_path / "some"
    folder.mkdir()
    shutil.copy(movielens / "movies.csv", folder)
    first, *rows = (movielens / "ratings.csv").read_text().splitlines(keepends=True)
    kept = [row for row in rows if int(row.partition(",")[0]) <= 30]
    (folder / "ratings.csv").write_text("".join([first, *kept]))
    return folder


def test_the_commands_of_the_readme_run(some_movielens: Path, tmp_path: Path) -> None:
    ratings = (some_movielens / "ratings.csv").read_text().count("\n") - 1
    makes = {command for command in readme_commands() if command.startswith("make ")}
    assert makes == {"make run", "make run DATA=path/to/ml-latest-small", "make test"}
    done = 0
    with streamer(tmp_path / "streamer-data", "--replay", some_movielens, "--shadow", "stack") as process:
        process.wait_for('streamer_events_total{outcome="learned",topic="ratings"}', ratings)
        process.wait_for("streamer_commit_seconds_count", 1)
        for command in readme_commands():
            if command.startswith("make ") or "--kafka" in command or "bench" in command or " serve " in command:
                continue  # these are tests of their own, or need a broker
            program, *words = shlex.split(
                command.replace("path/to/ml-latest-small", str(some_movielens)).replace(
                    "http://127.0.0.1:8080", process.url
                )
            )
            if program == ".venv/bin/streamer":
                if words[0] in ASKING:
                    words += ["--url", process.url]
                elif words[0] == "doctor":
                    words += ["--port", "0", "--data", "another"]  # before it runs
                said = run(*words, cwd=tmp_path)
            else:
                said = subprocess.run(
                    [program, *words], capture_output=True, text=True, cwd=tmp_path, timeout=120, check=True
                ).stdout
            assert said, command
            assert '"code"' not in said[:60], f"{command}: {said}"
            done += 1
    assert done >= 14


if __name__ == "__main__":
    (ROOT / "docs/settings.md").write_text(settings_page())
