"""A whole linear probe beside the same work with scikit-learn, one fit after the other.

    python -m bench probe --data kmeans:cifar-10-batches-bin --rows 5000 --json FILE

    protocol  45 values of C chosen on held-out rows, the best fitted again, tested: `xclf.probe`
              beside scikit-learn's LogisticRegression (lbfgs, max_iter 1000, tol 1e-4)
    few_shot  5 numbers of shots x 10 draws, every value of C on every draw, beside a loop of
              scikit-learn's fits on the same draws; of which it may run a share (--sklearn-draws)
    tasks     32 label sets of the same rows, each whether the class is one of some, at one C: one
              fit, beside a fit for each here and in scikit-learn

The first --rows rows are trained on, as many as --test-rows after them are tested on.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import numpy as np
from rich.console import Console
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

from bench.common.data import add_data, chosen, synthetic_images
from bench.common.measuring import (
    OURS,
    BenchError,
    Call,
    add_one_thread,
    progress,
    table,
    thread_words,
    timing,
)
from xclf import SoftmaxClassifier, probe
from xclf.probes import PROTOCOLS, draws, hold_out

PARTS = ("protocol", "few_shot", "tasks")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--quick", action="store_true", help="tiny sizes, to see that it runs")
    add_data(parser, 5000)
    add("--test-rows", type=int, default=5000, help="rows after them, to test on")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add("--protocol", choices=[n for n in PROTOCOLS if PROTOCOLS[n].parameter == "C"])
    add("--val", type=float, default=0.1, help="share of the rows that C is chosen on")
    add("--shots", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    add("--tries", type=int, default=10, help="draws of each")
    add("--sklearn-draws", type=int, help="scikit-learn fits so many of them; all by default")
    add("--tasks", type=int, default=32, help="label sets")
    add("--tasks-c", type=float, default=1e-2, help="their C")
    add("--tol", type=float, help="of xclf; its defaults by default")
    add_one_thread(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints the tables; returns an entry for each part."""
    train, test = _parts(args)
    values = PROTOCOLS[args.protocol or "dinov2"].values
    if args.quick:
        values, args.shots, args.tries, args.tasks = values[::11], args.shots[:2], 2, 3
    x, y = train
    shape = f"{len(y)} x {x.shape[1]} x {int(y.max()) + 1} {x.dtype}"
    results: dict[str, Any] = {"shape": shape, "threads": thread_words(args.one_thread)}
    results |= {"test_rows": len(test[1]), "values": len(values)}
    with timing(args.one_thread) as clock, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what did not converge is counted
        probe((x[:300], y[:300]), test=0.2, C=values[::22], tol=1e-2)  # first calls import
        if "protocol" in args.parts:
            results["protocol"] = _protocol(train, test, values, args, clock)
        if "few_shot" in args.parts:
            results["few_shot"] = _few_shot(train, test, values, args, clock)
        if "tasks" in args.parts:
            results["tasks"] = _tasks(train, args, clock)
    return results


def _parts(args: argparse.Namespace) -> tuple[Any, Any]:
    """((x, y) to train on, (x, y) to test on), scaled together."""
    rows = args.rows
    if args.quick:
        rows, args.test_rows = min(rows, 200), min(args.test_rows, 100)
    if args.data is not None:
        args.rows = rows + args.test_rows
        x, y = chosen(args)
    else:
        x, y = synthetic_images(rows + args.test_rows, 8)
    if len(y) <= rows or y.max() < 2:
        raise BenchError(f"--data must hold more than {rows} rows, of three classes or more")
    return (x[:rows], y[:rows]), (x[rows:], y[rows:])


def _protocol(
    train: Any, test: Any, values: tuple[float, ...], args: argparse.Namespace, clock: Call
) -> dict[str, Any]:
    progress(f"{len(values)} values of C on {len(train[1])} rows: {OURS}")
    start = clock()
    ours = probe(train, args.val, test, C=values, tol=args.tol)
    took = float(clock() - start)
    (x, y), (kept, held) = train, _held_out(train[1], args.val)
    start, scores = clock(), []
    for C in values:
        scores.append(_fitted(C, x[kept], y[kept]).score(x[held], y[held]))
        progress(f"scikit-learn, C {C:.2g}: {float(clock() - start):.1f} s so far")
    best = values[int(np.argmax(scores))]
    accuracy = _fitted(best, x, y).score(*test)
    peer = float(clock() - start)
    unfinished = sum(not point["converged"] for point in ours.search["points"])
    results = {
        "xclf_s": took,
        "scikit_learn_s": peer,
        "times_xclf": peer / took,
        "xclf_not_converged": unfinished,
        "xclf": {"chosen": ours.chosen, "accuracy": ours.accuracy},
        "scikit_learn": {"chosen": best, "accuracy": accuracy},
        "largest_difference_of_validation_scores": _difference(ours, scores),
    }
    table(
        f"{len(values)} values of C, {len(kept)} rows, chosen on {len(held)}, fitted again",
        ("", "seconds", "chosen C", "test accuracy"),
        [
            [OURS, f"{took:.1f}", f"{ours.chosen:.3g}", f"{ours.accuracy:.4f}"],
            ["scikit-learn", f"{peer:.1f}", f"{best:.3g}", f"{accuracy:.4f}"],
        ],
        f"scikit-learn takes {peer / took:.1f} times as long",
    )
    return results


def _few_shot(
    train: Any, test: Any, values: tuple[float, ...], args: argparse.Namespace, clock: Call
) -> dict[str, Any]:
    """xclf's stages of draws beside the loop; each chooses C by the same validation rows."""
    (x, y), (kept, held) = train, _held_out(train[1], args.val)
    progress(f"{len(args.shots)} x {args.tries} draws: {OURS}")
    parts = ((x[kept], y[kept]), (x[held], y[held]), test)
    options = {"shots": args.shots, "tries": args.tries, "tol": args.tol}
    ours = probe(*parts, C=values, **options)
    # The search over all rows, which this part is not about, is a stage of its own.
    stages = {entry["stage"]: entry["seconds"] for entry in ours.results["times"]}
    draws = [stage for stage in stages if stage.endswith(("shot", "shots"))]
    took = sum(stages[stage] for stage in draws)
    most = args.tries if args.sklearn_draws is None else min(args.sklearn_draws, args.tries)
    points = []
    for point, stage in zip(ours.few_shot["points"], draws, strict=True):
        seconds, mean = _loop(parts, values, point["shots"], most, clock)
        points.append(
            {
                "shots": point["shots"],
                "xclf_s": stages[stage],
                "scikit_learn_s": seconds * args.tries / most,
                "xclf_accuracy": point["mean"],
                "scikit_learn_accuracy": mean,
            }
        )
        progress(f"scikit-learn, {point['shots']} shots, {most} draws: {seconds:.1f} s")
    peer = sum(point["scikit_learn_s"] for point in points)
    results = {
        "fits": len(values) * args.tries * len(points),
        "xclf_s": took,
        "scikit_learn_s": peer,
        "scikit_learn_s_is_an_estimate": most < args.tries,
        "times_xclf": peer / took,
        "points": points,
    }
    _show_few_shot(results, args.tries)
    return results


def _tasks(train: Any, args: argparse.Namespace, clock: Call) -> dict[str, Any]:
    """Seconds of all label sets in one fit, one by one, and in scikit-learn; and their objectives,
    of which all three are held against the lowest."""
    x, y = train
    rng, classes = np.random.default_rng(0), int(y.max()) + 1
    chosen_classes = [rng.permutation(classes)[: classes // 2] for _ in range(args.tasks)]
    labels = np.stack([np.isin(y, some).astype(int) for some in chosen_classes], axis=1)
    reg = 1.0 / (args.tasks_c * len(y))
    model = SoftmaxClassifier(reg=reg, tol=args.tol)
    seconds, models = {}, {}
    progress(f"{args.tasks} label sets: {OURS}, together")
    start = clock()
    models["together"] = clone(model).fit(x, labels).estimators_
    seconds["together"] = float(clock() - start)
    for name, one in (("one by one", model), ("scikit-learn", _model(args.tasks_c))):
        progress(f"{args.tasks} label sets: {name}")
        start = clock()
        models[name] = [clone(one).fit(x, own) for own in labels.T]
        seconds[name] = float(clock() - start)
    reached = {
        name: np.asarray(
            [_objective(one, x, own, reg) for one, own in zip(some, labels.T, strict=True)]
        )
        for name, some in models.items()
    }
    lowest = np.min(list(reached.values()), axis=0)
    entries = {
        name: {
            "seconds": took,
            "times_together": took / seconds["together"],
            "largest_relative_excess": float(np.max(reached[name] / lowest - 1.0)),
        }
        for name, took in seconds.items()
    }
    table(
        f"{args.tasks} label sets of {len(y)} rows, C {args.tasks_c:g}",
        ("", "seconds", "times as long", "excess"),
        [
            [
                name,
                f"{entry['seconds']:.2f}",
                f"{entry['times_together']:.1f}",
                f"{entry['largest_relative_excess']:.1e}",
            ]
            for name, entry in entries.items()
        ],
        "excess: how far the objective of a label set lies above the lowest of the three, at most",
    )
    return {"label_sets": args.tasks, "C": args.tasks_c, **entries}


def _objective(model: Any, x: np.ndarray, y: np.ndarray, reg: float) -> float:
    """Of one vector w: the mean loss + reg |w|^2 / 2, in float64."""
    scores = x @ model.coef_[0].astype(np.float64) + model.intercept_[0]
    losses = np.logaddexp(0.0, np.where(y == 1, -scores, scores))
    return float(losses.mean() + 0.5 * reg * np.sum(model.coef_.astype(np.float64) ** 2))


def _loop(
    parts: Any, values: tuple[float, ...], shots: int, tries: int, clock: Call
) -> tuple[float, float]:
    """(seconds, mean test accuracy at the best C) of scikit-learn's fits to so many draws."""
    (x, y), (xv, yv), (xt, yt) = parts
    start = clock()
    models = [
        [_fitted(C, x[rows], y[rows]) for C in values] for rows in draws(y, shots, tries, seed=0)
    ]
    scores = np.asarray([[model.score(xv, yv) for model in some] for some in models])
    best = int(scores.mean(axis=0).argmax())
    mean = float(np.mean([some[best].score(xt, yt) for some in models]))
    return float(clock() - start), mean


def _model(C: float) -> Any:
    return LogisticRegression(C=C, tol=1e-4, max_iter=1000)


def _fitted(C: float, x: np.ndarray, y: np.ndarray) -> Any:
    return _model(C).fit(x, y)


def _held_out(y: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """The rows that `probe` keeps, and those that it holds out, with the seed 0."""
    return hold_out(y, np.arange(len(y)), share, "validation", 0)


def _difference(ours: Any, scores: list[float]) -> float:
    points = ours.search["points"]
    return max(abs(p["score"] - one) for p, one in zip(points, scores, strict=True))


def _show_few_shot(results: dict[str, Any], tries: int) -> None:
    about = ", estimated" if results["scikit_learn_s_is_an_estimate"] else ""
    rows = [
        [
            str(point["shots"]),
            f"{point['xclf_s']:.2f}",
            f"{point['scikit_learn_s']:.2f}",
            f"{point['xclf_accuracy']:.4f}",
            f"{point['scikit_learn_accuracy']:.4f}",
        ]
        for point in results["points"]
    ]
    table(
        f"{tries} draws of k rows a class, {results['fits']} fits",
        ("k", f"{OURS}, s", "scikit-learn, s", f"{OURS}, accuracy", "scikit-learn, accuracy"),
        rows,
    )
    ours, peer = results["xclf_s"], results["scikit_learn_s"]
    Console().print(
        f"{OURS}: {ours:.1f} s; scikit-learn {peer:.1f} s{about}, {peer / ours:.1f} times as long"
    )
