"""The command `xclf`."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

from xclf import _interrupt
from xclf.cli import _options as opt
from xclf.cli._console import CheckError, UserError, shown, verbosity
from xclf.cli._defaults import defaults
from xclf.cli._given import typed, typed_arguments
from xclf.cli.compare import compare
from xclf.cli.evaluate import evaluate
from xclf.cli.export import export
from xclf.cli.guide import guide
from xclf.cli.plot import plot
from xclf.cli.predict import predict
from xclf.cli.probe import probe
from xclf.cli.sweep import sweep
from xclf.cli.tools import backends, example, gradcheck, version
from xclf.cli.train import train
from xclf.estimators import HINTS

# The parser's exception for wrong usage. typer brings a click of its own or uses the installed one,
# depending on its version; the class it derives its public exception from is the right one.
_UsageError: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _version_and_exit(requested: bool) -> None:
    if requested:
        version()
        raise typer.Exit


@app.callback()
def root(
    _: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_version_and_exit, help="Print the version."
        ),
    ] = False,
) -> None:
    """Train classifiers where your arrays live: multiclass SVM, softmax, two-layer net.

    Type first: xclf train digits

    Your own table: xclf train TABLE.csv --label COLUMN --out MODEL

    The guide, in a browser: xclf guide
    """


def _with_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """The command with --quiet and --verbose, which decide what its consoles print."""

    @wraps(command)
    def run(*, context: typer.Context, quiet: bool, verbose: bool, **arguments: Any) -> None:
        if quiet and verbose:
            raise UserError("--quiet and --verbose exclude each other")
        kept, known = verbosity.set(verbose - quiet), typed.set(typed_arguments(context))
        try:
            command(**arguments)
        finally:
            verbosity.reset(kept)
            typed.reset(known)

    hints = get_type_hints(command, include_extras=True)
    own = inspect.signature(command)
    parameters = [p.replace(annotation=hints[name]) for name, p in own.parameters.items()]
    kind = inspect.Parameter.KEYWORD_ONLY
    for name, hint in (("quiet", opt.Quiet), ("verbose", opt.Verbose)):
        parameters.append(inspect.Parameter(name, kind, default=False, annotation=hint))
    parameters.append(inspect.Parameter("context", kind, annotation=typer.Context))
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    vars(run)["__signature__"] = own.replace(parameters=parameters)
    return run


for command in (
    *(train, sweep, probe, predict, evaluate, compare, plot, export),
    *(guide, backends, gradcheck, example, version),
):
    # Only long names of options pass there: no value of theirs is an alias.
    settings = {"token_normalize_func": lambda name: opt.ALIASES.get(name, name)}
    app.command(context_settings=settings)(_with_verbosity(command))


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit.

    Status 0; 1 a check failed; 2 bad input or usage; 130 Ctrl-C; 143 SIGTERM.
    """
    try:
        _interrupt.raise_from_now_on()
        status = run(arguments)
        _interrupt.leave_from_now_on()
    except KeyboardInterrupt:  # in the answer to another error
        _interrupt.leave_from_now_on()
        status = _fail(_interrupt.message(), _interrupt.status())
    if _interrupt.came() and status != _interrupt.status():
        status = _fail(_interrupt.message(), _interrupt.status())
    _interrupt.leave(status)


def run(arguments: list[str] | None = None) -> int:
    """The exit status of the command with these arguments (those of the process by default)."""
    try:
        parser: Any = typer.main.get_command(app)
        status = parser(
            args=arguments,
            prog_name="xclf",
            standalone_mode=False,
            default_map=defaults(parser.commands),
        )
        sys.stdout.flush()  # a closed pipe raises here, not while the process ends
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            return 2  # the help has been printed
        return _fail(_usage(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail(_interrupt.message(), _interrupt.status())
    except CheckError as error:
        return _fail(str(error), 1)
    except BrokenPipeError:
        _discard_output()
        return 1
    except OSError as error:
        return _fail(_with_file(error), 2)
    except (UserError, ValueError, TypeError, ImportError, NotImplementedError) as error:
        return _fail(str(error) or type(error).__name__, 2)
    except MemoryError as error:
        return _fail(f"out of memory: {error}", 2)
    if status == 130:  # some versions of typer catch Ctrl-C, and return this
        return _fail(_interrupt.message(), _interrupt.status())
    return status if isinstance(status, int) else 0


def _with_file(error: OSError) -> str:
    """The file that an error is about, and what is wrong with it, without its number."""
    if error.filename is None or error.strerror is None:
        return str(error) or type(error).__name__
    return f"{os.fspath(error.filename)}: {error.strerror}"


def _usage(error: Any) -> str:
    """The parser's message, and where to read more."""
    message = str(error.format_message()).rstrip(".").replace(": Value error, ", ": ")
    context = getattr(error, "ctx", None)
    option = str(getattr(error, "option_name", "")).lstrip("-").replace("-", "_")
    if re.search(r"unexpected extra argument.*\.np[yz]\)", message):
        message += "; rows and labels in two files are one argument, x.npy,y.npy"
    if option in HINTS:
        message = f"No such option: --{option.replace('_', '-')}; {HINTS[option]}"
    return message if context is None else f"{message}; see: {context.command_path} --help"


def _discard_output() -> None:
    """Send what is still to be written at exit to the null device: a pipe is closed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)


def _fail(message: str, status: int) -> int:
    """Print a message as one line on standard error; returns the exit status.

    After Ctrl-C that is the message, whatever a library has turned it into.
    """
    if _interrupt.came():
        message, status = _interrupt.message(), _interrupt.status()
    print(f"xclf: {shown(' '.join(message.split()))}", file=sys.stderr)
    return status


__all__ = ["app", "main", "run"]
