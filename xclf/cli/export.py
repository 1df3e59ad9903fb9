"""xclf export: a saved model for another library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from safetensors.numpy import save

from xclf._atomic_write import atomic_write
from xclf.cli import _options as opt
from xclf.cli._console import UserError, log
from xclf.cli._outputs import check_output
from xclf.cli._tasks import one_task
from xclf.estimators import load as load_model
from xclf.estimators import torch_weights

_SUFFIXES = (".onnx", ".pt", ".safetensors")


def export(
    model: opt.SavedModel,
    path: Annotated[
        Path | None, typer.Argument(metavar="[OUT]", help="The same as --out.", hidden=True)
    ] = None,
    out_path: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help=".onnx; .pt, a state dict of torch; .safetensors, the same for any library.",
        ),
    ] = None,
    task: opt.Task = None,
) -> None:
    """Write a saved model for another library.

    An .onnx file gives labels, probabilities and scores. The weights in a .pt or .safetensors file
    are those of torch.nn.Linear(D, C), of a net those of Sequential(Linear, ReLU, Linear); the
    classes are in the metadata of the latter.

    Of a model of several tasks --task names the one to write.

    xclf export cifar.safetensors --out cifar.onnx

    xclf export cifar.safetensors --out head.pt
    """
    if (path is None) == (out_path is None):
        raise UserError("export needs one --out: the name of a .onnx, .pt or .safetensors file")
    out_path = path or out_path
    assert out_path is not None
    check_output("--out", out_path, _SUFFIXES, model)
    saved = load_model(model)
    fitted = one_task(saved, task)
    try:
        if out_path.suffix == ".onnx":
            fitted.to_onnx(out_path)
        elif out_path.suffix == ".pt":
            _write_torch(fitted, out_path)
        else:
            _write_weights(fitted, out_path)
    except ImportError as error:
        raise UserError(str(error)) from None
    log().print(f"wrote {out_path}")
    if fitted._unit_rows and out_path.suffix != ".onnx":
        log().print("weights for rows of Euclidean norm 1: divide rows by theirs before it")


def _write_torch(fitted: Any, path: Path) -> None:
    module = fitted.to_torch()
    import torch

    with atomic_write(path) as part:
        torch.save(module.state_dict(), part)


def _write_weights(fitted: Any, path: Path) -> None:
    classes = json.dumps([str(label) for label in fitted.classes_])
    data = save(torch_weights(fitted), metadata={"format": "pt", "classes": classes})
    with atomic_write(path) as part:
        part.write_bytes(data)
