"""`streamer backup`."""

from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from streamer.cli.options import settings_of, settings_options
from streamer.core.settings import read_secret
from streamer.producers.client import URL, Client


@click.command(epilog="Example:  streamer backup /var/backups/streamer-monday")
@click.argument("destination", metavar="DEST")
@click.option("--url", default=URL, show_default=True, help="a running streamer; DEST is on its machine")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@settings_options("state", "security")
def backup(destination: str, url: str, as_json: bool, **options: Any) -> None:
    """Copy everything that a streamer knows into DEST, a new or empty folder, while it learns and answers.

    The streamer at --url does this. With --data the command copies that directory itself; no streamer may run on it.
    """
    offline = options.get("data") is not None
    settings, folder = settings_of(options), Path(destination).absolute()
    with Console(stderr=True, highlight=False).status("copying"):
        if offline:
            from streamer.integrity import back_up_verified  # imports RocksDB

            made = back_up_verified(Path(settings.state.data), folder).to_answer(str(folder))
        else:
            token = read_secret(settings.security.token_file, "token") if settings.security.token_file else ""
            with Client(url, token=token, timeout_s=None) as client:
                made = client.backup(str(folder))
    if as_json:
        click.echo(msgspec.json.encode(made))
        return
    click.echo(f"{made.files:,} files, {made.size_bytes:,} bytes in {made.directory}, read back and verified")
    click.echo(f"streamer restore {made.directory} --data NEW  restores it; the digest of the state is")
    click.echo(made.digest)
