"""A command's options in a TOML file: ``--config FILE`` reads them, and each comparison's folder gets one."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UserError, one_of
from ..files import read_bytes, write_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["SettingsFile", "write_settings"]


def read_settings(context: typer.Context, path: Path | None) -> None:
    """Make the file's values the defaults of the command's options; what the command line names replaces them.

    Raises:
        UserError: the file cannot be read, is no TOML, or names an option that the command has not.
    """
    if path is None:
        return
    try:
        content = tomllib.loads(read_bytes(path).decode("utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is no TOML file: {error}") from error
    options = {option.name: option for option in context.command.params if option.name not in ("config", "help")}
    defaults = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in options:
            known = sorted(str(each).replace("_", "-") for each in options)
            raise UserError(f"{path}: {context.info_name} has no option '{key}'; {one_of(key, known)}")
        if name in defaults:
            raise UserError(f"{path}: '{key}' is named twice")
        defaults[name] = _as_given(path, key, value, options[name])
    context.default_map = defaults


def _as_given(path: Path, key: str, value: Any, option: Any) -> Any:
    """A value as the command line would have it: texts, which are then checked like those of the command line.

    Raises:
        UserError: it is a table, a time, or a list of these, or no switch where the option is one.
    """
    if getattr(option, "is_flag", False):
        if not isinstance(value, bool):
            raise UserError(f"{path}: '{key}' must be true or false, not {value!r}")
        return value
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(each, (str, int, float)) for each in values):
        raise UserError(f"{path}: '{key}' must be a text, a number, or a list of these, not {value!r}")
    texts = [str(each).lower() if isinstance(each, bool) else str(each) for each in values]
    return texts if getattr(option, "multiple", False) else ",".join(texts)


SettingsFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="A TOML file of options, named as here without the dashes in front, and of DATA as 'data'; those of the "
        "command line replace them. Every comparison writes one that repeats it.",
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=read_settings,
        show_default=False,
    ),
]


def write_settings(path: Path, command: str, settings: Mapping[str, Any]) -> None:
    """Write the file with which ``command`` repeats what it did; settings that are None are left out.

    Raises:
        UserError: the file cannot be written.
    """
    lines = [f"# largedrop {command} --config {path.name}"]
    lines += [f"{name.replace('_', '-')} = {_toml(value)}" for name, value in settings.items() if value is not None]
    write_text(path, "\n".join(lines) + "\n")


def _toml(value: Any) -> str:
    """A text, number, switch or list of these as TOML, which differs from JSON in one control character."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Path):
        value = os.fspath(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
