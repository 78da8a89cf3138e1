"""The training step on a network small enough to follow by hand."""

import keras
import numpy as np
import pytest

from ssd.models.batch_norm import BatchNormalization
from ssd.quantization.rewrite import quantize
from ssd.spec.config import Augmentation
from ssd.training.pixels import network_input, unchanged
from ssd.training.shapes import keyed
from ssd.training.step import TrainingModel, regularisation

GRID = 4


def anchors() -> np.ndarray:
    corners = np.stack(np.meshgrid(np.arange(GRID), np.arange(GRID)), -1).reshape(-1, 2) / GRID
    return np.concatenate([corners, corners + 1 / GRID], axis=1).astype(np.float32)


def tiny_detector() -> keras.Model:
    images = keras.Input((8, 8, 3), name="Input")
    x = keras.layers.Conv2D(4, 2, strides=2, use_bias=False, kernel_regularizer=keras.regularizers.L2(0.1))(images)
    x = keras.layers.BatchNormalization(momentum=0.9)(x)
    x = keras.layers.ReLU()(x)
    logits = keras.layers.Reshape((-1, 3))(keras.layers.Conv2D(3, 1)(x))
    offsets = keras.layers.Reshape((-1, 4))(keras.layers.Conv2D(4, 1)(x))
    return keras.Model(images, {"class_logits": logits, "offsets": offsets})


def batch(images: int, seed: int) -> tuple[np.ndarray, dict]:
    rng = np.random.default_rng(seed)
    boxes, classes = np.zeros((images, 16, 4), np.float32), np.zeros((images, 16), np.int32)
    boxes[:, 0] = (0.25, 0.25, 0.5, 0.5)
    classes[:, 0] = 1 + np.arange(images) % 2
    return rng.normal(size=(images, 8, 8, 3)).astype(np.float32), keyed({"boxes": boxes, "classes": classes})


@pytest.fixture
def training(network):
    def make(average: bool, rate: float = 0.01) -> TrainingModel:
        keras.utils.set_random_seed(0)
        model = TrainingModel(tiny_detector(), anchors(), network(), tiny_detector() if average else None)
        jit = keras.backend.backend() != "tensorflow"
        model.compile(optimizer=keras.optimizers.SGD(rate, momentum=0.9), jit_compile=jit)
        return model

    return make


def test_the_loss_falls_and_its_parts_add_up(training):
    model = training(average=False, rate=0.05)
    images, truth = batch(4, seed=1)
    losses = []
    for _ in range(30):
        model.start_epoch()
        model.train_on_batch(images, truth)
        losses.append(model.totals()["loss"])
    totals = model.totals()
    assert losses[-1] < 0.5 * losses[0]
    parts = totals["classification"] + totals["localisation"] + totals["regularisation"]
    assert totals["loss"] == pytest.approx(parts, rel=1e-5)


def test_xla_computes_the_same_step(network):
    """As on a GPU, where TensorFlow's step is one program of XLA's."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("XLA computes every step here")
    images, truth = batch(4, seed=1)
    losses = []
    for jit in (False, True):
        keras.utils.set_random_seed(0)
        model = TrainingModel(tiny_detector(), anchors(), network(), tiny_detector())
        model.compile(optimizer=keras.optimizers.SGD(0.05, momentum=0.9), jit_compile=jit)
        for _ in range(5):
            model.train_on_batch(images, truth)
        losses.append(model.totals()["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_frozen_statistics_train_without_the_fused_operation_too(monkeypatch):
    """Which has no gradient for them on GPUs where it must be deterministic."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the fused operation is TensorFlow's")
    import tensorflow as tf

    from ssd.models import batch_norm

    layer = batch_norm.BatchNormalization()
    layer.build((None, 4, 4, 3))
    layer.set_weights([np.array(row, np.float32) for row in ((1, 2, 3), (0, 1, 2), (3, 1, 2), (1, 4, 9))])
    layer.trainable = False
    x, found = tf.constant(np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype("float32")), []
    fused = tf.compat.v1.nn.fused_batch_norm
    calls = []
    monkeypatch.setattr(tf.compat.v1.nn, "fused_batch_norm", lambda *a, **k: calls.append(1) or fused(*a, **k))
    for lacking in (False, True):
        monkeypatch.setattr(batch_norm, "_lacks_gradient", lambda lacking=lacking: lacking)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        found.append((y, tape.gradient(y, x)))
    assert len(calls) == 1
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_step_makes_the_networks_input_itself(network):
    """The same, then, as a step on that input; and fillers, which are not zero once coloured, are no images."""
    once, off = (1.0, 1.0), dict.fromkeys(("brightness", "contrast", "saturation", "hue", "flip"), 0.0)
    augmentation = Augmentation(8, 8, 3, (90.0, 100.0, 110.0), once, once, once, **off)
    rng = np.random.default_rng(2)
    pixels = unchanged(rng.integers(0, 256, (3, 8, 8, 3), np.uint8))
    pixels["colour"][:, 3] = rng.uniform(-50, 50, (3, 1))
    pixels["covered"][1] = (2, 3, 7, 8)
    _, truth = batch(3, seed=1)
    filled = {f"{name} 3": np.concatenate([values, values[:1]]) for name, values in pixels.items()}
    filled_truth = {key: np.concatenate([values, values[:1]]) for key, values in truth.items()}
    ready = keras.ops.convert_to_numpy(network_input(pixels, augmentation))
    ways = ((None, ready, truth), (augmentation, pixels, truth), (augmentation, filled, filled_truth))
    found = []
    for how, images, targets in ways:
        keras.utils.set_random_seed(0)
        model = TrainingModel(tiny_detector(), anchors(), network(), augmentation=how)
        model.compile(optimizer=keras.optimizers.SGD(1e-3), jit_compile=keras.backend.backend() != "tensorflow")
        model.train_on_batch(images, targets)
        found.append([model.totals()["images"], model.totals()["loss"], *model.detector.get_weights()])
    for other in found[1:]:
        for value, expected in zip(other, found[0], strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
    assert found[0][0] == 3


def test_totals_are_means_over_images_not_over_batches(training):
    model = training(average=False, rate=0.0)
    large, small = batch(4, seed=1), batch(1, seed=2)
    alone = []
    for images, truth in (large, small):
        model.start_epoch()
        model.train_on_batch(images, truth)
        alone.append(model.totals()["loss"])
    model.start_epoch()
    model.train_on_batch(*large)
    model.train_on_batch(*small)
    totals = model.totals()
    assert totals["images"] == 5
    assert totals["loss"] == pytest.approx((4 * alone[0] + alone[1]) / 5, rel=1e-5)


def test_the_average_follows_weights_and_batch_statistics(training):
    model = training(average=True, rate=0.1)
    expected = [weight.astype(np.float64) for weight in model.detector.get_weights()]
    for step in range(1, 6):
        weights = model.detector.get_weights()  # the update comes after the averaging
        model.train_on_batch(*batch(4, seed=step))
        statistics = model.detector.get_weights()
        keep = min(0.9998, step / (10 + step))
        for index, variable in enumerate(model.detector.weights):
            # Batch statistics are renewed by the forward pass, before the averaging.
            value = statistics[index] if "moving" in variable.name else weights[index]
            expected[index] = keep * expected[index] + (1 - keep) * value
    assert model.evaluated is model.average
    for found, wanted in zip(model.average.get_weights(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-6)


def test_the_average_has_the_ranges_as_they_are(network):
    detector, average = (quantize(tiny_detector()) for _ in range(2))
    model = TrainingModel(detector, anchors(), network(), average)
    model.compile(optimizer=keras.optimizers.SGD(0.01), jit_compile=keras.backend.backend() != "tensorflow")
    model.counter.assign(5000)  # an average that began at 0 would be there in thousands of steps
    model.train_on_batch(*batch(4, seed=1))
    ranges = [(a.amax, b.amax) for a, b in zip(detector.layers, average.layers, strict=True) if hasattr(a, "amax")]
    assert len(ranges) == 2
    for found, wanted in ranges:
        assert float(found) == float(wanted) > 0


@pytest.mark.parametrize(("momentum", "done"), [(0.999, 0), (0.5, 0), (0.99, 2000)])
def test_batch_statistics_average_over_the_last_tenth_of_the_steps_at_most(network, momentum, done):
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 3), name="Input")
    x = BatchNormalization(momentum=momentum, name="bn")(images)
    x = keras.layers.AveragePooling2D(2)(x)
    heads = (keras.layers.Reshape((-1, n))(keras.layers.Conv2D(n, 1)(x)) for n in (3, 4))
    detector = keras.Model(images, dict(zip(("class_logits", "offsets"), heads, strict=True)))
    model = TrainingModel(detector, anchors(), network())
    model.compile(optimizer=keras.optimizers.SGD(0.0), jit_compile=keras.backend.backend() != "tensorflow")
    model.counter.assign(done)
    mean, variance = np.zeros(3), np.ones(3)
    for step in range(12):
        pixels, truth = batch(4, seed=step)
        pixels = pixels * (1 + step) + step
        model.train_on_batch(pixels, truth)
        keep = min(momentum, (1 + done + step) / (10 + done + step))
        mean = keep * mean + (1 - keep) * pixels.mean(axis=(0, 1, 2), dtype=np.float64)
        variance = keep * variance + (1 - keep) * pixels.var(axis=(0, 1, 2), dtype=np.float64)
    layer = detector.get_layer("bn")
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer.moving_mean), mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer.moving_variance), variance, rtol=1e-4)
    assert layer.get_config()["momentum"] == momentum


def test_the_average_is_not_trained(training):
    model = training(average=True)
    assert len(model.trainable_variables) == len(model.detector.trainable_variables)


def test_the_first_loss_that_is_not_finite_is_remembered(training):
    model = training(average=False)
    model.train_on_batch(*batch(2, seed=0))
    assert model.first_bad_step() is None
    broken = next(layer for layer in model.detector.layers if isinstance(layer, keras.layers.Conv2D) and layer.use_bias)
    broken.bias.assign(np.full(broken.bias.shape, np.nan))
    model.train_on_batch(*batch(2, seed=1))
    model.train_on_batch(*batch(2, seed=2))
    assert model.first_bad_step() == 1


def test_regularisation_is_that_of_the_trained_kernels():
    detector = tiny_detector()
    kernel = detector.layers[1].kernel
    squares = np.square(keras.ops.convert_to_numpy(kernel)).sum()
    assert float(regularisation(detector)) == pytest.approx(0.1 * squares, rel=1e-5)
    detector.layers[1].trainable = False
    assert float(regularisation(detector)) == 0
