"""`streamer doctor`."""

import sys
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.text import Text

from streamer.cli.options import settings_of, settings_options


@click.command(epilog="Example:  streamer doctor --compile\n\n          streamer doctor --deep")
@click.option(
    "--compile",
    "compiling",
    is_flag=True,
    help="compile the kernels of the learners that the settings name (half a minute, once)",
)
@click.option("--deep", is_flag=True, help="also read all of state, log, generations and archive, with their checksums")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@settings_options("server", "state", "archive", "learning", "kafka", "security", "limits")
def doctor(compiling: bool, deep: bool, as_json: bool, **options: Any) -> None:
    """Check this installation, and compile the kernels; the exit code is 1 if something is wrong.

    Takes the settings of `streamer serve` and checks whether it could start with them.
    """
    settings = settings_of(options)

    from streamer.doctor import examine, failed_checks

    console, errors = Console(highlight=False), Console(stderr=True, highlight=False)

    def progress(done: int, total: int, name: str) -> None:
        errors.print(f"compiling kernels, {done + 1} of {total}: {name} ...", soft_wrap=True)

    checks = []
    for check in examine(settings, progress if compiling else None, deep=deep):
        checks.append(check)
        if not as_json:
            mark = Text("ok    ", style="green") if check.ok else Text("wrong ", style="bold red")
            console.print(mark + Text(f"{check.name}: {check.says}"), soft_wrap=True)
    bad = failed_checks(checks)
    if as_json:
        click.echo(msgspec.json.encode({"ok": not bad, "checks": checks}).decode())
    if bad:
        sys.exit(1)
