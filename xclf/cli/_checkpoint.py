"""--checkpoint and --resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xclf.cli._console import UserError
from xclf.cli._given import refuse
from xclf.cli._outputs import check_output
from xclf.training import Checkpoint

#: What the name of --out gets behind it, for --resume without --checkpoint.
SUFFIX = ".checkpoint"


def make_checkpoint(given: dict[str, Any]) -> Checkpoint | None:
    """The checkpoint of a command's arguments, None without one; `UserError` before any work for
    one that cannot be written, or would be replaced.

    given["data"] : what the command reads;  given["out_path"] : what it writes
    """
    path: Path | None = given["checkpoint_path"]
    out_path: Path | None = given["out_path"]
    if path is None:
        if not given["resume"]:
            refuse(["checkpoint_every"], given, "without --checkpoint or --resume there is none")
            return None
        if out_path is None:
            raise UserError("--resume needs --checkpoint FILE, or --out, beside which it is kept")
        path = out_path.with_name(out_path.name + SUFFIX)
    if out_path is not None and path.resolve() == out_path.resolve():
        raise UserError("--checkpoint and --out are the same file: give another name")
    check_output("--checkpoint", path, (), given["data"])
    if path.exists() and not given["resume"]:
        raise UserError(
            f"there is a checkpoint at {path} already: go on from it with --resume, or remove it"
        )
    return Checkpoint(path, every=given["checkpoint_every"])
