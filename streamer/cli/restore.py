"""`streamer restore`."""

from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from streamer.cli.options import settings_of, settings_options
from streamer.cli.progress import bar


@click.command(epilog="Example:  streamer restore /var/backups/streamer-monday --data ./streamer-data")
@click.argument("source", metavar="SRC")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@settings_options("state")
def restore(source: str, as_json: bool, **options: Any) -> None:
    """Restore a backup into --data, a new or empty folder. `streamer serve` continues from there.

    Every file is compared with the backup's checksums first; a damaged or incomplete backup is refused.
    """
    from streamer.storage.backup import restore as put_back  # imports RocksDB

    data = settings_of(options).state.data
    with bar(Console(stderr=True, highlight=False), "restoring", 1) as advance:
        found = put_back(Path(source), Path(data), advance)
    if as_json:
        answer = {"data": data, "files": len(found.files), "size_bytes": found.size_bytes, "digest": found.state.digest,
                  "offsets": found.state.offsets, "made_ms": found.made_ms}  # fmt: skip
        click.echo(msgspec.json.encode(answer))
        return
    click.echo(
        f"{len(found.files):,} files, {found.size_bytes:,} bytes in {data}; the state's digest is that of the backup"
    )
    click.echo(found.state.digest)
