"""The door of the benchmarks: names, options, and one line for what is wrong."""

import importlib

import pytest

from bench.__main__ import NAMES, main


def test_missing_data_is_one_line(capsys):
    assert main(["minibatch", "--data", "nowhere.npz", "--quick"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("words", [["nonsense"], [], ["fit", "--nonsense"]])
def test_wrong_usage_exits_with_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    if words == ["nonsense"]:
        said = capsys.readouterr().err
        assert "unknown benchmark 'nonsense'" in said
        assert "loss_grad, minibatch, fit" in said


def test_every_name_is_a_module_with_the_two_functions():
    for path, _ in NAMES.values():
        module = importlib.import_module(f"bench.{path}")
        assert callable(module.run)
        assert callable(module.add_arguments)


@pytest.mark.parametrize("words", [["sweep", "--parts", "pass"], ["fit", "--optima-only"]])
def test_nothing_to_draw_is_one_line(words, tmp_path, capsys):
    picture = tmp_path / "nothing.png"
    quick = ["--quick", "--reg", "1e-2"] if words[0] == "fit" else ["--quick", "--repeats", "1"]
    assert main([*words, *quick, "--plot", str(picture)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"bench {words[0]}: --plot")
    assert not picture.exists()
