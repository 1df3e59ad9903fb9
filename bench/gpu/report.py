"""What a folder of GPU results comes to: files for bench/results, and a table in Markdown.

    python -m bench gpu_report FOLDER [--into bench/results]

FOLDER is that of bench/gpu.sh. With --into every gpu_*.json is copied under the name that results
have there (what it is, date, device), and so are the tests' totals. The table goes to the standard
output: each measure with what it is to reach, and behind it all that failed or could not be timed.
"""

from __future__ import annotations

import argparse
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.common.measuring import OURS, BenchError
from bench.gpu.entries import Entry, figures, to_reach

# In this order in the table; others behind them.
_ORDER = (
    "checks",
    "launches",
    "ceilings",
    "loss_grad",
    "minibatch",
    "heads",
    "stream",
    "fit",
    "sweep",
)

Document = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="where bench/gpu.sh left its results")
    parser.add_argument("--into", metavar="FOLDER", help="copy the results there, renamed")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints the table; returns the names of the files, and the lines of the table."""
    folder = Path(args.folder)
    if args.into is not None and not Path(args.into).is_dir():
        raise BenchError(f"--into {args.into}: the folder is not there")
    documents = {path.stem: json.loads(path.read_text()) for path in _files(folder)}
    if not documents:
        raise BenchError(f"{folder}: there are no results of GPU benchmarks")
    first = next(iter(documents.values()))
    tests = _tests(folder)
    if tests is not None:
        documents["gpu_tests"] = {key: first[key] for key in ("date", "versions")} | {
            "command": "bench/gpu.sh OUT_DIR",
            "results": {"device": first["results"]["device"], "work": [], **tests},
        }
    names = {stem: _name(stem, document) for stem, document in documents.items()}
    if args.into is not None:
        for stem, document in documents.items():
            (Path(args.into) / names[stem]).write_text(json.dumps(document, indent=2) + "\n")
    lines = list(_lines(documents))
    _print(first, lines, tests, documents)
    return {"files": sorted(names.values()), "lines": lines}


def _files(folder: Path) -> list[Path]:
    """gpu_*.json in the order of the table; what keeps optima is none of them."""
    results = [path for path in folder.glob("gpu_*.json") if path.stem != "gpu_optima"]
    stages = [path.stem.removeprefix("gpu_") for path in results]

    def device(stage: str) -> tuple[int, str]:
        order = [k for k, name in enumerate(_ORDER) if stage.startswith(name)]
        return (order[0] if order else len(_ORDER), stage)

    return [path for _, path in sorted(zip(map(device, stages), results, strict=True))]


def _name(stem: str, document: Document) -> str:
    """gpu_fit_tf32 -> gpu_fit-tf32-2026-11-21-nvidia-h200.json."""
    what = re.sub("_(?=tf32)", "-", stem)
    words = re.findall("[a-z0-9]+", str(document["results"]["device"]["name"]).lower())
    return "-".join([what, document["date"], *words[:2]]) + ".json"


def _lines(documents: dict[str, Document]) -> Iterator[dict[str, Any]]:
    """One for each measure: where from, the work, xclf's milliseconds, and the measure itself."""
    for stem, document in documents.items():
        for entry in document["results"]["work"]:
            own = entry.get("seconds", {}).get(OURS)
            milliseconds = 1e3 * own["median_s"] if isinstance(own, dict) else None
            for line in entry.get("measures", []):
                yield {"from": stem, "work": entry["problem"], "ms": milliseconds, **line}
    yield from _across(documents)


def _across(documents: dict[str, Document]) -> Iterator[dict[str, Any]]:
    """What the sweeps say of each other, and of the optimum that the fit's benchmark found."""
    heads = {
        stem: _heads(documents[stem])
        for stem in ("gpu_sweep", "gpu_sweep_tf32")
        if stem in documents
    }
    both = [heads.get("gpu_sweep", {}), heads.get("gpu_sweep_tf32", {})]
    shared = sorted(both[0].keys() & both[1].keys())
    if shared:
        ratios = [both[1][c] / both[0][c] - 1.0 for c in shared]
        for words, value in (("most", max(ratios)), ("least", min(ratios))):
            measure = f"a TF32 head's objective over the float32 head's, at {words}"
            yield {
                "from": "gpu_sweep_tf32",
                "work": "the sweep",
                "ms": None,
                "measure": measure,
                "value": value,
            }
    optimum = [
        entry["optimum"]["objective"]
        for entry in documents.get("gpu_fit", {"results": {"work": []}})["results"]["work"]
        if "optimum" in entry and entry.get("strength") == 1.0
    ]
    for stem, results in heads.items():
        if optimum and 1.0 in results:
            gap = results[1.0] / optimum[0] - 1.0
            measure = "relative gap of the head with C = 1, in float64"
            yield {"from": stem, "work": "the sweep", "ms": None, "measure": measure, "value": gap}


def _heads(document: Document) -> dict[float, float]:
    """By C: the objective in float64 where a head ended."""
    return {
        round(head["C"], 12): head["objective_float64"]
        for entry in document["results"]["work"]
        for head in entry.get("heads", [])
        if head["objective_float64"] is not None
    }


def _tests(folder: Path) -> dict[str, Any] | None:
    """Totals of the tests' reports; None without any."""
    totals = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    failed: list[str] = []
    suites = 0
    for path in sorted((folder / "tests").glob("*.xml")):
        for suite in ElementTree.parse(path).getroot().iter("testsuite"):
            suites += 1
            for key in totals:
                totals[key] += int(suite.get(key, "0"))
            failed += [
                f"{path.stem}: {case.get('classname')}::{case.get('name')}"
                for case in suite.iter("testcase")
                if case.find("failure") is not None or case.find("error") is not None
            ]
    return {**totals, "failed": failed} if suites else None


def _print(
    first: Document,
    lines: list[dict[str, Any]],
    tests: dict[str, Any] | None,
    documents: dict[str, Document],
) -> None:
    device, versions = first["results"]["device"], first["versions"]
    libraries = [name for name in versions if name.startswith(("cupy", "torch", "numpy"))]
    told = [device["name"], *([f"driver {device['driver']}"] if device.get("driver") else [])]
    told += [f"{name} {versions[name]}" for name in libraries]
    print(", ".join([*told, first["date"]]))
    if tests is not None:
        bad = tests["failures"] + tests["errors"]
        print(f"\n{tests['tests']} tests, {bad} failed, {tests['skipped']} skipped")
    print("\n| work | xclf, ms | measure | found | to reach |\n|---|---|---|---|---|")
    for line in lines:
        held = to_reach(line) and f"{to_reach(line)}{'' if line['reached'] else ': missed'}"
        milliseconds = "" if line["ms"] is None else f"{line['ms']:.4g}"
        words = (line["work"], milliseconds, line["measure"], figures(line["value"]), held)
        print(f"| {' | '.join(words)} |")
    missing = [why for stem, document in documents.items() for why in _missing(stem, document)]
    if missing:
        print("\nNot measured:\n")
        print("\n".join(f"- {why}" for why in missing))


def _missing(stem: str, document: Document) -> Iterator[str]:
    entry: Entry
    for entry in document["results"]["work"]:
        if "failed" in entry:
            yield f"{stem}, {entry['problem']}: {entry['failed']}"
        if entry.get("finished") is False:
            yield f"{stem}, {entry['problem']}: goes on after {entry['minutes']:.2f} minutes"
        for name, value in entry.get("seconds", {}).items():
            if isinstance(value, str):
                yield f"{stem}, {entry['problem']}, {name}: {value}"
    for name in document["results"].get("failed", []):
        yield f"failed test {name}"
