"""`streamer report`."""

from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from streamer.cli.bad_events import allow_bad, report_bad_events
from streamer.cli.options import file_options, read_options, settings_of, settings_options
from streamer.cli.progress import bar
from streamer.cli.train import on_progress
from streamer.consumers.delimited.header import ReadOptions
from streamer.consumers.files import read as read_stream
from streamer.consumers.stream import StreamSource
from streamer.core.errors import BadSettings
from streamer.models.offline import MODELS
from streamer.study.splits import SPLITS
from streamer.study.train import Plan, cut
from streamer.study.training_data import read


class Written(msgspec.Struct, frozen=True):
    """The output of `streamer report --json`."""

    report: str  # the file
    bytes: int
    models: dict[str, float | None]  # test RMSE by model; None for one that predicts no ratings
    user: str  # the user of the report's last page
    missing: tuple[str, ...]  # for each default model that is left out, the reason


@click.command(epilog="Example:  streamer report path/to/ml-latest-small --models als,bias,transitions")
@click.argument("path")
@click.option(
    "--models", "names", default="", metavar="NAME,NAME,...",
    help=f"up to eight of {', '.join(MODELS)}, at least one of them a model of ratings; default: four models whose libraries are installed",
)  # fmt: skip
@click.option(
    "--user", "user_id", default=None, metavar="ID", help="the user of the last page; default: the user served worst"
)
@click.option("--output", default="report.html", show_default=True, metavar="FILE", help="the file to write")
@click.option(
    "--split", type=click.Choice(list(SPLITS)), default="random", show_default=True, help="which ratings are held out"
)
@click.option(
    "--test-share", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.2, show_default=True,
    metavar="X", help="share of all ratings",
)  # fmt: skip
@click.option(
    "--validation-share", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.1, show_default=True,
    metavar="X", help="share of the ratings outside the test part",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@allow_bad
@file_options
@settings_options("learning")
def report(
    path: str, names: str, user_id: str | None, output: str, split: str, test_share: float, validation_share: float,
    as_json: bool, allow_bad: float, **options: Any,
) -> None:  # fmt: skip
    """Write one HTML file about models of the field on a file of events: pictures, numbers, and one user's page.

    PATH is as for `streamer evaluate`. The file opens in any browser, loads nothing from elsewhere, and can be printed.
    """
    from streamer.study.report.page import page  # fails now, before anything is fitted, if a library is missing

    how, settings, errors = read_options(options), settings_of(options), Console(stderr=True)
    plan = Plan(split=split, test_share=test_share, validation_share=validation_share, seed=settings.learning.seed)
    file = Path(output)
    if not file.absolute().parent.is_dir():
        raise BadSettings(
            f"cannot write {file}: there is no folder {file.absolute().parent}; create it, or name another"
        )
    if file.is_dir():
        raise BadSettings(f"cannot write {file}: it is a folder; name a file in it")
    found, html = _build(Path(path), [name.strip() for name in names.split(",") if name.strip()], user_id, plan, settings, errors, page, allow_bad, how)  # fmt: skip
    try:
        file.write_text(html, encoding="utf-8")
    except OSError as error:
        raise BadSettings(f"cannot write {file}: {error.strerror}; name another with --output") from None
    written = msgspec.structs.replace(found, report=str(file), bytes=len(html.encode()))
    if as_json:
        click.echo(msgspec.json.encode(written).decode())
    else:
        models = written.models.items()
        listed = ", ".join(name if rmse is None else f"{name} (RMSE {rmse:.4f})" for name, rmse in models)
        for sentence in written.missing:
            click.echo(f"left out: {sentence}", err=True)
        click.echo(f"{written.report}: {listed}; one user: {written.user}; {written.bytes / 1000:,.0f} KB")


def _build(
    path: Path,
    names: list[str],
    user_id: str | None,
    plan: Plan,
    settings: Any,
    errors: Console,
    page: Any,
    allowed_share: float,
    how: ReadOptions,
) -> tuple[Written, str]:
    from streamer.study.report.belief import CatalogueRecorder, learned_memory
    from streamer.study.report.contenders import check_models, contest
    from streamer.study.report.topten import lists
    from streamer.study.report.user_page import find_user, user_page

    names = check_models(names)  # before anything is read
    stream = read_stream(path, options=how)
    report_bad_events(stream, str(path), settings.learning, allowed_share)
    source = CatalogueRecorder(StreamSource(stream))
    try:
        with bar(errors, f"reading {path.name}", 0) as advance:
            data, *_ = history = read(source, settings, advance)
    finally:
        source.close()
    for sentence in history.left_out():
        errors.print(sentence, style="yellow", soft_wrap=True)
    if user_id is not None:
        find_user(data, cut(data, "ratings", plan).test, user_id)  # before anything is fitted
    with bar(errors, "fitting", 0) as advance:
        fitted = contest(names, data, plan, on_progress(advance))
    tops = lists({one.name: one.model for one in fitted.contenders}, *fitted.parts)
    with learned_memory(source.catalogue, fitted.parts.train, settings) as memory:
        user = user_page(fitted, tops, memory, user_id)
    html = page(fitted, tops, user, name=path.resolve().name)
    rmse = {one.name: one.mse[2] ** 0.5 if one.mse else None for one in fitted.contenders}
    return Written("", 0, rmse, user.user_id, fitted.missing), html
