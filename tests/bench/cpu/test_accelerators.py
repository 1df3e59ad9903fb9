"""What accelerators are worth: with a switch of the tests' own. No real time is asserted."""

import json

import pytest
from bench_gpu_cases import Switch, run

import xclf
from bench.__main__ import main
from bench.cpu import accelerators

WORDS = ["accelerators", "--quick", "--repeats", "2", "--iterations", "3", "--epochs", "1"]


@pytest.fixture
def switch(monkeypatch):
    made = Switch("tiles", "in place", unavailable=["graphs"])
    monkeypatch.setattr(xclf, "accelerators", made, raising=False)
    return made


@pytest.mark.long
def test_every_fit_with_and_without_each(switch, tmp_path, capsys):
    found = run(tmp_path, *WORDS, "--data", "digits", "iris")["results"]
    assert [one["name"] for one in found["accelerators"]] == ["tiles", "in place", "graphs"]
    assert len(found["fits"]) == 2 * len(accelerators.FITS)
    contenders = {"formulas", "without tiles", "without in place"}
    for entry in found["fits"]:
        assert set(entry["seconds"]) == {"all", *contenders}
        assert set(entry["ratios"]) == contenders
        values = list(entry["objectives"].values())
        assert values == pytest.approx([values[0]] * 4, rel=1e-9)  # the switch does nothing
    assert set(found["verdicts"]) == {"tiles", "in place"}
    assert "NO" in capsys.readouterr().out or all(v["stays"] for v in found["verdicts"].values())


def test_ratios_are_of_the_turns_and_decide(switch, monkeypatch, tmp_path):
    slow = {frozenset(["tiles", "in place"]): 1.0, frozenset(["in place"]): 1.3}
    clock = [0.0]

    class Model:
        def fit(self, x, y):
            clock[0] += slow.get(frozenset(switch.on), 1.1)
            self.objective_ = 2.0

    monkeypatch.setattr(accelerators, "_model", lambda *_: Model())
    monkeypatch.setattr(accelerators, "timing", lambda _: _Clock(lambda: clock[0]))
    found = run(tmp_path, *WORDS, "--data", "iris", "--fits", "softmax")["results"]
    verdicts = found["verdicts"]
    assert verdicts["tiles"] == {
        "largest_ratio": pytest.approx(1.3),
        "where": "softmax, iris",
        "stays": True,
    }
    assert verdicts["in place"]["stays"] is False
    assert "iris" in json.dumps(found)


class _Clock:
    def __init__(self, clock):
        self.clock = clock

    def __enter__(self):
        return self.clock

    def __exit__(self, *error):
        pass


def test_what_is_not_usable_here_is_one_line(switch, capsys):
    assert main([*WORDS, "--names", "graphs"]) == 2
    assert capsys.readouterr().err.splitlines() == ["bench accelerators: not usable here: graphs"]
