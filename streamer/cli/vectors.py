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
    """Item vectors in word2vec's text and binary formats, out of a state and into one."""


@vectors.command(epilog="Example:  streamer vectors export vectors.txt --data ./streamer-data")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--binary/--text", default=False, show_default=True, help="which of word2vec's formats")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@settings_options("state")
def export(file: Path, binary: bool, as_json: bool, **options: Any) -> None:
    """Write the vectors that similar items go by, of every item ever clicked, the most clicked first.

    Reads the state as of its last commit, beside a running streamer too. White space and % in ids become %20 and %25.
    """
    from streamer.models.offline.clicks.vector_file import write
    from streamer.study.inspection import answered  # brings the learners in

    item_ids, found = answered(settings_of(options).state.data, lambda recommender: recommender.item_vectors())
    write(file, item_ids, found, binary=binary)
    said = {"file": str(file), "items": len(item_ids), "dim": found.shape[1], "format": "binary" if binary else "text"}
    if as_json:
        click.echo(msgspec.json.encode(said))
    else:
        click.echo("{items:,} vectors of {dim} numbers written to {file} ({format})".format(**said))


@vectors.command("import", epilog="Example:  streamer vectors import vectors.txt --data ./streamer-data")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--fixed", is_flag=True, help="items of the file keep its vectors, and only the others train")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@settings_options("state")
def import_(file: Path, fixed: bool, as_json: bool, **options: Any) -> None:
    """Begin in vectors that were trained elsewhere: as a new generation, in a state that no streamer runs on.

    Words must be item ids; vectors of items that the state does not know are left out. Needs the archive and the extra
    `offline`. `streamer promote generation` brings back what was there. A running streamer does the same at its next
    retraining with --candidates vectors:FILE, or fixed-vectors:FILE.
    """
    from streamer.renormalise.vectors import import_vectors

    folder = settings_of(options).state.data
    with bar(Console(stderr=True), "training", 100) as moved:
        found = import_vectors(
            Path(folder), file, fixed=fixed, on_progress=lambda progress: moved(int(100 * progress.share), 100)
        )
    if as_json:
        click.echo(msgspec.json.encode(found._asdict()))
        return
    click.echo(f"{found.generation} answers from the next start on: {found.items:,} items begin in vectors of {file}")
    if found.unknown:
        click.echo(f"{found.unknown:,} vectors are of items that are not known here, and were left out")
