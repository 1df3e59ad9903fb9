"""Arguments whose shapes do not belong together are refused, not broadcast into something else."""

from __future__ import annotations

import numpy as np
import pytest

from xclf.kernels import cross_entropy, hinge, l2, proximal_hinge, squared_hinge

SCORES = np.zeros((2, 3, 4), dtype=np.float32)  # two heads, three classes, four rows; axis -2
MASK = np.arange(3)[:, None] == np.asarray([0, 1, 2, 0])


@pytest.mark.parametrize("loss", [cross_entropy, hinge, squared_hinge])
@pytest.mark.parametrize(
    "labels",
    [
        np.zeros((5, 4), dtype=np.int64),  # five heads
        np.zeros((1, 4), dtype=np.int64),
        np.zeros(5, dtype=np.int64),  # five rows
        np.ones((3, 5), dtype=bool),
        np.ones((3, 1), dtype=bool),  # one class for every row
        np.ones((1, 4), dtype=bool),
        np.ones((5, 3, 4), dtype=bool),
        np.ones((1, 2, 3, 4), dtype=bool),
        np.ones(4, dtype=bool),
    ],
    ids=lambda labels: f"{labels.dtype}{labels.shape}",
)
def test_labels_of_other_shapes_are_refused(loss, labels):
    with pytest.raises(ValueError, match="labels must"):
        loss(SCORES, labels, axis=-2)


@pytest.mark.parametrize("loss", [cross_entropy, hinge, squared_hinge])
def test_weights_of_other_heads_are_refused(loss):
    with pytest.raises(ValueError, match="weights must"):
        loss(SCORES[:1], MASK, weights=np.ones((2, 4), dtype=np.float32), axis=-2)


@pytest.mark.parametrize("loss", [cross_entropy, hinge, squared_hinge])
def test_a_mask_may_be_shared_by_heads(loss):
    shared = loss(SCORES, MASK, axis=-2)[1]
    for mask in (MASK[None], np.stack([MASK, MASK])):
        assert np.array_equal(loss(SCORES, mask, axis=-2)[1], shared)


def test_a_mask_without_heads_does_not_fit_class_first_scores():
    with pytest.raises(ValueError, match="labels must"):
        hinge(np.zeros((3, 2, 4)), MASK, axis=0)


def test_a_margin_must_be_one_per_head():
    with pytest.raises(ValueError, match="one per head"):
        hinge(SCORES, MASK, margin=np.ones(3, dtype=np.float32), axis=-2)


def test_a_strength_must_be_one_per_head():
    with pytest.raises(ValueError, match="one per head"):
        l2(np.ones((3, 4)), np.ones(1))


@pytest.mark.parametrize("loss", [cross_entropy, hinge, squared_hinge])
def test_there_is_no_mean_over_no_rows(loss):
    with pytest.raises(ValueError, match="no rows"):
        loss(np.zeros((0, 3)), np.zeros(0, dtype=np.int64))


def test_numpy_scalars_do_not_promote_float32():
    # A grid of strengths or margins from np.logspace consists of float64 scalars.
    one = np.float64(1.0)
    w = np.ones((2, 3), dtype=np.float32)
    results = [*l2(w, one), *hinge(SCORES, MASK, margin=one, axis=-2)]
    results += proximal_hinge(SCORES, MASK, np.zeros_like(SCORES), one, margin=one, axis=-2)
    assert {result.dtype for result in results} == {np.dtype(np.float32)}
