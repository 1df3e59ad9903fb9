"""`xclf train`: what it reads, prints and keeps."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
from cli_cases import NAMES, ROWS, Shell, blobs, write_csv, write_npz
from data_cases import CIFAR_NAMES, write_cifar

import xclf
from xclf.cli import train as train_command
from xclf.cli._estimator import PARAMETERS, parse_class_weight
from xclf.objectives import LOSSES
from xclf.optim import SOLVERS
from xclf.rows import MemoryBudget

QUICK = ("--max-iter", "3")


def figures(shell: Shell, *arguments) -> dict:
    """The JSON of a training."""
    return json.loads(shell.good("train", *arguments, "--json"))


def test_digits_as_the_first_line_of_the_help_has_it(shell):
    found = shell("train", "digits", "--out", "m.safetensors")
    assert "test accuracy 0.96" in found.out.splitlines()[-1]
    text, lines = found.out + found.err, found.err.splitlines()
    output = {line.split(maxsplit=1)[0]: line for line in text.splitlines() if line}
    assert "digits: 1437 rows x 64, uint8" in output["data"]
    assert "360 rows, 20% held out, stratified, seed 0" in output["test"]
    assert "SoftmaxClassifier(random_state=0)" in output["model"]
    assert "backend     numpy on the CPU (" in text
    assert "converged" in output["iterations"]
    assert output["objective"]
    assert output["time"].endswith(" s")
    assert output["saved"].endswith("m.safetensors")
    assert "precision" in text
    assert "most confused: 8 taken for 1" in text
    # Plain lines at 1, 2, 5, 10, ..., since nobody watches a terminal.
    steps = [line.split("/")[0] for line in lines if line.startswith("iteration ")]
    assert steps[:4] == [f"iteration {n}" for n in (1, 2, 5, 10)]
    assert len(xclf.load("m.safetensors").classes_) == 10


def test_json_is_one_object_and_nothing_else(shell):
    found = shell("train", "digits", *QUICK, "--json", "--out", "m.safetensors")
    assert found.status == 0
    result = json.loads(found.out)
    assert found.out.count("\n") == 1
    (warning,) = found.err.splitlines()
    assert warning.startswith("warning: SoftmaxClassifier did not converge")
    assert result["data"] == "digits"
    assert result["model"] == "SoftmaxClassifier"
    assert result["parameters"]["max_iter"] == 3
    assert (result["train_rows"], result["features"], result["iterations"]) == (1437, 64, 3)
    assert result["converged"] is False
    assert result["saved"] == "m.safetensors"
    assert result["place"].startswith("numpy")
    assert 0.5 < result["test"]["accuracy"] <= 1
    assert (
        sum(entry["rows"] for entry in result["test"]["classes"]) == result["test"]["rows"] == 360
    )


@pytest.mark.parametrize("model", ["softmax", "svm", "two-layer"])
def test_a_seed_repeats_a_run_bit_for_bit(shell, model):
    options = ("train", "digits", "--model", model, "--solver", "adam", *QUICK, "--seed", 5)
    kept = []
    for name in "ab":
        shell.good(*options, "--out", name)
        kept.append(xclf.load(name))
    shell.good(*options[:-1], 6, "--out", "c")
    other = xclf.load("c")
    for name in kept[0]._array_names():
        first, second, third = (getattr(m, name) for m in (*kept, other))
        keyed = first if isinstance(first, dict) else {"": first}
        for key in keyed:
            a, b, c = ((v[key] if key else v) for v in (first, second, third))
            np.testing.assert_array_equal(a, b)
            assert (a != c).any()


def test_every_parameter_of_every_estimator_has_an_option():
    options = set(inspect.signature(train_command).parameters)
    otherwise = {"fit_intercept": "no_intercept", "random_state": "seed", "warm_start": "start"}
    for kind in (xclf.SoftmaxClassifier, xclf.SVMClassifier, xclf.TwoLayerClassifier):
        names = set(kind().get_params()) - {"callbacks", "verbose", "precision"}
        assert {otherwise.get(name, name) for name in names} <= options
    assert set(PARAMETERS) <= options


def test_every_option_reaches_the_estimator(shell):
    given = {
        "reg": 0.5,
        "hidden": 7,
        "loss": "hinge",
        "solver": "momentum",
        "max_iter": 2,
        "tol": 0.25,
        "batch_size": 11,
        "learning_rate": 0.125,
        "momentum": 0.5,
        "lr_schedule": "cosine",
        "validation_fraction": 0.25,
        "n_iter_no_change": 4,
    }
    options = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    flags = ["--standardize", "--no-intercept", "--early-stopping", "--seed=3"]
    result = figures(shell, write_npz("t.npz"), "--model=two-layer", *options, *flags)
    expected = given | {"standardize": True, "fit_intercept": False, "early_stopping": True}
    expected["random_state"] = 3
    assert {name: result["parameters"][name] for name in expected} == expected
    result = figures(shell, "t.npz", "--model=svm", "--margin=2", "--class-weight=0=2,1=1,2=0.5")
    assert result["parameters"]["margin"] == 2.0
    assert result["parameters"]["class_weight"] == {"0": 2.0, "1": 1.0, "2": 0.5}


def test_arrays_with_and_without_their_own_test_rows(shell, tmp_path):
    x, y = blobs(30, seed=1)
    held = figures(shell, write_npz("a.npz"))
    assert (held["train_rows"], held["test"]["rows"]) == (96, 24)
    assert figures(shell, "a.npz", "--test-size", 0.5)["train_rows"] == 60
    write_npz("b.npz", X_test=x, y_test=y)
    shipped = figures(shell, "b.npz")
    assert (shipped["train_rows"], shipped["test"]["rows"]) == (ROWS, 30)
    # --test takes the test part of DATA that has both, as evaluate does.
    assert figures(shell, "a.npz", "--test", "b.npz")["test"] == shipped["test"]
    np.save("x.npy", x)
    np.save("y.npy", y)
    pair = figures(shell, "x.npy,y.npy", "--test", "a.npz", *QUICK)
    assert (pair["train_rows"], pair["test"]["rows"]) == (30, ROWS)


def test_a_table_with_names_that_look_like_markup(shell, tmp_path):
    folder = tmp_path / ("a long folder [bold] :dog: " * 4)
    folder.mkdir()
    path = write_csv(folder / "f[x].csv", NAMES)
    text = shell.said("train", path, "--label", "species", "--out", folder / "m[x]")
    for name in NAMES:
        assert f"│ {name} " in text
    assert f"{path}: 96 rows x 4, float64\n" in text
    assert f"{folder / 'm[x]'}\n" in text
    assert xclf.load(folder / "m[x]").classes_.tolist() == sorted(NAMES)
    weights = "--class-weight", "[red]a=2,b:cat:=1,c [/x]=1"
    assert figures(shell, path, "--label=species", *weights)["test"]["accuracy"] > 0.7


def test_a_folder_of_images(shell, tmp_path):
    home = write_cifar(tmp_path / "cifar")
    quick = ("--solver", "sgd", *QUICK)
    result = figures(shell, home, *quick)
    assert (result["train_rows"], result["features"], result["test"]["rows"]) == (20, 3072, 4)
    assert [entry["class"] for entry in result["test"]["classes"]] == sorted(CIFAR_NAMES)
    assert figures(shell, home, *quick, "--mirror")["train_rows"] == 40
    assert "--mirror needs image data" in shell.fails("train", write_npz("t.npz"), "--mirror")


def test_a_standardized_model_predicts_from_raw_rows(shell):
    x, y = blobs()
    np.savez("t.npz", X=1e3 + 50.0 * x, y=y)
    result = figures(shell, "t.npz", "--standardize", "--out", "m")
    assert result["converged"]
    assert result["test"]["accuracy"] > 0.7
    raw = json.loads(shell.good("evaluate", "m", "t.npz", "--json"))
    assert raw["accuracy"] > 0.8


def test_start_goes_on_with_what_the_model_was_trained_with(shell):
    write_npz("t.npz")
    options = ("--model", "svm", "--solver", "adam", "--reg", 0.01, "--seed", 4)
    first = figures(shell, "t.npz", *options, "--standardize", "--max-iter", 40, "--out", "m")
    again = figures(shell, "t.npz", "--model=svm", "--start=m", "--max-iter", 1, "--out=m2")
    kept = ("reg", "solver", "random_state", "standardize")
    assert [again["parameters"][k] for k in kept] == [first["parameters"][k] for k in kept]
    assert again["parameters"]["max_iter"] == 1
    fresh = figures(shell, "t.npz", *options, "--standardize", "--max-iter", 1)
    assert again["objective"] < fresh["objective"]
    # The seed splits, too: other test rows would be rows that the model has learnt from.
    assert "seed 4" in shell.said("train", "t.npz", "--model=svm", "--start=m")
    result = figures(shell, "t.npz", "--model=svm", "--start=m", "--reg=0.5", "--seed=1")
    assert (result["parameters"]["reg"], result["parameters"]["random_state"]) == (0.5, 1)


def test_start_must_fit_model_and_data(shell):
    write_npz("t.npz")
    shell.good("train", "t.npz", "--model", "two-layer", "--hidden", 5, *QUICK, "--out", "net")
    start = ("--start", "net", *QUICK)
    assert "add --model two-layer" in shell.fails("train", "t.npz", *start)
    start = ("--model", "two-layer", *start)
    assert "has 5 hidden units" in shell.fails("train", "t.npz", *start, "--hidden", 6)
    assert "trained on 4 features a row" in shell.fails("train", "digits", *start)
    assert "no model file at nowhere" in shell.fails("train", "digits", "--start", "nowhere")
    shell.good("train", "t.npz", *start, "--hidden", 5)


def test_class_weights_for_one_in_words(shell):
    assert parse_class_weight(None) is None
    assert parse_class_weight("balanced") == "balanced"
    assert parse_class_weight("-1=2,b=.5,c=d=3") == {-1: 2.0, "b": 0.5, "c=d": 3.0}
    assert parse_class_weight("--1=2") == {"--1": 2.0}
    write_npz("t.npz")
    shell.good("train", "t.npz", "--class-weight", "balanced", *QUICK)
    for wrong in ("1:2", "1=a", "", "1=2,"):
        assert "must be balanced or LABEL" in shell.fails("train", "t.npz", "--class-weight", wrong)
    assert "not in y: [77]" in shell.fails("train", "t.npz", "--class-weight", "77=2")


@pytest.mark.parametrize("size", ["60M", "60MB", "0.5G", "64 MiB", "70000000"])
def test_a_bound_on_memory_is_that_of_the_fit_too(shell, size):
    result = figures(shell, write_npz("t.npz"), "--max-memory", size, "--out=m")
    assert result["parameters"]["max_memory"] == size
    assert xclf.load("m").max_memory == size
    given = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "xclf.estimators._scores.MemoryBudget", lambda n: given.append(n) or MemoryBudget(n)
        )
        shell.good("evaluate", "m", "t.npz", "--max-memory=80MB")
        shell.good("predict", "m", "t.npz", "--out=p.npy", "--max-memory=80MB")
    assert set(given) == {80 << 20}


def test_a_fit_that_cannot_keep_the_bound_on_memory_says_so(shell):
    message = shell.fails("train", write_npz("t.npz"), "--max-memory=200")
    assert "max_memory" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--learning-rate", 0.1), "--learning-rate has no effect: all rows are in every step"),
        (("--early-stopping",), "--early-stopping has no effect: all rows"),
        (("--solver", "adam", "--momentum", 0.5), "--momentum has no effect: --solver adam does"),
        (
            ("--solver", "adam", "--validation-fraction", 0.5),
            "--validation-fraction has no effect: it is of --early-stopping",
        ),
        (("--checkpoint-every", 5), "--checkpoint-every has no effect: without --checkpoint"),
        (("--test", "t.npz", "--test-size", 0.5), "--test-size has no effect: the test rows are"),
        (("--label", "a"), "its columns have no names; label="),
        (("--x", "A"), "no array 'A'"),
    ],
)
def test_an_option_without_effect_is_refused(shell, options, message):
    assert message in shell.fails("train", write_npz("t.npz"), *options)


def test_a_default_without_effect_is_not(shell):
    """From a file or the environment it is every command's."""
    Path("xclf.toml").write_text('label = "species"\nid = "id"\n[train]\ncheckpoint_every = 5\n')
    assert "no effect" not in shell.said("train", write_npz("t.npz"), "--max-iter", 9)
    assert "no effect" not in shell.said("train", "digits", "--max-iter", 3)


def test_a_fit_that_diverges_ends_with_advice_and_valid_json(shell):
    wild = ("--model", "two-layer", "--learning-rate", 1e30, "--max-iter", 2)
    found = shell("train", "digits", *wild, "--json")
    assert found.status == 0
    # What is kept is the best so far, here the start.
    assert json.loads(found.out)["objective"] > 1.0
    assert json.loads(found.out)["iterations"] == 1
    assert "lower learning_rate" in found.err


def test_more_classes_than_a_table_holds(shell):
    y = np.repeat(np.arange(60), 5)
    x = np.eye(60)[y]
    np.savez("t.npz", X=x, y=y)
    text = shell.good("train", "t.npz", *QUICK)
    assert "the 5 best and the 10 worst of 60 classes, by F1" in text
    assert "F1 of the other 45: median 1.000, half of them from 1.000 to 1.000; --full" in text
    assert text.count("│") == 15 * 6
    assert "most confused" not in text
    assert shell.good("train", "t.npz", *QUICK, "--full").count("│") == 60 * 6


def test_the_help_lists_the_losses_and_solvers_there_are(shell):
    text = " ".join(shell.good("train", "--help").replace("│", " ").split())
    assert "hinge or squared_hinge (svm); softmax, hinge or squared_hinge (two-layer)" in text
    assert f"auto, {', '.join([*SOLVERS][:-1])} or {[*SOLVERS][-1]}." in text
    assert "sgd 0.01, momentum 0.01" in text
    assert "Of solver momentum or nesterov; 0.9." in text
    for loss in LOSSES:
        quick = ("--solver", "nesterov", *QUICK)
        fit = figures(shell, write_npz("t.npz"), "--model=two-layer", "--loss", loss, *quick)
        assert fit["parameters"]["loss"] == loss


def test_coarse_labels(shell):
    """Of CIFAR-100; the model knows which it was trained on."""
    r = np.random.default_rng(0)
    home = shell.home / "cifar-100-binary"
    home.mkdir()
    for name, rows in (("train", 40), ("test", 8)):
        labels = np.arange(rows)[:, None] % 4 + [0, 50]
        pixels = r.integers(0, 255, (rows, 3072))
        (home / f"{name}.bin").write_bytes(np.c_[labels, pixels].astype(np.uint8).tobytes())
    names = {"coarse": [f"coarse{k}" for k in range(20)], "fine": [f"fine{k}" for k in range(100)]}
    for kind, own in names.items():
        (home / f"{kind}_label_names.txt").write_text("\n".join(own))
    shell.good("train", home, "--label", "coarse", "--max-iter", "3", "--out", "m")
    assert xclf.load("m").classes_.tolist() == [0, 1, 2, 3]
    assert "coarse3" in shell.good("evaluate", "m", home)
    out = shell.good("probe", home, "--label", "fine", "--label", "coarse", "--c", "1", "--json")
    assert [task["name"] for task in json.loads(out)["tasks"]] == ["fine", "coarse"]
