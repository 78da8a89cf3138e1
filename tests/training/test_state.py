"""A resumed step equals the unbroken one to the bit, dropout included; what is frozen never moves, resumed or not."""

import keras
import numpy as np
import pytest

from ssd.models.backbones import backbone, mobilenet_v1
from ssd.models.checkpoint import load_model, save_model
from ssd.models.detector import build_detector, summary
from ssd.models.freeze import apply_freezing
from ssd.spec.config import Regularizer
from ssd.training.shapes import keyed
from ssd.training.state import capture, restore
from ssd.training.step import TrainingModel

GRID = 4


def dropping_detector() -> keras.Model:
    images = keras.Input((32, 32, 3), name="Input")
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", name="conv1")(images)
    x = keras.layers.Dropout(0.5, noise_shape=(None, 1, 1, 1), name="drop")(x)
    x = keras.layers.Conv2D(8, 3, strides=4, padding="same", activation="relu", name="conv2")(x)
    x = keras.layers.Dropout(0.25, name="drop2")(x)
    logits = keras.layers.Reshape((-1, 4), name="logits")(keras.layers.Conv2D(4, 1, name="ssd_conf_0")(x))
    offsets = keras.layers.Reshape((-1, 4), name="offsets")(keras.layers.Conv2D(4, 1, name="ssd_loc_0")(x))
    return keras.Model(images, {"class_logits": logits, "offsets": offsets})


def training_of(make, network, average: bool, prepare=lambda detector: None) -> TrainingModel:
    detector = make()
    prepare(detector)
    cells = detector.output["offsets"].shape[1]
    corners = np.random.default_rng(0).uniform(0, 0.6, (cells, 2))
    anchors = np.concatenate([corners, corners + 0.3], axis=1).astype(np.float32)
    training = TrainingModel(detector, anchors, network, make() if average else None)
    jit = keras.backend.backend() != "tensorflow"
    training.compile(optimizer=keras.optimizers.SGD(0.01, momentum=0.9), jit_compile=jit)
    training.optimizer.build(training.trainable_variables)
    return training


def batch(size: int, seed: int):
    rng = np.random.default_rng(seed)
    boxes, classes = np.zeros((4, 16, 4), np.float32), np.zeros((4, 16), np.int32)
    boxes[:, 0], classes[:, 0] = (0.25, 0.25, 0.5, 0.5), 1 + np.arange(4) % 2
    return rng.normal(size=(4, size, size, 3)).astype(np.float32), keyed({"boxes": boxes, "classes": classes})


def steps(training: TrainingModel, numbers) -> None:
    size = training.detector.input_shape[1]
    for number in numbers:
        training.train_on_batch(*batch(size, number))


def resumed(training: TrainingModel, make_training, path) -> TrainingModel:
    """Another `training` that goes on from a file of this one."""
    save_model(path, training.evaluated, "spec", {}, capture(training))
    artifact = load_model(path, verb=None)
    again = make_training()
    restore(again, artifact.model, artifact.arrays)
    return again


def assert_same(one: TrainingModel, other: TrainingModel) -> None:
    found, wanted = capture(one), capture(other)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not np.array_equal(found[name], wanted[name])] == []
    for a, b in zip(one.detector.get_weights(), other.detector.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("average", [False, True])
def test_a_resumed_run_drops_what_the_unbroken_one_drops(network, tmp_path, average):
    def make(seed=3):
        keras.utils.set_random_seed(seed)
        return training_of(dropping_detector, network(), average)

    unbroken = make()
    steps(unbroken, range(4))
    same_seed = make()
    steps(same_seed, range(2))
    # A resumed process has another history of random numbers behind it.
    again = resumed(same_seed, lambda: make(seed=99), tmp_path / "model.keras")
    steps(again, range(2, 4))
    assert_same(again, unbroken)
    other_seed = make(seed=4)
    steps(other_seed, range(2))
    assert any(
        not np.array_equal(a, b) for a, b in zip(capture(other_seed).values(), capture(same_seed).values(), strict=True)
    )


def test_the_state_of_dropout_is_no_parameter(monkeypatch):
    detector = dropping_detector()
    seeds = len(detector.non_trainable_variables)
    assert seeds == 2
    monkeypatch.setattr("ssd.models.detector.FEATURE_MAPS", 1)
    counts = summary(detector)
    assert counts.non_trainable == 0
    assert counts.parameters == sum(weight.size for weight in detector.get_weights())


def test_a_checkpoint_without_the_states_of_dropout_is_of_another_network(network, tmp_path):
    from ssd.errors import ModelError

    training = training_of(dropping_detector, network(), False)
    arrays = {name: value for name, value in capture(training).items() if not name.startswith("seeds.")}
    save_model(tmp_path / "model.keras", training.evaluated, "spec", {}, arrays)
    artifact = load_model(tmp_path / "model.keras", verb=None)
    with pytest.raises(ModelError, match="the checkpoint's network is not the one of the spec"):
        restore(training, artifact.model, artifact.arrays)


def snapshot(model: keras.Model) -> dict[str, np.ndarray]:
    return {weight.path: np.array(keras.ops.convert_to_numpy(weight)) for weight in model.weights}


def test_what_is_frozen_does_not_move_by_a_bit_in_training_or_when_resumed(network, tmp_path, monkeypatch):
    # Five blocks are enough, and half the time.
    monkeypatch.setattr(mobilenet_v1, "TABLE", ((16, 2), (24, 1), (24, 2), (32, 1), (32, 2)))
    spec = network(arch="mobilenet_v1", nlayers=None, freeze_blocks=(0, 1, 4), freeze_bn=True)

    def make():
        keras.utils.set_random_seed(5)
        return training_of(
            lambda: build_detector(spec, (64, 64, 3), 3, Regularizer("l2", 1e-2)),
            spec,
            True,
            lambda detector: apply_freezing(detector, spec),
        )

    def block_of(path: str) -> int | None:
        return backbone("mobilenet_v1", None).block_of(path.split("/")[0])

    def frozen(path: str) -> bool:
        return block_of(path) in (0, 1, 4) or (block_of(path) is not None and "_bn/" in path)

    training = make()
    before = snapshot(training.detector)
    steps(training, range(2))
    again = resumed(training, make, tmp_path / "model.keras")
    steps(training, range(2, 3))
    steps(again, range(2, 3))
    assert_same(again, training)
    after = snapshot(again.detector)
    for path, value in before.items():
        if frozen(path):
            np.testing.assert_array_equal(after[path], value, err_msg=path)
        elif block_of(path) is not None:
            assert not np.array_equal(after[path], value), path
    assert {path.split("/")[0] for path in before if frozen(path)} >= {
        "conv1",
        "conv1_bn",
        "conv_dw_4",
        "conv_dw_4_bn",
        "conv_pw_4",
        "conv_pw_4_bn",
    }
    means = snapshot(again.average)
    for path, value in before.items():
        if frozen(path):
            np.testing.assert_array_equal(means[path], value, err_msg=path)


def test_freezing_may_change_when_a_run_is_resumed(network, tmp_path):
    def make(*frozen):
        keras.utils.set_random_seed(5)
        return training_of(small_detector, network(), False, lambda detector: freeze(detector, frozen))

    def freeze(detector, names):
        for name in names:
            detector.get_layer(name).trainable = False

    before = make("one")
    steps(before, range(2))
    after = resumed(before, lambda: make("two"), tmp_path / "model.keras")
    slots = {name: value for name, value in capture(after).items() if "momentum" in name}
    assert {name.split(".")[1].split("_")[0] for name in slots} == {"one", "heads"}
    assert not any(value.any() for name, value in slots.items() if "one_" in name)
    saved = capture(before)
    kept = [name for name in slots if "heads_" in name]
    assert kept and all(np.array_equal(slots[name], saved[name]) for name in kept)
    held = after.detector.get_layer("two").get_weights()
    moved = after.detector.get_layer("one").get_weights()
    steps(after, range(2, 4))
    np.testing.assert_array_equal(after.detector.get_layer("two").get_weights()[0], held[0])
    assert not np.array_equal(after.detector.get_layer("one").get_weights()[0], moved[0])


def small_detector() -> keras.Model:
    images = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, strides=4, name="one")(images)
    x = keras.layers.Conv2D(4, 1, name="two")(x)
    x = keras.layers.Reshape((-1, 8), name="cells")(keras.layers.Conv2D(8, 1, name="heads")(x))
    outputs = {"class_logits": x[..., :4], "offsets": x[..., 4:]}
    return keras.Model(images, outputs)
