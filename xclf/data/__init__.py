"""Readers: common file formats into the arrays that estimators take.

`load(source)` reads any of them; `read_cifar10(folder)` the CIFAR-10 archive. Nothing is downloaded
and no pickle is executed. Every problem with a file is one `DataError` of one line: what is wrong,
where, and what to do.
"""

from xclf.data._cifar import read_cifar10
from xclf.data._dataset import DataError, Dataset, Split
from xclf.data._load import check_there, load

__all__ = ["DataError", "Dataset", "Split", "check_there", "load", "read_cifar10"]
