"""An array library with its clock: what the GPU benchmarks run on."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from bench.common.measuring import OURS, BenchError, Call, Contender, alternate, optional, summarise

_SETTINGS = (
    "XCLF_ACCELERATE",
    "CUPY_TF32",
    "CUPY_ACCELERATORS",
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
)


def _driver() -> str | None:
    """The driver's version, as nvidia-smi has it."""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return said.strip().partition("\n")[0] or None


class Device:
    """An array library and its clock: CUDA events where there is a GPU."""

    def __init__(self, name: str) -> None:
        self.name = name
        module = np if name == "numpy" else optional(name)
        if module is None:
            raise BenchError(f"{name} is not installed: pip install cupy-cuda12x or cupy-cuda13x")
        self.module: Any = module
        if name == "cupy":
            self._probe()

    def _probe(self) -> None:
        """CuPy imports without a GPU, and an old driver fails only at the first product."""
        try:
            if not self.module.is_available():
                raise BenchError("CuPy sees no GPU; --namespace numpy runs the same code without")
            ones = self.module.ones((2, 2), dtype=self.module.float32)
            right = bool((ones @ ones == 2.0).all())
        except BenchError:
            raise
        except Exception as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise BenchError(f"CuPy cannot use the GPU: {said[0]}") from None
        if not right:
            raise BenchError("the GPU's 2 x 2 product came out wrong")

    def about(self) -> dict[str, Any]:
        """Name, memory, driver, and the switches that change the arithmetic."""
        if self.name != "cupy":
            return {"name": f"{self.name} on the CPU", "gpu": False}
        runtime = self.module.cuda.runtime
        current = runtime.getDevice()
        properties = runtime.getDeviceProperties(current)
        name = properties["name"]
        return {
            "name": name.decode() if isinstance(name, bytes) else str(name),
            "gpu": True,
            "memory_gib": round(properties["totalGlobalMem"] / 2**30, 1),
            "multiprocessors": properties["multiProcessorCount"],
            "driver": _driver(),
            "driver_cuda": runtime.driverGetVersion(),
            "runtime": runtime.runtimeGetVersion(),
            "settings": {name: os.environ.get(name) for name in _SETTINGS},
        }

    def free_bytes(self) -> int:
        """Memory that an array may still take."""
        if self.name != "cupy":
            return 8 << 30
        self.module.get_default_memory_pool().free_all_blocks()
        torch = optional("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()
        return int(self.module.cuda.runtime.memGetInfo()[0])

    def asarray(self, values: np.ndarray) -> Any:
        return self.module.asarray(values)

    def copy_into(self, target: Any, source: Any) -> None:
        """target = source, of the same shape and dtype."""
        if self.name == "torch":
            target.copy_(source)
        else:
            self.module.copyto(target, source)

    def normal(self, rows: int, columns: int, seed: int = 0) -> Any:
        """(rows, columns) float32; made where it stays."""
        if self.name == "cupy":
            random = self.module.random
            # Philox: the default generator takes long to be made.
            generator = random.Generator(random.Philox4x3210(seed))
            return generator.standard_normal((rows, columns), dtype=self.module.float32)
        host = np.random.default_rng(seed).standard_normal((rows, columns), dtype=np.float32)
        return self.asarray(host)

    def timed(self, call: Call) -> Callable[[], float]:
        """A call that returns its seconds, between two events on the current stream."""
        if self.name != "cupy":
            return lambda: _clocked(call)
        cuda = self.module.cuda

        def between_events() -> float:
            start, end = cuda.Event(), cuda.Event()
            cuda.get_current_stream().synchronize()
            start.record()
            call()
            end.record()
            end.synchronize()
            return float(cuda.get_elapsed_time(start, end)) / 1e3

        return between_events


def _clocked(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(
    device: Device,
    calls: dict[str, Contender],
    repeats: int,
    steps: int = 1,
    whole: Collection[str] = (),
) -> dict[str, Any]:
    """Medians and ratios, per step. Each call repeats its work `steps` times between two events;
    those named in `whole` do all the steps in one call. Calls named torch... are timed with torch's
    events, on torch's stream. A peer that fails leaves its reason."""
    calls = {name: call if name == OURS else tried(call) for name, call in calls.items()}
    clocks: dict[str, Contender] = {}
    for name, call in calls.items():
        if isinstance(call, str):
            continue
        many = call if name in whole else _many(call, steps)
        clocks[name] = _torch_timed(many) if name.startswith("torch") else device.timed(many)
    seconds = alternate(clocks, repeats, own_clock=True)
    per_step = {name: [value / steps for value in values] for name, values in seconds.items()}
    results: dict[str, Any] = summarise(per_step)
    return results | {name: call for name, call in calls.items() if isinstance(call, str)}


def tried(call: Contender) -> Contender:
    """The call, if it can be made, else the reason why it cannot."""
    if isinstance(call, str):
        return call
    try:
        call()
    except Exception as error:  # compilers and devices raise their own classes
        return reason(error)
    return call


def reason(error: BaseException) -> str:
    """An error in one line."""
    said = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {said[0]}"


def _many(call: Call, steps: int) -> Call:
    def work() -> None:
        for _ in range(steps):
            call()

    return work


def _torch_timed(call: Call) -> Callable[[], float]:
    torch = optional("torch")
    if torch is None or not torch.cuda.is_available():
        return lambda: _clocked(call)

    def timed() -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    return timed


@contextmanager
def attempt(results: list[dict[str, Any]], problem: str) -> Iterator[dict[str, Any]]:
    """An entry for a problem; what goes wrong becomes its text, and the others still run."""
    entry: dict[str, Any] = {"problem": problem}
    results.append(entry)
    try:
        yield entry
    except Exception as error:  # a device raises its own classes, which cannot be named here
        entry["failed"] = reason(error)
