"""Initial weights: the first convolution on other pixels, what is loaded and what is not, files of every kind."""

import json
import struct
import zipfile

import keras
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ssd.errors import ModelError
from ssd.models import pretrained
from ssd.models.backbones import backbone
from ssd.models.checkpoint import save_model
from ssd.models.convention import fold
from ssd.models.detector import build_detector
from ssd.models.formats import batch_norm
from ssd.models.formats.finite import as_float32
from ssd.models.formats.recognise import recognise
from ssd.models.pretrained import CONVENTIONS, Convention, WeightFile, read_weights, transfer
from ssd.models.widths import layer_arrays, with_widths

BGR = CONVENTIONS["caffe"]
GRAY = Convention("gray", 1.0, (117.3786,), (1.0,))
BGR_TEXT = "BGR minus 103.939, 116.779, 123.68"
NEUTRAL = Convention("bgr", 1.0, (127.5, 127.5, 127.5), (1.0, 1.0, 1.0))


def seen(picture, convention):
    """What a network of `convention` is given of an RGB picture 0..255, float64: the definition, written again."""
    red, green, blue = np.moveaxis(np.asarray(picture, "float64"), -1, 0)
    channels = {
        "rgb": (red, green, blue),
        "bgr": (blue, green, red),
        "gray": (0.299 * red + 0.587 * green + 0.114 * blue,),
    }[convention.order]
    values = np.stack(channels, -1) * convention.scale
    return (values - np.array(convention.mean)) / np.array(convention.std)


def convolved(image, kernel, padding=0):
    """`(h,w,c)` by `(kh,kw,c,f)`, float64, stride 1."""
    image = np.pad(image, [(padding, padding), (padding, padding), (0, 0)])
    view = np.lib.stride_tricks.sliding_window_view(image, kernel.shape[:2], axis=(0, 1))
    return np.einsum("hwcij,ijcf->hwf", view, np.asarray(kernel, "float64"))


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(5).integers(0, 256, (11, 13, 3)).astype("float64")


def random_kernel(channels, seed=0):
    return np.random.default_rng(seed).normal(0, 0.2, (3, 3, channels, 8)).astype("float32")


@pytest.mark.parametrize("own", [BGR, NEUTRAL, Convention("bgr", 1.0, (3.0, 200.0, 90.5), (1.0,) * 3)])
@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_same_picture_gives_the_same_features(name, own, picture):
    source, kernel = CONVENTIONS[name], random_kernel(3)
    folded = fold(kernel, source, own)
    wanted = convolved(seen(picture, source), kernel)
    found = convolved(seen(picture, own), folded.kernel) + folded.constant
    np.testing.assert_allclose(found, wanted, atol=2e-6 * np.abs(wanted).max())


@given(
    scale=st.sampled_from([1.0, 1 / 255, 2 / 255]),
    order=st.sampled_from(["rgb", "bgr"]),
    mean=hnp.arrays("float64", 3, elements=st.floats(0, 1)),
    std=hnp.arrays("float64", 3, elements=st.floats(0.1, 2)),
    own_mean=hnp.arrays("float64", 3, elements=st.floats(0, 255)),
)
def test_any_convention_folds(scale, order, mean, std, own_mean, picture):
    source = Convention(order, scale, tuple(mean * 255 * scale), tuple(std))
    own = Convention("bgr", 1.0, tuple(own_mean), (1.0,) * 3)
    folded = fold(random_kernel(3), source, own)
    wanted = convolved(seen(picture, source), random_kernel(3))
    found = convolved(seen(picture, own), folded.kernel) + folded.constant
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(seen(picture, source)).max())


def test_equal_conventions_change_no_bit():
    kernel = random_kernel(3)
    for source, assumed, told in (
        (BGR, "", ()),
        (Convention("bgr", 1.0, BGR.mean, BGR.std), "", ()),
        (None, "", (f"the file does not say what its pixels were: {BGR_TEXT} is assumed (--weights_input)",)),
        (
            BGR,
            "as X's are",
            (f"first convolution: taken to be made for {BGR_TEXT}, as X's are (--weights_input says otherwise)",),
        ),
    ):
        folded = fold(kernel, source, BGR, assumed)
        assert folded.kernel is kernel
        assert not folded.constant.any()
        assert folded.notes == told


def test_who_says_what_the_pixels_were_is_told():
    made = "made for RGB x 0.003922 minus 0.485, 0.456, 0.406 over 0.229, 0.224, 0.225"
    kernel, torch = random_kernel(3), CONVENTIONS["torch"]
    assert fold(kernel, torch, BGR).notes[0] == f"first convolution: {made}, folded for {BGR_TEXT}"
    assert fold(kernel, torch, BGR, "as torchvision's are").notes[0] == (
        f"first convolution: taken to be {made}, as torchvision's are (--weights_input says otherwise), "
        f"folded for {BGR_TEXT}"
    )
    notes = fold(kernel, None, NEUTRAL).notes
    assert notes == (
        "the file does not say what its pixels were: BGR minus 127.5, 127.5, 127.5 is assumed (--weights_input)",
    )


def test_the_border_agrees_where_the_source_s_zero_is_our_mean(picture):
    kernel = random_kernel(3)
    for name, own, agrees in (("tf", NEUTRAL, True), ("tf", BGR, False), ("torch", BGR, True), ("darknet", BGR, False)):
        folded = fold(kernel, CONVENTIONS[name], own)
        wanted = convolved(seen(picture, CONVENTIONS[name]), kernel, padding=1)
        found = convolved(seen(picture, own), folded.kernel, padding=1) + folded.constant
        np.testing.assert_allclose(found[1:-1, 1:-1], wanted[1:-1, 1:-1], atol=1e-5)
        border = np.abs(found - wanted).max()
        assert (border < 0.03) == agrees
        assert any("border" in note for note in folded.notes) != agrees
    np.testing.assert_allclose(fold(kernel, CONVENTIONS["tf"], NEUTRAL).constant, 0, atol=1e-6)


def test_colour_weights_see_a_gray_picture_as_they_did(picture):
    gray = np.repeat(picture[..., :1], 3, axis=2)
    for name, source in CONVENTIONS.items():
        kernel = random_kernel(3)
        folded = fold(kernel, source, GRAY)
        assert folded.kernel.shape == (3, 3, 1, 8)
        wanted = convolved(seen(gray, source), kernel)
        found = convolved(seen(gray, GRAY), folded.kernel) + folded.constant
        np.testing.assert_allclose(found, wanted, atol=2e-6 * np.abs(wanted).max(), err_msg=name)
        assert "3 channels into 1, summed" in folded.notes[0]
    assert "is assumed" in fold(random_kernel(3), None, GRAY).notes[0]
    np.testing.assert_allclose(
        fold(random_kernel(3), None, GRAY).kernel[:, :, 0], random_kernel(3).sum(axis=2), atol=1e-6
    )


def test_gray_weights_see_a_coloured_picture_as_they_did(picture):
    folded = fold(random_kernel(1), GRAY, BGR)
    wanted = convolved(seen(picture, GRAY), random_kernel(1))
    found = convolved(seen(picture, BGR), folded.kernel) + folded.constant
    np.testing.assert_allclose(found, wanted, atol=2e-6 * np.abs(wanted).max())


def test_channels_must_be_those_of_the_convention():
    with pytest.raises(ModelError, match="takes 1 channels, rgb pixels have 3"):
        fold(random_kernel(1), CONVENTIONS["torch"], BGR)


@pytest.mark.parametrize("arch", ["resnet", "squeezenet"])
def test_a_network_on_other_pixels_gives_the_same_features_on_ours(arch, network, picture):
    """The whole network: with BN behind the first convolution, and with a bias."""
    config = network(arch=arch, nlayers=10 if arch == "resnet" else None)
    family = backbone(config.arch, config.nlayers)
    stem, norm = family.stem
    source = scrambled(build_detector(config, (64, 64, 3), 2))
    ours = build_detector(config, (64, 64, 3), 2)
    report = transfer(WeightFile("toy", layer_arrays(source), CONVENTIONS["torch"]), ours, family, BGR)
    assert report.complete
    picture = np.random.default_rng(1).integers(0, 256, (64, 64, 3))
    after = norm or stem
    one = features(source, after)(seen(picture, CONVENTIONS["torch"])[None].astype("float32"))
    other = features(ours, after)(seen(picture, BGR)[None].astype("float32"))
    one, other = (np.asarray(x)[0, 4:-4, 4:-4] for x in (one, other))  # inside: torch's border is nearly ours
    np.testing.assert_allclose(other, one, atol=1e-4 * np.abs(one).max())


def features(model, layer):
    return keras.Model(model.input, model.get_layer(layer).output)


def scrambled(model, seed=3):
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        value = np.asarray(variable)
        if value.ndim == 1:
            variable.assign(rng.uniform(0.5, 1.5, value.shape))
    return model


def test_a_stem_s_bn_that_the_file_lacks_takes_the_constant(network):
    model = build_detector(network(), (64, 64, 3), 2)
    kernel = np.random.default_rng(0).normal(size=(7, 7, 3, 64)).astype("float32")
    constant = fold(kernel, CONVENTIONS["darknet"], BGR).constant
    file = WeightFile("toy", {"conv1": (kernel,)}, CONVENTIONS["darknet"])
    report = transfer(file, model, backbone("resnet", 10), BGR)
    # Not in the file, so its layer starts fresh; a frozen one of its statistics would not.
    assert np.abs(constant).max() > 0.1
    np.testing.assert_allclose(model.get_layer("bn_conv1").moving_mean, -constant, rtol=1e-6)
    assert report.loaded == 1
    assert report.as_json()["layers"]["bn_conv1"] == "not in the file"


ONES = np.ones(64, "float32")
BAD_STEMS = {
    # tensors of conv1 beside its kernel, of bn_conv1, how many filters; why which is not loaded
    "three tensors of BN": ((), (ONES,) * 3, 64, {"bn_conv1": "3 tensors in the file, 4 are needed"}),
    "BN of another width": ((), (ONES[:5],) * 4, 64, {"bn_conv1": "shape 5 in the file, 64 here"}),
    "a short bias": ((ONES[:5],), (ONES,) * 4, 64, {"conv1": "2 tensors in the file, 1 are needed"}),
    "fewer filters": ((), (ONES,) * 4, 32, {"conv1": r"shape 7x7x3x32 in the file, 7x7x{}x64 here"}),
}


@pytest.mark.parametrize("own", [BGR, GRAY], ids=["colour", "gray"])
@pytest.mark.parametrize("case", BAD_STEMS)
def test_a_first_convolution_that_does_not_fit_is_skipped_like_any_layer(case, own, network):
    bias, norm, filters, reasons = BAD_STEMS[case]
    kernel = np.random.default_rng(0).normal(size=(7, 7, 3, filters)).astype("float32")
    model = build_detector(network(), (64, 64, len(own.mean)), 2)
    layers = {"conv1": (kernel, *bias), "bn_conv1": norm, "block_1a_conv_1": (np.zeros((3, 3, 64, 64), "float32"),)}
    report = transfer(WeightFile("toy", layers, CONVENTIONS["darknet"]), model, backbone("resnet", 10), own)
    told = {name: reason for name, reason in report.as_json()["layers"].items() if name in layers and reason}
    assert told == {name: reason.format(len(own.mean)) for name, reason in reasons.items()}
    mean = np.asarray(model.get_layer("bn_conv1").moving_mean)
    if "conv1" in reasons:  # nothing is folded, so nothing is missing
        np.testing.assert_array_equal(mean, ONES)
    else:  # the fresh BN takes what the folded kernel lacks
        np.testing.assert_allclose(mean, -fold(kernel, CONVENTIONS["darknet"], own).constant, rtol=1e-6)


def test_what_is_loaded_skipped_and_left_is_told_by_block(network):
    config = network(freeze_blocks=())
    source = layer_arrays(scrambled(build_detector(config, (64, 64, 3), 20)))
    del source["block_2a_conv_1"], source["block_2a_bn_1"]
    source["block_3a_bn_2"] = tuple(array[:5] for array in source["block_3a_bn_2"])
    source["predictions"] = (np.zeros((5, 5), "float32"),)
    file = WeightFile("toy", source, BGR, ("fc.weight",), ("a note",), {"block_2a_bn_1": "the toy has none"})
    model = build_detector(config, (64, 64, 3), 3)
    before = layer_arrays(model)
    report = transfer(file, model, backbone("resnet", 10), BGR)
    assert report.lines("toy.h5") == [
        "initial weights: 96 of 117 tensors from toy.h5 (toy)",
        "    block 0: 5 of 5",
        "    block 1: 15 of 15",
        "    block 2: 10 of 15; block_2a_conv_1: not in the file; block_2a_bn_1: the toy has none",
        "    block 3: 11 of 15; block_3a_bn_2: shape 5 in the file, 256 here",
        "    block 4: 15 of 15",
        "    expansion: 28 of 28",
        "    heads: 12 of 24; ssd_conf_0, ssd_conf_1, ssd_conf_2, ssd_conf_3, ssd_conf_4, ssd_conf_5: "
        "start fresh: 20 classes in the file, 3 here",
        "    in the file without a place here: fc.weight, predictions",
        "    a note",
    ]
    told = json.loads(json.dumps(report.as_json()))
    assert (told["loaded"], told["total"]) == (96, 117)
    for name, reason in told["layers"].items():
        arrays = before if reason else source
        for one, other in zip(model.get_layer(name).get_weights(), arrays[name], strict=True):
            np.testing.assert_array_equal(one, other)


def test_nothing_for_the_backbone_is_an_error_and_changes_nothing(network):
    model = build_detector(network(), (64, 64, 3), 2)
    before = model.get_weights()
    other = {"ssd_loc_0": layer_arrays(model)["ssd_loc_0"], "stem": (np.zeros((3, 3, 3, 8), "float32"),)}
    with pytest.raises(ModelError, match=r"nothing of the file \(toy\) fits the backbone of ssd_resnet: conv1: not in"):
        transfer(WeightFile("toy", other, None), model, backbone("resnet", 10), BGR)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


OWN_SPEC = """
ssd_config {{ arch: "resnet" nlayers: 10 aspect_ratios_global: "[1.0, 2.0, 0.5, 3.0, 0.3333]" two_boxes_for_ar1: true
  scales: "[0.05, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85]" variances: "[0.1, 0.1, 0.2, 0.2]" }}
eval_config {{ batch_size: 2 }} nms_config {{ confidence_threshold: 0.01 clustering_iou_threshold: 0.5 top_k: 20 }}
augmentation_config {{ output_width: 128 output_height: 128 output_channel: {channels} {mean} }}
dataset_config {{ target_class_mapping {{ key: "a" value: "a" }} target_class_mapping {{ key: "b" value: "b" }} }}
"""


def test_our_own_files_fold_from_their_spec_s_pixels(network, tmp_path):
    mean = " ".join(
        f'image_mean {{ key: "{key}" value: {value} }}' for key, value in zip("bgr", (10, 20, 30), strict=True)
    )
    model = scrambled(build_detector(network(), (128, 128, 3), 2))
    save_model(tmp_path / "m.keras", model, OWN_SPEC.format(channels=3, mean=mean))
    file = read_weights(tmp_path / "m.keras", network())
    assert file.kind == "ssd resnet10 for a, b"
    assert file.convention == Convention("bgr", 1.0, (10.0, 20.0, 30.0), (1.0,) * 3)
    ours = build_detector(network(), (128, 128, 3), 2)
    assert transfer(file, ours, backbone("resnet", 10), BGR).complete
    picture = np.random.default_rng(1).integers(0, 256, (128, 128, 3))
    one = features(model, "bn_conv1")(seen(picture, file.convention)[None].astype("float32"))
    other = features(ours, "bn_conv1")(seen(picture, BGR)[None].astype("float32"))
    one, other = (np.asarray(x)[0, 4:-4, 4:-4] for x in (one, other))
    np.testing.assert_allclose(other, one, atol=1e-4 * np.abs(one).max())
    gray = build_detector(network(), (128, 128, 1), 2)
    assert transfer(file, gray, backbone("resnet", 10), GRAY).complete
    with pytest.raises(ModelError, match="the file is a resnet10, the spec says resnet34"):
        read_weights(tmp_path / "m.keras", network(nlayers=34))


def test_widths_survive_a_round_through_the_configuration(network, detector, images):
    copy = with_widths(detector, {})
    copy.set_weights(detector.get_weights())
    for name, value in detector(images).items():
        np.testing.assert_array_equal(np.asarray(copy(images)[name]), np.asarray(value))
    with pytest.raises(ModelError, match="do not make a network"):
        with_widths(detector, {"block_1a_conv_2": 40})


def test_floating_point_of_every_kind_becomes_float32():
    for kind in ("float16", "float32", "float64", ml_dtypes.bfloat16):
        value = as_float32(np.array([1.5, -2.0], kind), "t")
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, [1.5, -2.0])
    for wrong, message in (([1], "int64"), ([True], "bool"), ([1j], "complex"), ([np.inf], "not finite")):
        with pytest.raises(ModelError, match=f"tensor t .*{message}"):
            as_float32(np.array(wrong), "t")


def test_values_that_are_none_are_refused_whatever_the_format(network, tmp_path, monkeypatch):
    layers = {"conv1": (np.zeros((7, 7, 3, 64)),), "bn_conv1": (np.ones(64),) * 3 + (np.full(64, np.nan),)}
    monkeypatch.setattr(pretrained, "_reader", lambda kind, path: lambda path, network: WeightFile("t", layers, None))
    path = tmp_path / "w.weights"
    path.write_bytes(struct.pack("<3iq", 0, 2, 5, 0) + bytes(400))
    with pytest.raises(ModelError, match=r"w\.weights: tensor of layer bn_conv1 has values that are not finite"):
        read_weights(path, network())


def torch_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02.")


def folder(path):
    path.mkdir()
    (path / "saved_model.pb").write_bytes(b"")


def lone_folder(path):
    path.mkdir()


def plain_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


def foreign_keras(path):
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(path)


NOISE = bytes(np.random.default_rng(1).integers(128, 256, 4000, dtype="uint8"))
STRANGERS = {
    "missing.keras": (lambda path: None, "no such model file"),
    "empty.h5": (b"", "empty"),
    "text.hdf5": (b"hello, this is no model\n", "a text file, not a model file"),
    "german.txt": ("größer als sonst ".encode() * 40, "a text file, not a model file"),
    "page.h5": (b"<!DOCTYPE html><html>404", "a web page: its download went wrong"),
    "lfs.safetensors": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    "folder": (lone_folder, "a folder, not a model file"),
    "saved": (folder, "a TensorFlow SavedModel"),
    "new.pth": (torch_zip, "a pickled PyTorch model, which can run code when opened"),
    "old.pt": (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "a pickled PyTorch model"),
    "disguised.safetensors": (b"\x80\x04\x95" + bytes(40), "a pickled PyTorch model"),
    "net.onnx": (b"\x08\x07\x12\x07pytorch\x1a" + NOISE, "an exported network"),
    "net.engine": (b"ftrt" + NOISE, "a TensorRT engine"),
    "net.plan": (NOISE, "a TensorRT engine"),
    "net.tlt": (NOISE, "an encrypted TAO model"),
    "net.etlt": (NOISE, "an encrypted TAO export"),
    "net.bin": (NOISE, "no known kind of model file"),
    "net.tflite": (b"\x1c\0\0\0TFL3" + NOISE, "a TensorFlow Lite model"),
    "net.tar.gz": (b"\x1f\x8b\x08" + NOISE, "a gzip archive"),
    "a.zip": (plain_zip, "a zip archive without a network"),
    "cut.keras": (b"PK\x03\x04" + NOISE, "damaged: the end of the file is missing"),
    "plain.keras": (foreign_keras, "a Keras model without a spec: not saved by ssd"),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_what_is_no_weight_file_gives_one_line(name, tmp_path, network):
    content, message = STRANGERS[name]
    path = tmp_path / name
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        read_weights(path, network())
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in caught.value.message + (caught.value.hint or "")
    if "pickled" in message:
        assert "torch.load" in caught.value.hint and "save_file" in caught.value.hint


def test_kinds_are_told_by_content_not_by_name(tmp_path):
    for name, content, kind in (
        ("a.txt", b"\x89HDF\r\n\x1a\n" + bytes(100), "hdf5"),
        ("b.onnx", struct.pack("<Q", 2) + b"{}", "safetensors"),
        ("c.pth", struct.pack("<4i", 0, 1, 0, 0) + bytes(64), "darknet"),
        ("d.h5", struct.pack("<3iq", 0, 2, 5, 32013312) + bytes(64), "darknet"),
    ):
        (tmp_path / name).write_bytes(content)
        assert recognise(tmp_path / name) == kind
    (tmp_path / "e").write_bytes(struct.pack("<3iq", 0, 2, 5, 0) + bytes(63))  # no whole number of floats
    with pytest.raises(ModelError, match="no known kind"):
        recognise(tmp_path / "e")


def test_a_neutral_bn_changes_no_bit_and_other_epsilons_and_biases_are_kept():
    layer = keras.layers.BatchNormalization(epsilon=1e-3)
    layer.build((None, 4, 4, 6))
    layer.set_weights(batch_norm.neutral(6))
    x = np.random.default_rng(0).normal(0, 100, (1, 4, 4, 6)).astype("float32")
    np.testing.assert_array_equal(np.asarray(layer(x, training=False)), x)
    rng = np.random.default_rng(0)
    gamma, beta, mean = rng.normal(size=(3, 6))
    variance = np.array([0, 1e-9, 1e-5, 1e-3, 1, 1e4])
    bias, x = rng.normal(size=6), rng.normal(size=(20, 6))
    for epsilon in (1e-5, 1e-6, 1e-2):
        g, b, m, v = batch_norm.with_bias(batch_norm.with_epsilon(gamma, beta, mean, variance, epsilon), bias)
        wanted = gamma * (x + bias - mean) / np.sqrt(variance + epsilon) + beta
        found = g.astype("float64") * (x - m) / np.sqrt(v + 1e-3) + b
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)
