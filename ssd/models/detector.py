"""SSD and DSSD networks: backbone, six feature maps, heads (Liu et al. 2016); and what can be read off a built one."""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from ssd.boxes.anchors import make_anchors
from ssd.models.backbones import SMALL, backbone
from ssd.models.dssd import deconvolve, shrink
from ssd.models.heads import expand, predict, prediction_module
from ssd.models.layers import Layers
from ssd.spec.config import FEATURE_MAPS, Experiment, Network, Regularizer

NO_REGULARIZER = Regularizer("none", 0.0)


def build_detector(
    network: Network,
    input_shape: tuple[int, int, int],
    num_classes: int,
    regularizer: Regularizer = NO_REGULARIZER,
) -> keras.Model:
    """The network of a spec with fresh weights, under the global dtype policy.

    Args:
        network: `ssd_config`.
        input_shape: height, width, channels; images are BGR (or gray) minus the mean.
        num_classes: without the background.
        regularizer: on the kernels of all convolutions.

    Returns:
        A functional model from `Input` `(B,H,W,C)` to {"class_logits": `(B,A,1+num_classes)`, "offsets": `(B,A,4)`},
        float32.

    Raises:
        SpecError: an architecture or depth that does not exist.
    """
    family = backbone(network.arch, network.nlayers)
    layers = Layers(regularizer)
    # The input stays float32 in mixed precision: rounding pixels is for the first layer to do.
    images = keras.Input(input_shape, name="Input", dtype="float32")
    maps, last = family.build(images, layers, network.nlayers)
    expansion = family.expansion[network.nlayers]
    maps = maps + expand(last, expansion, layers)
    if network.dssd:
        if expansion is SMALL:
            maps[0] = shrink(maps[0], layers)
        maps = deconvolve(maps, layers)
    if network.pred_num_channels:
        maps = [prediction_module(x, network.pred_num_channels, index, layers) for index, x in enumerate(maps)]
    outputs = predict(maps, network.boxes_per_cell, 1 + num_classes, layers)
    return keras.Model(images, outputs, name=f"{'dssd' if network.dssd else 'ssd'}_{network.arch}")


def feature_map_sizes(model: keras.Model) -> list[tuple[int, int]]:
    """(height, width) of the feature maps, finest first, read off the heads."""
    return [tuple(model.get_layer(f"ssd_loc_{index}").output.shape[1:3]) for index in range(FEATURE_MAPS)]


def boxes_per_cell(model: keras.Model) -> list[int]:
    """Anchors of a cell, per feature map, read off the heads."""
    return [model.get_layer(f"ssd_loc_{index}").filters // 4 for index in range(FEATURE_MAPS)]


def num_classes(model: keras.Model) -> int:
    """Classes the model tells apart, without the background."""
    return model.output["class_logits"].shape[-1] - 1


def anchors_for(model: keras.Model, spec: Experiment) -> np.ndarray:
    """The anchors of `spec` on the feature maps of `model`: `(A,4)` corners relative to the image, float32."""
    return anchors_of(spec.network, tuple(model.input_shape[1:3]), feature_map_sizes(model))


def anchors_of(network: Network, image_size: tuple[int, int], feature_maps: Sequence[tuple[int, int]]) -> np.ndarray:
    """float32 `(A,4)`: the anchors of `network` on feature maps of these sizes, corners relative to the image.

    Args:
        image_size: height, width of the network input.
        feature_maps: height, width of each map, finest first.
    """
    return make_anchors(
        image_size=image_size,
        feature_maps=feature_maps,
        scales=network.scales,
        aspect_ratios=network.aspect_ratios,
        two_boxes_for_ar1=network.two_boxes_for_ar1,
        steps=network.steps,
        offsets=network.offsets,
        clip=network.clip_boxes,
    )


@dataclass(frozen=True)
class Summary:
    """What a person wants to know of a detector before it trains."""

    name: str
    input_shape: tuple[int, int, int]
    parameters: int
    non_trainable: int  # BN statistics and whatever is frozen
    feature_maps: tuple[tuple[int, int], ...]  # height, width
    anchors_per_map: tuple[int, ...]

    @property
    def anchors(self) -> int:
        return sum(self.anchors_per_map)


def summary(model: keras.Model) -> Summary:
    """Counts of a detector, fresh or loaded."""
    maps = tuple(feature_map_sizes(model))
    frozen = sum(int(np.prod(variable.shape)) for variable in model.non_trainable_weights)
    return Summary(
        name=model.name,
        input_shape=tuple(model.input_shape[1:]),
        parameters=model.count_params(),
        non_trainable=frozen,
        feature_maps=maps,
        anchors_per_map=tuple(h * w * n for (h, w), n in zip(maps, boxes_per_cell(model), strict=True)),
    )
