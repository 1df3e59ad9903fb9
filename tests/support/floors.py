"""The floors of the house: a room imports from lower ones only."""

FLOORS = {
    "_version": 0,
    "_array_api": 0,
    "_atomic_write": 0,
    "_interrupt": 0,
    "_warnings": 0,
    "_heads": 1,
    "_tensor_file": 1,
    "kernels": 1,
    "gradcheck": 1,
    "objectives": 2,
    "rows": 2,
    "optim": 2,
    "accelerate": 3,
    "training": 4,
    "estimators": 5,
    "data": 5,
    "report": 5,
    "sweep": 6,
    "cs231n": 7,
    "cli": 7,
}
