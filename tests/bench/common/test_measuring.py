"""Timings that take turns."""

from bench.common import measuring


def test_turns_are_taken_and_medians_compared():
    calls = []
    slow, fast = (lambda name=name: calls.append(name) for name in ("slow", "fast"))
    seconds = measuring.alternate({"xclf": fast, "other": slow, "gone": "not installed"}, 4)
    assert set(seconds) == {"xclf", "other"}
    rounds = ["fast", "slow", "slow", "fast"]
    assert calls == ["fast", "slow", *rounds, *rounds]
    found = measuring.summarise({"xclf": [1.0, 2.0, 3.0], "other": [4.0, 4.0, 2.0]})
    assert found["other"]["ratio"] == 0.5
    assert found["other"]["median_of_ratios"] == 0.5
    assert found["xclf"]["median_s"] == 2.0
