"""`streamer recover`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console

from streamer.cli.options import settings_of, settings_options

if TYPE_CHECKING:  # importing it takes most of a second; a bad argument is refused before that
    from streamer.recovery import Report, Span

SHOWN = 20  # runs of offsets


@click.command(epilog="Example:  streamer recover --data ./streamer-data --dry-run")
@click.option(
    "--keep-state", is_flag=True, help="do not learn again, although the state has learned from events that are gone"
)
@click.option("--dry-run", is_flag=True, help="only say what would be kept and what is gone")
@click.option("--json", "as_json", is_flag=True, help="one JSON object, with all offsets")
@settings_options("state")
def recover(keep_state: bool, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Make a new log of every event that a damaged log, or the archive, still holds whole.

    No streamer may run on --data. Nothing is deleted: what is replaced is renamed. The exit code is 0 although events are gone.
    """
    from streamer.recovery import recover as make_new  # imports RocksDB

    data = Path(settings_of(options).state.data)
    with Console(stderr=True, highlight=False).status("reading"):
        report = make_new(data, keep_state=keep_state, dry_run=dry_run)
    if as_json:
        click.echo(
            msgspec.json.encode({"data": str(data), "whole": report is None, "dry_run": dry_run, "report": report})
        )
    elif report is None:
        click.echo(f"the log in {data} is whole: nothing to recover")
    else:
        for line in _lines(report, dry_run=dry_run):
            click.echo(line)


def _lines(report: "Report", *, dry_run: bool) -> list[str]:
    lines = [f"damaged: {what}" for what in report.damage]
    sources = {"the log": report.from_log, "the archive": report.from_archive, "the state": report.from_state}
    held = ", ".join(f"{count:,} from {source}" for source, count in sources.items() if count)
    lines.append(f"offsets {report.begin:,} to {report.end - 1:,}: {held}")
    lines.append(f"gone: {_said(report.gone)}" if report.gone else "gone: nothing")
    if report.uncounted:
        lines.append(f"lost, but no accepted events (bad, repeated, forgotten or erased): {_said(report.uncounted)}")
    match report.state, dry_run:
        case "learn again", _:
            does = (
                "would be renamed, with its generations and promotions, and learned again"
                if dry_run
                else ("is renamed, with its generations and promotions, and the next start learns again")
            )
            lines.append(f"{report.why}: it {does} from the new log")
            if dry_run:
                lines.append("--keep-state keeps a whole state as it is")
        case "kept", _:
            lines.append(
                f"the state is kept{f', although {report.why}' if report.why else ': it has learned nothing that is gone'}"
            )
        case _:
            lines.append("there is no state: the next start learns from the new log")
    lines += [
        f"{old} is now {new}; forgetting users does not reach it: delete it when you no longer need it"
        for old, new in report.moved.items()
    ]
    lines.append("dry run: nothing was changed" if dry_run else "the new log is in place, start again: streamer serve")
    return lines


def _said(spans: "tuple[Span, ...]") -> str:
    """How many records, and at which offsets."""
    count = sum(last - first + 1 for first, last in spans)
    shown = ", ".join(f"{first}" if first == last else f"{first} to {last}" for first, last in spans[:SHOWN])
    more = f" and {len(spans) - SHOWN:,} more runs, see --json" if len(spans) > SHOWN else ""
    return f"{count:,} {'record' if count == 1 else 'records'}, at the offsets {shown}{more}"
