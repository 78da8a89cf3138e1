"""What DeepStream needs beside an exported graph: a Gst-nvinfer configuration, the labels, a parser of the outputs.

Keys as of Gst-nvinfer in DeepStream 7 to 9. The parser comes as source because no parser of DeepStream's own
libnvds_infercustomparser.so fits EfficientNMS: those for four outputs read the classes as floats, and the one of
EfficientDet wants boxes in pixels. It is to be compiled where it runs, since DeepStream's structures grow.
"""

from pathlib import Path

import numpy as np

from ssd.deploy.onnx_metadata import Metadata
from ssd.deploy.onnx_nms import OUTPUTS
from ssd.errors import InputError
from ssd.files import write_text

CONFIG, LABELS, README, PARSER = "nvinfer_config.txt", "labels.txt", "README.deepstream.md", "nvdsinfer_ssd_parser.cpp"
LIBRARY, FUNCTION = "libnvdsinfer_ssd_parser.so", "NvDsInferParseSsd"
NETWORK_MODES = {"fp32": 0, "int8": 1, "fp16": 2}


def write_deepstream(
    folder,
    onnx_name: str,
    metadata: Metadata,
    *,
    confidence_threshold: float,
    top_k: int,
    engine_name: str | None = None,
    calibration_cache: str | None = None,
    max_batch: int = 1,
) -> list[Path]:
    """Writes the configuration, the labels, the parser's source and a README.

    Args:
        folder: where to; made if missing.
        onnx_name: the graph; this and the two other file names are absolute or seen from `folder`.
        metadata: of the graph.
        confidence_threshold: detections below it are dropped.
        top_k: at most so many detections a class.
        engine_name: a TensorRT engine of the graph; None: DeepStream builds one.
        calibration_cache: TensorRT's text cache of an int8 graph.
        max_batch: frames of a batch; that of the graph where it is fixed.

    Returns:
        The files.

    Raises:
        InputError: a graph with other NMS, or with preprocessing inside; a labels.txt that is somebody else's. Nothing
            was written.
    """
    if metadata.nms != "efficient_nms":
        raise InputError(
            f"DeepStream cannot use a graph with NMS {metadata.nms!r}: EfficientNMS is needed",
            hint="export with --nms efficient_nms",
        )
    if metadata.pixels:
        raise InputError(
            "DeepStream cannot use a graph with preprocessing inside: nvinfer subtracts the mean itself",
            hint="export without preprocessing in the graph",
        )
    check_folder(folder, metadata.classes)
    height, width, channels = metadata.input_size
    properties = {
        "onnx-file": onnx_name,
        "model-engine-file": engine_name,
        "labelfile-path": LABELS,
        "batch-size": max_batch,
        "network-type": 0,  # detector
        "num-detected-classes": len(metadata.classes),
        "infer-dims": f"{channels};{height};{width}",
        "model-color-format": 1 if channels == 3 else 2,  # BGR, gray
        "net-scale-factor": "1.0",
        "offsets": ";".join(_decimal(mean) for mean in metadata.mean),
        "maintain-aspect-ratio": 0,
        **_precision(metadata.data_type, calibration_cache),
        "cluster-mode": 4,  # none: NMS is in the graph
        "output-blob-names": ";".join(OUTPUTS),
        "parse-bbox-func-name": FUNCTION,
        "custom-lib-path": LIBRARY,
    }
    attributes = {"pre-cluster-threshold": _decimal(confidence_threshold), "topk": top_k}
    texts = {
        CONFIG: CONFIG_COMMENT + _group("property", properties) + "\n" + _group("class-attrs-all", attributes),
        LABELS: _labels(metadata.classes),
        PARSER: PARSER_SOURCE,
        README: README_TEXT.format(
            onnx=onnx_name, config=CONFIG, labels=LABELS, parser=PARSER, library=LIBRARY, function=FUNCTION
        ),
    }
    for name, text in texts.items():
        write_text(Path(folder) / name, text)
    return [Path(folder) / name for name in texts]


def check_folder(folder, classes: tuple[str, ...]) -> None:
    """Labels of other classes are replaced where they belong to an earlier export, beside its configuration.

    Raises:
        InputError: `folder` has a labels.txt with other content and no configuration of ours.
    """
    labels = Path(folder) / LABELS
    if (Path(folder) / CONFIG).exists() or not labels.exists():
        return
    if labels.read_bytes() != _labels(classes).encode():
        raise InputError(
            f"{labels} has other content than the classes of the model", hint="export into a folder of its own"
        )


def _labels(classes: tuple[str, ...]) -> str:
    return "".join(f"{name}\n" for name in classes)


def _precision(data_type: str, calibration_cache: str | None) -> dict[str, object]:
    """Without a cache nvinfer takes INT8 back, and then TensorRT 10 builds a Q/DQ graph only with the graph's types."""
    if data_type == "int8" and calibration_cache is None:
        return {"network-mode": 0, "strongly-typed": 1}
    return {"network-mode": NETWORK_MODES[data_type], "int8-calib-file": calibration_cache}


def _group(name: str, values: dict[str, object]) -> str:
    return f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in values.items() if value is not None)


def _decimal(value: float) -> str:
    """The shortest decimal of a float32: 103.9, not 103.9000015258789."""
    return np.format_float_positional(np.float32(value), trim="-")


CONFIG_COMMENT = """\
# network-mode is 0 for fp32, 1 for int8, 2 for fp16. A graph with Q/DQ pairs carries its own precision: network-mode=1
# only permits INT8, and int8-calib-file must be there for nvinfer to do so, but TensorRT takes the scales from the
# graph. Without such a file strongly-typed=1 (DeepStream 9) builds the graph as it is.
"""

README_TEXT = """\
# {onnx} in DeepStream

- `{config}`: configuration of the nvinfer element; file names in it are seen from its folder.
- `{labels}`: the classes, one a line. nvinfer counts classes from 0 and knows no background.
- `{parser}`: source of `{function}`, which reads the four outputs of EfficientNMS.
  The parsers that come with DeepStream in `libnvds_infercustomparser.so` do not fit: they want classes as floats
  or boxes in pixels.

Build the parser once, with the DeepStream that will load it. It needs the headers of CUDA and of TensorRT
(`libnvinfer-dev`, `libnvonnxparsers-dev`):

    g++ -O2 -shared -fPIC -I/opt/nvidia/deepstream/deepstream/sources/includes -I/usr/local/cuda/include \\
        {parser} -o {library}

Then, for a video in H.264 (`fakesink` instead of `nveglglessink` where there is no display):

    gst-launch-1.0 filesrc location=video.mp4 ! qtdemux ! h264parse ! nvv4l2decoder ! mux.sink_0 \\
        nvstreammux name=mux batch-size=1 width=1280 height=720 ! nvinfer config-file-path={config} ! \\
        nvvideoconvert ! nvdsosd ! nveglglessink

The first run builds a TensorRT engine for its GPU, which takes minutes, and saves it beside the graph as
`{onnx}_b<batch>_gpu<number>_<precision>.engine`.
With that name as `model-engine-file` in `{config}` later runs load it.

An engine belongs to one GPU model and one TensorRT version: build it with DeepStream's own. DeepStream 7.1, 8 and 9
have TensorRT 10, where EfficientNMS_TRT is present; an engine of TensorRT 11 does not load.
"""

PARSER_SOURCE = f"""\
// Reads the outputs of EfficientNMS_TRT: boxes relative to the image, classes as int32 from 0.
#include <algorithm>
#include <cstring>
#include <iostream>

#include "nvdsinfer_custom_impl.h"

static const void* find(const std::vector<NvDsInferLayerInfo>& layers, const char* name, NvDsInferDataType type) {{
  for (const auto& layer : layers)
    if (layer.layerName && !std::strcmp(layer.layerName, name) && layer.dataType == type) return layer.buffer;
  std::cerr << "{FUNCTION}: no output " << name << " of the type expected" << std::endl;
  return nullptr;
}}

// The last pixel is the limit, as in DeepStream's parsers: nvinfer drops boxes that rounding moves below the frame.
static float pixel(float relative, unsigned int size) {{
  return std::min(std::max(relative * size, 0.0f), size - 1.0f);
}}

extern "C" bool {FUNCTION}(std::vector<NvDsInferLayerInfo> const& layers, NvDsInferNetworkInfo const& network,
                                  NvDsInferParseDetectionParams const& params,
                                  std::vector<NvDsInferObjectDetectionInfo>& objects) {{
  auto count = static_cast<const int*>(find(layers, "{OUTPUTS[0]}", INT32));
  auto box = static_cast<const float*>(find(layers, "{OUTPUTS[1]}", FLOAT));
  auto scores = static_cast<const float*>(find(layers, "{OUTPUTS[2]}", FLOAT));
  auto classes = static_cast<const int*>(find(layers, "{OUTPUTS[3]}", INT32));
  if (!count || !box || !scores || !classes) return false;
  for (int i = 0; i < *count; ++i, box += 4) {{
    unsigned int number = classes[i];
    if (number >= params.numClassesConfigured || scores[i] < params.perClassPreclusterThreshold[number]) continue;
    NvDsInferObjectDetectionInfo object{{}};  // zeros in the fields that only some versions have
    object.classId = number;
    object.detectionConfidence = scores[i];
    object.left = pixel(box[0], network.width);
    object.top = pixel(box[1], network.height);
    object.width = pixel(box[2], network.width) - object.left;
    object.height = pixel(box[3], network.height) - object.top;
    if (object.width > 0 && object.height > 0) objects.push_back(object);
  }}
  return true;
}}

CHECK_CUSTOM_PARSE_FUNC_PROTOTYPE({FUNCTION});
"""
