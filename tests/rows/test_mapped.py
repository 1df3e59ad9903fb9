"""Rows in mapped files, and copies of them in memory."""

from __future__ import annotations

import numpy as np
import pytest

from xclf.rows._mapped import bring_in, is_mapped, off_file

X = np.random.default_rng(0).normal(size=(3000, 5)).astype(np.float32)


@pytest.fixture
def mapped(tmp_path):
    np.save(tmp_path / "x.npy", X)
    return np.load(tmp_path / "x.npy", mmap_mode="r")


def test_views_of_a_file_are_mapped(mapped):
    for view in (mapped, mapped[10:20], np.asarray(mapped)[::2], mapped[:, 1:3].T):
        assert is_mapped(view)
    for other in (X, X[3:], np.array(mapped), mapped + 0.0, None):
        assert not is_mapped(other)


def test_what_is_brought_in_stays_as_it_was(mapped):
    for view in (mapped, mapped[7:2000], mapped[:0], mapped[::2], mapped[:, 1:], X):
        want = np.array(view)
        bring_in(view)
        np.testing.assert_array_equal(view, want)


def test_a_copy_is_in_memory(mapped):
    copy = off_file(np.asarray(mapped)[5:9])
    assert not is_mapped(copy)
    np.testing.assert_array_equal(copy, X[5:9])
    assert off_file(X) is X
