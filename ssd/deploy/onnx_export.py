"""A detector as an ONNX graph: preprocessing where asked for, the network, decoding. NMS comes behind it (`onnx_nms`).

Tensors have the names of the layers that make them, so that ranges found in training, calibration caches and error
messages mean the same tensor everywhere. The network runs channels first, as runtimes want it.
"""

import keras
import numpy as np
import onnx
import tensorflow as tf

from ssd.boxes.coder import decode, to_centers
from ssd.deploy.onnx_names import BOXES, DECODE, INPUT, PREPROCESS, SCORES, drop_idle_reshapes, name_tensors
from ssd.deploy.onnx_pads import fold_pads
from ssd.models.graph import calls, named_outputs
from ssd.spec.config import LUMA, Augmentation


def to_onnx(
    model: keras.Model,
    anchors: np.ndarray,
    variances: tuple[float, ...],
    *,
    opset: int,
    batch: int | None = None,
    pixels: Augmentation | None = None,
) -> onnx.ModelProto:
    """Converts a float network, BN folded or not.

    Args:
        model: from `Input` `(B,H,W,C)` to class logits and offsets, on the TensorFlow backend.
        anchors: `(A,4)` corners relative to the image.
        variances: four floats.
        batch: images of every batch; None: any number.
        pixels: with it the input is uint8 RGB `(B,H,W,3)` and the graph makes BGR (or gray) minus mean of it; without,
            the input is float32 `(B,C,H,W)`, BGR (or gray) minus mean.

    Returns:
        Outputs: `boxes` float32 `(B,A,4)`, corners relative to the image, not clipped; `scores` float32 `(B,A,K)`,
        without the background.
    """
    import tf2onnx

    height, width, channels = model.input_shape[1:]
    graph, heads = calls(model), named_outputs(model)
    shape = (batch, height, width, 3 if pixels else channels)
    signature = [tf.TensorSpec(shape, tf.uint8 if pixels else tf.float32, name=INPUT)]

    @tf.function(input_signature=signature)
    def detector(images):
        tensors = {}
        for call in graph:
            layer = call.layer
            # With the stroke the scope is taken as it is; without, TensorFlow would number it.
            with tf.name_scope(f"{layer.name}/"):
                if not call.inputs:
                    tensors[call.output] = _network_input(images, pixels) if pixels else images
                    continue
                taken = [tensors[tensor] for tensor in call.inputs]
                if isinstance(layer, keras.layers.Reshape):  # with the batch as the only unknown
                    given = tf.reshape(taken[0], (-1, *layer.compute_output_shape(call.shapes[0])[1:]))
                else:
                    given = layer(taken if len(taken) > 1 else taken[0], training=False)
                tensors[call.output] = given
        with tf.name_scope(f"{DECODE}/"):
            logits, offsets = (tensors[heads[name]] for name in ("class_logits", "offsets"))
            # A tensor made outside would become an input of the graph.
            boxes = decode(offsets, to_centers(tf.constant(anchors, tf.float32)), variances)
            scores = tf.nn.softmax(logits, axis=-1)[..., 1:]
        return {BOXES: tf.identity(boxes, BOXES), SCORES: tf.identity(scores, SCORES)}

    proto, _ = tf2onnx.convert.from_function(
        detector, input_signature=signature, opset=opset, inputs_as_nchw=None if pixels else [INPUT]
    )
    if batch is None:
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    # The converter's own text has a running number: two exports of a network shall be the same file.
    proto.graph.name, proto.graph.doc_string = model.name, ""
    return name_tensors(fold_pads(drop_idle_reshapes(proto)), [call.layer.name for call in graph])


def _network_input(images, pixels: Augmentation):
    with tf.name_scope(f"{PREPROCESS}/"):
        rgb = tf.cast(images, tf.float32)
        gray = pixels.channels == 1
        colour = tf.reduce_sum(rgb * tf.constant(LUMA), axis=-1, keepdims=True) if gray else rgb[..., ::-1]
        return colour - tf.constant(pixels.mean, tf.float32)
