"""A program that trains, alone or with others, for the tests of `ssd.training.distribution`.

    python together.py [--tiny] [--cpus N] steps SPEC [COORDINATOR PROCESSES PROCESS]
    python together.py [--tiny] [--cpus N] train -e SPEC -r FOLDER ...

`steps` prints one line of JSON: the loss of each of 20 steps with batches of 8 images in all, the images of each, and
a validation. `train` is `ssd train`. With `--tiny` both train a network that takes seconds; `--cpus` shows the CPU to
TensorFlow as N devices (JAX has XLA_FLAGS for that).
"""

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path

BATCH = 8
STEPS = 20


def steps(path: str, devices: int, place: list[str]) -> dict:
    import keras
    import numpy as np

    from ssd.spec import load_experiment
    from ssd.training import distribution
    from ssd.training.run import build
    from ssd.training.shapes import keyed, keyed_pixels
    from ssd.training.trainer import Request, loaders, request_device
    from ssd.training.validation import Validator

    spec = load_experiment(path, "train")
    cluster = distribution.Cluster(place[0], int(place[1]), int(place[2])) if place else None
    device = request_device(Request(gpus=devices, cluster=cluster))
    training_config = dataclasses.replace(spec.training, batch_size=BATCH // device.count)
    evaluation = dataclasses.replace(spec.evaluation, batch_size=BATCH // device.count)
    spec = dataclasses.replace(spec, training=training_config, evaluation=evaluation)
    keras.utils.set_random_seed(spec.random_seed)
    losses, seen = [], []
    with distribution.together(device):
        loader, validation = loaders(spec, device)
        training, _ = build(spec, loader.steps)  # the rates of one device, however many there are
        for epoch in range(-(-STEPS // loader.steps)):
            for pixels, truth in loader.epoch(epoch):
                if keras.backend.backend() == "jax":
                    pixels, truth = keras.tree.map_structure(np.asarray, (pixels, truth))
                count = len(truth["index"])
                training.start_epoch()
                training.train_on_batch(keyed_pixels(pixels, count, loader.share), keyed(truth))
                totals = training.totals()
                assert totals["images"] == count, (totals, count)
                losses.append(totals["loss"])
                seen.append([int(index) for index in truth["index"]])
        result = Validator(training.evaluated, training.anchors, spec, validation).run(0.0)
    return {
        "device": device.name,
        "losses": losses,
        "seen": seen,
        "validation_loss": result.loss,
        "mAP": result.mean,
        "per_class": result.per_class,
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("what", choices=("steps", "train"))
    args, rest = parser.parse_known_args()
    import keras

    if keras.backend.backend() == "tensorflow" and args.cpus > 1:
        import tensorflow as tf

        cpus = [tf.config.LogicalDeviceConfiguration()] * args.cpus
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], cpus)
    if args.tiny:
        sys.path.insert(0, str(Path(__file__).parent.parent))
        from tiny_network import replace

        replace(setattr)
    if args.what == "train":
        from ssd.cli import main as ssd

        return ssd(["train", *rest, "--gpus", str(args.gpus)])
    print(json.dumps(steps(rest[0], args.gpus, rest[1:])), flush=True)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main())
