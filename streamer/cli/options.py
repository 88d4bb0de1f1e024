"""Options that several commands have: every setting, generated from its field, and how a file is to be read."""

import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import click
import msgspec

from streamer.consumers.delimited.header import GivenColumns, ReadOptions, parse_columns
from streamer.core.errors import BadSettings
from streamer.core.settings import PARTS, Settings, load

Command = Callable[..., Any]


def settings_options(*parts: str) -> Callable[[Command], Command]:
    """Adds options for all fields of these parts, with None as default, and `--config`."""

    def add(command: Command) -> Command:
        for part in reversed(parts):
            for name, (kind, text) in reversed(list(_fields(PARTS[part]).items())):
                flag = f"--{name.replace('_', '-')}"
                if kind is bool:
                    command = click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text)(command)
                else:
                    metavar = {int: "N", float: "X"}.get(kind, "TEXT")
                    command = click.option(flag, name, default=None, metavar=metavar, help=text)(command)
        return click.option(
            "--config", default=None, metavar="FILE", help="settings file (default: ./streamer.toml if there)"
        )(command)

    return add


def _columns(context: click.Context, parameter: click.Parameter, text: str | None) -> GivenColumns | None:
    try:
        return parse_columns(text) if text else None
    except BadSettings as error:
        raise click.UsageError(str(error), context) from None


def file_options(command: Command) -> Command:
    """Adds the options that say how a file is to be read."""
    command = click.option(
        "--id-form",
        type=click.Choice(["exact", "nfc"]),
        default="exact",
        show_default=True,
        help="whether ids in PATH that differ only in their Unicode form are different, or are put into form NFC",
    )(command)
    command = click.option(
        "--encoding",
        default="",
        metavar="NAME",
        help="the encoding of PATH, such as utf-16 or cp1252 (default: found out)",
    )(command)
    return click.option(
        "--columns",
        default=None,
        metavar="WHAT=NAME,...",
        callback=_columns,
        help="which column of PATH is what: user=visitorid,item=itemid,kind=event,rating=stars,time=timestamp, or, for a "
        "file without a header, user,item,rating,time in its order, with - for a column that is not read",
    )(command)


def read_options(options: dict[str, Any]) -> ReadOptions:
    """What a command's options say of its file; removes them from `options`."""
    return ReadOptions(columns=options.pop("columns"), encoding=options.pop("encoding"), id_form=options.pop("id_form"))


def settings_of(options: dict[str, Any]) -> Settings:
    """The settings from a command's options, the environment and the settings file; removes them from `options`."""
    config = options.pop("config", None)
    names = {name for part in PARTS.values() for name in _fields(part)}
    flags = {name: options.pop(name) for name in list(options) if name in names}
    return load(flags, file=Path(config) if config else None)


def _fields(part: type[msgspec.Struct]) -> dict[str, tuple[type, str]]:
    hints = get_type_hints(part, include_extras=True)
    return {field.name: _kind(hints[field.name]) for field in msgspec.structs.fields(part)}


def _kind(hint: Any) -> tuple[type, str]:
    """The type of a field's value, and the field's description."""
    text, kind = "", hint
    while get_origin(kind) is Annotated or get_origin(kind) in (Union, types.UnionType):
        if get_origin(kind) is Annotated:
            kind, *notes = get_args(kind)
            text = text or next((n.description for n in notes if isinstance(n, msgspec.Meta) and n.description), "")
        else:
            kind = next(part for part in get_args(kind) if part is not type(None))
    return (kind if isinstance(kind, type) else str), text


def describe(part: type[msgspec.Struct], name: str) -> str:
    """The description of a setting."""
    return _fields(part)[name][1]


def plain(text: str) -> str:
    """The text with control characters escaped: events may contain them and a terminal would obey."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
