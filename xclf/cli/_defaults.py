"""Defaults of options from a file and from the environment.

`xclf.toml` in the current folder, or the file that XCLF_CONFIG names:

    device = "cpu"              # of every command that has --device
    [train]
    reg = 1e-3                  # of one command

XCLF_DEVICE=cpu in the environment does the same, and comes before the file; the command line comes
before both.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xclf.cli._console import UserError
from xclf.cli._options import ALIASES

FILE = "xclf.toml"
_PREFIX = "XCLF_"


def defaults(commands: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Values by command and parameter; `UserError` for a file that cannot be used.

    commands : the parser's commands by name
    """
    options = {name: _options(command) for name, command in commands.items()}
    path = Path(os.environ.get(_PREFIX + "CONFIG") or FILE)
    given = _read(path, required=_PREFIX + "CONFIG" in os.environ)
    shared = {key: value for key, value in given.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in given.items() if isinstance(value, dict)}
    _check(path, "command", tables, options)
    _check(path, "option", shared, {name for own in options.values() for name in own})
    found: dict[str, dict[str, Any]] = {}
    for command, own in options.items():
        table = tables.get(command, {})
        _check(path, f"option of {command}", table, own)
        values = {_name(key): value for key, value in (shared | table).items()}
        spellings = {name: _name(name) for name in (*ALIASES, *own)}
        environment = {n: os.environ.get(_PREFIX + one.upper()) for one, n in spellings.items()}
        values |= {name: value for name, value in environment.items() if value is not None}
        found[command] = {
            own[name].name: _value(own[name], value)
            for name, value in values.items()
            if name in own
        }
    return found


def _options(command: Any) -> dict[str, Any]:
    """The options of a command by their long names, with _ for -."""
    return {
        _name(flag): option
        for option in command.params
        if option.param_type_name == "option"
        for flag in option.opts
        if flag.startswith("--") and flag not in ("--help", "--version")
    }


def _name(flag: str) -> str:
    name = flag.lstrip("-")
    return ALIASES.get(name, name).replace("-", "_")


def _value(option: Any, value: Any) -> Any:
    """As the parser takes it: text, and lists for options that repeat."""
    if option.multiple:
        return value if isinstance(value, list) else [str(value)]
    return value if isinstance(value, bool) else str(value)


def _read(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        if not required:
            return {}
        raise UserError(f"XCLF_CONFIG names {path}, which is not there") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _check(path: Path, what: str, given: Mapping[str, Any], known: Any) -> None:
    for key in given:
        if _name(key) not in known:
            close = difflib.get_close_matches(_name(key), list(known), n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UserError(f"{path}: there is no {what} {key!r}{hint}")
