"""TAO's `.hdf5` files: every tensor in its place however the file is written; bad ones end with one line."""

import h5py
import numpy as np
import pytest

from ssd.errors import ModelError
from ssd.models.backbones import backbone
from ssd.models.checkpoint import load_model, read_state
from ssd.models.detector import anchors_for, build_detector
from ssd.models.pretrained import CONVENTIONS, read_weights, transfer
from ssd.models.widths import pruned_widths, with_widths
from ssd.spec import experiment_from_text
from ssd.spec.config import Regularizer

SPEC = """
ssd_config {{
  arch: "resnet" nlayers: {depth} aspect_ratios_global: "{ratios}"
  scales: "[0.05, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85]" two_boxes_for_ar1: true variances: "[0.1, 0.1, 0.2, 0.2]"
  steps: "[8, 16, 32, 64, 100, 300]"
}}
eval_config {{ batch_size: 2 }}
nms_config {{ confidence_threshold: 0.01 clustering_iou_threshold: 0.5 top_k: 20 }}
augmentation_config {{ output_width: {width} output_height: 128 output_channel: {channels} }}
dataset_config {{
  target_class_mapping {{ key: "a" value: "a" }} target_class_mapping {{ key: "b" value: "b" }}
  {classes}
}}
"""
THIRD = 'target_class_mapping { key: "c" value: "c" }'
RATIOS = "[1.0, 2.0, 0.5, 3.0, 0.3333]"


def spec(depth=10, ratios=RATIOS, width=128, channels=3, classes=THIRD):
    values = {"depth": depth, "ratios": ratios, "width": width, "channels": channels, "classes": classes}
    return experiment_from_text(SPEC.format(**values), "spec.txt", "inference")


@pytest.fixture(scope="module")
def layers(tao_files):
    return tao_files.resnet10()


@pytest.fixture(scope="module")
def whole(tao_files, layers, tmp_path_factory):
    return tao_files.write(tmp_path_factory.mktemp("tao") / "model.hdf5", layers, optimizer=True)


def weighted(layers):
    return {name: arrays for name, _, arrays in layers if arrays}


def assert_same_layers(found, layers):
    wanted = weighted(layers)
    assert list(found) == list(wanted)
    for name, arrays in wanted.items():
        assert len(found[name]) == len(arrays)
        for one, other in zip(found[name], arrays, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_detector_gives_every_tensor_of_the_spec_s_network(whole, layers, network):
    file = read_weights(whole, network())
    assert_same_layers(file.layers, layers)
    assert file.unused == file.notes == ()
    assert file.kind == "TAO ssd resnet10"
    model = build_detector(network(), (128, 128, 3), 3)
    report = transfer(file, model, backbone("resnet", 10), CONVENTIONS["caffe"])
    assert report.complete
    assert report.total == sum(map(len, weighted(layers).values())) == len(model.weights)
    assert_same_layers(weights_of(model), by_ours(model, layers))


def weights_of(model):
    return {layer.name: layer.get_weights() for layer in model.layers if layer.weights}


def by_ours(model, layers):
    """The table in the order of our network: Keras sorts by depth in the graph, TAO's files do too."""
    table = {name: (name, kind, arrays) for name, kind, arrays in layers}
    return [table[layer.name] for layer in model.layers if layer.weights]


VARIATIONS = {
    "str attributes": {"text": str},
    "no uniquifier": {"uniquifier": ""},
    "a long uniquifier": {"uniquifier": "_12"},
    "split attributes": {"split": 7},
    "split attributes of str": {"split": 1, "text": str},
    "a batch in the input": {"batch": 24},
    "weights only": {"config": False},
}


@pytest.mark.parametrize("case", VARIATIONS)
def test_however_it_is_written(case, tao_files, layers, tmp_path, network):
    path = tao_files.write(tmp_path / "m.h5", layers, **VARIATIONS[case])
    assert_same_layers(read_weights(path, network()).layers, layers)


def test_a_quantised_detector_leaves_its_scales_behind(tao_files, layers, tmp_path, network):
    path = tao_files.write(tmp_path / "m.hdf5", tao_files.quantized(layers))
    file = read_weights(path, network())
    assert_same_layers(file.layers, layers)
    assert "quantisation-aware" in file.notes[0]


def test_a_classifier_gives_its_backbone(tao_files, tmp_path, network):
    layers = tao_files.resnet10(heads=None)
    file = read_weights(tao_files.write(tmp_path / "m.hdf5", layers), network())
    assert_same_layers(file.layers, layers[:-1])
    assert file.unused == ("predictions_1/kernel:0", "predictions_1/bias:0")
    assert (file.convention, file.assumed) == (CONVENTIONS["caffe"], "as TAO's classifiers are")
    gray = tao_files.write(tmp_path / "g.hdf5", tao_files.resnet10(heads=None, channels=1))
    assert read_weights(gray, network()).convention.order == "gray"


def test_any_floating_point_is_taken(tao_files, layers, tmp_path, network):
    for kind in ("float16", "float64"):
        changed = [(name, what, [array.astype(kind) for array in arrays]) for name, what, arrays in layers]
        found = read_weights(tao_files.write(tmp_path / f"{kind}.hdf5", changed), network()).layers
        assert_same_layers(found, [(n, w, [a.astype("float32") for a in arrays]) for n, w, arrays in changed])


def test_a_detector_opens_as_a_trained_model(whole, layers):
    experiment = spec()
    artifact = load_model(whole, spec=experiment)
    assert artifact.spec is experiment
    assert_same_layers(weights_of(artifact.model), by_ours(artifact.model, layers))
    assert len(anchors_for(artifact.model, experiment)) == artifact.model.output["offsets"].shape[1]


def test_a_pruned_detector_opens_with_its_own_filter_counts(tao_files, tmp_path, network):
    layers = tao_files.resnet10(keep=0.4)
    path = tao_files.write(tmp_path / "pruned.hdf5", layers)
    model = load_model(path, spec=spec(), precision="mixed_bfloat16").model
    assert_same_layers(weights_of(model), by_ours(model, layers))
    assert model.get_layer("block_3a_conv_1").compute_dtype == "bfloat16"
    assert model.output["class_logits"].dtype == "float32"
    # as training takes it: with the spec's regulariser, which weight decay of the pruned kernels shows
    built = build_detector(network(), (128, 128, 3), 3, Regularizer("l2", 0.5))
    file = read_weights(path, network())
    widths = pruned_widths(file.layers, built)
    assert widths["conv1"] == 24 and not any(name.startswith(("ssd_conf", "ssd_loc")) for name in widths)
    narrow = with_widths(built, widths)
    assert transfer(file, narrow, backbone("resnet", 10), CONVENTIONS["caffe"]).complete
    squares = sum(float(np.square(arrays[0]).sum()) for _, kind, arrays in layers if kind == "Conv2D")
    assert float(sum(narrow.losses)) == pytest.approx(0.5 * squares, rel=1e-4)


def test_other_prediction_modules_and_heads_are_no_pruning(tao_files, tmp_path, network):
    ours = build_detector(network(pred_num_channels=512), (128, 128, 3), 5)
    file = read_weights(tao_files.write(tmp_path / "m.hdf5", tao_files.resnet10(prediction=256)), network())
    assert pruned_widths(file.layers, ours) == {}
    report = transfer(file, ours, backbone("resnet", 10), CONVENTIONS["caffe"])
    lines = report.lines("m.hdf5")
    assert "    block 1: 15 of 15" in lines
    assert any(line.startswith("    prediction: 0 of 120; ssd_mpred") and "shape" in line for line in lines)
    heads = next(line for line in lines if line.startswith("    heads"))
    assert "0 of 24" in heads


def damaged(tao_files, layers, path, change):
    tao_files.write(path, layers)
    with h5py.File(path, "r+") as file:
        change(file, file["model_weights"])
    return path


def replaced(name, array):
    def change(file, group):
        del group[name]
        group[name] = array

    return change


def external(file, group):
    del group["conv1/conv1_1/kernel:0"]
    group["conv1/conv1_1/kernel:0"] = h5py.ExternalLink("/etc/passwd", "/x")


def huge(file, group):
    del group["conv1/conv1_1/kernel:0"]
    group["conv1"].create_dataset("conv1_1/kernel:0", (1 << 20, 1 << 20, 3, 64), "float32", chunks=(64, 64, 1, 1))


def attribute(name, value):
    return lambda file, group: file.attrs.__setitem__(name, value)


KERNEL, GAMMA = "conv1/conv1_1/kernel:0", "bn_conv1/bn_conv1_1/gamma:0"
VARIANCE = "bn_conv1/bn_conv1_1/moving_variance:0"
DAMAGE = {
    "a lost tensor": (lambda f, g: g.__delitem__(KERNEL), "damaged: "),
    "a lost layer": (lambda f, g: g.__delitem__("block_2a_conv_1"), "damaged: "),
    "a lost list": (lambda f, g: g.attrs.__delitem__("layer_names"), "damaged: /model_weights has no layer_names"),
    "no network": (attribute("model_config", b"{"), "damaged: "),
    "a list for a network": (attribute("model_config", b"[]"), "damaged: model_config is no network"),
    "a deep network": (attribute("model_config", "[" * 60000), "damaged: "),
    "nan": (replaced(GAMMA, np.full(64, np.nan, "f4")), "tensor bn_conv1_1/gamma:0 of layer bn_conv1 has values"),
    "infinite": (replaced(GAMMA, np.full(64, 1e300)), "tensor bn_conv1_1/gamma:0 of layer bn_conv1 has values"),
    "integers": (
        replaced(KERNEL, np.ones((7, 7, 3, 64), "i4")),
        "tensor conv1_1/kernel:0 of layer conv1 is of type int32",
    ),
    "words": (replaced(KERNEL, b"hello"), "tensor conv1_1/kernel:0 of layer conv1 is of type"),
    "a negative variance": (replaced(VARIANCE, -np.ones(64, "f4")), "damaged: layer bn_conv1 has a negative variance"),
    "another file's tensor": (external, "conv1_1/kernel:0 lies in another file"),
    "a claim": (huge, "damaged: tensor conv1_1/kernel:0 of layer conv1 claims the shape (1048576,"),
    "a group for a tensor": (lambda f, g: g.__delitem__(KERNEL) or g.create_group(KERNEL), "damaged: "),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_file_gives_one_line(case, tao_files, layers, tmp_path, network):
    change, message = DAMAGE[case]
    path = damaged(tao_files, layers, tmp_path / "bad.hdf5", change)
    with pytest.raises(ModelError) as caught:
        read_weights(path, network())
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_truncated_file_gives_one_line(whole, tmp_path, network, part):
    path = tmp_path / "cut.hdf5"
    path.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * part)])
    with pytest.raises(ModelError, match=r"cut\.hdf5: damaged: ") as caught:
        read_weights(path, network())
    assert "\n" not in caught.value.message


def test_random_damage_never_ends_in_a_traceback(whole, tmp_path, network):
    content, rng = whole.read_bytes(), np.random.default_rng(0)
    for _ in range(30):
        broken = bytearray(content)
        for place in rng.integers(8, 200_000, 40):
            broken[place] = rng.integers(256)
        path = tmp_path / "broken.hdf5"
        path.write_bytes(broken)
        try:
            read_weights(path, network())
        except ModelError as error:
            assert "\n" not in error.message


def test_another_network_is_named(whole, network):
    for other, name in (({"nlayers": 18}, "resnet18"), ({"arch": "squeezenet", "nlayers": None}, "squeezenet")):
        with pytest.raises(ModelError, match=f"the file is a resnet10, the spec says {name}"):
            read_weights(whole, network(**other))


WRONG_SPECS = {
    "no spec": (None, "an HDF5 model has no spec inside"),
    "classes": ({"classes": ""}, "the model tells 3 classes apart, the spec names 2 (a, b)"),
    "channels": ({"channels": 1}, "the model takes 3 channels, the spec makes 1"),
    "boxes": ({"ratios": "[1.0]"}, "the model has 6 boxes a cell on feature map 0, the spec makes 2"),
    "size": ({"width": 160}, "the model takes images of 128x128, the spec makes 160x128"),
    "depth": ({"depth": 34}, "the file is a resnet10, the spec says resnet34"),
}


@pytest.mark.parametrize("case", WRONG_SPECS)
def test_a_spec_of_another_model_is_refused(case, whole):
    changes, message = WRONG_SPECS[case]
    with pytest.raises(ModelError) as caught:
        load_model(whole, spec=None if changes is None else spec(**changes))
    assert str(caught.value).startswith(f"{whole}: {message}")


def test_a_backbone_is_no_detector_and_a_checkpoint_of_ours_neither(tao_files, whole, tmp_path):
    path = tao_files.write(tmp_path / "m.hdf5", tao_files.resnet10(heads=None))
    with pytest.raises(ModelError, match="no detector: it has no heads"):
        load_model(path, spec=spec())
    with pytest.raises(ModelError, match="an HDF5 file, not a model that was saved by ssd"):
        read_state(whole)


def test_a_lost_layer_of_a_detector_is_an_error(tao_files, layers, tmp_path):
    path = tao_files.write(tmp_path / "m.hdf5", [layer for layer in layers if layer[0] != "ssd_expand_block_2_bn_1"])
    with pytest.raises(ModelError, match="layer ssd_expand_block_2_bn_1 of the spec's network is not in the file"):
        load_model(path, spec=spec())


def test_other_anchors_are_warned_of(tao_files, layers, tmp_path, monkeypatch):
    from ssd.models.formats import tao_detector

    said = []
    monkeypatch.setattr(tao_detector, "warn", said.append)
    ratios = [1.0, 2.0, 0.5, 3.0, 0.3333]
    same = {"this_scale": 0.25, "next_scale": 0.4, "aspect_ratios": ratios, "variances": [0.1, 0.1, 0.2, 0.2]}
    load_model(tao_files.write(tmp_path / "m.hdf5", layers, anchors={2: same}), spec=spec())
    assert said == []
    other = {**same, "this_scale": 0.3, "clip_boxes": True}
    load_model(tao_files.write(tmp_path / "m.hdf5", layers, anchors={2: other}), spec=spec())
    assert len(said) == 1
    assert "this_scale of feature map 2 is 0.3, the spec says 0.25 (and 1 more)" in said[0]
