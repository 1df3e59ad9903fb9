"""Sections about data and models, and images of weights."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest

import xclf
from xclf.report.results import (
    data_facts,
    history_facts,
    model_facts,
    png_uri,
    template_facts,
)
from xclf.report.run import fingerprint


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_a_png_of_its_pixels(channels):
    pillow = pytest.importorskip("PIL.Image")
    image = np.random.default_rng(0).random((5, 7, channels))
    head, _, content = png_uri(image).partition(",")
    assert head == "data:image/png;base64"
    with pillow.open(io.BytesIO(base64.b64decode(content))) as found:
        pixels = np.asarray(found).reshape(5, 7, channels)
    # A value is rounded to 1/255.
    np.testing.assert_array_equal(pixels, np.round(image * 255))


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((60, 12)), np.arange(60) % 3
    return xclf.SoftmaxClassifier(class_weight={0: 2.0, 1: 1.0, 2: 1.0}).fit(x, y), x, y


def test_facts_of_a_model(fitted):
    model, x, y = fitted
    facts = model_facts(model)
    assert facts["estimator"] == "SoftmaxClassifier"
    assert facts["parameters"]["class_weight"] == {"0": 2.0, "1": 1.0, "2": 1.0}
    assert facts["objective"] == model.objective_
    assert facts["dual_gap"] == model.dual_gap_
    history = history_facts(model)
    assert history["objective"] == model.history_["loss"]
    assert history["iteration"] == list(range(1, len(model.history_["loss"]) + 1))
    assert history["validation_accuracy"] is None
    data = data_facts("train", "x.npy", x, y, 3)
    assert (data["fingerprint"], data["labels"]) == (fingerprint(x, y), fingerprint(y))
    assert (data["rows"], data["features"], data["dtype"]) == (60, 12, "float64")
    json.dumps([facts, history, data], allow_nan=False)


def test_templates_of_every_class_and_of_hidden_units(fitted):
    model, x, y = fitted
    facts = template_facts(model, (2, 2, 3), channel_first=True)
    assert facts["names"] == ["0", "1", "2"]
    assert len(facts["images"]) == 3
    net = xclf.TwoLayerClassifier(hidden=5, max_iter=1).fit(x, y)
    assert template_facts(net, (3, 4, 1), channel_first=False)["names"][4] == "unit 4"


def test_the_dtype_of_every_backend(backend):
    x = backend.asarray(np.zeros((2, 3), dtype=np.float32))
    assert data_facts("test", "x", x, None, 2)["dtype"] == "float32"
