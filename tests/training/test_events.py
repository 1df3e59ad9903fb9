"""What a fit tells its callbacks and keeps as history."""

from __future__ import annotations

import math

import pytest

from xclf.training import Event, FitResult, Monitor, empty_history


def test_a_line_of_history_per_record():
    monitor = Monitor((), "epoch", 3)
    assert monitor.record(1, 0.5) is False
    assert monitor.record(2, 0.25, val_loss=0.3, val_accuracy=0.9) is False
    assert monitor.history["loss"] == [0.5, 0.25]
    assert math.isnan(monitor.history["val_loss"][0])
    assert monitor.history["val_loss"][1] == 0.3
    assert monitor.history["val_accuracy"][1] == 0.9
    seconds = monitor.history["seconds"]
    assert 0 <= seconds[0] <= seconds[1]
    assert {len(values) for values in monitor.history.values()} == {2}
    assert monitor.history.keys() == empty_history().keys()
    assert Monitor((), "epoch", 3).history["loss"] == []  # not shared


def test_events():
    heard = []
    monitor = Monitor([heard.append], "iteration", 7)
    monitor.record(3, 0.5, heads=4)
    monitor.record(4, 0.25, val_accuracy=0.75)
    first, second = heard
    assert (first.step, first.total, first.unit, first.objective) == (3, 7, "iteration", 0.5)
    assert first.heads == 4
    assert first.val_accuracy is None
    assert second.val_accuracy == 0.75
    assert 0 <= first.elapsed <= second.elapsed
    with pytest.raises(AttributeError):
        first.step = 5


@pytest.mark.parametrize(
    "wish, stops", [(True, True), (False, False), (None, False), (1, False), ("stop", False)]
)
def test_only_true_stops(wish, stops):
    """A callback that returns something by accident (`list.append`'s None, a count) goes on."""
    assert Monitor([lambda event: wish], "epoch", 1).record(1, 0.0) is stops


def test_every_callback_hears_every_event():
    heard = []
    callbacks = [lambda event: True, heard.append, lambda event: True, heard.append]
    assert Monitor(callbacks, "epoch", 1).record(1, 0.0)
    assert len(heard) == 2
    assert all(isinstance(event, Event) for event in heard)


def test_a_callback_that_fails_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        Monitor([lambda event: 1 / 0], "epoch", 1).record(1, 0.0)


def test_a_result_starts_with_nothing_claimed():
    result = FitResult(None, 1, 0.5, False, "why")
    assert math.isnan(result.grad_norm)
    assert result.state is None
    assert result.interrupted is False
