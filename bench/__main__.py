"""python -m bench NAME [--quick] [--data PATH] [--json FILE] [--plot FILE.png]

Each NAME times this library beside its peers in the same run, taking turns, and prints a table of
times and ratios. `--json` keeps the run with its command, versions and machine, `--plot` draws it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from bench._measure import BenchError, machine, record

#: name -> (module, what it times)
NAMES = {
    "loss_grad": ("bench.loss_grad", "softmax loss and gradient over all rows"),
    "minibatch": ("bench.minibatch", "epochs of a two-layer net at three batch sizes"),
    "fit": ("bench.fit", "softmax and hinge fits: seconds against the gap to the optimum"),
    "sweep": ("bench.sweep", "45 values of reg, folds and learning rates, trained together"),
    "course": ("bench.course", "the course's losses against their naive loops"),
    "gpu_ceilings": ("bench.gpu_ceilings", "copy bandwidth and matrix products on the device"),
    "gpu_loss_grad": ("bench.gpu_loss_grad", "softmax loss and gradient on the device"),
    "gpu_minibatch": ("bench.gpu_minibatch", "a step of a two-layer net beside torch's graphs"),
    "gpu_heads": ("bench.gpu_heads", "a minibatch step of 52 heads, beside one of a single head"),
    "gpu_stream": ("bench.gpu_stream", "a pass over rows on the host, beside the bus"),
    "gpu_facts": ("bench.gpu_facts", "repeated fits bit for bit, and one device as another"),
    "gpu_fit": ("bench.gpu_fit", "a softmax fit to 1e-4 of its optimum, beside torch's LBFGS"),
    "gpu_sweep": ("bench.gpu_sweep", "45 values of reg to 1e-4 or 200 passes, resumable"),
    "gpu_report": ("bench.gpu_report", "what a folder of GPU results comes to"),
}


def available() -> dict[str, str]:
    """The names whose module is there, with what they time."""
    return {
        name: about
        for name, (module, about) in NAMES.items()
        if importlib.util.find_spec(module) is not None
    }


def main(arguments: list[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    names = available()
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        epilog="\n".join(f"{name:15}{about}" for name, about in names.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help=", ".join(names))
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    first = parser.parse_args(words)
    if first.name not in names:
        parser.error(f"unknown benchmark {first.name!r}; choose one of {', '.join(names)}")
    module = importlib.import_module(NAMES[first.name][0])
    args = _parse(first.name, module, names[first.name], first.rest)
    path, picture = args.__dict__.pop("json"), args.__dict__.pop("plot", None)
    for option, file in (("--json", path), ("--plot", picture)):
        if file is not None and not Path(file).resolve().parent.is_dir():
            parser.error(f"{option} {file}: the folder is not there")
    before = machine()
    try:
        results = module.run(args)
        if path is not None:
            record(path, words, results, before)
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
