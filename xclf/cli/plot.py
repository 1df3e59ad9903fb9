"""xclf plot: weight templates and the loss curve of a saved model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from xclf.cli._console import UserError, out
from xclf.cli._fit import check_writable
from xclf.estimators import load as load_model
from xclf.report.pictures import draw, guess_shape

_FORMATS = (".png", ".pdf", ".svg")


def plot(
    model: Annotated[Path, typer.Argument(help="A model that train --out saved.")],
    out_path: Annotated[Path, typer.Option("--out", help=".png, .pdf or .svg.")] = Path(
        "model.png"
    ),
    shape: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTHxCHANNELS of a row; guessed if square.")
    ] = None,
    channel_last: Annotated[
        bool, typer.Option("--channel-last", help="Rows hold pixels, not colour planes.")
    ] = False,
) -> None:
    """Draw the weights of each class (or hidden unit) as pictures, and the loss curve.

    xclf plot cifar.safetensors --out templates.png

    xclf plot faces.safetensors --shape 48x64x1
    """
    check_writable(out_path, model)
    if out_path.suffix not in _FORMATS:
        raise UserError(f"--out must end in {', '.join(_FORMATS)}, got {out_path.name!r}")
    fitted = load_model(model)
    size = guess_shape(fitted.n_features_in_) if shape is None else parse_shape(shape)
    if size is not None and size[0] * size[1] * size[2] != fitted.n_features_in_:
        raise UserError(
            f"--shape {shape} does not fit rows of {fitted.n_features_in_} features: height times "
            "width times channels must be that"
        )
    try:
        shown = draw(fitted, out_path, size, not channel_last)
    except ImportError:
        raise UserError("plot needs matplotlib: pip install 'xclf[plot]'") from None
    out().print(f"wrote {out_path}: {', '.join(shown)}")


def parse_shape(text: str) -> tuple[int, int, int]:
    """(height, width, channels) from '48x64' or '48x64x3': grey or colour."""
    found = re.fullmatch(r"([1-9][0-9]*)x([1-9][0-9]*)(?:x([13]))?", text)
    if found is None:
        raise UserError(f"--shape must be like 48x64 or 32x32x3 (1 or 3 channels), got {text!r}")
    return int(found[1]), int(found[2]), int(found[3] or 1)
