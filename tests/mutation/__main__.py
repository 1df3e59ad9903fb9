"""python -m tests.mutation --sample 300 --seed S [--json FILE]

Makes small mistakes in `xclf/kernels`, `objectives`, `optim` and `training`, drawn from all that
`mutants.py` knows, and runs for each the tests that run its line, the fastest first: a mistake that
no test notices is a survivor. FILE is written after each; a run that finds it there goes on, and
tries its survivors again, with the tests that are new since. Why some of them survive is said in
`reasons.json`.

mutmut 3.8 does not fit: it changes only the bodies of functions without decorators, so no constant
of a module, selects tests by function, and draws no sample. cosmic-ray 8.7 runs one command with
all tests for every mutant, in a new process each.
"""

from __future__ import annotations

import argparse
import ast
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from tests.mutation import trial
from tests.mutation.covering import ROOT, Covering, environment, measure, sources
from tests.mutation.mutants import Mutant, mutant, named, places, tree_of

REASONS = Path(__file__).with_name("reasons.json")
#: Mistakes that lived once, and must not again: the curvature guard of L-BFGS, and the units of
#: rounding in a certificate.
NAMED = (
    ("xclf/optim/lbfgs.py", "steps * (derivative - derivative0)", "steps * (value - derivative0)"),
    ("xclf/training/_precision.py", "math.sqrt(length) + 16", "math.sqrt(length) + 0"),
)
_FIRST = 40
KILLED = ("failed", "error", "time")


def covering_tests(covering: Covering, mutant: Mutant) -> list[str]:
    """The tests of its lines, those of its room first; of what runs at import, the tests of the
    body or of the names' uses."""
    room = f"tests/{mutant.file.split('/')[1]}/"
    for lines in (mutant.lines, mutant.body):
        if tests := covering.of(mutant.file, lines):
            return sorted(tests, key=lambda test: not test.startswith(room))
    uses: set[str] = set()
    for path in sources():
        file = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "id", getattr(node, "attr", None))
            if isinstance(node, ast.expr) and name in mutant.names:
                uses.update(covering.of(file, range(node.lineno, node.lineno + 1)))
    uses = uses or set(covering.of(mutant.file, range(1, 1000)))
    return sorted(uses, key=lambda test: (covering.seconds[test], test))


def attempt(covering: Covering, limit: float, mutant: Mutant) -> dict[str, Any]:
    """Try tests in turns: the first, the others of its lines, others of their files. A turn takes
    up to `limit` seconds of tests."""
    start, tree = time.monotonic(), tree_of(ROOT, mutant)
    tests = covering_tests(covering, mutant)
    turns = [tests[:_FIRST], tests[_FIRST:], covering.beside(tests)]
    outcome, ran = trial.Outcome(""), 0
    for turn in turns:
        chosen: list[str] = []
        total = 0.0
        for test in turn:
            total += covering.seconds[test]
            if total > limit and chosen:
                break
            chosen.append(test)
        if chosen and not outcome.killed:
            ran += len(chosen)
            outcome = trial.run(mutant.file, tree, chosen, 60 + 10 * min(total, limit))
    return {
        "file": mutant.file,
        "line": mutant.lines.start,
        "kind": mutant.kind,
        "mutant": mutant.text,
        "outcome": outcome.killed or "survived",
        "test": outcome.test,
        "tests": ran,
        "seconds": round(time.monotonic() - start, 1),
    }


def false_alarms(tests: set[str]) -> set[str]:
    """Those that fail without any mistake."""
    bad: set[str] = set()
    while True:
        outcome = trial.run("", None, sorted(tests - bad), 1800)
        if outcome.killed != "failed":
            return bad if not outcome.killed else tests
        bad.add(outcome.test)


def report(
    tried: list[dict[str, Any]], candidates: int, args: argparse.Namespace
) -> dict[str, Any]:
    reasons = json.loads(REASONS.read_text())
    drawn = [each for each in tried if each["kind"] != "named"]
    lived = [_identity(each) for each in drawn if each["outcome"] not in KILLED]
    return {
        "seed": args.seed,
        "sample": args.sample,
        "candidates": candidates,
        "tried": len(drawn),
        "killed": len(drawn) - len(lived),
        "outcomes": Counter(each["outcome"] for each in drawn),
        "survivors": [{"mutant": each, "reason": reasons.get(each, "")} for each in lived],
        "named": [each for each in tried if each["kind"] == "named"],
        "mutants": drawn,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--sample", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds of tests in each turn")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "xclf-mutation")
    args = parser.parse_args()
    os.environ.update(environment())
    covering = measure(args.data)
    files = [path.relative_to(ROOT).as_posix() for path in sources()]
    everything = [place for file in files for place in places(ROOT, file)]
    drawn = random.Random(args.seed).sample(everything, min(args.sample, len(everything)))
    chosen = [named(ROOT, *each) for each in NAMED] + [mutant(ROOT, place) for place in drawn]
    trial.warm_up(args.data)
    tried: list[dict[str, Any]] = []
    if args.json is not None and args.json.exists():
        earlier = json.loads(args.json.read_text())["results"]
        tried = [each for each in earlier["mutants"] if each["outcome"] in KILLED]
    done = {_identity(each) for each in tried}
    rest = [each for each in chosen if each.identity not in done]
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("fork")) as pool:
        for each in pool.map(partial(attempt, covering, args.limit), rest):
            print(each["outcome"], each["seconds"], _identity(each), flush=True)
            tried.append(each)
            if args.json is not None:
                _record(args.json, report(tried, len(everything), args))
    bad = false_alarms({each["test"] for each in tried if each["test"]})
    for each in tried:
        if each["test"] in bad:
            each["outcome"] = "its test fails without it"
    results = report(tried, len(everything), args)
    print({name: results[name] for name in ("candidates", "tried", "killed", "outcomes")})
    if args.json is not None:
        _record(args.json, results)
    return 0


def _identity(tried: dict[str, Any]) -> str:
    return f"{tried['file']}: {tried['mutant']}"


def _record(target: Path, results: dict[str, Any]) -> None:
    from bench.common.record import machine, versions, write_json

    words = [word if word != str(target) else "JSON" for word in sys.argv[1:]]
    document = {
        "command": " ".join(["python -m tests.mutation", *words]),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "machine": machine(),
        "results": results,
    }
    write_json(target, document)


if __name__ == "__main__":
    sys.exit(main())
