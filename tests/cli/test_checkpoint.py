"""--checkpoint and --resume, and what Ctrl-C and SIGTERM leave of a sweep."""

from __future__ import annotations

import json
import signal
import time

import numpy as np
import pytest
from kill_cases import bits
from process_cases import Copy, ended

import xclf
from xclf import cli

NET = ["--device=cpu", "--model=two-layer", "--hidden=8", "--seed=0", "--tol=0"]
TRAIN = ["train", "digits", *NET, "--max-iter=30", "--n-iter-no-change=99"]
SWEEP = ["sweep", "digits", *NET[:2], *NET[3:], "--n-iter-no-change=99", "--reg=1e-3"]


def _killed(home, command, checkpoint, after):
    """Run the command until its checkpoint is there, and some seconds more; then kill -9."""
    process = Copy(home, *command)
    end = time.monotonic() + 60
    while not (home / checkpoint).exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    time.sleep(after)
    process.kill()
    process.communicate()


def test_a_killed_training_goes_on(tmp_path, capsys):
    whole, again = tmp_path / "whole", tmp_path / "m"
    assert cli.run([*TRAIN, f"--out={whole}"]) == 0
    command = [*TRAIN, "--out=m", "--resume", "--checkpoint-every=0"]
    _killed(tmp_path, command, "m.checkpoint", 0.05)
    assert not again.exists()
    status, _, err = ended(Copy(tmp_path, *command))
    assert status == 0, err
    assert "checkpoint  m.checkpoint, going on from it\n" in err
    assert bits(xclf.load(again)) == bits(xclf.load(whole))
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "m"}


def test_a_checkpoint_is_neither_replaced_nor_of_another_fit(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = xclf.SoftmaxClassifier(callbacks=[xclf.Checkpoint("c")])
    model.fit([[0.0], [1.0]], [0, 1])
    before = (tmp_path / "c").read_bytes()
    train = ["train", "digits", "--device=cpu", "--checkpoint=c"]
    assert cli.run(train) == 2
    expected = "there is a checkpoint at c already: go on from it with --resume, or remove it"
    assert expected in capsys.readouterr().err
    assert cli.run([*train, "--resume"]) == 2
    assert "the checkpoint c is of other work: " in capsys.readouterr().err
    assert (tmp_path / "c").read_bytes() == before


@pytest.mark.parametrize(
    "options, says",
    [
        (["--resume"], "--resume needs --checkpoint FILE, or --out, beside which it is kept"),
        (["--checkpoint=m", "--out=m"], "--checkpoint and --out are the same file"),
        (["--checkpoint=no/c"], "--checkpoint no/c: there is no folder"),
        (["--checkpoint=."], "--checkpoint . is a folder"),
        (["--checkpoint=c", "--checkpoint-every=-1"], "--checkpoint-every"),
    ],
)
@pytest.mark.parametrize("command", ["train", "sweep"])
def test_bad_options(command, options, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.run([command, "digits", "--device=cpu", *options]) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_resume_without_a_checkpoint_starts(tmp_path, capsys):
    train = ["train", "digits", "--device=cpu", "--max-iter=3", "--json"]
    for extra in (["--resume", f"--checkpoint={tmp_path / 'c'}"], []):
        assert cli.run([*train, *extra]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["objective"] == second["objective"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "number, status, says",
    [
        pytest.param(signal.SIGINT, 130, "interrupted", marks=pytest.mark.long),
        (signal.SIGTERM, 143, "terminated"),
    ],
)
def test_a_sweep_that_is_stopped_saves_the_best_so_far(number, status, says, tmp_path):
    """The first hidden width ends at once, the second one never."""
    never = [*SWEEP, "--hidden=4,4000", "--max-iter=20", "--solver=sgd", "--lr=1e-2,1e-1"]
    process = Copy(tmp_path, *never, "--out=m", "--resume", "--checkpoint-every=0.2")
    for line in process.stderr:
        if line.startswith("fits 2/4"):
            break
    process.send_signal(number)
    got, _, err = ended(process)
    assert got == status
    assert err.endswith(f"xclf: {says}\n")
    kept = "interrupted after 2 of 4 candidates, the best hidden 4, learning_rate "
    assert kept in err
    assert "; saved the best model so far, m\n" in err
    assert "the same command with --resume goes on from m.checkpoint\n" in err
    model = xclf.load(tmp_path / "m")
    assert model.hidden == 4
    assert np.isfinite(model.objective_)


def test_a_training_that_is_terminated_saves_its_model(tmp_path):
    forever = ["train", "digits", *NET, "--max-iter=1000000", "--n-iter-no-change=1000000"]
    process = Copy(tmp_path, *forever, "--out=m")
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            break
    process.send_signal(signal.SIGTERM)
    status, out, err = ended(process)
    assert (status, out) == (143, "")
    assert err.endswith("interrupted; saved the best model so far, m\nxclf: terminated\n")
    assert xclf.load(tmp_path / "m").n_iter_ >= 2
