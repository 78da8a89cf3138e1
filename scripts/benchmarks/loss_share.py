"""What share of a training step is matching and loss, and what share of an evaluation is decoding and NMS?

    python scripts/benchmarks/loss_share.py [--batch 32] [--objects 100]

SSD300 with ResNet-18. Matching and loss are compiled as in training, with the gradient by logits and offsets that a
step pays for, and take turns with whole steps in one process. NMS is on scores as of a trained network, and on those of
random weights, where every anchor is a candidate; an evaluation decodes JPEGs of 500x375.
KERAS_BACKEND chooses the engine; JAX is for the first part, since data come through TensorFlow.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from timing import arguments, machine, machine_line, spread, timed, write_json

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
GOAL = 0.05
SIDE = 300


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--objects", type=int, default=100, help="of each image in the training step")
    parser.add_argument("--images", type=int, default=96, help="of an evaluation")
    args = parser.parse_args()
    about = machine()
    print(machine_line(about))
    print(f"{'part':34}{'its seconds':>12}{'of seconds':>12}{'share, median (range)':>28}   goal: under {GOAL:.0%}")
    found = {"matching and loss": training_share(args), **nms_shares(args)}
    write_json(args.json, {"machine": about, "batch": args.batch, "objects": args.objects, "shares": found})


def report(name: str, rounds: list[tuple[float, float]]) -> dict:
    """Prints and returns a share: `rounds` are seconds of the part and of the whole."""
    share = spread([part / whole for part, whole in rounds])
    part, whole = (spread([turn[which] for turn in rounds]) for which in (0, 1))
    text = "{median:.2%} ({low:.2%}-{high:.2%})".format(**share)
    print(f"{name:34}{part['median']:>12.4f}{whole['median']:>12.3f}{text:>28}", flush=True)
    return {"share": share, "part_seconds": part, "whole_seconds": whole}


def training_share(args: argparse.Namespace) -> dict:
    import keras
    import numpy as np
    from boxes import with_gradient
    from keras import ops
    from sample import compiled, ground_truth, specification

    from ssd.training.loss import ssd_loss
    from ssd.training.pixels import network_input, unchanged
    from ssd.training.run import build
    from ssd.training.shapes import boxes_and_classes, keyed

    keras.utils.set_random_seed(0)
    spec = specification(args.network, l2=2e-4)
    training, _ = build(spec, steps=1000)
    truth = keyed(ground_truth(args.batch, args.objects, len(spec.classes)))
    truth = keras.tree.map_structure(ops.convert_to_tensor, truth)
    images = unchanged(np.random.default_rng(0).integers(0, 256, (args.batch, SIDE, SIDE, 3), np.uint8))
    images = keras.tree.map_structure(ops.convert_to_tensor, images)
    seen = ops.convert_to_numpy(network_input(images, spec.augmentation))
    outputs = training.detector.predict(seen, batch_size=8, verbose=0)
    logits, offsets = (ops.convert_to_tensor(outputs[name]) for name in ("class_logits", "offsets"))
    boxes, classes = boxes_and_classes(truth)

    def loss(logits, offsets, boxes, classes):
        return ssd_loss(logits, offsets, boxes, classes, training.anchors, spec.network)["loss"]

    gradient = compiled(with_gradient(loss))

    def loss_alone():
        keras.tree.map_structure(ops.convert_to_numpy, gradient(logits, offsets, boxes, classes))

    def step():
        training.train_on_batch(images, truth)
        training.totals()  # waits for the device

    for run in (loss_alone, loss_alone, step, step):
        run()
    rounds = [(timed(loss_alone, 3)["seconds"], timed(step)["seconds"]) for _ in range(args.rounds)]
    return report(f"matching and loss of {args.batch} x {args.objects}", rounds)


def nms_shares(args: argparse.Namespace) -> dict:
    """By the kind of scores."""
    import keras
    import numpy as np
    from keras import ops
    from sample import make_sparse, on_photographs, specification, suppression

    if keras.backend.backend() != "tensorflow":
        return {}
    from ssd.data.pipeline import evaluation_loader
    from ssd.deploy.predictors import KerasPredictor
    from ssd.evaluation.run import evaluate_loader
    from ssd.models.detector import anchors_for, build_detector

    spec, shares = specification(args.network), {}
    with tempfile.TemporaryDirectory() as folder:
        spec = on_photographs(spec, Path(folder), args.images)
        loader = evaluation_loader(spec, batch_size=spec.evaluation.batch_size)
        images = np.asarray(next(iter(loader.epoch(0)))[0])
        for name, sparse in (("decoding and NMS, as trained", True), ("decoding and NMS, untrained", False)):
            keras.utils.set_random_seed(0)
            model = build_detector(spec.network, (SIDE, SIDE, 3), len(spec.classes))
            if sparse:
                make_sparse(model, images)
            predictor = KerasPredictor(model, spec)
            outputs = keras.tree.map_structure(ops.convert_to_tensor, model.predict_on_batch(images))
            detect = suppression(spec, anchors_for(model, spec))

            def nms(detect=detect, outputs=outputs):
                keras.tree.map_structure(ops.convert_to_numpy, detect(outputs["class_logits"], outputs["offsets"]))

            def whole(predictor=predictor):
                evaluate_loader(predictor.predict, loader, label="")

            for run in (nms, whole):
                run()
            # A short last batch is filled up, so every step has a whole batch to suppress.
            rounds = [(timed(nms, 3)["seconds"] * loader.steps, timed(whole)["seconds"]) for _ in range(args.rounds)]
            shares[name] = report(name, rounds)
    return shares


if __name__ == "__main__":
    main()
