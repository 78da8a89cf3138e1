"""Every network pruned as it is used: the file loads, predicts, retrains a step, is pruned again.

All of them take half an hour: `pytest -m networks tests/pruning/test_networks.py`; a small one runs always.
"""

import keras
import numpy as np
import pytest
from every_network import NETWORKS, forget, spec_of

from ssd.deploy.predictors import load_predictor
from ssd.models.checkpoint import save_model
from ssd.models.pretrained import read_weights
from ssd.pruning.plan import Pruner, Rules
from ssd.training.pixels import unchanged
from ssd.training.run import begin, build
from ssd.training.shapes import keyed
from ssd.training.start import Start
from ssd.training.state import Progress

L = keras.layers
WITH_DSSD = [*((arch, depth, False) for arch, depth in NETWORKS), ("resnet", 18, True)]


def batch():
    boxes, classes = np.zeros((2, 16, 4), "float32"), np.zeros((2, 16), "int32")
    boxes[:, 0], classes[:, 0] = (0.3, 0.4, 0.7, 0.8), (1, 3)
    images = np.random.default_rng(0).normal(0, 40, (2, 128, 128, 3)).astype("float32")
    return images, keyed({"boxes": boxes, "classes": classes})


def check(spec, model, removed: float, path) -> None:
    pruner = Pruner(model, Rules())
    pruned = pruner.prune(pruner.threshold_for(1 - removed))
    assert pruned.count_params() <= (1 - removed) * model.count_params()
    for layer in pruned.layers:
        if isinstance(layer, L.Conv2D | L.Conv2DTranspose):
            before = model.get_layer(layer.name).filters
            assert layer.filters >= min(16, before)
            assert layer.filters % 8 == 0 or layer.filters == before
    save_model(path, pruned, spec.text)

    images, truth = batch()
    found = load_predictor(path).predict(images)
    assert np.isfinite(found.boxes).all()
    weights = read_weights(path, spec.network)
    start = Start(Progress(), str(path), weights=weights, pixels=weights.convention)
    training, _ = build(spec, steps=1, start=start)
    begin(training, start, 1, [0, 0, 0])
    assert [w.shape for w in training.detector.weights] == [w.shape for w in pruned.weights]
    for one, other in zip(training.detector.get_weights(), pruned.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    rgb = np.random.default_rng(1).integers(0, 256, images.shape, np.uint8)
    training.train_on_batch(unchanged(rgb), truth)
    assert np.isfinite(training.totals()["loss"])
    again = Pruner(training.detector, Rules())
    assert again.prune(again.threshold_for(0.9)).count_params() < pruned.count_params()


def test_a_small_network_is_pruned_used_retrained_and_pruned_again(spec_text, tmp_path):
    spec = spec_of(spec_text(tmp_path, tmp_path), "mobilenet_v1", None, False)
    keras.utils.set_random_seed(0)
    check(spec, build(spec, steps=1)[0].detector, 0.5, tmp_path / "pruned.keras")


@pytest.mark.networks
@pytest.mark.parametrize("removed", [0.3, 0.5, 0.7])
@pytest.mark.parametrize(("arch", "nlayers", "dssd"), WITH_DSSD)
def test_every_network_is_pruned_used_retrained_and_pruned_again(arch, nlayers, dssd, removed, spec_text, tmp_path):
    spec = spec_of(spec_text(tmp_path, tmp_path), arch, nlayers, dssd)
    keras.utils.set_random_seed(0)
    check(spec, build(spec, steps=1)[0].detector, removed, tmp_path / "pruned.keras")
    forget()
