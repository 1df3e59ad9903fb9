"""Rows on their way to a device: what arrives, and in which order of events."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from conftest import Backend
from fake_cupy import Device, Machine, modules

from xclf.rows import Rows, Streamed, map_rows, sum_over_rows
from xclf.rows import _stream as module

HOST = np.arange(60.0).reshape(20, 3)


@pytest.fixture(params=["array-api-strict", "torch"])
def streamed(request):
    backend = Backend(request.param)
    if backend is Backend.TORCH:
        pytest.importorskip("torch")
    return backend, Streamed(HOST, backend.xp, backend.device)


def test_it_looks_like_the_array_it_stands_for(streamed):
    from xclf import _xp

    backend, x = streamed
    like = backend.asarray(HOST)
    assert (x.shape, x.ndim, x.dtype) == (like.shape, 2, like.dtype)
    assert _xp.namespace(x, like) is backend.xp
    assert _xp.same_place(x, like)
    assert not _xp.is_host(x)
    assert _xp.device(_xp.from_host(np.ones(2), x)) == backend.device


def test_what_arrives(streamed):
    backend, x = streamed
    np.testing.assert_array_equal(backend.to_host(x[3:7, :]), HOST[3:7])
    np.testing.assert_array_equal(backend.to_host(x[:, :]), HOST)
    np.testing.assert_array_equal(backend.to_host(x.take(np.array([5, 0, 5]))), HOST[[5, 0, 5]])
    some = x.at(np.array([9, 4, 2, 7]))
    assert some.shape == (4, 3)
    np.testing.assert_array_equal(backend.to_host(some[1:3, :]), HOST[[4, 2]])
    np.testing.assert_array_equal(backend.to_host(some.take(np.array([3, 0]))), HOST[[7, 9]])
    np.testing.assert_array_equal(backend.to_host(some.at(np.array([2]))[:, :]), HOST[[2]])
    parts = [backend.to_host(part) for part in x.parts([slice(0, 8), slice(8, 20)])]
    np.testing.assert_array_equal(np.concatenate(parts), HOST)
    np.testing.assert_array_equal(backend.to_host(x.resident()), HOST)


@pytest.mark.parametrize("key", [np.s_[::2, :], np.s_[:, :2]])
def test_only_consecutive_whole_rows_are_sent(streamed, key):
    with pytest.raises(IndexError, match="consecutive rows"):
        streamed[1][key]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("which", ["slice", "index"])
@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_many_threads_copy_what_one_would(order, which, dtype, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 64)
    rng = np.random.default_rng(0)
    host = np.asarray(rng.integers(0, 99, (301, 7)), dtype, order=order)
    rows = slice(11, 290) if which == "slice" else rng.integers(301, size=500)
    out = np.empty(host[rows].shape, "float64" if dtype == "float64" else "float32")
    module._copy(host, rows, out)
    np.testing.assert_array_equal(out, host[rows])
    module._copy(host, slice(5, 5), out[:0])


def test_rows_are_taken_where_they_are_gathered(streamed):
    backend, x = streamed
    weights = np.arange(20.0)
    rows = Rows(x, backend.asarray(np.arange(20)), backend.asarray(weights), x.dtype)
    index = np.array([4, 19, 0])
    batch = rows.take(rows.numbers(index))
    for got, want in zip(batch, (HOST[index], index, weights[index]), strict=False):
        np.testing.assert_array_equal(backend.to_host(got), want)
    for some, want in ((rows.only(index), index), (rows.every(7), np.array([0, 7, 14]))):
        assert isinstance(some.x, Streamed)
        np.testing.assert_array_equal(backend.to_host(some.x[:, :]), HOST[want])
        np.testing.assert_array_equal(backend.to_host(some.labels), want)
        np.testing.assert_array_equal(backend.to_host(some.weights), weights[want])


def test_sums_and_maps_over_streamed_rows(streamed, monkeypatch):
    backend, x = streamed
    monkeypatch.setattr(module, "CHUNK", 1)
    monkeypatch.setattr("xclf.rows._rows._MIN_ROWS", 3)
    rows = Rows(x, backend.asarray(np.zeros(20, np.int64)), None, x.dtype)
    assert rows.chunk_rows(1) == 3
    (total,) = sum_over_rows(lambda chunk: (backend.xp.sum(chunk.x, axis=0),), rows)
    np.testing.assert_array_equal(backend.to_host(total), HOST.sum(axis=0))
    got = map_rows(lambda part: part[:, :1] * 2.0, x, x.dtype, 1)
    assert type(got) is np.ndarray
    np.testing.assert_array_equal(got, 2 * HOST[:, :1])


# --- the pinned channel, on a machine that does its work as late as it may -------------------


@pytest.fixture
def machine(request, monkeypatch):
    import sys

    made = Machine(seed=getattr(request, "param", 0))
    for name, fake in modules(made).items():
        monkeypatch.setitem(sys.modules, name, fake)
    return made


def _channel(machine):
    return module._Pinned(Device(machine), 3, np.dtype("float64"))


def _pieces(sizes):
    starts = np.cumsum([0, *sizes])
    return [
        (size, lambda out, start=start, size=size: np.copyto(out, HOST[start : start + size]))
        for start, size in zip(starts, sizes, strict=False)
    ]


def _finish(machine):
    machine.drain(lambda: not any(stream.queue for stream in machine.streams))


seeds = pytest.mark.parametrize("machine", range(25), indirect=True)


@seeds
def test_every_chunk_is_computed_with_as_it_was_sent(machine):
    channel = _channel(machine)
    for sizes in ([4] * 5, [7, 7, 6], [20], [1] * 20):  # buffers grow, and are used again
        reads = [buffer.later() for buffer in channel.many(_pieces(sizes))]
        _finish(machine)
        np.testing.assert_array_equal(np.concatenate([read[0] for read in reads]), HOST)
    assert machine.devices == []


@seeds
def test_rows_asked_for_in_between_are_kept(machine):
    channel = _channel(machine)
    reads, kept = [], []
    for buffer in channel.many(_pieces([4] * 5)):
        reads.append(buffer.later())
        kept.append(channel.one(2, lambda out: np.copyto(out, HOST[-2:])))
    found = [one.later() for one in kept]
    _finish(machine)
    np.testing.assert_array_equal(np.concatenate([read[0] for read in reads]), HOST)
    for read in found:
        np.testing.assert_array_equal(read[0], HOST[-2:])


@seeds
def test_a_pass_that_was_given_up_leaves_no_copy_behind(machine):
    """Its buffers are used again at once, and hold what the next pass sends."""
    channel = _channel(machine)
    chunks = channel.many(_pieces([4] * 5))
    first = next(chunks).later()
    chunks.close()
    after = machine.default
    after.add(lambda: None)
    after.synchronize()
    assert all(mark["done"] for mark in (event.last for event in channel.copied[:2]) if mark)
    reads = [buffer.later() for buffer in channel.many(_pieces([5] * 4))]
    _finish(machine)
    np.testing.assert_array_equal(first[0], HOST[:4])
    np.testing.assert_array_equal(np.concatenate([read[0] for read in reads]), HOST)


def test_the_next_chunk_is_on_its_way_while_one_is_computed_with(machine):
    """When a chunk is handed out, the copy of the one after it has been asked for."""
    channel = _channel(machine)
    asked = []
    pieces = [
        (size, lambda out, fill=fill, k=k: (asked.append(k), fill(out)))
        for k, (size, fill) in enumerate(_pieces([4] * 5))
    ]
    seen = [list(asked) for _ in channel.many(pieces)]
    assert [len(some) for some in seen] == [2, 3, 4, 5, 5]


def test_a_buffer_that_finds_no_memory_can_be_asked_for_again(machine):
    channel = _channel(machine)
    machine.fail_above = 4 * 24
    with pytest.raises(MemoryError):
        next(channel.many(_pieces([5] * 4)))
    reads = [buffer.later() for buffer in channel.many(_pieces([4] * 5))]
    _finish(machine)
    np.testing.assert_array_equal(np.concatenate([read[0] for read in reads]), HOST)


@seeds
@pytest.mark.parametrize("keeps", [True, False])
def test_pinned_memory_is_given_back_once_nothing_is_copied_from_it(machine, keeps):
    """The pool hands it to the next who asks, which would then be what arrives."""
    channel = _channel(machine)
    if keeps:
        for rows, fill in _pieces([4] * 3):
            channel.one(rows, fill)
    else:
        for _ in channel.many(_pieces([4] * 5)):
            pass
    copied, pinned = channel.copied, channel.pinned
    assert any(part is not None for part in pinned)
    del channel
    gc.collect()
    assert pinned == []
    assert all(event.last["done"] for event in copied if event.last)


def test_rows_that_were_moved_have_arrived(streamed, monkeypatch):
    """Where they are moved chunk by chunk, by two streams, before the channel is let go."""
    backend, x = streamed
    monkeypatch.setattr(module, "library", lambda xp: "cupy")
    monkeypatch.setattr(module, "CHUNK", 4 * x.bytes_per_row)
    arrived = []
    monkeypatch.setattr(module, "finish", lambda array: arrived.append(backend.to_host(array)))
    x.resident()
    np.testing.assert_array_equal(arrived[0], HOST)


@pytest.mark.parametrize(
    "forgotten",
    [
        "self.copied[slot].synchronize()",
        "self.stream.wait_event(self.used[slot])",
        "self.copied[slot].record(self.stream)",
        "self.used[slot].record(self.cupy.cuda.get_current_stream())",
        "self.cupy.cuda.get_current_stream().wait_event(self.copied[slot])",
    ],
)
def test_the_machine_notices_an_event_that_is_forgotten(forgotten, monkeypatch):
    """The test, tested: without any one of its events the channel delivers something wrong."""
    import inspect
    import sys

    source = inspect.getsource(module._Pinned)
    assert forgotten in source
    scope = dict(vars(module))
    exec("from __future__ import annotations\n" + source.replace(forgotten, "pass"), scope)
    wrong = 0
    for seed in range(25):
        machine = Machine(seed)
        for name, fake in modules(machine).items():
            monkeypatch.setitem(sys.modules, name, fake)
        channel = scope["_Pinned"](Device(machine), 3, np.dtype("float64"))
        reads = [buffer.later() for buffer in channel.many(_pieces([4] * 5))]
        _finish(machine)
        wrong += not np.array_equal(np.concatenate([read[0] for read in reads]), HOST)
    assert wrong


def test_no_step_over_streamed_rows_reads_the_device():
    """Neither a minibatch nor a full pass: rows go there, and nothing comes back."""
    from counting import NAMESPACE, counted, counting

    from xclf.objectives import Objective, Stack, data_loss
    from xclf.optim import SGD
    from xclf.training import Problem, minibatch_step

    x = Streamed(HOST, NAMESPACE, "cpu")
    rows = Rows(x, counted(np.arange(20) % 4), None, x.dtype)
    objective = Objective(Stack((3, 4)), data_loss("softmax"), 1e-3)
    theta = counted(np.zeros(16))
    with counting() as tally:
        minibatch_step(objective, SGD(), rows, theta, (), rows.numbers(np.array([1, 5])), 0.1)
        Problem(objective, rows).value_and_grad(theta)
    assert tally.reads == 0, tally
    assert tally.operations > 0
