"""--out and --plot: checked before the work rather than after it."""

from __future__ import annotations

from pathlib import Path

from xclf._atomic_write import check_writable
from xclf.cli._console import UserError
from xclf.estimators import check_model_path


def check_output(option: str, path: Path, suffixes: tuple[str, ...], *inputs: str | Path) -> None:
    """`UserError` if `path` cannot be written, has another suffix, or is one of `inputs`.

    inputs : what the command reads, which must not be replaced by mistake
    """
    if str(path) == "-":
        raise UserError(f"{option} - : only tables of predictions go to standard output")
    if path.is_dir():
        kinds = f" ending in {', '.join(suffixes)}" if suffixes else ""
        raise UserError(f"{option} {path} is a folder: give a file name{kinds}")
    folder = (path.resolve() if path.is_symlink() else path).parent
    if not folder.is_dir():
        raise UserError(f"{option} {path}: there is no folder {folder}")
    if path.exists():
        if not path.is_file():
            raise UserError(f"{option} {path} is not an ordinary file: give another name")
        if any(Path(source).exists() and path.samefile(source) for source in inputs):
            raise UserError(f"{option} {path} is an input of this command: give another name")
    if suffixes and path.suffix not in suffixes:
        raise UserError(f"{option} must end in {', '.join(suffixes)}, got {path.name!r}")
    try:
        check_writable(path)
    except OSError as error:
        raise UserError(f"{option} {path} cannot be written: {error.strerror}") from None


def check_model_output(path: Path | None, *inputs: str | Path) -> None:
    """`check_output` for a model, if there is a path."""
    if path is None:
        return
    check_output("--out", path, (), *inputs)
    try:
        check_model_path(path)
    except ValueError as error:
        raise UserError(f"--out: {error}") from None
