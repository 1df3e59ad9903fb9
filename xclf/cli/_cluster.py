"""--dask and --workers: the cluster of a command."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from xclf._extras import needs
from xclf.cli._console import UserError
from xclf.rows import in_words

# Seconds to wait for a scheduler's answer.
_PATIENCE = 15


@contextmanager
def on_cluster(address: str | None, workers: int | None) -> Iterator[Any]:
    """The Client of the cluster at an address, or of one with so many processes here, which ends
    with the command; None where neither is given. Fits of rows in blocks use it."""
    if address is None and workers is None:
        yield None
        return
    if address is not None and workers is not None:
        raise UserError("--dask names a cluster, and --workers starts one: give one of them")
    try:
        import dask
        import distributed
    except ImportError:
        raise UserError(needs("a cluster (--dask, --workers)", "Dask")) from None
    if address is None:
        quiet = {"threads_per_worker": 1, "dashboard_address": ":0"}
        with (
            dask.config.set({"distributed.admin.log-length": 0}),
            distributed.LocalCluster(n_workers=workers, **quiet) as own,
            distributed.Client(own) as client,
        ):
            yield client
        return
    try:
        client = distributed.Client(address, timeout=_PATIENCE)
    except (OSError, ValueError) as error:
        raise UserError(f"--dask {address}: no scheduler answers there ({error})") from None
    with client:
        yield client


def describe(client: Any) -> str:
    """'Dask cluster at tcp://...: 2 workers, 2 threads, 23.5 GB'."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    threads = sum(worker["nthreads"] for worker in workers)
    memory = in_words(sum(worker["memory_limit"] or 0 for worker in workers))
    where = client.scheduler.address
    return f"Dask cluster at {where}: {len(workers)} workers, {threads} threads, {memory}"


def in_order(client: Any, f: Callable[..., Any], model: Any, x: Any) -> Iterator[Any]:
    """f(model, block, its first row) of every block of x, an array of Dask, in order; a few blocks
    more than there are threads are under way."""
    import dask

    travelling = client.scatter(model, hash=False)
    ahead, first = 2 * sum(client.nthreads().values()), 0
    coming: deque[Any] = deque()
    for block, rows in zip(x.to_delayed().ravel(), x.chunks[0], strict=True):
        coming.append(client.compute(dask.delayed(f, pure=False)(travelling, block, first)))
        first += rows
        if len(coming) > ahead:
            yield coming.popleft().result()
    while coming:
        yield coming.popleft().result()
