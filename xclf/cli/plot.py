"""xclf plot: weight templates and the loss curve of a saved model."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated

import typer

from xclf._extras import needs
from xclf.cli import _options as opt
from xclf.cli._console import UserError, log
from xclf.cli._given import refuse
from xclf.cli._outputs import check_output
from xclf.cli._tasks import one_task
from xclf.estimators import TrainedOn
from xclf.estimators import load as load_model
from xclf.report.pictures import PICTURE_SUFFIXES, draw, guess_shape


def plot(
    model: opt.SavedModel,
    out_path: Annotated[Path, typer.Option("--out", help=".png, .pdf or .svg.")] = Path(
        "model.png"
    ),
    shape: Annotated[
        str | None,
        typer.Option(help="HEIGHTxWIDTHxCHANNELS of a row; by default as the data had it."),
    ] = None,
    channel_last: Annotated[
        bool, typer.Option("--channel-last", help="Rows hold pixels, not colour planes.")
    ] = False,
    task: opt.Task = None,
) -> None:
    """Draw the weights of each class (or hidden unit) as pictures, and the loss curve.

    xclf plot cifar.safetensors --out templates.png

    xclf plot faces.safetensors --shape 48x64x1
    """
    check_output("--out", out_path, PICTURE_SUFFIXES, model)
    saved = load_model(model)
    fitted = one_task(saved, task)
    features = fitted.n_features_in_
    known = saved._trained_on or TrainedOn("", 0, "")
    image_shape = known.image_shape
    if image_shape is None or image_shape[2] not in (1, 3):
        image_shape = guess_shape(features)
    if shape is not None:
        image_shape, known = parse_shape(shape), TrainedOn("", 0, "")
    if image_shape is not None and math.prod(image_shape) != features:
        raise UserError(
            f"--shape {shape} does not fit rows of {features} features: height times width times "
            "channels must be that"
        )
    if image_shape is None:
        refuse(["channel_last"], {"channel_last": channel_last}, "its rows are not known as images")
    try:
        last = channel_last or known.pixel_layout == "channel_last"
        contents = draw(fitted, out_path, image_shape, not last)
    except ImportError:
        raise UserError(needs("plot", "matplotlib")) from None
    log().print(f"wrote {out_path}: {', '.join(contents)}")


def parse_shape(text: str) -> tuple[int, int, int]:
    """(height, width, channels) from '48x64' or '48x64x3': grey or colour."""
    parts = re.fullmatch(r"([1-9][0-9]*)x([1-9][0-9]*)(?:x([13]))?", text)
    if parts is None:
        raise UserError(f"--shape must be like 48x64 or 32x32x3 (1 or 3 channels), got {text!r}")
    return int(parts[1]), int(parts[2]), int(parts[3] or 1)
