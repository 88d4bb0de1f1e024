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
@click.option("--url", default=URL, show_default=True, help="a running streamer, on whose machine DEST is")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@settings_options("state", "security")
def backup(destination: str, url: str, as_json: bool, **options: Any) -> None:
    """Copy all that a streamer knows into DEST, which is absent or empty, while it learns and answers.

    Asks the streamer at --url; with --data it copies that directory instead, with no streamer running.
    """
    offline = options.get("data") is not None
    settings, folder = settings_of(options), Path(destination).absolute()
    with Console(stderr=True, highlight=False).status("copying"):
        if offline:
            from streamer.storage.backup import back_up_closed  # brings RocksDB in

            made = back_up_closed(Path(settings.state.data), folder).to_answer(str(folder))
        else:
            token = read_secret(settings.security.token_file, "token") if settings.security.token_file else ""
            with Client(url, token=token, timeout_s=None) as client:
                made = client.backup(str(folder))
    if as_json:
        click.echo(msgspec.json.encode(made))
        return
    click.echo(f"{made.files:,} files, {made.size_bytes:,} bytes in {made.directory}, read back and found whole")
    click.echo(f"streamer restore {made.directory} --data NEW  puts it back; the state has digest")
    click.echo(made.digest)
