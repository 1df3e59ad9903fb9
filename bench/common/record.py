"""The record of a run: its command, the versions and the machine."""

from __future__ import annotations

import importlib
import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.common.data import hidden
from bench.common.measuring import optional


def versions() -> dict[str, str]:
    """Python and the libraries that matter here; those that are missing are left out."""
    results = {"python": platform.python_version()}
    names = ("numpy", "scipy", "scikit-learn", "torch", "array-api-compat", "dask", "distributed")
    for name in (*names, "cupy-cuda12x", "cupy-cuda13x"):
        with suppress(metadata.PackageNotFoundError):
            results[name] = metadata.version(name)
    results["xclf"] = str(importlib.import_module("xclf").__version__)
    if (mode := os.environ.get("XCLF_ACCELERATE")) is not None:
        results["xclf accelerators"] = mode
    return results


def thread_pools() -> list[dict[str, Any]]:
    """BLAS and OpenMP libraries in this process, and how many threads each uses."""
    tool = optional("threadpoolctl")
    if tool is None:
        return []
    keep = ("user_api", "internal_api", "prefix", "version", "num_threads", "architecture")
    return [{key: pool.get(key) for key in keep} for pool in tool.threadpool_info()]


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory, and how busy the machine was."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = None
    with suppress(ValueError, OSError, AttributeError):
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    load = None
    with suppress(OSError, AttributeError):
        load = [round(value, 2) for value in os.getloadavg()]
    return {
        "cpu": _cpu(),
        "cores": cores,
        "memory_gib": memory,
        "system": platform.system(),
        "load_average": load,
    }


def _cpu() -> str:
    with suppress(OSError):
        fields = {}
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
        if "model name" in fields:
            family, model = fields.get("cpu family", "?"), fields.get("model", "?")
            return f"{fields['model name']} (family {family}, model {model})"
    return platform.processor() or platform.machine()


_PATHS = ("--json", "--plot", "--optima", "--state")


def command(arguments: list[str]) -> str:
    """The command that made a result, with placeholders for the files of this machine."""
    words, option = ["python", "-m", "bench"], ""
    for word in arguments:
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            words.append(option + equals + (_placeholder(option, value) if equals else ""))
        else:
            words.append(_placeholder(option, word))
    return " ".join(words)


def _placeholder(option: str, word: str) -> str:
    if option in _PATHS:
        return option.removeprefix("--").upper()
    return hidden(word) if option == "--data" else word


def write_json(target: Path, document: Any) -> None:
    """Whole or not at all."""
    partial = target.with_name(target.name + ".part")
    partial.write_text(json.dumps(document, indent=2) + "\n")
    partial.replace(target)


def remembered(file: Path | None, key: str, find: Callable[[], Any]) -> Any:
    """What `file` holds under `key`; if nothing, what `find` gives, which is kept there."""
    known = json.loads(file.read_text()) if file is not None and file.is_file() else {}
    if key not in known:
        known[key] = find()
        if file is not None:
            write_json(file, known)
    return known[key]


def record(path: str | Path, arguments: list[str], results: Any, before: dict[str, Any]) -> None:
    """Write one run as JSON, whole or not at all."""
    document = {
        "command": command(arguments),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "thread_pools": thread_pools(),
        "machine": {**before, "load_average_after": machine()["load_average"]},
        "results": results,
    }
    write_json(Path(path), document)
