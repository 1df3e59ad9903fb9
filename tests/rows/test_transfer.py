"""The pinned transfer, on a machine that does its work as late as it may: what arrives, in which
order of events, and what is under way."""

from __future__ import annotations

import gc
import inspect
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from fake_cupy import Device, Machine, modules

from xclf.rows import Streamed
from xclf.rows import _transfer as module

HOST = np.arange(60.0).reshape(20, 3)
seeds = pytest.mark.parametrize("machine", range(25), indirect=True)


@pytest.fixture
def machine(request, monkeypatch):
    made = Machine(seed=getattr(request, "param", 0))
    for name, fake in modules(made).items():
        monkeypatch.setitem(sys.modules, name, fake)
    return made


@pytest.fixture(params=[False, True], ids=["at once", "in threads"])
def copying(request, monkeypatch):
    """Rows are copied by the thread that asks, or by those of their own."""
    if request.param:
        monkeypatch.setattr(module, "_BLOCK", 1)


def _transfer(machine):
    return module.open_transfer(sys.modules["cupy"], Device(machine), 3, np.dtype("float64"))


def _write(start, stop):
    return lambda out: module.begin_copy(HOST, slice(start, stop), out)


def _pieces(sizes):
    starts = np.cumsum([0, *sizes])
    return [(n, _write(at, at + n)) for at, n in zip(starts, sizes, strict=False)]


def _stream(transfer, sizes):
    return transfer.stream(_pieces(sizes), max(sizes))


def _finish(machine):
    machine.drain(lambda: not any(stream.queue for stream in machine.streams))


def _assert_all_rows(reads):
    np.testing.assert_array_equal(np.concatenate([read[0] for read in reads]), HOST)


# --- what arrives ----------------------------------------------------------------------------


@seeds
@pytest.mark.usefixtures("copying")
def test_every_chunk_is_computed_with_as_it_was_sent(machine):
    transfer = _transfer(machine)
    for sizes in ([4] * 5, [7, 7, 6], [20], [10, 10], [1] * 20):  # buffers grow, and stay
        reads = [buffer.later() for buffer in _stream(transfer, sizes)]
        _finish(machine)
        _assert_all_rows(reads)
    assert machine.devices == []
    assert list(transfer.stream([], 0)) == []


@seeds
@pytest.mark.usefixtures("copying")
def test_rows_asked_for_in_between_are_kept(machine):
    transfer = _transfer(machine)
    reads, kept = [], []
    for buffer in _stream(transfer, [4] * 5):
        reads.append(buffer.later())
        kept.append(transfer.copy(2, _write(18, 20)))
    found = [one.later() for one in kept]
    _finish(machine)
    _assert_all_rows(reads)
    for read in found:
        np.testing.assert_array_equal(read[0], HOST[-2:])


@seeds
@pytest.mark.usefixtures("copying")
def test_epochs_of_minibatches_with_passes_between(machine):
    """What a fit asks for: batches of an order anew, the last one shorter, then all rows in chunks
    for a probe, without waiting for the device."""
    x = Streamed(HOST, np, "cpu", transfer=_transfer(machine))
    rng, reads, want = np.random.default_rng(0), [], []
    for _ in range(4):
        order = rng.permutation(20)
        batches = [order[at : at + 6] for at in range(0, 20, 6)]
        reads += [part.later() for part in x.parts(batches)]
        few = np.sort(order[:9])
        reads += [part.later() for part in x.at(few).parts([slice(0, 5), slice(5, 9)])]
        want += [HOST[batch] for batch in batches] + [HOST[few[:5]], HOST[few[5:]]]
    _finish(machine)
    assert len(reads) == len(want)
    for read, rows in zip(reads, want, strict=True):
        np.testing.assert_array_equal(read[0], rows)


def test_epochs_use_the_same_buffers(machine, monkeypatch):
    """A short last batch, whichever buffer it comes to, takes those of the others; so do the chunks
    of a probe."""
    monkeypatch.setattr(module, "CHUNK", 0)
    cupy, cupyx = sys.modules["cupy"], sys.modules["cupyx"]
    made = []
    for owner, name in ((cupy, "empty"), (cupyx, "empty_pinned")):
        plain = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *a, plain=plain, name=name: made.append(name) or plain(*a)
        )
    transfer = _transfer(machine)
    for sizes in ([9, 9, 2], [9, 9, 1, 1], [5, 5, 5, 5], [9, 9, 2], [9, 2, 9]):
        reads = [buffer.later() for buffer in _stream(transfer, sizes)]
        _finish(machine)
        _assert_all_rows(reads)
    assert sorted(made) == ["empty"] * 2 + ["empty_pinned"] * 3


def test_a_buffer_that_is_much_too_large_is_given_back(machine, monkeypatch):
    """As where chunks were halved for want of memory."""
    monkeypatch.setattr(module, "CHUNK", 0)
    transfer = _transfer(machine)
    for sizes in ([10, 10], [4] * 5):
        list(_stream(transfer, sizes))
    assert [held.nbytes for held in transfer.buffers] == [4 * 24] * 2


def test_a_buffer_that_finds_no_memory_can_be_asked_for_again(machine):
    transfer = _transfer(machine)
    machine.fail_above = 4 * 24
    with pytest.raises(MemoryError):
        next(_stream(transfer, [5] * 4))
    reads = [buffer.later() for buffer in _stream(transfer, [4] * 5)]
    _finish(machine)
    _assert_all_rows(reads)


@seeds
def test_memory_of_the_pool_may_still_be_computed_with(machine, monkeypatch):
    """A buffer is memory that the computing stream may have work with yet: that comes first."""
    cupy, own = sys.modules["cupy"], {}
    plain = cupy.empty
    for size in (4 * 24, 5 * 24):
        own[size] = [plain((size,), np.uint8) for _ in range(2)]
    before = [block.later() for blocks in own.values() for block in blocks]
    monkeypatch.setattr(cupy, "empty", lambda shape, dtype: own[shape[0]].pop())
    transfer = _transfer(machine)
    reads = [buffer.later() for buffer in _stream(transfer, [4] * 5)]
    reads += [buffer.later() for buffer in _stream(transfer, [5] * 4)]
    _finish(machine)
    assert all((read[0] == 99).all() for read in before)
    _assert_all_rows(reads[:5])
    _assert_all_rows(reads[5:])


# --- what is under way -----------------------------------------------------------------------


def test_the_next_chunks_are_on_their_way_while_one_is_computed_with(machine):
    """When a chunk is handed out, the copy of the one after it has been asked for, and the one
    after that is being gathered."""
    transfer = _transfer(machine)
    begun, sent = [], []
    pieces = [
        (size, lambda out, write=write, k=k: begun.append(k) or write(out))
        for k, (size, write) in enumerate(_pieces([4] * 5))
    ]
    send = module._PinnedBuffer.send
    for buffer in transfer.pinned:
        buffer.send = lambda *a, buffer=buffer: sent.append(1) or send(buffer, *a)
    seen = [(len(begun), len(sent)) for _ in transfer.stream(pieces, 4)]
    assert seen == [(3, 2), (4, 3), (5, 4), (5, 5), (5, 5)]


class Gathered:
    """Writers of chunks: one of them waits for `gate`."""

    def __init__(self, slow, error=None):
        self.slow, self.error = slow, error
        self.gate = threading.Event()
        self.pool = ThreadPoolExecutor(1)
        self.running: list[Future[None]] = []

    def pieces(self, sizes):
        for k, (size, write) in enumerate(_pieces(sizes)):
            yield (
                size,
                write if k != self.slow else lambda out, write=write: self._slowly(write, out),
            )

    def _slowly(self, write, out):
        def work():
            assert self.gate.wait(60)
            if self.error is not None:
                raise self.error
            write(out)

        self.running.append(self.pool.submit(work))
        return self.running

    def soon(self):
        threading.Timer(0.05, self.gate.set).start()


def test_work_is_launched_while_a_later_chunk_is_gathered(machine):
    """And that one is sent only when all of it is there."""
    transfer, gathered = _transfer(machine), Gathered(slow=2)
    chunks = transfer.stream(gathered.pieces([4] * 5), 4)
    reads = [next(chunks).later()]
    assert not gathered.running[0].done()
    gathered.soon()
    reads += [chunk.later() for chunk in chunks]
    _finish(machine)
    _assert_all_rows(reads)


@seeds
@pytest.mark.parametrize("how", ["close", "interrupt", "collected"])
def test_a_pass_that_was_given_up_leaves_nothing_under_way(machine, how):
    """No thread goes on gathering, no copy is left, and the buffers hold what the next pass
    sends."""
    transfer, gathered = _transfer(machine), Gathered(slow=2)
    chunks = transfer.stream(gathered.pieces([4] * 5), 4)
    first = next(chunks).later()
    gathered.soon()
    if how == "interrupt":
        with pytest.raises(KeyboardInterrupt):
            chunks.throw(KeyboardInterrupt)
    elif how == "close":
        chunks.close()
    del chunks
    assert gathered.running[0].done()
    assert all(buffer.copied.last["done"] for buffer in transfer.pinned if buffer.copied.last)
    reads = [buffer.later() for buffer in _stream(transfer, [5] * 4)]
    _finish(machine)
    np.testing.assert_array_equal(first[0], HOST[:4])
    _assert_all_rows(reads)
    assert machine.devices == []


def test_nobody_waits_for_a_pass_whose_last_chunk_was_taken(machine, monkeypatch):
    """A loop that knows how many there are asks for no more."""
    transfer = _transfer(machine)
    monkeypatch.setattr(transfer, "_finish_all", lambda: pytest.fail("waited"))
    for sizes in ([20], [10, 10], [4] * 5):
        chunks = _stream(transfer, sizes)
        reads = [next(chunks).later() for _ in sizes]
        chunks.close()
        _finish(machine)
        _assert_all_rows(reads)


def test_what_a_copying_thread_raises_is_raised(machine):
    """A page of a file that cannot be read, say; the transfer can be used again."""
    transfer, gathered = _transfer(machine), Gathered(slow=1, error=OSError("no such page"))
    gathered.gate.set()
    with pytest.raises(OSError, match="no such page"):
        list(transfer.stream(gathered.pieces([4] * 5), 4))
    reads = [buffer.later() for buffer in _stream(transfer, [4] * 5)]
    _finish(machine)
    _assert_all_rows(reads)


# Collecting garbage is most of the time: few orders of the work.
@pytest.mark.parametrize("machine", range(5), indirect=True)
@pytest.mark.parametrize("keeps", [True, False])
def test_pinned_memory_is_given_back_once_nothing_is_copied_from_it(machine, keeps):
    """The pool hands it to the next who asks, which would then be what arrives."""
    transfer = _transfer(machine)
    if keeps:
        for rows, write in _pieces([4] * 3):
            transfer.copy(rows, write)
    else:
        for _ in _stream(transfer, [4] * 5):
            pass
    buffers = transfer.pinned + transfer.apart
    assert any(buffer.memory.nbytes for buffer in buffers)
    del transfer
    gc.collect()
    assert not any(buffer.memory.nbytes or buffer.rows.nbytes for buffer in buffers)
    assert all(buffer.copied.last["done"] for buffer in buffers if buffer.copied.last)


# --- the tests, tested -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "forgotten",
    [
        "self.copied.synchronize()\n        each",
        "self.copied.record(stream)",
        "self.copying.wait_event(self.used[k])",
        "self.used[k].record(self.cupy.cuda.get_current_stream())",
        "self.cupy.cuda.get_current_stream().wait_event(pinned.copied)",
    ],
)
def test_the_machine_notices_an_event_that_is_forgotten(forgotten, monkeypatch):
    """Without any one of its events the transfer delivers something wrong."""
    source = inspect.getsource(module)
    assert forgotten in source
    scope = {"__name__": "without_an_event"}
    stays = forgotten.partition("\n")[2].strip()
    exec(source.replace(forgotten, f"pass\n        {stays}" if stays else "pass"), scope)
    wrong = 0
    for seed in range(25):
        machine = Machine(seed)
        for name, fake in modules(machine).items():
            monkeypatch.setitem(sys.modules, name, fake)
        transfer = scope["PinnedTransfer"](None, Device(machine), 3, np.dtype("float64"))
        reads = [buffer.later() for buffer in _stream(transfer, [4] * 5)]
        _finish(machine)
        wrong += not np.array_equal(np.concatenate([read[0] for read in reads]), HOST)
    assert wrong
