"""`streamer vectors`."""

from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from streamer.cli.options import settings_of, settings_options
from streamer.cli.progress import bar


@click.group(
    epilog="Example:  streamer vectors export vectors.txt\n\n          streamer vectors import vectors.txt --data ./streamer-data"
)
def vectors() -> None:
    """Export item vectors from a state, or import them, in word2vec's text and binary formats."""


@vectors.command(epilog="Example:  streamer vectors export vectors.txt --data ./streamer-data")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--binary/--text", default=False, show_default=True, help="which of word2vec's formats")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@settings_options("state")
def export(file: Path, binary: bool, as_json: bool, **options: Any) -> None:
    """Write the vectors that define similar items, of every item ever clicked, the most clicked first.

    Reads the state as of its last commit; a streamer may run on it. White space and % in ids become %20 and %25.
    """
    from streamer.models.offline.clicks.vector_file import write
    from streamer.study.inspection import answer_from_state  # imports the learners

    item_ids, found = answer_from_state(settings_of(options).state.data, lambda recommender: recommender.item_vectors())
    write(file, item_ids, found, binary=binary)
    written = {
        "file": str(file),
        "items": len(item_ids),
        "dim": found.shape[1],
        "format": "binary" if binary else "text",
    }
    if as_json:
        click.echo(msgspec.json.encode(written))
    else:
        click.echo("{items:,} vectors of {dim} numbers written to {file} ({format})".format(**written))


@vectors.command("import", epilog="Example:  streamer vectors import vectors.txt --data ./streamer-data")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--fixed", is_flag=True, help="items of the file keep its vectors; only the others are trained")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@settings_options("state")
def import_(file: Path, fixed: bool, as_json: bool, **options: Any) -> None:
    """Make a new generation that starts from vectors trained elsewhere. No streamer may run on the state.

    The words in FILE must be item ids; vectors of items that the state does not know are left out. Needs the archive and the extra
    `offline`. `streamer promote generation` returns to the former generation. A running streamer does the same at its next
    retraining with --candidates vectors:FILE, or fixed-vectors:FILE.
    """
    from streamer.renormalise.vectors import import_vectors

    folder = settings_of(options).state.data
    with bar(Console(stderr=True), "training", 100) as advance:
        found = import_vectors(
            Path(folder), file, fixed=fixed, on_progress=lambda progress: advance(int(100 * progress.share), 100)
        )
    if as_json:
        click.echo(msgspec.json.encode(found._asdict()))
        return
    click.echo(f"{found.generation} answers from the next start on: {found.items:,} items start from vectors of {file}")
    if found.unknown:
        click.echo(f"{found.unknown:,} vectors of items that this state does not know were left out")
