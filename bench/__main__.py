"""python -m bench NAME [--quick] [--data DATA] [--json FILE] [--plot FILE.png]

Each NAME times this library beside its peers in the same run, taking turns, and prints a table of
times and ratios. `--json` keeps the run with its command, versions and machine, `--plot` draws it.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from bench.common.measuring import BenchError
from bench.common.record import machine, record

#: name -> (module, what it times)
NAMES = {
    "loss_grad": ("cpu.loss_grad", "softmax loss and gradient over all rows"),
    "minibatch": ("cpu.minibatch", "epochs of a two-layer net at three batch sizes"),
    "fit": ("cpu.fit", "softmax and hinge fits: seconds against the gap to the optimum"),
    "sweep": ("cpu.sweep", "45 values of reg, folds and learning rates, trained together"),
    "probe": ("cpu.probe", "a whole linear probe, and few-shot draws, beside scikit-learn's fits"),
    "dask": ("cpu.cluster", "fits on a cluster of Dask, beside one process"),
    "sparse": ("cpu.sparse", "softmax, sweeps and hinge on text, beside scikit-learn"),
    "course_accuracy": ("cpu.course_accuracy", "the course's models on CIFAR-10: accuracies"),
    "course": ("cpu.course", "the course's losses against their naive loops"),
    "accelerators": ("cpu.accelerators", "whole fits with and without each accelerator"),
    "gpu_checks": ("gpu.checks", "what must hold on a device before anything is timed"),
    "gpu_launches": ("gpu.launches", "kernels and copies of a pass and of a step, by a profiler"),
    "gpu_ceilings": ("gpu.ceilings", "copy bandwidth and matrix products on the device"),
    "gpu_loss_grad": ("gpu.loss_grad", "softmax loss and gradient on the device"),
    "gpu_minibatch": ("gpu.minibatch", "a step of a two-layer net beside torch's graphs"),
    "gpu_heads": ("gpu.heads", "a minibatch step of 52 heads, beside one of a single head"),
    "gpu_stream": ("gpu.stream", "a pass over rows on the host, beside the bus"),
    "gpu_fit": ("gpu.fit", "a softmax fit to 1e-4 of its optimum, beside torch's LBFGS"),
    "gpu_sweep": ("gpu.sweep", "45 values of reg to 1e-4 or 200 passes, resumable"),
    "gpu_report": ("gpu.report", "what a folder of GPU results comes to"),
}


def main(arguments: list[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        epilog="\n".join(f"{name:17}{about}" for name, (_, about) in NAMES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    first = parser.parse_args(words)
    if first.name not in NAMES:
        parser.error(f"unknown benchmark {first.name!r}; choose one of {', '.join(NAMES)}")
    path, about = NAMES[first.name]
    module = importlib.import_module(f"bench.{path}")
    args = _parse(first.name, module, about, first.rest)
    target, picture = args.__dict__.pop("json"), args.__dict__.pop("plot", None)
    for option, file in (("--json", target), ("--plot", picture)):
        if file is not None and not Path(file).resolve().parent.is_dir():
            parser.error(f"{option} {file}: the folder is not there")
    before = machine()
    try:
        results = module.run(args)
        if target is not None:
            record(target, words, results, before)
        if picture is not None:
            module.draw(results, Path(picture))
    except BenchError as error:
        print(f"bench {first.name}: {error}", file=sys.stderr)
        return 2
    return 0


def _parse(name: str, module: Any, about: str, rest: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m bench {name}", description=about)
    parser.add_argument("--json", metavar="FILE", help="keep the results in this file")
    if hasattr(module, "draw"):
        parser.add_argument("--plot", metavar="FILE", help="draw the results into this picture")
    module.add_arguments(parser)
    return parser.parse_args(rest)


if __name__ == "__main__":
    sys.exit(main())
