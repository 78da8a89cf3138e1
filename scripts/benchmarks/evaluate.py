"""Where does the time of an evaluation and of `ssd inference` go, and how far do their parts overlap?

    python scripts/benchmarks/evaluate.py [--images 200]

SSD300 on JPEGs of 500x375, each part alone, then the whole as the verbs run it. Parts overlap where the whole takes
less than their sum; on a CPU they share its cores, so what counts is how busy these are: processor seconds over those
that the cores had.
"""

import os
import sys
import tempfile
from pathlib import Path

from timing import arguments, cores, machine, machine_line, spread, spread_text, timed, write_json

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
SIDE = 300


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--images", type=int, default=200)
    args = parser.parse_args()
    about = machine()
    print(machine_line(about))
    with tempfile.TemporaryDirectory() as folder:
        tasks = prepare(args.network, args.images, Path(folder))
        for parts in tasks.values():
            for run in parts.values():
                run()
        rounds = [
            {task: {part: timed(run) for part, run in parts.items()} for task, parts in tasks.items()}
            for _ in range(args.rounds)
        ]
    found = {task: report(task, [turn[task] for turn in rounds], args.images) for task in tasks}
    write_json(args.json, {"machine": about, "images": args.images, "tasks": found})


def report(task: str, rounds: list[dict], images: int) -> dict:
    print(f"\n{task}, {images} images\n{'part':30}{'seconds, median (range)':>28}{'cores busy':>12}")
    found = {}
    for part in rounds[0]:
        seconds = spread([turn[part]["seconds"] for turn in rounds])
        busy = spread([turn[part]["processor"] / turn[part]["seconds"] / cores() for turn in rounds])
        found[part] = {"seconds": seconds, "cores_busy": busy}
        print(f"{part:30}{spread_text(seconds, 4):>28}{busy['median']:>12.0%}")
    whole = [turn["whole"]["seconds"] for turn in rounds]
    parts = [sum(times["seconds"] for part, times in turn.items() if part != "whole") for turn in rounds]
    found["whole_to_sum"] = spread([a / b for a, b in zip(whole, parts, strict=True)])
    print(f"the whole takes {spread_text(found['whole_to_sum'])} of the sum of its parts")
    return found


def prepare(network: str, count: int, folder: Path) -> dict:
    """By task and part: functions that do the work of all images once."""
    import keras
    import numpy as np
    from keras import ops
    from sample import make_sparse, on_photographs, specification, suppression

    from ssd.data.pipeline import evaluation_loader, image_loader
    from ssd.deploy.predictors import KerasPredictor
    from ssd.evaluation.run import batch_results, evaluate_loader
    from ssd.inference.images import find_images, output_names
    from ssd.inference.outputs import Writer
    from ssd.inference.run import infer
    from ssd.models.detector import anchors_for, build_detector

    keras.utils.set_random_seed(0)
    spec = on_photographs(specification(network), folder, count)
    size = spec.evaluation.batch_size
    loader = evaluation_loader(spec, batch_size=size)
    images, truth = next(iter(loader.epoch(0)))
    images, truth = np.asarray(images), {key: np.asarray(value) for key, value in truth.items()}
    model = build_detector(spec.network, (SIDE, SIDE, 3), len(spec.classes))
    model.compile(jit_compile=keras.backend.backend() != "tensorflow")
    make_sparse(model, images)
    predictor, nms = KerasPredictor(model, spec), suppression(spec, anchors_for(model, spec))
    outputs = keras.tree.map_structure(ops.convert_to_tensor, model.predict_on_batch(images))
    detections = predictor.predict(images)
    paths = find_images(str(folder / "images"))
    names = output_names(paths, folder / "out")
    (folder / "out/images_annotated").mkdir(parents=True)
    (folder / "out/labels").mkdir()

    def suppress():
        keras.tree.map_structure(ops.convert_to_numpy, nms(outputs["class_logits"], outputs["offsets"]))

    def steps(run):
        return lambda: [run() for _ in range(loader.steps)]

    def pictures():
        return image_loader([str(path) for path in paths], spec.augmentation, batch_size=size)

    def writer():
        return Writer(paths, names, spec.classes, threshold=0.3)

    def write():
        with writer() as target:
            for index in range(count):
                row = index % size
                kept = int(detections.valid[row])
                parts = (part[row][:kept] for part in (detections.boxes, detections.scores, detections.classes))
                target.add(index, (375, 500), *parts)

    return {
        "evaluation": {
            "decoding": lambda: [None for _ in loader.epoch(0)],
            "network": steps(lambda: model.predict_on_batch(images)),
            "decoding of boxes and NMS": steps(suppress),
            "packing in Python": steps(lambda: batch_results(detections, truth, loader.names)),
            "whole": lambda: evaluate_loader(predictor.predict, loader, label=""),
        },
        "inference": {
            "decoding": lambda: [None for _ in pictures()],
            "network and NMS": steps(lambda: predictor.predict(images)),
            "drawing and writing": write,
            "whole": lambda: infer(predictor.predict, pictures(), writer(), count),
        },
    }


if __name__ == "__main__":
    main()
