"""`streamer report`."""

from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from streamer.cli.options import settings_of, settings_options
from streamer.cli.progress import bar
from streamer.cli.train import on_progress
from streamer.consumers.files import FileSource
from streamer.core.errors import BadSettings
from streamer.models.offline import MODELS
from streamer.study.splits import SPLITS
from streamer.study.train import Plan, cut
from streamer.study.training_data import read


class Written(msgspec.Struct, frozen=True):
    """What `streamer report --json` prints."""

    report: str  # the file
    bytes: int
    models: dict[str, float | None]  # test RMSE by model; None for one that predicts no ratings
    user: str  # whose page it has
    missing: tuple[str, ...]  # why models that would be shown are not


@click.command(epilog="Example:  streamer report path/to/ml-latest-small --models als,bias,transitions")
@click.argument("path")
@click.option(
    "--models", "names", default="", metavar="NAME,NAME,...",
    help=f"of {', '.join(MODELS)}; eight at most, one of ratings at least; default: four that can be had here",
)  # fmt: skip
@click.option("--user", "user_id", default=None, metavar="ID", help="whose page; default: who was served worst")
@click.option("--output", default="report.html", show_default=True, metavar="FILE", help="where it is written")
@click.option(
    "--split", type=click.Choice(list(SPLITS)), default="random", show_default=True, help="which ratings are put aside"
)
@click.option(
    "--test-share", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.2, show_default=True,
    metavar="X", help="of all ratings",
)  # fmt: skip
@click.option(
    "--validation-share", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.1, show_default=True,
    metavar="X", help="of what the test part leaves",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@settings_options("learning")
def report(
    path: str, names: str, user_id: str | None, output: str, split: str, test_share: float, validation_share: float,
    as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Write one HTML file about models of the field on a file of events: pictures, numbers, and one user's page.

    PATH is what `streamer evaluate` takes. It is opened in any browser, asks nobody for anything, and prints.
    """
    from streamer.study.report.page import page  # first: whether there is what draws is known before anything is fitted

    settings, errors = settings_of(options), Console(stderr=True)
    plan = Plan(split=split, test_share=test_share, validation_share=validation_share, seed=settings.learning.seed)
    file = Path(output)
    if not file.absolute().parent.is_dir():
        raise BadSettings(f"cannot write {file}: there is no folder {file.absolute().parent}; make it, or name another")
    if file.is_dir():
        raise BadSettings(f"cannot write {file}: it is a folder; name a file in it")
    found, html = _made(Path(path), [name.strip() for name in names.split(",") if name.strip()], user_id, plan, settings, errors, page)  # fmt: skip
    try:
        file.write_text(html, encoding="utf-8")
    except OSError as error:
        raise BadSettings(f"cannot write {file}: {error.strerror}; name another with --output") from None
    said = msgspec.structs.replace(found, report=str(file), bytes=len(html.encode()))
    if as_json:
        click.echo(msgspec.json.encode(said).decode())
    else:
        listed = ", ".join(name if rmse is None else f"{name} (RMSE {rmse:.4f})" for name, rmse in said.models.items())
        for sentence in said.missing:
            click.echo(f"left out: {sentence}", err=True)
        click.echo(f"{said.report}: {listed}; one user: {said.user}; {said.bytes / 1000:,.0f} KB")


def _made(
    path: Path, names: list[str], user_id: str | None, plan: Plan, settings: Any, errors: Console, page: Any
) -> tuple[Written, str]:
    from streamer.study.report.belief import Overheard, learned
    from streamer.study.report.contenders import checked, contest
    from streamer.study.report.topten import lists
    from streamer.study.report.user_page import asked, user_page

    names = checked(names)  # before anything is read
    source = Overheard(FileSource(str(path)))
    try:
        with bar(errors, f"reading {path.name}", 0) as moved:
            data, *_ = history = read(source, settings, moved)
    finally:
        source.close()
    for sentence in history.left_out():
        errors.print(sentence, style="yellow", soft_wrap=True)
    if user_id is not None:
        asked(data, cut(data, "ratings", plan).test, user_id)  # before anything is fitted
    with bar(errors, "fitting", 0) as moved:
        fitted = contest(names, data, plan, on_progress(moved))
    tops = lists({one.name: one.model for one in fitted.contenders}, *fitted.parts)
    with learned(source.catalogue, fitted.parts.train, settings) as memory:
        user = user_page(fitted, tops, memory, user_id)
    html = page(fitted, tops, user, name=path.resolve().name)
    rmse = {one.name: one.mse[2] ** 0.5 if one.mse else None for one in fitted.contenders}
    return Written("", 0, rmse, user.user_id, fitted.missing), html
