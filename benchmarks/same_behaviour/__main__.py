"""The command; see the package."""

import sys
import tempfile
import time
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.same_behaviour import runs, speed, surface
from benchmarks.same_behaviour.checkout import Checkout
from benchmarks.same_behaviour.facts import Compared, Facts, compared

ROOT = Path(__file__).resolve().parents[2]


def found_out(sides: tuple[Checkout, Checkout], path: str) -> tuple[Facts, Facts]:
    """Run everything on both sides, one after the other; returns the facts of each."""
    facts = (Facts(), Facts())
    for side, found in zip(sides, facts, strict=True):
        report(f"{side.folder.name}: commands and settings")
        surface.note_commands(found, side)
        surface.note_settings(found, side.root)
        report(f"{side.folder.name}: the simulated world")
        runs.note_world(found, side)
        report(f"{side.folder.name}: MovieLens")
        runs.note_movielens(found, side, path)
        runs.note_refusals(found, side)
        report(f"{side.folder.name}: serving")
        runs.note_serving(found, side)
        report(f"{side.folder.name}: retrainings")
        runs.note_renormalised(found, side)
    before = sides[0].folder
    begun = runs.begin(sides[0])
    for side, found in zip(sides, facts, strict=True):
        report(f"{side.folder.name}: continuing from files of the commit before")
        runs.note_one_log(found, side, before / "movielens/log", path)
        runs.note_gone_on(found, side, begun)
        runs.restore_backup(found, "backup of the commit before, restored", side, before / "backup")
    return facts


def report(sentence: str) -> None:
    """Print a line of progress, with the time, on standard error."""
    print(f"{time.strftime('%H:%M:%S')} {sentence}", file=sys.stderr)


def show(console: Console, title: str, found: list[Compared]) -> None:
    """Print a table of facts, and below it the differences."""
    table = Table("what", "before", "after", "equal?", title=title, box=None)
    for one in found:
        table.add_row(*map(escape, one.row()))
    console.print(table)
    for one in found:
        if not one.equal:
            console.print(f"\n{escape(one.what)}:", *map(escape, one.difference()), sep="\n  ", highlight=False)


def show_facts(console: Console, before: Facts, after: Facts, *, every: bool) -> int:
    """Print all facts, and the words that differ (with `every`, all words); returns how many facts differ."""
    exact, words = compared(before.exact, after.exact), compared(before.words, after.words)
    differing, reworded = (sum(not one.equal for one in found) for found in (exact, words))
    show(console, "Must be equal", exact)
    show(console, "Words, which may differ", [one for one in words if every or not one.equal])
    console.print(f"\n{len(exact):,} facts, {differing:,} differ; of {len(words):,} texts {reworded:,} differ")
    return differing


@click.command()
@click.argument("other", type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path))
@click.argument("path", type=click.Path(exists=True, resolve_path=True))
@click.option("--after", type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path), default=ROOT,
              help="the checkout that is compared with OTHER (default: this one); with OTHER itself, this shows whether two runs of one commit agree")  # fmt: skip
@click.option(
    "--speed", "timed", is_flag=True, help="also time both commits, by turns; the times do not change the exit code"
)
@click.option("--only-speed", is_flag=True, help="only time both commits, and compare nothing")
@click.option("--all", "every", is_flag=True, help="list all texts for people, also those that are equal")
def main(other: Path, path: str, after: Path, timed: bool, only_speed: bool, every: bool) -> None:
    """Run the commit in OTHER and this one on the same input, and print what differs. PATH is ml-latest-small.

    The exit code is 1 if any fact differs.
    """
    console, differing = Console(width=180, soft_wrap=True, emoji=False), 0
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / name for name in ("before", "after")]
        for place in places:
            place.mkdir()
        sides = (Checkout(other, places[0]), Checkout(after, places[1]))
        if only_speed:
            for side in sides:
                side.serve("movielens", "--replay", path, "--until-drained")
        else:
            differing = show_facts(console, *found_out(sides, path), every=every)
        if timed or only_speed:
            table = Table("by turns", "before", "after", "after / before: median, lowest and highest round", box=None)
            for one in (*speed.evaluated(*sides, path), *speed.answered(*sides)):
                table.add_row(*one.row())
            console.print(table)
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
