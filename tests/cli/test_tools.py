"""plot, backends, gradcheck, example, version, --help, --device and the progress display."""

from __future__ import annotations

import io
import signal
import sys
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pytest
from cli_cases import NAMES, Shell, blobs, write_npz
from device_cases import gpus  # noqa: F401  a fixture
from rich.console import Console

import xclf
from xclf import _array_api, load
from xclf.cli import _console, _devices, app, tools
from xclf.cli._console import FitProgress, next_mark
from xclf.gradcheck import check_gradient
from xclf.objectives import LOSSES
from xclf.report import worked_example
from xclf.training import Event

COMMANDS = [command.callback.__name__ for command in app.registered_commands]


def event(step: int, total: int = 100, accuracy: float | None = None) -> Event:
    return Event(step, total, "epoch", 1.0 / step, 1, 0.1 * step, accuracy)


def drawn(shell: Shell, model, name: str, *options) -> str:
    """The output of `plot` for a model; checks the picture."""
    model.save(shell.home / "m")
    output = shell.said("plot", "m", "--out", name, *options)
    pixels = matplotlib.image.imread(name)
    assert min(pixels.shape[:2]) > 300
    assert len(np.unique(pixels[::5, ::5, :3] @ [1.0, 3.0, 7.0])) > 10  # colours
    assert output.startswith(f"wrote {name}: ")
    return output


def test_plots_of_images_and_of_other_rows(shell):
    x, y = blobs(features=64)
    quick = {"solver": "sgd", "max_iter": 3, "early_stopping": True, "random_state": 0}
    assert "3 weight templates, objective" in drawn(
        shell, xclf.SVMClassifier(**quick).fit(x, y), "a.png"
    )
    net = xclf.TwoLayerClassifier(hidden=12, **quick).fit(x, y)
    assert "12 weight templates" in drawn(shell, net, "b.png", "--shape", "4x16")
    x, y = blobs(features=48)
    net = xclf.TwoLayerClassifier(hidden=2, **quick).fit(x, y)
    for layout in ((), ("--channel-last",)):
        assert "2 weight" in drawn(shell, net, "c.png", "--shape", "4x4x3", *layout)
    x, y = blobs(features=7)
    # Names are text, whatever they hold: neither markup nor mathematics.
    names = np.array(["$\\bad$", "[x]", ":cat:"])[y]
    assert "weight" not in drawn(shell, xclf.SoftmaxClassifier(**quick).fit(x, names), "c.png")
    x = blobs(features=64)[0]
    two = xclf.SoftmaxClassifier(**quick).fit(x, np.array(["$\\bad$", "a"])[y % 2])
    assert "1 weight template" in drawn(shell, two, "d.png")
    for name, start in (("e.svg", b"<?xml"), ("e.pdf", b"%PDF")):
        shell.said("plot", "m", "--out", name)
        assert (shell.home / name).read_bytes().startswith(start)


def test_plot_needs_matplotlib_and_leaves_nothing_when_it_fails(shell, monkeypatch):
    xclf.SoftmaxClassifier().fit(*blobs()).save(shell.home / "m")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert shell.fails("plot", "m") == "plot needs matplotlib: pip install 'xclf[plot]'"
    monkeypatch.undo()
    monkeypatch.chdir(shell.home)

    def fails(self, path, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fails)
    assert "No space left on device" in shell.fails("plot", "m")
    assert [path.name for path in shell.home.iterdir()] == ["m"]


def test_backends_says_what_is_here_and_why(shell, monkeypatch):
    text = shell.good("backends")
    assert f"│ {np.__version__} " in text
    assert "CUDA: not usable: no cuda:0 [here]\n" in text
    assert "--device auto would use numpy on the CPU (no cuda:0 [here])" in text
    monkeypatch.setattr(tools, "_LIBRARIES", (("nowhere", ("nowhere",), ""), ("json", ("x",), "")))
    monkeypatch.setattr(_array_api, "cuda", lambda index=0: (np, "a card"))
    card = SimpleNamespace(Device=lambda index: index, runtime=SimpleNamespace())
    fake = SimpleNamespace(cuda=card)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    text = shell.good("backends")
    assert "│ nowhere │ not installed │" in text
    assert "│ json    │ installed     │" in text
    assert "CUDA: usable: a card" in text
    assert "cupy on cuda:0 (a card)" in text


def test_backends_lists_accelerators(shell, monkeypatch):
    text = shell.good("backends")
    for accelerator in xclf.accelerators():
        assert f"│ {accelerator.name} " in text
    records = [
        SimpleNamespace(name="tiles", state="on", why="compiled by numba"),
        SimpleNamespace(name="graphs", state="off", why="no device [here]"),
    ]
    monkeypatch.setattr(tools, "accelerators", lambda: records)
    text = shell.good("backends")
    assert text.index("Accelerators") > text.index("│ numpy ")
    assert "│ tiles  │ on    │ compiled by numba │" in text
    assert "│ graphs │ off   │ no device [here]  │" in text


def test_gradcheck_is_a_check(shell, monkeypatch):
    text = shell.good("gradcheck", "--rows", 5, "--classes", 3)
    for title in ("linear model, softmax", "two-layer net, hinge"):
        assert title in text
    monkeypatch.setattr(
        tools, "check_gradient", lambda f, theta, g: check_gradient(f, theta, 2 * g)
    )
    message = shell.fails("gradcheck", "--rows", 5, status=1)
    assert message.startswith("gradients differ from central differences: linear model, ")
    assert message.count(",") == 2 * len(LOSSES)


def test_example_is_a_check(shell, monkeypatch):
    text = shell.good("example")
    assert "\n1. Hinge loss of scores A\n" in text
    assert "[-0.941]" in text
    assert "\\[" not in text
    monkeypatch.setitem(worked_example.HINGE_LOSSES, "A", 3.7)
    assert "do not agree" in shell.fails("example", status=1)


def test_version(shell):
    assert shell.good("version") == f"xclf {xclf.__version__}\n"
    assert shell.good("--version") == f"xclf {xclf.__version__}\n"


def test_help_teaches_by_example(shell):
    assert set(COMMANDS) == {
        "train", "sweep", "probe", "predict", "evaluate", "compare", "plot", "backends",
        "export", "gradcheck", "example", "guide", "version",
    }  # fmt: skip
    for command in COMMANDS:
        text = shell.good(command, "--help")
        assert f"\n xclf {command}" in text, command
    assert "xclf train digits" in shell.good("--help")
    found = shell()
    assert found.status == 2
    assert "xclf train digits" in found.out
    assert found.err == ""


def test_devices_to_compute_on(monkeypatch):
    monkeypatch.setattr(_array_api, "cuda", lambda index=0: (np, f"card {index}"))
    monkeypatch.setattr(_array_api, "_gpus", lambda: 2)
    fake = SimpleNamespace(cuda=SimpleNamespace(Device=lambda index: f"device {index}"))
    monkeypatch.setitem(sys.modules, "cupy", fake)
    cpu = _devices.choose("cpu")
    assert (cpu.text, cpu.name) == ("numpy on the CPU (asked for)", None)
    auto = _devices.choose("auto")
    assert (auto.text, auto.name) == ("cupy on cuda:0 (card 0)", "auto")
    second = _devices.choose("cuda:1")
    assert second.text == "cupy on cuda:1 (card 1; asked for)"
    assert (second.name, second.device) == ("cuda:1", "device 1")
    every = _devices.choose("cuda:all")
    assert every.device == "device 0"
    assert every.text.count("asked for") == 2
    x = np.arange(3, dtype=np.uint8)
    assert cpu.put(x) is x
    monkeypatch.setattr(_array_api, "cuda", lambda index=0: (None, "no driver"))
    auto = _devices.choose("auto")
    assert (auto.text, auto.name) == ("numpy on the CPU (no driver)", None)


@pytest.mark.usefixtures("gpus")
def test_the_shell_on_another_device(shell):
    """array-api-strict plays the GPU: train, go on, sweep, evaluate, predict."""
    gpu = ("--device", "gpu", "--max-iter", 3)
    assert "gpu (asked for)" in shell.said("train", "digits", *gpu, "--out", "m")
    shell.good("train", "digits", *gpu, "--start", "m", "--out", "m2")
    shell.good("sweep", "digits", *gpu, "--reg", "1e-3,1e-2", "--out", "m3")
    for name in ("m", "m2", "m3"):
        model = load(shell.home / name)
        assert model.device == "gpu"
        assert type(model.coef_) is np.ndarray
    there = shell.said("evaluate", "m", "digits", "--device", "gpu")
    here = shell.said("evaluate", "m", "digits", "--device", "cpu")
    assert there.replace("gpu (asked for)", "") == here.replace("numpy on the CPU (asked for)", "")
    shell.good("predict", "m", "digits", "--device", "gpu", "--out", "p.csv")


def test_a_device_that_is_here(capsys, tmp_path, monkeypatch):
    found, why = _array_api.cuda()
    if found is None:
        pytest.skip(why)
    monkeypatch.chdir(tmp_path)
    shell = object.__new__(Shell)
    shell.capsys, shell.home = capsys, tmp_path
    write_npz(tmp_path / "t.npz")
    options = ("--device", "cuda", "--start")
    assert "cupy on cuda:0" in shell.good("train", "t.npz", "--device=cuda", "--out=m")
    shell.good("train", "t.npz", *options, "m", "--out", "m2")
    shell.good("evaluate", "m2", "t.npz", "--device", "cuda")
    shell.good("predict", "m2", "t.npz", "--device", "cuda", "--out", "p.csv", "--top-k", 2)


def test_a_bar_on_a_terminal():
    stream = io.StringIO()
    console = Console(force_terminal=True, width=80, file=stream, color_system=None)
    with FitProgress(console) as progress:
        for step in range(1, 4):
            progress(event(step, accuracy=0.5))
    text = stream.getvalue()
    assert "\x1b[" in text
    # It stopped early: three of three, not of a hundred.
    assert "3/3" in text
    assert "objective 0.3333  val. accuracy 0.500" in text
    assert " left" in text
    assert "…" not in text
    assert "preparing the fit" in text  # until the first step
    with FitProgress(console):
        pass  # a fit without a step has no bar
    stopped = FitProgress(console)
    stopped(event(1))
    stopped.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert stopped.bar.finished is False


def test_plain_lines_elsewhere():
    stream = io.StringIO()
    with FitProgress(Console(file=stream)) as progress:
        for step in range(1, 101):
            progress(event(step, accuracy=None if step > 1 else 0.25))
    lines = stream.getvalue().splitlines()
    steps = [int(line.split()[1].partition("/")[0]) for line in lines]
    assert steps == [1, 2, 5, 10, 20, 50, 100]
    assert lines[0] == "epoch 1/100  objective 1  validation accuracy 0.2500"
    assert lines[-1] == "epoch 100/100  objective 0.01"
    assert [next_mark(n) for n in (1, 2, 4, 5, 999)] == [2, 5, 5, 10, 1000]


def interrupt_fits(monkeypatch) -> None:
    """Ctrl-C as soon as a fit begins."""
    for model in (xclf.SoftmaxClassifier, xclf.SVMClassifier, xclf.TwoLayerClassifier):
        monkeypatch.setattr(model, "fit", lambda *_: signal.raise_signal(signal.SIGINT))


# Ctrl-C, by a signal of its own, at the step named; 0 is before the first.
@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize("options", [(), ("--model", "svm"), ("--model", "two-layer")])
def test_interrupted(shell, monkeypatch, step, options):
    def stop(self, event):
        if event.step == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(FitProgress, "__call__", stop)
    if step == 0:
        interrupt_fits(monkeypatch)
    write_npz(shell.home / "t.npz")
    found = shell("train", "t.npz", *options, "--out", "m")
    assert (found.status, found.out) == (130, "")
    assert found.err.endswith("\nxclf: interrupted\n")
    if step == 0:
        assert "before there was a model: nothing to save" in found.err
        assert not (shell.home / "m").exists()
        return
    assert "interrupted; saved the best model so far, m\n" in found.err
    assert xclf.load("m").predict(blobs()[0]).shape == (120,)
    found = shell("train", "t.npz", *options)
    assert found.status == 130
    assert "with --out the best model so far would be saved" in found.err


def test_interrupted_before_it_went_on(shell, monkeypatch):
    write_npz(shell.home / "t.npz")
    shell.good("train", "t.npz", "--out", "m")
    before = (shell.home / "m").read_bytes()
    interrupt_fits(monkeypatch)
    found = shell("train", "t.npz", "--start", "m", "--out", "m")
    assert found.status == 130
    assert "nothing to save" in found.err
    assert (shell.home / "m").read_bytes() == before


def test_consoles_print_names_as_they_are(capsys):
    for name in NAMES:
        _console.out().print(name)
        _console.log().print(name)
    found = capsys.readouterr()
    assert found.out.splitlines() == found.err.splitlines() == NAMES.tolist()


@pytest.mark.parametrize("compiled", [False, True])
def test_a_first_fit_on_a_gpu_is_announced(compiled, tmp_path, monkeypatch):
    """CuPy compiles its kernels when they are first used, and keeps them on disk."""
    from types import SimpleNamespace

    from xclf import _array_api
    from xclf.cli._devices import choose

    gpu = _array_api.ComputeDevice(SimpleNamespace(__name__="cupy"), 0, "cupy on cuda:0")
    monkeypatch.setattr(_array_api, "resolve_devices", lambda name: [gpu])
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    if compiled:
        (tmp_path / "kernel.cubin").write_bytes(b"")
    assert ("the first fit compiles CuPy's kernels" in choose("cuda").text) is not compiled
