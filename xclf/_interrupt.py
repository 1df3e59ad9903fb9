"""Ctrl-C and SIGTERM in the command `xclf`: one line and exit status 130 or 143.

That is so from the first import to the end. SIGTERM, which clusters send to a job whose time is up,
is another Ctrl-C, so that the command keeps what is done.

Importing this module, before all that takes time, is the beginning: in the process of the command
both then end it at once. `raise_from_now_on` makes them the exception KeyboardInterrupt, as Ctrl-C
is everywhere else in Python, but keeps in mind that it came: libraries may swallow or rename it.
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import pairwise

TYPE_CHECKING = False  # what takes time to import comes when it is needed
if TYPE_CHECKING:
    from typing import Any, NoReturn

# Exit status and message by signal.
_ENDS: dict[int, tuple[int, str]] = {
    signal.SIGINT: (130, "interrupted"),
    signal.SIGTERM: (143, "terminated"),
}

_came: int | None = None


def came() -> bool:
    """Whether there was a Ctrl-C or SIGTERM since `raise_from_now_on`."""
    return _came is not None


def message() -> str:
    """The line about the signal that came; about Ctrl-C, if the handler has seen none."""
    return _ENDS[_came or signal.SIGINT][1]


def status() -> int:
    """The exit status, likewise."""
    return _ENDS[_came or signal.SIGINT][0]


def raise_from_now_on() -> None:
    """Let Ctrl-C and SIGTERM raise KeyboardInterrupt, in a process of the command."""
    if _is_command():
        _handle(_raise)
        sys.unraisablehook = _raise_again


def leave_from_now_on() -> None:
    """Let Ctrl-C and SIGTERM end the process at once, in a process of the command."""
    if _is_command():
        _handle(_leave)


def leave(status: int) -> NoReturn:
    """End the process; that of the command without Python's teardown, which is deaf to Ctrl-C."""
    if _is_command():
        import atexit

        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):  # closed, or none
                continue
        os._exit(status)
    sys.exit(status)


def _is_command() -> bool:
    """Whether this process is `xclf ...` or `python -m xclf ...`."""
    program, given = sys.argv[0] if sys.argv else "", sys.orig_argv
    if program == "-m":  # while Python looks for the module
        return ("-m", "xclf") in pairwise(given) or "-mxclf" in given
    folder, name = os.path.split(program)
    return os.path.splitext(name)[0] == "xclf" or (  # noqa: PTH122
        name == "__main__.py" and os.path.basename(folder) == "xclf"  # noqa: PTH119
    )


def _handle(handler: Any) -> None:
    """Install a handler for both signals, unless the process ignores one, as one in the background
    does Ctrl-C. Processes that Python's multiprocessing starts are ended by SIGTERM, silently."""
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _leave, _raise):
        signal.signal(signal.SIGINT, handler)
    started = any(argument.startswith("from multiprocessing") for argument in sys.orig_argv)
    if not started and signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, _leave, _raise):
        signal.signal(signal.SIGTERM, handler)


def _leave(number: int, *_: Any) -> NoReturn:
    global _came
    _came = number
    try:
        os.write(2, f"xclf: {message()}\n".encode())
    finally:
        os._exit(status())


def _raise(number: int, *_: Any) -> NoReturn:
    global _came
    _came = number
    raise KeyboardInterrupt


def _raise_again(unraisable: Any) -> None:
    """For a KeyboardInterrupt in a finalizer, where Python drops exceptions: another one soon."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        import _thread
        import threading

        again = threading.Timer(0.01, _thread.interrupt_main)
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(unraisable)


leave_from_now_on()
