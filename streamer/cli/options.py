"""Every setting as a command line option, generated from its field."""

import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import click
import msgspec

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
