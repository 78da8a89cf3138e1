"""The architectures a spec may name (`arch`, `nlayers`) and what the detector must know of each."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from ssd.errors import SpecError
from ssd.models.backbones import (
    darknet,
    efficientnet_b0,
    googlenet,
    mobilenet_v1,
    mobilenet_v2,
    resnet,
    squeezenet,
    vgg,
)

# Expansion blocks behind a backbone: filters of the 1x1 and of the 3x3 convolution, stride of the latter. Each gives a
# feature map; None takes the backbone's last tensor itself. Backbones with two maps of their own go without the last.
SMALL = (None, (64, 128, 2), (64, 128, 2), (64, 128, 2), (64, 128, 2))
MEDIUM = ((256, 256, 1), (128, 256, 2), (64, 128, 2), (64, 128, 2), (64, 128, 2))
LARGE = ((512, 512, 1), (256, 512, 2), (128, 256, 2), (128, 256, 2), (128, 256, 2))


@dataclass(frozen=True)
class Backbone:
    """One family of networks.

    Args:
        build: `(images, layers, nlayers) -> (feature maps, finest first; last tensor)`.
        expansion: expansion blocks by `nlayers`; its keys are the valid depths, None for a family with one.
        blocks: (pattern of layer names, number): the block ids that `freeze_blocks` names. An id is the number, plus
            the pattern's group `id` where it has one. Ids come from names, so that they hold in any model file, a
            pruned one too. Every layer of the backbone that has weights is in one.
        stem: names of the convolution that sees the pixels and of the BN behind it (None where there is none).
    """

    build: Callable
    expansion: dict[int | None, tuple]
    blocks: tuple[tuple[str, int], ...]
    stem: tuple[str, str | None]

    def block_of(self, layer_name: str) -> int | None:
        """The freeze block of a layer; None outside the backbone."""
        for pattern, number in self.blocks:
            if match := re.match(pattern, layer_name):
                return number + int(match.groupdict().get("id", 0))
        return None


FAMILIES = {
    "resnet": Backbone(
        build=resnet.resnet,
        expansion={10: SMALL, 18: MEDIUM, 34: MEDIUM, 50: LARGE, 101: LARGE},
        blocks=resnet.BLOCKS,
        stem=("conv1", "bn_conv1"),
    ),
    "vgg": Backbone(
        build=vgg.vgg,
        expansion={16: LARGE, 19: LARGE},
        blocks=vgg.BLOCKS,
        stem=("block_1a_conv_1", "block_1a_bn_1"),
    ),
    "darknet": Backbone(
        build=darknet.darknet,
        expansion={19: MEDIUM[:-1], 53: LARGE[:-1]},
        blocks=darknet.BLOCKS,
        stem=("conv1", "conv1_bn"),
    ),
    "googlenet": Backbone(
        build=googlenet.googlenet,
        expansion={None: LARGE},
        blocks=googlenet.BLOCKS,
        stem=("conv1", "bn_conv1"),
    ),
    "mobilenet_v1": Backbone(
        build=mobilenet_v1.mobilenet_v1,
        expansion={None: SMALL},
        blocks=mobilenet_v1.BLOCKS,
        stem=("conv1", "conv1_bn"),
    ),
    "mobilenet_v2": Backbone(
        build=mobilenet_v2.mobilenet_v2,
        expansion={None: SMALL},
        blocks=mobilenet_v2.BLOCKS,
        stem=("conv1", "bn_conv1"),
    ),
    "squeezenet": Backbone(
        build=squeezenet.squeezenet,
        expansion={None: SMALL},
        blocks=squeezenet.BLOCKS,
        stem=("conv1", None),
    ),
    "efficientnet_b0": Backbone(
        build=efficientnet_b0.efficientnet_b0,
        expansion={None: LARGE[:-1]},
        blocks=efficientnet_b0.BLOCKS,
        stem=("stem_conv", "stem_bn"),
    ),
}


def backbone(arch: str, nlayers: int | None) -> Backbone:
    """The family of `arch`.

    Raises:
        SpecError: unknown `arch`, or a depth that the family does not have.
    """
    if arch not in FAMILIES:
        raise SpecError(f'arch "{arch}" is not known', where="arch", hint=f"available: {', '.join(sorted(FAMILIES))}")
    family = FAMILIES[arch]
    if nlayers not in family.expansion:
        depths = [str(depth) for depth in family.expansion if depth is not None]
        given = "is missing" if nlayers is None else f"{nlayers} does not exist for {arch}"
        hint = f"{arch} has {', '.join(depths)}" if depths else f"leave it out: {arch} has one depth only"
        raise SpecError(f"nlayers {given}", where="nlayers", hint=hint)
    return family
