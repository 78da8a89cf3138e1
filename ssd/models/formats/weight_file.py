"""What a reader of a weight file returns: arrays under our layer names, and what their network expects of pixels."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Convention:
    """What a network expects of its pixels: `(pixel * scale - mean) / std`, pixels 0..255, channels in `order`.

    Args:
        order: "rgb", "bgr" or "gray".
        scale: 1 or 1/255 or 2/255.
        mean: per channel, in `order`, after `scale`.
        std: as `mean`.
    """

    order: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


CONVENTIONS = {
    "caffe": Convention("bgr", 1.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0)),
    "torch": Convention("rgb", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "tf": Convention("rgb", 2 / 255, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    "darknet": Convention("rgb", 1 / 255, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "raw": Convention("rgb", 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
# What detectors and TAO's classifiers are given where nobody says otherwise, by number of channels.
CUSTOMARY = {3: CONVENTIONS["caffe"], 1: Convention("gray", 1.0, (117.3786,), (1.0,))}


@dataclass(frozen=True)
class WeightFile:
    """The weights of a file, in our terms.

    Args:
        kind: for messages: "torchvision squeezenet1_0 state dict".
        layers: our layer name -> arrays in Keras' order and layout: HWIO kernels, depthwise `(kh,kw,c,1)`, then the
            bias; BN as gamma, beta, mean, variance, for epsilon 1e-3.
        convention: None where it is unknown: the spec's own input is assumed.
        unused: tensors of the file with no place in a detector: a classifier, an optimizer.
        notes: what differs from the public network and what that means, a line each.
        reasons: our layer name -> why the file has nothing for it, where known.
        prunable: kernels with fewer filters than the network's table says are those of a pruned network.
        same_modules: whether the file is of the spec's `pred_num_channels`; None where it does not say.
        pruning: what `ssd prune` noted in it, a record each time.
        classes: that its heads tell apart, in their order, where it says.
        assumed: whose convention it is, where neither the file nor a user says it: "as torchvision's are".
    """

    kind: str
    layers: dict[str, tuple[np.ndarray, ...]]
    convention: Convention | None
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)
    prunable: bool = False
    same_modules: bool | None = None
    pruning: tuple[dict, ...] = ()
    classes: tuple[str, ...] = ()
    assumed: str = ""
