"""What the CUDA accelerators share: where they apply, and what happens when one fails."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from xclf._array_api import cuda, library, loaded, namespace, out_of_memory
from xclf._warnings import warn_caller
from xclf.accelerate._registry import VARIABLE, Accelerator, Request


def missing() -> str | None:
    """Why there is no GPU to run on; a CuPy that nobody has imported yet is taken to have one."""
    if loaded("cupy") is None:
        return None if importlib.util.find_spec("cupy") else "CuPy is not installed"
    xp, why = cuda()
    return why if xp is None else None


def on_cupy(request: Request) -> bool:
    """Whether a fit computes on CuPy arrays."""
    return library(namespace(request.x)) == "cupy"


def attempt(accelerator: Accelerator, launch: Callable[[], None]) -> bool:
    """Whether `launch` has been done: False where the accelerator fails, or has failed before.

    Raises as `switch_off` does.
    """
    if accelerator.failure is not None:
        return False
    try:
        launch()
    except Exception as error:  # a compiler, a driver, a file that is missing: all of it
        switch_off(accelerator, error)
        return False
    return True


def switch_off(accelerator: Accelerator, error: Exception) -> None:
    """Disable an accelerator for the rest of the process after `error`, and warn.

    Raises MemoryError where the error is a lack of memory, and RuntimeError where it has broken the
    CUDA context, so that nothing can be computed on the GPU any more.
    """
    if out_of_memory(error) or "OUT_OF_MEMORY" in str(error):
        raise MemoryError(str(error)) from error
    cuda: Any = loaded("cupy").cuda  # type: ignore[union-attr]
    if cuda.get_current_stream().is_capturing():
        raise error  # ends the recording, which is where it is dealt with
    try:
        cuda.Device().synchronize()
    except Exception:
        raise RuntimeError(
            f"{accelerator.name} failed, and the CUDA context is lost: restart Python, and set "
            f"{VARIABLE}=off to compute without accelerators. The failure: {error}"
        ) from error
    first = next(iter(str(error).strip().splitlines()), "")
    accelerator.disable(f"{type(error).__name__}: {first}")
    warn_caller(
        f"{accelerator.name} is off for the rest of this process ({accelerator.failure}): the "
        "formulas take its place, with the same results",
        RuntimeWarning,
    )
