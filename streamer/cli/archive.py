"""`streamer archive`."""

import sys
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from streamer.cli.options import settings_of, settings_options


@click.group(epilog="Example:  streamer archive verify\n\n          streamer archive repair --data ./streamer-data")
def archive() -> None:
    """Verify the archive's files, or repair damaged ones from the log or from Kafka."""


@archive.command(epilog="Example:  streamer archive verify --data ./streamer-data")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@settings_options("state")
def verify(as_json: bool, **options: Any) -> None:
    """Read every file, and compare it with its SHA-256 in the archive's list; the exit code is 1 if one is damaged.

    A streamer may run on the archive.
    """
    from streamer.integrity import verify_archive  # imports RocksDB and the learners

    with Console(stderr=True, highlight=False).status("reading"):
        found = verify_archive(Path(settings_of(options).state.data))
    files = found.manifest.files
    undigested = sum(not file.sha256 for file in files)
    if as_json:
        result = {"files": len(files), "rows": found.rows, "bytes": found.size_bytes, "without_digest": undigested}
        click.echo(msgspec.json.encode({**result, "damaged": found.damaged, "lost": found.manifest.lost}))
    else:
        for sentence in found.damaged.values():
            click.echo(sentence)
        whole = len(files) - len(found.damaged)
        click.echo(f"{whole:,} of {len(files):,} files are whole: {found.rows:,} rows in {found.size_bytes:,} bytes")
        if undigested:
            click.echo(
                f"{undigested:,} of them have no digest yet, as they are older: they can be read, no more is known"
            )
        for loss in found.manifest.lost:
            click.echo(loss.sentence())
    if found.damaged:
        sys.exit(1)


@archive.command(
    epilog="Example:  streamer archive repair --data ./streamer-data\n\n          streamer archive repair --kafka 127.0.0.1:9092"
)
@click.option(
    "--without-kafka", is_flag=True, help="do not ask Kafka: give up the rows of damaged files that only Kafka may have"
)
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@settings_options("state", "kafka")
def repair(without_kafka: bool, as_json: bool, **options: Any) -> None:
    """Fetch the rows of damaged files again from the embedded log, or from Kafka; no streamer may run on the data directory.

    Where they are no longer there, says which offsets are gone, and moves the damaged file to `archive/_damaged`.
    The exit code is 1 if rows are gone. While Kafka cannot be reached, nothing is changed.
    """
    from streamer.integrity import repair_archive  # imports RocksDB and the learners

    with Console(stderr=True, highlight=False).status("reading"):
        settings = settings_of(options)
        found, done = repair_archive(Path(settings.state.data), None if without_kafka else settings.kafka)
    if as_json:
        click.echo(msgspec.json.encode({"files": len(found.manifest.files), "rows": found.rows, "repaired": done}))
    else:
        for one in done:
            click.echo(one.sentence())
        if not done:
            click.echo(f"nothing to repair: all {len(found.manifest.files):,} files are whole")
    if any(one.lost for one in done):
        sys.exit(1)
