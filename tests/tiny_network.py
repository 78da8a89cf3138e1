"""A detector that trains in seconds: a 4x4 grid of anchors on a pooled picture of 128x128, in place of a ResNet."""

import keras
import numpy as np

from ssd.models.batch_norm import BatchNormalization


def build_detector(network, shape, classes, regularizer=None) -> keras.Model:
    """As `ssd.models.detector.build_detector`."""
    images = keras.Input(shape, name="Input")
    x = keras.layers.AveragePooling2D(32, name="pool")(images)
    x = keras.layers.Conv2D(8, 1, use_bias=False, kernel_regularizer=keras.regularizers.L2(1e-4), name="conv1")(x)
    x = keras.layers.ReLU(name="relu1")(BatchNormalization(name="bn1")(x))
    logits = keras.layers.Conv2D(1 + classes, 1, name="ssd_conf_0")(x)
    offsets = keras.layers.Conv2D(4, 1, name="ssd_loc_0")(x)
    outputs = {
        "class_logits": keras.layers.Reshape((-1, 1 + classes), name="logits")(logits),
        "offsets": keras.layers.Reshape((-1, 4), name="offsets")(offsets),
    }
    return keras.Model(images, outputs)


def replace(set_attribute) -> None:
    """Puts it into training. `set_attribute(object, name, value)`, such as `setattr`."""
    from ssd.training import run, trainer

    corners = np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(-1, 2) / 4
    anchors = np.concatenate([corners, corners + 0.25], axis=1).astype(np.float32)
    set_attribute(run, "build_detector", build_detector)
    set_attribute(run, "anchors_for", lambda model, spec: anchors)
    set_attribute(run, "apply_freezing", lambda model, network: [])
    set_attribute(trainer, "banner", lambda *args: None)
