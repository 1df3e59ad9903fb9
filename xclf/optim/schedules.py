"""Learning-rate schedules: a multiplier of the learning rate for every minibatch step."""

from __future__ import annotations

import math

SCHEDULES = ("constant", "cosine", "exponential")

#: What "exponential" multiplies the rate by after every epoch.
EPOCH_DECAY = 0.95


def rate_factor(schedule: str, step: int, steps_per_epoch: int, epochs: int) -> float:
    """The factor for 0-based `step` of a run of `epochs` epochs.

    constant     1
    cosine       (1 + cos(pi * step / total)) / 2, from 1 down to almost 0 at the last step;
                 Loshchilov & Hutter (2017), without restarts
    exponential  0.95^e in epoch e = 0, 1, ...: the course's learning-rate decay
    """
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / (steps_per_epoch * epochs))))
    if schedule == "exponential":
        return EPOCH_DECAY ** (step // steps_per_epoch)
    raise ValueError(f"lr_schedule must be one of {SCHEDULES}, got {schedule!r}")
