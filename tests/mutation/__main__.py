"""python -m tests.mutation --sample 300 --seed S [--json FILE]

Makes small mistakes in `xclf/kernels`, `objectives`, `optim` and `training`, drawn from all that
`mutants.py` knows, and runs for each the tests that run its line, the fastest first: a mistake that
no test notices is a survivor. FILE is written after each; a run that finds it there goes on, then
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
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from tests.mutation import live, trial
from tests.mutation.covering import ROOT, Covering, environment, measure, sources
from tests.mutation.mutants import Mutant, drawn, mutant, named, tree_of

REASONS = Path(__file__).with_name("reasons.json")
#: Mistakes that lived once, and must not again: the curvature guard of L-BFGS, and the units of
#: rounding in a certificate.
NAMED = (
    ("xclf/optim/lbfgs.py", "steps * (derivative - derivative0)", "steps * (value - derivative0)"),
    ("xclf/training/_precision.py", "math.sqrt(length) + 16", "math.sqrt(length) + 0"),
)
#: Seconds of tests in each turn: a copy of the process is made for each, and what fails soon is
#: seen soon.
_TURNS = (2.0, 10.0, 30.0)
KILLED = ("failed", "error", "time")


class Trials:
    """Tries mutants, one after the other.

    bad : tests that fail without any mistake
    """

    def __init__(self, covering: Covering, folder: Path, limit: float) -> None:
        self.covering, self.limit = covering, limit
        self.collected = live.Collected(folder / "collected.log")
        self.killers: Counter[tuple[str, str]] = Counter()
        self.bad: set[str] = set()

    def tests(self, mutant: Mutant) -> list[str]:
        """Those of its lines: first what has killed others of its file, then those of its room,
        the fastest first. Of what runs at import, those of the body or of the names' uses."""
        room = f"tests/{mutant.file.split('/')[1]}/"
        found = (set(self._covering(mutant)) & self.collected.tests) - self.bad
        seconds, killers = self.covering.seconds, self.killers
        return sorted(
            found,
            key=lambda test: (
                -killers[mutant.file, test],
                not test.startswith(room),
                seconds[test],
                test,
            ),
        )

    def _covering(self, mutant: Mutant) -> Iterable[str]:
        for lines in (mutant.lines, mutant.body):
            if tests := self.covering.of(mutant.file, lines):
                return tests
        uses: set[str] = set()
        for path in sources():
            file = path.relative_to(ROOT).as_posix()
            for node in ast.walk(ast.parse(path.read_text())):
                name = getattr(node, "id", getattr(node, "attr", None))
                if isinstance(node, ast.expr) and name in mutant.names:
                    uses.update(self.covering.of(file, range(node.lineno, node.lineno + 1)))
        # Tests that read a table run none of its lines.
        naming = {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / "tests" / mutant.file.split("/")[1]).glob("test_*.py")
            if set(mutant.names) & set(re.findall(r"\w+", path.read_text()))
        }
        uses.update(test for test in self.covering.seconds if test.partition("::")[0] in naming)
        return uses or self.covering.of(mutant.file, range(1, 1000))

    def turns(self, tests: list[str]) -> Iterator[list[str]]:
        """Tests for some seconds each, and for no more than `limit` in all."""
        seconds, total = self.covering.seconds, 0.0
        chosen: list[str] = []
        lengths = chain(_TURNS, repeat(_TURNS[-1]))
        end = next(lengths)
        for test in tests:
            total += seconds[test]
            if total > self.limit and chosen:
                break
            chosen.append(test)
            if total > end:
                yield chosen
                chosen, end = [], total + next(lengths)
        if chosen:
            yield chosen

    def attempt(self, mutant: Mutant, new: bool) -> dict[str, Any]:
        """Try one with its tests; with those of files that are `new` alone."""
        start, tree = time.monotonic(), tree_of(ROOT, mutant)
        tests, outcome, ran = self.tests(mutant), trial.Outcome(""), 0
        if new:
            tests = [test for test in tests if test.partition("::")[0] in self.covering.new]
        for turn in self.turns(tests):
            outcome = self._turn(mutant, tree, turn)
            ran += len(turn)
            if outcome.killed:
                self.killers[mutant.file, outcome.test] += 1
                break
        return {
            "name": mutant.name,
            "file": mutant.file,
            "line": mutant.lines.start,
            "kind": mutant.kind,
            "mutant": mutant.text,
            "outcome": outcome.killed or "survived",
            "test": outcome.test,
            "tests": ran,
            "of": len(tests),
            "seconds": round(time.monotonic() - start, 1),
        }

    def _turn(self, mutant: Mutant, tree: ast.Module, tests: list[str]) -> trial.Outcome:
        seconds = sum(self.covering.seconds[test] for test in tests)
        limit = 20 + 10 * seconds
        outcome = None
        if not self.covering.imported[mutant.file] & set(mutant.lines):
            outcome = self.collected.run(mutant.file, tree, tests, limit)
        if outcome is None:
            outcome = trial.run(mutant.file, tree, tests, limit + 20)
        return outcome

    def false_alarms(self, tests: set[str]) -> set[str]:
        """Those that fail without any mistake; they are among `bad` then."""
        found: set[str] = set()
        while rest := sorted(tests - found):
            outcome = self.collected.run("", None, rest, 1800)
            if outcome is None or not outcome.killed:
                break
            found |= {outcome.test} & tests or tests
        self.bad |= found
        return found


def report(tried: list[dict[str, Any]], candidates: int, seed: int, sample: int) -> dict[str, Any]:
    reasons = json.loads(REASONS.read_text())
    drawn = [each for each in tried if each["kind"] != "named"]
    lived = [_identity(each) for each in drawn if each["outcome"] not in KILLED]
    survivors = [{"mutant": each, "reason": reasons.get(each, "")} for each in lived]
    return {
        "seed": seed,
        "sample": sample,
        "candidates": candidates,
        "tried": len(drawn),
        "killed": len(drawn) - len(lived),
        "equivalent": sum(each["reason"].startswith("Equivalent") for each in survivors),
        "outcomes": Counter(each["outcome"] for each in drawn),
        "survivors": survivors,
        "named": [each for each in tried if each["kind"] == "named"],
        "mutants": drawn,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--sample", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes that measure what tests run")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds of tests of a mutant")
    parser.add_argument("--json", type=Path, metavar="FILE")
    told = "try the survivors of FILE with test files that are new or changed since, alone"
    parser.add_argument("--new-tests", action="store_true", help=told)
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "xclf-mutation")
    return parser.parse_args()


def main() -> int:
    args = _options()
    os.environ.update(environment())
    covering = measure(args.data, args.jobs)
    files = [path.relative_to(ROOT).as_posix() for path in sources()]
    places, candidates = drawn(ROOT, files, args.seed, args.sample)
    chosen = [named(ROOT, *each) for each in NAMED]
    chosen += [mutant(ROOT, name, place) for name, place in places.items()]
    about = _about()
    trial.warm_up(args.data)
    tried = _earlier(args.json, {each.name for each in chosen})
    # Those that no run has tried before those that have survived one.
    rest = sorted(
        (each for each in chosen if tried.get(each.name, {}).get("outcome") not in KILLED),
        key=lambda each: each.name in tried,
    )

    def record() -> dict[str, Any]:
        results = report(list(tried.values()), candidates, args.seed, args.sample)
        if args.json is not None:
            _write(args.json, about, results)
        return results

    trials = Trials(covering, args.data, args.limit)
    while rest:
        for each in rest:
            again = args.new_tests and each.name in tried
            found = trials.attempt(each, again)
            if not again or found["outcome"] in KILLED:
                tried[each.name] = found
            print(found["outcome"], found["seconds"], _identity(found), flush=True)
            record()
        # What a test says that fails without the mistake too is nothing: once more without it.
        blamed = {each["test"] for each in tried.values() if each["test"]}
        bad = trials.false_alarms(blamed & trials.collected.tests - trials.bad)
        rest = [each for each in chosen if tried[each.name]["test"] in bad]
    trials.collected.close()
    results = record()
    names = ("candidates", "tried", "killed", "equivalent", "outcomes")
    print({name: results[name] for name in names})
    return 0


def _earlier(target: Path | None, names: set[str]) -> dict[str, dict[str, Any]]:
    """What an earlier run tried of these."""
    if target is None or not target.exists():
        return {}
    results = json.loads(target.read_text())["results"]
    tried = {each["name"]: each for each in results["named"] + results["mutants"]}
    return {name: each for name, each in tried.items() if name in names}


def _identity(tried: dict[str, Any]) -> str:
    return f"{tried['file']}: {tried['mutant']}"


def _about() -> dict[str, Any]:
    """Versions and machine, from another process: they import `xclf`."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        return pool.submit(_seen).result()


def _seen() -> dict[str, Any]:
    from bench.common.record import machine, versions

    return {"versions": versions(), "machine": machine()}


def _write(target: Path, about: dict[str, Any], results: dict[str, Any]) -> None:
    words = ["JSON" if word == str(target) else word for word in sys.argv[1:]]
    words = ["FOLDER" if Path(word).is_absolute() else word for word in words]
    command = " ".join(["python -m tests.mutation", *words])
    document = {"command": command, "date": time.strftime("%Y-%m-%d")} | about
    partial = target.with_name(target.name + ".part")
    partial.write_text(json.dumps(document | {"results": results}, indent=1) + "\n")
    partial.replace(target)


if __name__ == "__main__":
    sys.exit(main())
