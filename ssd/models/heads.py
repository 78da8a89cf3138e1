"""Behind the backbone: expansion blocks that make the coarser feature maps, the prediction module, and the heads."""

from keras import layers as keras_layers

from ssd.models.layers import Layers


def expand(x, blocks, layers: Layers) -> list:
    """One feature map per block, each made from the one before; `blocks` as in `ssd.models.backbones`."""
    maps = []
    for index, block in enumerate(blocks):
        if block is not None:
            name = f"ssd_expand_block_{index}"
            squeeze, filters, stride = block
            # The first convolution has a bias and no BN: so the original has it, and so its weights are.
            x = layers.relu(layers.conv(x, squeeze, 1, bias=True, name=f"{name}_conv_0"), f"{name}_relu_0")
            x = layers.conv_bn_relu(
                x, filters, 3, stride=stride, name=f"{name}_conv_1", bn=f"{name}_bn_1", relu=f"{name}_relu_1"
            )
        maps.append(x)
    return maps


def prediction_module(x, channels: int, index: int, layers: Layers):
    """A residual unit before the heads of map `index`, to `channels` channels (Fu et al. 2017, figure 2 (c))."""

    def conv_bn(x, filters, part):
        conv, bn = f"ssd_mpred_conv_{part}_block_{index}", f"ssd_mpred_bn_{part}_block_{index}"
        return layers.conv_bn(x, filters, 1, name=conv, bn=bn)

    y = layers.relu(conv_bn(x, channels // 4, 0), f"ssd_mpred_relu_0_block_{index}")
    y = layers.relu(conv_bn(y, channels // 4, 1), f"ssd_mpred_relu_1_block_{index}")
    y = conv_bn(y, channels, 2)
    shortcut = conv_bn(x, channels, 3)
    return layers.relu(layers.add([y, shortcut], f"ssd_mpred_add_block_{index}"), f"ssd_mpred_relu_3_block_{index}")


def predict(maps: list, boxes_per_cell: tuple[int, ...], scores: int, layers: Layers) -> dict:
    """The heads of all maps, joined.

    A head's filters count boxes, then scores (or coordinates); flattened row by row this is the order of the
    anchors: map, row, column, box.

    Args:
        maps: `(B,h,w,c)` each, finest first.
        boxes_per_cell: anchors of a cell, per map.
        scores: classes and the background.

    Returns:
        "class_logits" `(B,A,scores)` and "offsets" `(B,A,4)`, float32 under any dtype policy.
    """
    logits, offsets = [], []
    for index, (x, boxes) in enumerate(zip(maps, boxes_per_cell, strict=True)):
        logits.append(_head(x, boxes, scores, "conf", index, layers))
        offsets.append(_head(x, boxes, 4, "loc", index, layers))
    return {
        "class_logits": keras_layers.Concatenate(axis=1, name="mbox_conf", dtype="float32")(logits),
        "offsets": keras_layers.Concatenate(axis=1, name="mbox_loc", dtype="float32")(offsets),
    }


def _head(x, boxes: int, values: int, kind: str, index: int, layers: Layers):
    x = layers.conv(x, boxes * values, 3, bias=True, initializer="he_normal", name=f"ssd_{kind}_{index}")
    return keras_layers.Reshape((-1, values), name=f"{kind}_reshape_{index}")(x)
