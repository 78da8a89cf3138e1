"""Freezing: what `freeze_blocks` and `freeze_bn` name does not move by a bit.

The original froze the convolutions of a block and let its BN train on, and under `freeze_bn` kept training gamma and
beta. Here a frozen convolution takes its BN along, and a frozen BN keeps gamma, beta and statistics.
"""

import keras

from ssd.errors import SpecError
from ssd.models.backbones import backbone
from ssd.spec.config import Network


def apply_freezing(model: keras.Model, network: Network) -> list[str]:
    """Freezes what `network` asks for and unfreezes the rest, in a fresh, loaded or pruned model.

    Call it before the training step is made. A frozen BN runs on its statistics in training too.

    Returns:
        Names of the frozen layers that have weights.

    Raises:
        SpecError: a block that the backbone does not have.
    """
    family = backbone(network.arch, network.nlayers)
    blocks = {layer.name: family.block_of(layer.name) for layer in model.layers}
    valid = sorted({block for block in blocks.values() if block is not None})
    if unknown := sorted(set(network.freeze_blocks) - set(valid)):
        raise SpecError(
            f"{network.name} has no block {', '.join(map(str, unknown))}",
            where="freeze_blocks",
            hint=f"its blocks are {', '.join(map(str, valid))}",
        )
    frozen = []
    for layer in model.layers:
        block = blocks[layer.name]
        in_block = block in network.freeze_blocks
        backbone_bn = block is not None and isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = not (in_block or (network.freeze_bn and backbone_bn))
        if not layer.trainable and layer.weights:
            frozen.append(layer.name)
    return frozen
