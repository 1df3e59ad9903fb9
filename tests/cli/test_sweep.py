"""`xclf sweep`: ranges, table, picture, and the model it keeps."""

from __future__ import annotations

import inspect
import io
import json
import time

import numpy as np
import pytest
import typer
from cli_cases import ROWS, Shell, blobs, write_csv, write_npz
from rich.console import Console
from sklearn.model_selection import StratifiedShuffleSplit, train_test_split

import xclf
from xclf.cli import app
from xclf.cli import sweep as sweep_command
from xclf.cli import train as train_command
from xclf.cli._grid import SWEPT, describe_grid, parse_values
from xclf.cli._options import ALIASES
from xclf.sweep._heads import SweepHead
from xclf.sweep._ledger import FitLedger
from xclf.sweep._progress import Progress
from xclf.training import Event

QUICK = ("--reg", "1e-3,1e-1", "--solver", "adam", "--max-iter", "3")


def figures(shell: Shell, *arguments) -> dict:
    return json.loads(shell.good("sweep", *arguments, "--json"))


def test_the_example_of_the_help(shell):
    text = shell.said(
        "sweep", "digits", "--reg", "1e-4:1e1:6", "--folds", 5,
        "--plot", "scores.png", "--out", "best.safetensors",
    )  # fmt: skip
    lines = text.splitlines()
    output = {line.split("  ", 1)[0]: line for line in lines if "  " in line}
    assert "reg 0.0001 .. 10 (6 values)" in output["grid"]
    assert "5 folds: 6 candidates, 30 fits and the best on all" in output["scored on"]
    assert "SoftmaxClassifier(random_state=0)" in output["model"]
    assert "fits 30/30  best accuracy 0.96" in text
    assert "reg 0.1: accuracy 0.96" in output["best"] or "reg 0.01: accuracy 0.96" in output["best"]
    assert "test accuracy 0.9" in text
    table = [line.split("│")[1:-1] for line in lines if "│" in line][:6]
    assert [float(cells[0]) for cells in table] == [1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0]
    assert sorted(int(cells[3]) for cells in table)[0] == 1
    assert (shell.home / "scores.png").read_bytes()[:4] == b"\x89PNG"
    model = xclf.load("best.safetensors")
    assert f"reg {model.reg:g}: accuracy" in output["best"]
    assert shell.good("evaluate", "best.safetensors", "digits")


def test_json_has_every_candidate_and_agrees_with_the_library(shell):
    write_npz("t.npz")
    result = figures(shell, "t.npz", "--reg", "1e-3:1:4", "--folds", 3, "--metric", "neg_log_loss")
    search = result["search"]
    assert search["grid"] == {"reg": [0.001, 0.01, 0.1, 1.0]}
    assert (search["folds"], search["scoring"]) == (3, "neg_log_loss")
    x, y = blobs()
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.2, stratify=y, random_state=0)
    want = xclf.SweepCV(xclf.SoftmaxClassifier(), search["grid"], cv=3, scoring="neg_log_loss").fit(
        x, y
    )
    scores = [entry["score"] for entry in search["candidates"]]
    np.testing.assert_allclose(scores, want.cv_results_["mean_test_score"], atol=1e-5)
    assert [entry["parameters"]["reg"] for entry in search["candidates"]] == [0.001, 0.01, 0.1, 1.0]
    assert search["best"] == want.best_params_
    assert result["parameters"]["reg"] == want.best_params_["reg"]
    assert result["train_rows"] == len(y) == ROWS * 4 // 5
    assert result["test"]["accuracy"] == pytest.approx(want.best_estimator_.score(x_test, y_test))


def test_without_folds_rows_are_held_out_once(shell):
    write_npz("t.npz")
    result = figures(shell, "t.npz", "--reg", "1e-3:1:4", "--test-size", 0.25, "--seed", 4)
    x, y = blobs()
    x, _, y, _ = train_test_split(x, y, test_size=0.25, stratify=y, random_state=4)
    cv = StratifiedShuffleSplit(1, test_size=0.25, random_state=4)
    want = xclf.SweepCV(xclf.SoftmaxClassifier(), result["search"]["grid"], cv=cv).fit(x, y)
    scores = [entry["score"] for entry in result["search"]["candidates"]]
    np.testing.assert_array_equal(scores, want.cv_results_["mean_test_score"])
    assert result["search"]["folds"] is None


def test_every_swept_parameter(shell):
    write_csv(shell.home / "t.csv", ["ash", "birch", "cedar"])
    result = figures(
        shell, "t.csv", "--label", "species", "--model", "two-layer", "--hidden", "3,5",
        "--lr", "0.01:0.1:2", "--momentum", "0.5,0.9", "--reg", "0", "--solver", "momentum",
        "--max-iter", 3, "--batch-size", 16, "--standardize", "--loss", "hinge",
        "--out", "m.safetensors",
    )  # fmt: skip
    grid = {"reg": [0.0], "learning_rate": [0.01, 0.1], "momentum": [0.5, 0.9], "hidden": [3, 5]}
    assert result["search"]["grid"] == grid
    assert len(result["search"]["candidates"]) == 8
    fixed = {"batch_size": 16, "max_iter": 3, "loss": "hinge", "standardize": True}
    assert {name: result["parameters"][name] for name in fixed} == fixed
    model = xclf.load("m.safetensors")
    assert model.feature_names_in_.tolist() == ["a", "b", "c", "d"]
    result = figures(shell, "t.csv", "--label", "species", "--model", "svm", "--margin", "0.5,1")
    assert result["search"]["grid"]["margin"] == [0.5, 1.0]
    assert len(result["search"]["grid"]["reg"]) == 15


def test_a_seed_repeats_a_sweep(shell):
    write_npz("t.npz")
    runs = [figures(shell, "t.npz", *QUICK, "--seed", seed) for seed in (1, 1, 2)]
    scores = [[c["score"] for c in run["search"]["candidates"]] for run in runs]
    assert scores[0] == scores[1]
    assert runs[0]["objective"] == runs[1]["objective"] != runs[2]["objective"]


def test_options_are_those_of_train(shell):
    """The same names, kinds and defaults, but for what is swept."""
    ours, theirs = (inspect.signature(f).parameters for f in (sweep_command, train_command))
    assert set(theirs) - set(ours) == {"start", "mirror"}
    assert set(ours) - set(theirs) == {"folds", "metric", "plot_path"}
    for name in set(ours) & set(theirs) - set(SWEPT):
        assert ours[name].annotation == theirs[name].annotation
        assert ours[name].default == theirs[name].default


def test_a_long_table_shows_its_best(shell):
    write_npz("t.npz")
    text = shell.good("sweep", "t.npz", "--reg", "1e-3:1:70", *QUICK[2:])
    assert "the best 20 of 70 candidates" in text
    assert len([line for line in text.splitlines() if line.count("│") == 4]) == 20


def test_warnings_are_repeated_once(shell):
    write_npz("t.npz")
    text = shell.said("sweep", "t.npz", "--reg", "1e-6,1e-5", "--max-iter", 2)
    assert text.count("warning: 2 of 2 fits did not converge") == 1


# --- values ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, values",
    [
        ("1e-6:1e1:8", [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0]),
        ("1:1e-2:3", [1.0, 0.1, 0.01]),
        ("0.5", [0.5]),
        ("0,1e-3, 2", [0.0, 1e-3, 2.0]),
        ("1,1,2", [1.0, 2.0]),
    ],
)
def test_ranges_and_lists(text, values):
    assert parse_values("reg", text) == values


def test_whole_numbers():
    assert parse_values("hidden", "50,100") == [50, 100]
    assert parse_values("hidden", "10:1000:3") == [10, 100, 1000]
    assert parse_values("hidden", "1:4:9") == [1, 2, 3, 4]
    assert all(isinstance(value, int) for value in parse_values("hidden", "10:1000:3"))


def test_a_grid_in_a_line():
    grid = {"reg": [1e-3, 1.0], "hidden": [1, 2, 3, 4, 5]}
    assert describe_grid(grid) == "reg 0.001, 1; hidden 1 .. 5 (5 values)"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--reg", "1e-3:1"], "--reg must be LOW:HIGH:COUNT"),
        (["--reg", "0:1:3"], "LOW and HIGH above 0"),
        (["--reg", "1:2:1"], "COUNT 2 or more"),
        (["--reg", "a,b"], "got 'a,b'"),
        (["--reg=-1,2"], "reg must be a finite number >= 0, got -1.0"),
        (["--reg", "nan"], "reg must be a finite number"),
        (["--lr", "0"], "learning_rate must be None or a finite number > 0, got 0.0"),
        (["--hidden", "5"], "--hidden is for --model two-layer only"),
        (["--margin", "1,2"], "--margin is for --model svm only"),
        (["--model", "two-layer", "--hidden", "1.5"], "--hidden must hold whole numbers"),
        (["--model", "two-layer", "--hidden", "nan"], "--hidden must hold whole numbers"),
        (["--folds", "1"], "--folds"),
        (
            ["--folds", "500"],
            "--folds 500 needs as many training rows of a class: the largest has 32",
        ),
        (["--test-size", "0.001"], "cannot hold out 0.001 of"),
        (["--test", "t.npz", "--test-size", "0.001"], "cannot hold out 0.001 of 120 training"),
        (
            ["--test-size", "0"],
            "--test-size 0 holds out no rows to score candidates on: add --folds",
        ),
        (["--scoring", "speed"], "--metric must be accuracy, mean_per_class or another scorer"),
        (["--plot", "scores.txt"], "--plot must end in .png"),
        (["--plot", "no/scores.png"], "there is no folder no"),
        (["--out", "."], "is a folder"),
        (["--batch-size", "0"], "batch_size must be"),
        (["--test-size", "2"], "--test-size must be between 0 and 1"),
    ],
)
def test_mistakes_are_one_line(shell, arguments, message):
    write_npz("t.npz")
    assert message in shell.fails("sweep", "t.npz", *QUICK[2:], *arguments)
    assert not list(shell.home.glob("*.png"))


def test_a_scorer_that_needs_probabilities(shell):
    write_npz("t.npz")
    output = shell.fails("sweep", "t.npz", "--model", "svm", "--metric", "neg_log_loss")
    result = "--metric neg_log_loss cannot be computed for this model and data: SVMClassifier has"
    assert output.startswith(result)


@pytest.mark.parametrize("scoring", ["roc_auc", "r2"])
def test_a_scorer_that_is_not_for_these_labels(shell, scoring):
    write_csv(shell.home / "t.csv", list("abc"))
    output = shell.fails("sweep", "t.csv", "--label", "species", *QUICK, "--metric", scoring)
    assert output.startswith(f"--metric {scoring} cannot be computed for this model and data: ")


def test_an_error_of_the_fit_is_not_blamed_on_the_scorer(shell):
    x, y = blobs()
    np.savez(shell.home / "huge.npz", X=x * 1e300, y=y)
    assert shell.fails("sweep", "huge.npz").startswith("X holds values so large")


def test_epochs_are_called_epochs(shell):
    write_npz(shell.home / "t.npz")
    assert "epochs      " in shell.good("sweep", "t.npz", *QUICK)
    assert "iterations  " in shell.good("sweep", "t.npz", "--reg", "1e-2,1e-1")


def test_missing_matplotlib_is_an_error_before_the_work(shell, monkeypatch):
    write_npz("t.npz")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "--plot needs matplotlib" in shell.fails("sweep", "t.npz", "--plot", "s.png")


def test_ctrl_c(shell, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(xclf.SweepCV, "fit", interrupted)
    write_npz("t.npz")
    found = shell("sweep", "t.npz", *QUICK, "--out", "m.safetensors")
    assert found.status == 130
    assert found.err.endswith("xclf: interrupted\n")
    assert not list(shell.home.glob("*.safetensors"))


# --- progress --------------------------------------------------------------------------------


def _watched(terminal, width=100):
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=width, color_system=None)
    x, y = blobs()
    search = xclf.SweepCV(xclf.SoftmaxClassifier(), {"reg": [1e-3, 1e-2, 1e-1]}, cv=4, refit=False)
    search._console = console
    search.fit(x, y)
    return text.getvalue(), search


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_ends_with_all_fits_and_the_best(terminal):
    text, search = _watched(terminal)
    best = search.cv_results_["mean_test_score"].max()
    assert "fits 12/12" in text
    assert f"best accuracy {best:.4f} (reg={search.best_params_['reg']:.3g})" in text
    assert ("left" in text) is terminal or "about" in text


def test_verbose_prints_and_silence_does_not(capsys):
    x, y = blobs()
    search = xclf.SweepCV(xclf.SoftmaxClassifier(), {"reg": [1e-2]}, cv=2)
    search.fit(x, y)
    assert capsys.readouterr().out == ""
    search.set_params(verbose=1).fit(x, y)
    assert "fits 2/2" in capsys.readouterr().out


def test_heads_that_have_ended_count():
    text = io.StringIO()
    ledger = FitLedger(None, [0, 1], [{}] * 8, [None], None)
    ledger.fits = [None] * 8
    shown = Progress(ledger, Console(file=text, width=100))
    hear = shown.begin([SweepHead(None, None)] * 8)
    hear(Event(1, 50, "iteration", 1.0, 8, time.perf_counter()))
    hear(Event(9, 50, "iteration", 1.0, 3, time.perf_counter()))
    assert text.getvalue().splitlines()[-1].startswith("fits 5/8  iteration 9  ")


def test_names_of_options_that_others_have(shell):
    """Options have one name in all commands; others, which scripts may have, are understood."""
    write_npz("t.npz")
    ours = ("--folds", 3, "--learning-rate", "0.1,1", "--metric", "mean_per_class")
    theirs = ("--cv", 3, "--lr", "0.1,1", "--scoring", "balanced_accuracy")
    rest = ("--reg", "1e-3", "--solver", "sgd", "--max-iter", 3)
    found = [figures(shell, "t.npz", *own, *rest)["search"] for own in (ours, theirs)]
    assert found[0]["candidates"] == found[1]["candidates"]
    assert "--cv" not in shell.good("sweep", "--help")
    shell.home.joinpath("xclf.toml").write_text("[sweep]\ncv = 2\n")
    assert figures(shell, "t.npz", *QUICK)["search"]["folds"] == 2


def test_an_option_has_one_name_in_all_commands():
    commands = typer.main.get_command(app).commands.values()
    options = [o for c in commands for o in c.params if o.param_type_name == "option"]
    names = {option.name: option.opts[0] for option in options}
    assert all(option.opts[0] == names[option.name] for option in options)
    assert not set(ALIASES) & {name.lstrip("-") for name in names.values()}
