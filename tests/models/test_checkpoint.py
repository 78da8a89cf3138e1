"""Model files: everything comes back bit for bit, elsewhere too; what is no model file says so in a line."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

from ssd.errors import ModelError
from ssd.models.batch_norm import BatchNormalization
from ssd.models.checkpoint import load_model, read_spec_text, read_state, save_model
from ssd.models.detector import build_detector
from ssd.models.freeze import apply_freezing
from ssd.models.widths import with_widths
from ssd.spec.config import Regularizer

SPEC = 'ssd_config {\n  arch: "resnet"  # größer\n}\n'
STATE = {"epoch": 7, "best": 0.5, "names": ["a"], "none": None}
ARRAYS = {
    "optimizer/0": np.random.default_rng(0).normal(size=(3, 4)).astype("float32"),
    "file": np.arange(5),
    "scalar": np.float64(0.1),
    "flag": np.array(True),
    "empty": np.zeros((0, 2), "int64"),
}


@pytest.fixture(scope="module")
def saved(detector, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model.keras"
    save_model(path, detector, SPEC, STATE, ARRAYS)
    return path


def same_outputs(one, other):
    assert set(one) == set(other)
    for name in one:
        np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(other[name]))


def test_outputs_weights_spec_and_state_come_back_bit_for_bit(saved, detector, images):
    artifact = load_model(saved, verb=None)
    assert artifact.spec is None
    assert artifact.spec_text == SPEC == read_spec_text(saved)
    assert artifact.state == STATE
    assert [w.path for w in artifact.model.weights] == [w.path for w in detector.weights]
    for one, other in zip(artifact.model.get_weights(), detector.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    same_outputs(artifact.model(images), detector(images))
    state, arrays = read_state(saved)
    assert state == STATE
    for found in (arrays, artifact.arrays):
        assert set(found) == set(ARRAYS)
        for name, value in ARRAYS.items():
            assert found[name].dtype == value.dtype
            np.testing.assert_array_equal(found[name], value)


def test_a_second_round_gives_the_same_file_contents(saved, tmp_path):
    artifact = load_model(saved, verb=None)
    save_model(tmp_path / "again.keras", artifact.model, artifact.spec_text, artifact.state, artifact.arrays)
    with zipfile.ZipFile(saved) as one, zipfile.ZipFile(tmp_path / "again.keras") as other:
        assert one.namelist() == other.namelist()
        for name in ("config.json", "ssd/spec.txt", "ssd/state.json"):
            assert one.read(name) == other.read(name)


def test_batch_norm_is_ours_after_loading_and_stock_in_the_file(saved):
    assert isinstance(load_model(saved, verb=None).model.get_layer("bn_conv1"), BatchNormalization)
    with zipfile.ZipFile(saved) as archive:
        config = archive.read("config.json").decode()
    assert "ssd." not in config
    assert "mixed" not in config


def run_python(program, *arguments, **environment):
    run = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout


def test_a_quantization_aware_file_opens_in_a_fresh_process(tmp_path):
    """Where nothing but the file says that there are such layers."""
    from ssd.quantization.rewrite import quantize

    images = keras.Input((4, 4, 3), name="Input")
    model = quantize(keras.Model(images, keras.layers.Conv2D(2, 1, name="conv")(images)))
    save_model(tmp_path / "qat.keras", model, SPEC)
    program = "import sys; from ssd.models.checkpoint import load_model; print(load_model(sys.argv[1], verb=None))"
    assert "<Functional" in run_python(program, tmp_path / "qat.keras")


STOCK_KERAS = """
import sys
sys.modules["ssd"] = None  # as on a machine that has Keras only
import keras, numpy as np
model = keras.models.load_model(sys.argv[1])
# one compiled function where single operations would each be compiled
run = model.predict_on_batch if keras.backend.backend() == "jax" else model
outputs = run(np.load(sys.argv[2]))
np.savez(sys.argv[3], **{name: np.asarray(value) for name, value in outputs.items()})
"""


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="starts both backends itself, once is enough")
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_stock_keras_opens_the_file_on_either_backend(detector, images, tmp_path, backend):
    pytest.importorskip(backend)
    inner = [layer.name for layer in detector.layers if hasattr(layer, "filters") and "ssd_" not in layer.name]
    detector = with_widths(detector, dict.fromkeys(inner, 8))  # it need not be large
    files = [tmp_path / name for name in ("model.keras", "images.npy", "outputs.npz")]
    save_model(files[0], detector, SPEC)
    np.save(files[1], images)
    run_python(STOCK_KERAS, *files, KERAS_BACKEND=backend)
    expected = detector(images)
    with np.load(files[2]) as outputs:
        assert set(outputs.files) == set(expected)
        for name, value in expected.items():
            scale = np.abs(np.asarray(value)).max()
            np.testing.assert_allclose(outputs[name] / scale, np.asarray(value) / scale, atol=1e-4)


def test_trained_in_mixed_precision_loads_in_any(network, images, tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_detector(network(), (128, 128, 3), 3)
        save_model(tmp_path / "model.keras", model, SPEC)
        half = load_model(tmp_path / "model.keras", verb=None, precision="mixed_bfloat16").model
        same_outputs(half(images), model(images))
        exact = load_model(tmp_path / "model.keras", verb=None).model
        exact_outputs = exact(images)
    finally:
        keras.config.set_dtype_policy(before)
    assert {layer.dtype_policy.name for layer in exact.layers[1:]} == {"float32"}
    reference = build_detector(network(), (128, 128, 3), 3)
    reference.set_weights(model.get_weights())
    same_outputs(exact_outputs, reference(images))
    # and back: trained in float32, continued in mixed precision
    save_model(tmp_path / "exact.keras", exact, SPEC)
    again = load_model(tmp_path / "exact.keras", verb=None, precision="mixed_bfloat16").model
    same_outputs(again(images), model(images))


def test_regulariser_and_freezing_come_back(network, scramble, tmp_path):
    model = scramble(network(), (128, 128, 3), regularizer=Regularizer("l2", 1e-4))
    apply_freezing(model, network(freeze_blocks=(0, 1)))
    save_model(tmp_path / "model.keras", model, SPEC)
    loaded = load_model(tmp_path / "model.keras", verb=None).model
    assert [layer.trainable for layer in loaded.layers] == [layer.trainable for layer in model.layers]
    for one, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert float(sum(loaded.losses)) == float(sum(model.losses)) > 0


def test_a_compiled_model_is_stored_uncompiled(network, scramble, images, tmp_path):
    model = scramble(network(), (128, 128, 3))
    model.compile(keras.optimizers.Adam(), loss={"class_logits": "mse", "offsets": "mse"}, jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    save_model(tmp_path / "model.keras", model, SPEC)
    loaded = load_model(tmp_path / "model.keras", verb=None).model
    assert not loaded.compiled
    same_outputs(loaded(images), model(images))


def test_reading_the_state_does_not_build_the_network(saved, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("built")

    monkeypatch.setattr(keras.saving, "deserialize_keras_object", refuse)
    assert read_state(saved)[0] == STATE
    assert read_spec_text(saved) == SPEC


def test_a_failed_save_leaves_the_old_file_and_nothing_else(saved, detector, tmp_path):
    path = tmp_path / "model.keras"
    shutil.copy(saved, path)
    before = path.read_bytes()
    for wrong in (np.array([object()]), np.zeros(2, keras.backend.standardize_dtype("float32") + ",int32")):
        with pytest.raises(TypeError, match="array slot"):
            save_model(path, detector, SPEC, arrays={"slot": wrong})
    with pytest.raises(TypeError):
        save_model(path, detector, SPEC, state={"not json": object()})
    with pytest.raises(AttributeError):
        save_model(path, object(), SPEC)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["model.keras"]


def test_a_model_file_is_named_keras(detector, tmp_path):
    with pytest.raises(ModelError, match=r"ends in \.keras, not \.hdf5"):
        save_model(tmp_path / "model.hdf5", detector, SPEC)


def rewritten(saved, path, *, drop=(), **replaced):
    """A copy of a model file with members left out or replaced."""
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            if name not in drop:
                target.writestr(name, replaced.get(name.rpartition("/")[2].partition(".")[0], source.read(name)))
    return path


def damaged_middle(saved, path):
    content = bytearray(saved.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    path.write_bytes(content)
    return path


def foreign_keras(saved, path):
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(path)
    return path


def layer_of_a_stranger(saved, path):
    with zipfile.ZipFile(saved) as archive:
        config = json.loads(archive.read("config.json"))
    config["config"]["layers"][3].update(module="antigravity", class_name="Fly", registered_name="Fly")
    return rewritten(saved, path, config=json.dumps(config))


def lambda_layer(saved, path):
    x = keras.Input((2,), name="Input")
    model = keras.Model(x, {"class_logits": keras.layers.Lambda(lambda x: x + 1)(x)})
    save_model(path, model, SPEC)
    return path


def wrong_weights(saved, path):
    with zipfile.ZipFile(saved) as archive:
        config = archive.read("config.json").decode()
    assert '"filters": 64' in config
    return rewritten(saved, path, config=config.replace('"filters": 64', '"filters": 32'))


def write(path, content):
    path.write_bytes(content)
    return path


BAD_FILES = {
    "missing": (lambda s, p: p, "no such model file"),
    "folder": (lambda s, p: p.mkdir() or p, "a folder, not a model file"),
    "empty": (lambda s, p: write(p, b""), "empty"),
    "text": (lambda s, p: write(p, b"hello, this is no model"), "a text file, not a model file"),
    "hdf5 inside": (lambda s, p: write(p, b"\x89HDF\r\n\x1a\n" + bytes(100)), "an HDF5 model has no spec inside"),
    "weights only": (
        lambda s, p: write(p, b"\x02" + bytes(7) + b"{}"),
        "a safetensors file of weights only, not a model that was saved by ssd",
    ),
    "truncated": (
        lambda s, p: write(p, s.read_bytes()[: s.stat().st_size // 2]),
        "damaged: the end of the file",
    ),
    "damaged": (damaged_middle, "damaged: model.weights.h5 inside cannot be read"),
    "someone else's": (foreign_keras, "a Keras model without a spec: not saved by ssd"),
    "a zip": (lambda s, p: rewritten(s, p, drop=["config.json"]), "a zip archive without a network"),
    "no weights": (lambda s, p: rewritten(s, p, drop=["model.weights.h5"]), "damaged: model.weights.h5 is missing"),
    "bad weights": (lambda s, p: rewritten(s, p, model=b"\x89HDF"), "the network inside cannot be restored"),
    "no state": (lambda s, p: rewritten(s, p, drop=["ssd/state.npz"]), "damaged: ssd/state.npz is missing inside"),
    "bad state": (lambda s, p: rewritten(s, p, state=b"{"), "damaged: the saved state is unreadable"),
    "bad config": (lambda s, p: rewritten(s, p, config=b"[]"), "the network inside cannot be restored"),
    "other weights": (wrong_weights, "the network inside cannot be restored"),
    "a stranger's code": (layer_of_a_stranger, "the network has a layer from the Python module antigravity"),
    "a lambda": (lambda_layer, "the network inside cannot be restored"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_gives_one_line(saved, tmp_path, case):
    make, message = BAD_FILES[case]
    path = make(saved, tmp_path / "bad.keras")
    with pytest.raises(ModelError) as caught:
        load_model(path, verb=None)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in caught.value.message
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("suffix", "what"),
    [
        (".tlt", "an encrypted TAO model"),
        (".etlt", "an encrypted TAO export"),
        (".onnx", "an exported network"),
        (".engine", "a TensorRT engine"),
        (".pth", "a pickled PyTorch model"),
        (".h5", "no known kind of model file"),
    ],
)
def test_other_kinds_of_file_are_told_apart(tmp_path, suffix, what):
    path = write(tmp_path / f"model{suffix}", b"\xf1\x00\xff" * 20)
    for read in (lambda: load_model(path, verb=None), lambda: read_state(path), lambda: read_spec_text(path)):
        with pytest.raises(ModelError) as caught:
            read()
        assert str(caught.value).startswith(f"{path}: {what}")


def test_a_folder_of_models_names_the_last(saved):
    with pytest.raises(ModelError, match=r"did you mean .*model\.keras"):
        load_model(saved.parent, verb=None)


class Exploit:
    def __reduce__(self):
        return (os.mkdir, ("exploited",))


def test_a_pickle_in_the_arrays_is_not_opened(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    import io

    arrays = io.BytesIO()
    with zipfile.ZipFile(arrays, "w") as archive, archive.open("slot.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (1,)})
        file.write(pickle.dumps(Exploit()))
    path = tmp_path / "bad.keras"
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, arrays.getvalue() if name == "ssd/state.npz" else source.read(name))
    with pytest.raises(ModelError, match="damaged: the saved state is unreadable"):
        read_state(path)
    assert not (tmp_path / "exploited").exists()
