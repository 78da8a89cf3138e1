"""Every network as it is deployed, pruned and not: ONNX Runtime gives the boxes, scores and detections of Keras.

They take minutes: `pytest -m networks tests/deploy/test_networks.py`; `test_onnx_export` has smaller ones, always.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from every_network import NETWORKS, forget, spec_of

pytest.importorskip("tensorflow", reason="networks are converted through TensorFlow")

from ssd.deploy import export_graph
from ssd.deploy.predictors import KerasPredictor, open_graph
from ssd.models.checkpoint import Artifact
from ssd.models.graph import calls
from ssd.pruning.plan import Pruner, Rules
from ssd.training.run import build

L = keras.layers
# What a graph may consist of besides convolutions: activations, pooling, squeeze and excitation, heads, decoding.
PLAIN = {"Relu", "LeakyRelu", "Sigmoid", "Mul", "Add", "Sub", "Div", "Exp", "Concat", "MaxPool", "GlobalAveragePool"}
PLAIN |= {"Reshape", "Transpose", "Slice", "Softmax", "Split", "Conv", "ConvTranspose", "Min", "Pad"}


def trained(small, spec, removed: float) -> keras.Model:
    """A network whose activations are those of a trained one, a share of its parameters pruned."""
    keras.utils.set_random_seed(0)
    model = build(spec, steps=1)[0].detector
    if removed:
        pruner = Pruner(model, Rules())
        model = pruner.prune(pruner.threshold_for(1 - removed))
    return small.trained(model, calm=True)


def source_of(model, spec) -> export_graph.Source:
    return export_graph.prepare(Artifact(model, spec, spec.text, {}, {}), spec)


def graph_of(source, nms: str = "none"):
    plain = export_graph.float_graph(source, opset=17, batch=None, pixels=False)
    return export_graph.finished(plain, source, nms=nms, data_type="fp32", pixels=False)


def convolutions(network) -> list:
    return [layer for layer in network.layers if isinstance(layer, L.Conv2D | L.DepthwiseConv2D | L.Conv2DTranspose)]


def pads_of_pooling(network) -> int:
    """Paddings that are not part of a convolution."""
    graph = calls(network)
    pads = {call.output for call in graph if isinstance(call.layer, L.ZeroPadding2D)}
    return sum(call.inputs[0] in pads for call in graph if isinstance(call.layer, L.MaxPooling2D))


def same_objects(detections, wanted, image: int) -> None:
    """Every detection has its own among those of `wanted`; which of two equal scores comes first is left open."""
    left = list(range(int(wanted.valid[image])))
    for row in range(len(left)):
        fits = (
            other
            for other in left
            if detections.classes[image, row] == wanted.classes[image, other]
            and abs(detections.scores[image, row] - wanted.scores[image, other]) <= 1e-4
            and np.abs(detections.boxes[image, row] - wanted.boxes[image, other]).max() <= 1e-4
        )
        found = next(fits, None)
        assert found is not None, f"image {image}, detection {row}"
        left.remove(found)
    behind = slice(int(wanted.valid[image]), None)
    np.testing.assert_array_equal(detections.classes[image, behind], wanted.classes[image, behind])
    np.testing.assert_array_equal(detections.boxes[image, behind], wanted.boxes[image, behind])


def check(small, spec, model, folder) -> None:
    source = source_of(model, spec)
    graph = graph_of(source)
    onnx.checker.check_model(graph, full_check=True)
    made = Counter(node.op_type for node in graph.graph.node)
    assert set(made) <= PLAIN
    assert made["Conv"] + made["ConvTranspose"] == len(convolutions(source.network))
    assert made["Pad"] == pads_of_pooling(source.network)
    assert made["MaxPool"] == sum(isinstance(layer, L.MaxPooling2D) for layer in source.network.layers)

    onnx.save(graph, folder / "model.onnx")
    standard = graph_of(source, nms="standard")
    suppressed = open_graph(standard, folder, spec)
    behind = open_graph(graph, folder, spec)
    predictor = KerasPredictor(model, spec)
    for batch in (1, 5):
        images = small.pictures(model, batch)
        inputs = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        outputs = {name: np.asarray(value) for name, value in model(images, training=False).items()}
        expected = small.decoded(outputs["class_logits"], outputs["offsets"], source.anchors)
        found = small.run(graph, inputs)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, atol=1e-4)
        wanted = predictor.predict(images)
        assert wanted.valid.min() > 0
        for detections in (suppressed.predict(images), behind.predict(images)):
            np.testing.assert_array_equal(detections.valid, wanted.valid)
            np.testing.assert_allclose(detections.scores, wanted.scores, atol=1e-4)
            for image in range(batch):
                same_objects(detections, wanted, image)


@pytest.mark.networks
@pytest.mark.parametrize("removed", [0.0, 0.5])
@pytest.mark.parametrize(("arch", "nlayers"), NETWORKS)
def test_every_network_gives_the_detections_of_keras(arch, nlayers, removed, small, spec_text, tmp_path):
    spec = spec_of(spec_text(tmp_path, tmp_path), arch, nlayers)
    check(small, spec, trained(small, spec, removed), tmp_path)
    forget()


@pytest.mark.networks
@pytest.mark.parametrize(("arch", "nlayers"), [("resnet", 18), ("mobilenet_v2", None), ("efficientnet_b0", None)])
def test_openvino_gives_the_boxes_and_scores_of_onnx_runtime(arch, nlayers, small, spec_text, tmp_path):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    spec = spec_of(spec_text(tmp_path, tmp_path), arch, nlayers)
    model = trained(small, spec, 0.0)
    graph = graph_of(source_of(model, spec))
    onnx.save(graph, tmp_path / "model.onnx")
    compiled = openvino.compile_model(str(tmp_path / "model.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for batch in (1, 5):
        inputs = np.ascontiguousarray(small.pictures(model, batch).transpose(0, 3, 1, 2))
        found = compiled(inputs)
        for name, value in small.run(graph, inputs).items():
            np.testing.assert_allclose(found[name], value, atol=1e-4)


@pytest.mark.networks
@pytest.mark.parametrize("network", ["resnet18", "mobilenet_v1", "mobilenet_v2", "squeezenet", "efficientnet_b0"])
def test_engines_of_the_networks_are_built_for_other_gpus_in_every_precision(network, tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    script = Path(__file__).parents[2] / "scripts" / "benchmarks" / "engines.py"
    command = [sys.executable, script, "--networks", network, "--json", tmp_path / "engines.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "engines.json").read_text())
    assert {(row["data_type"], row["built_for"]) for row in rows} == {
        (kind, name) for kind in ("fp32", "fp16", "int8") for name in ("SM75", "SM86", "SM89", "SM120")
    }
    assert all(row["bytes"] > 500_000 for row in rows)
    sizes = {row["data_type"]: row["bytes"] for row in rows if row["built_for"] == "SM86"}
    assert sizes["fp16"] < sizes["fp32"]
    print(done.stdout)  # pytest -s shows the table
