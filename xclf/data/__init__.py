"""Readers: files people have, to arrays the estimators take.

`load(source)` reads any of them; `read_cifar10(folder)` the CIFAR-10 archive. Nothing is fetched
from a network and no pickle is ever executed. Whatever is wrong with a file is one `DataError`,
one line: what was wrong, where, and what to do.
"""

from xclf.data._cifar import read_cifar10
from xclf.data._dataset import DataError, Dataset
from xclf.data._load import load

__all__ = ["DataError", "Dataset", "load", "read_cifar10"]
