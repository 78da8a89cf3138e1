"""The DeepStream files: keys and values by hand, the parser compiled against its interface and run, refusals."""

import configparser
import dataclasses
import shutil
import subprocess

import pytest
from small_networks import graph_metadata

from ssd.deploy.deepstream import write_deepstream
from ssd.errors import InputError

COLOUR = graph_metadata(
    classes=("car", "person", "traffic light"),
    mean=(103.9000015258789, 116.77899932861328, 123.0),
    input_size=(288, 512, 3),
    nms="efficient_nms",
)
GRAY = dataclasses.replace(COLOUR, mean=(117.3786,), input_size=(300, 300, 1), data_type="fp16", classes=("face",))


def config_of(folder) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(delimiters="=", interpolation=None)
    parser.optionxform = str
    parser.read_string((folder / "nvinfer_config.txt").read_text())
    return parser


def test_a_colour_network(tmp_path):
    files = write_deepstream(tmp_path, "model.onnx", COLOUR, confidence_threshold=0.01, top_k=200, max_batch=4)
    assert dict(config_of(tmp_path)["property"]) == {
        "onnx-file": "model.onnx",
        "labelfile-path": "labels.txt",
        "batch-size": "4",
        "network-type": "0",
        "num-detected-classes": "3",
        "infer-dims": "3;288;512",
        "model-color-format": "1",
        "net-scale-factor": "1.0",
        "offsets": "103.9;116.779;123",
        "maintain-aspect-ratio": "0",
        "network-mode": "0",
        "cluster-mode": "4",
        "output-blob-names": "num_detections;detection_boxes;detection_scores;detection_classes",
        "parse-bbox-func-name": "NvDsInferParseSsd",
        "custom-lib-path": "libnvdsinfer_ssd_parser.so",
    }
    assert dict(config_of(tmp_path)["class-attrs-all"]) == {"pre-cluster-threshold": "0.01", "topk": "200"}
    assert (tmp_path / "labels.txt").read_text() == "car\nperson\ntraffic light\n"
    assert sorted(files) == sorted(tmp_path.iterdir())  # and no temporary file


def test_a_gray_network_in_half_precision(tmp_path):
    write_deepstream(tmp_path / "new", "model.onnx", GRAY, confidence_threshold=0.3, top_k=100)
    values = config_of(tmp_path / "new")["property"]
    assert values["model-color-format"] == "2"
    assert values["infer-dims"] == "1;300;300"
    assert values["offsets"] == "117.3786"
    assert values["network-mode"] == "2"
    assert values["batch-size"] == values["num-detected-classes"] == "1"
    assert "int8-calib-file" not in values and "model-engine-file" not in values


def test_int8_with_its_cache_and_an_engine(tmp_path):
    int8 = dataclasses.replace(COLOUR, data_type="int8")
    names = {"engine_name": "model.engine", "calibration_cache": "cal.bin"}
    write_deepstream(tmp_path, "model.onnx", int8, confidence_threshold=0.3, top_k=100, **names)
    values = config_of(tmp_path)["property"]
    assert (values["network-mode"], values["int8-calib-file"]) == ("1", "cal.bin")
    assert values["model-engine-file"] == "model.engine"
    assert "strongly-typed" not in values


def test_int8_without_a_cache_is_built_with_the_types_of_the_graph(tmp_path):
    int8 = dataclasses.replace(COLOUR, data_type="int8")
    write_deepstream(tmp_path, "model.onnx", int8, confidence_threshold=0.3, top_k=100)
    values = config_of(tmp_path)["property"]
    assert (values["network-mode"], values["strongly-typed"]) == ("0", "1")
    assert "int8-calib-file" not in values


def test_the_readme_names_what_is_there(tmp_path):
    files = write_deepstream(tmp_path, "model.onnx", COLOUR, confidence_threshold=0.3, top_k=100)
    text = (tmp_path / "README.deepstream.md").read_text()
    for path in files:
        assert path.name == "README.deepstream.md" or path.name in text
    assert "config-file-path=nvinfer_config.txt" in text
    assert "libnvdsinfer_ssd_parser.so" in text and "model.onnx_b<batch>" in text


def test_labels_of_somebody_else_stay_and_those_of_an_earlier_export_do_not(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "labels.txt").write_text("mine")
    with pytest.raises(InputError, match=r"labels\.txt has other content than the classes") as caught:
        write_deepstream(tmp_path, "model.onnx", COLOUR, confidence_threshold=0.3, top_k=100)
    assert caught.value.hint == "export into a folder of its own"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "labels.txt"]
    (tmp_path / "labels.txt").write_text("car\nperson\ntraffic light\n")
    for metadata in (COLOUR, GRAY):
        write_deepstream(tmp_path, "model.onnx", metadata, confidence_threshold=0.3, top_k=100)
    assert (tmp_path / "labels.txt").read_text() == "face\n"
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize("nms", ["none", "standard"])
def test_other_nms_is_refused(tmp_path, nms):
    graph = dataclasses.replace(COLOUR, nms=nms)
    with pytest.raises(InputError, match="--nms efficient_nms"):
        write_deepstream(tmp_path / "out", "model.onnx", graph, confidence_threshold=0.3, top_k=100)
    assert list(tmp_path.iterdir()) == []


def test_preprocessing_in_the_graph_is_refused(tmp_path):
    graph = dataclasses.replace(COLOUR, pixels=True)
    with pytest.raises(InputError, match="preprocessing inside"):
        write_deepstream(tmp_path / "out", "model.onnx", graph, confidence_threshold=0.3, top_k=100)
    assert list(tmp_path.iterdir()) == []


# What the parser uses of DeepStream's nvdsinfer.h and nvdsinfer_custom_impl.h.
INTERFACE = """
#include <vector>
enum NvDsInferDataType { FLOAT = 0, HALF = 1, INT8 = 2, INT32 = 3 };
struct NvDsInferLayerInfo { NvDsInferDataType dataType; const char* layerName; void* buffer; };
struct NvDsInferNetworkInfo { unsigned int width, height, channels; };
struct NvDsInferObjectDetectionInfo {
  unsigned int classId; float left, top, width, height, detectionConfidence, rotation_angle;
};
struct NvDsInferParseDetectionParams {
  unsigned int numClassesConfigured; std::vector<float> perClassPreclusterThreshold;
};
#define CHECK_CUSTOM_PARSE_FUNC_PROTOTYPE(name)
"""
# Five detections in a network of 400x200 pixels, then a row of padding; engines may order outputs as they like.
MAIN = """
#include <cstdio>
#include "nvdsinfer_ssd_parser.cpp"
int main() {
  int count = 5, classes[] = {1, 0, 1, 2, 0, 0};
  float scores[] = {0.9f, 0.8f, 0.4f, 0.7f, 0.6f, 0.9f};
  float boxes[] = {0.25f, 0.5f, 0.5f, 0.75f,  -0.5f, -0.1f, 1.5f, 1.1f,  0, 0, 1, 1,  0, 0, 1, 1,
                   0.5f, 0.5f, 0.5f, 0.9f,  0, 0, 1, 1};
  std::vector<NvDsInferLayerInfo> layers = {{INT32, "detection_classes", classes}, {FLOAT, "detection_boxes", boxes},
                                            {INT32, "num_detections", &count}, {FLOAT, "detection_scores", scores}};
  NvDsInferNetworkInfo network{400, 200, 3};
  NvDsInferParseDetectionParams params{2, {0.3f, 0.5f}};
  std::vector<NvDsInferObjectDetectionInfo> found;
  if (!NvDsInferParseSsd(layers, network, params, found)) return 1;
  for (auto& o : found)
    std::printf("%u %g %g %g %g %g %g\\n", o.classId, o.detectionConfidence, o.left, o.top, o.width, o.height,
                o.rotation_angle);
  layers[0].dataType = FLOAT;  // another graph
  return NvDsInferParseSsd(layers, network, params, found) ? 2 : 0;
}
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_the_parser_reads_relative_boxes_and_integer_classes(tmp_path):
    write_deepstream(tmp_path, "model.onnx", COLOUR, confidence_threshold=0.3, top_k=100)
    (tmp_path / "nvdsinfer_custom_impl.h").write_text(INTERFACE)
    (tmp_path / "main.cpp").write_text(MAIN)
    command = ["g++", "-std=c++14", "-Wall", "-Werror", "-Wno-missing-field-initializers", "main.cpp", "-o", "main"]
    subprocess.run(command, cwd=tmp_path, check=True)
    run = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True)
    # The third is below its class's threshold, the fourth of no class, the fifth without area.
    assert run.stdout.splitlines() == ["1 0.9 100 100 100 50 0", "0 0.8 0 0 399 199 0"]
    assert "detection_classes" in run.stderr
