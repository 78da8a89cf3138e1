"""How many images a second does a training step take, beside the same network in plain PyTorch?

    python scripts/benchmarks/training_step.py --torch-python /path/to/python

SSD300 on made pictures that lie in memory: forward, loss, backward, regularisation and SGD with momentum; ours are
bytes, of which our step makes the network's input, and the peer is given such an input. Each engine
runs in a process of its own; they take turns in every round, and a ratio is taken within a round. The ratio in CPU time
is that of images per second of processor time, which other load on the machine stretches less. On a GPU the peer is
compiled. `--jpegs` measures ours on files too, through the training pipeline with all augmentation; `--torchvision`
beside vgg16 that library's ssd300_vgg16, compiled.
"""

import dataclasses
import itertools
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from timing import (
    Worker,
    add_torch_python,
    arguments,
    machine,
    machine_line,
    ratio,
    serve,
    spread,
    spread_text,
    timed,
    write_json,
)

SIDE = 300
L2 = 2e-4
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
WAITING = 8  # batches; more than a pipeline prefetches
ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = arguments(__doc__, rounds=7)
    parser.add_argument("--networks", default="resnet18,vgg16", help="resnet10 to 101, vgg16 and 19; others: no peer")
    parser.add_argument("--precisions", default="float32,bfloat16")
    parser.add_argument("--backends", default="tensorflow", help="of tensorflow, jax")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2, help="per round")
    parser.add_argument("--objects", type=int, default=8, help="ground truth of an image")
    parser.add_argument("--jpegs", type=int, default=0, metavar="N", help="ours also on N files of 500x375")
    parser.add_argument("--torchvision", action="store_true", help="beside vgg16 also torchvision's ssd300_vgg16")
    add_torch_python(parser)
    parser.add_argument("--peak-tflops", type=float, help="of the device, in the precision measured: prints the share")
    args = parser.parse_args()
    about = machine()
    print(machine_line(about))
    print(
        f"{'network':10}{'precision':11}{'engine':24}{'images/s, median (range)':>28}"
        f"{'ours / peer':>22}{'in CPU time':>22}{'of peak':>9}"
    )
    cases = []
    for network, precision in itertools.product(args.networks.split(","), args.precisions.split(",")):
        cases.append(measure(network, precision, args))
    write_json(args.json, {"machine": about, "batch": args.batch, "steps": args.steps, "cases": cases})


def measure(network: str, precision: str, args) -> dict:
    """All engines on one network."""
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "what": "training",
            "network": network,
            "precision": precision,
            "batch": args.batch,
            "steps": args.steps,
            "objects": args.objects,
            "side": SIDE,
            "l2": L2,
            "anchors": f"{folder}/anchors.json",
            "truth": f"{folder}/truth.json",
        }
        workers = {}
        for backend, jpegs in itertools.product(args.backends.split(","), sorted({0, args.jpegs})):
            name = f"ssd, {backend}" + (", JPEGs" if jpegs else "")
            environment = {"KERAS_BACKEND": backend}
            workers[name] = Worker("training_step.py", {**options, "jpegs": jpegs}, environment=environment)
        ours = list(workers)
        running = [worker for worker in workers.values() if worker.usable]
        if running:
            workers.update(peers({**options, **running[0].facts}, args))
        rounds = [
            {name: worker.measure() for name, worker in workers.items() if worker.usable} for _ in range(args.rounds)
        ]
        for worker in workers.values():
            worker.close()
    return report(network, precision, args, workers, ours, rounds)


def peers(options: dict, args) -> dict[str, Worker]:
    found = {}
    if re.fullmatch(r"resnet(10|18|34|50|101)|vgg(16|19)", options["network"]):
        found["PyTorch"] = peer = Worker("torch_ssd.py", options, python=args.torch_python)
        if peer.usable and peer.facts["parameters"] != options["parameters"]:
            raise SystemExit(f"the peer has {peer.facts['parameters']} parameters, not {options['parameters']}")
    if options["network"] == "vgg16" and args.torchvision:
        found["torchvision"] = Worker("torch_ssd.py", {**options, "torchvision": True}, python=args.torch_python)
    return found


def report(network: str, precision: str, args, workers: dict, ours: list[str], rounds: list[dict]) -> dict:
    case = {"network": network, "precision": precision, "engines": {}}
    rates = {name: [args.batch / turn[name]["seconds"] for turn in rounds] for name in rounds[0]}
    processor = {name: [args.batch / turn[name]["processor"] for turn in rounds] for name in rounds[0]}
    for name, worker in workers.items():
        row = case["engines"][name] = {"facts": worker.facts}
        if name not in rates:
            print(f"{network:10}{precision:11}{name:24}cannot run: {worker.facts['error']}", flush=True)
            continue
        row["images_per_second"] = spread(rates[name])
        row["images_per_processor_second"] = spread(processor[name])
        if name in ours:
            compared = [peer for peer in rates if peer not in ours]
            row["ratio"] = {peer: ratio(rates[name], rates[peer]) for peer in compared}
            row["processor_ratio"] = {peer: ratio(processor[name], processor[peer]) for peer in compared}
        share = "-"
        if args.peak_tflops and worker.facts.get("macs"):
            # Backward computes a gradient by the inputs and one by the weights: twice forward.
            flops = 3 * 2 * worker.facts["macs"] * row["images_per_second"]["median"]
            row["share_of_peak"] = flops / args.peak_tflops / 1e12
            share = f"{row['share_of_peak']:.1%}"
        others = [*row.get("ratio", {})] or [None]
        for peer in others:
            shown = [spread_text(row[kind][peer]) if peer else "-" for kind in ("ratio", "processor_ratio")]
            head = f"{network:10}{precision:11}{name:24}{spread_text(row['images_per_second']):>28}"
            if peer != others[0]:
                head, share = f"{f'to {peer}':>73}", ""
            print(f"{head}{shown[0]:>22}{shown[1]:>22}{share:>9}", flush=True)
    return case


# The worker.


def prepare(options: dict):
    """Our training step, warm."""
    import keras
    import numpy as np
    from keras import ops
    from sample import ground_truth, specification

    from ssd.models.macs import layer_macs
    from ssd.training.pixels import unchanged
    from ssd.training.run import build
    from ssd.training.shapes import keyed

    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(POLICIES[options["precision"]])
    spec = specification(options["network"], L2)
    training, _ = build(spec, steps=1000)
    truth = ground_truth(options["batch"], options["objects"], len(spec.classes))
    Path(options["truth"]).write_text(json.dumps({name: value.tolist() for name, value in truth.items()}))
    Path(options["anchors"]).write_text(json.dumps(np.asarray(training.anchors).tolist()))
    pictures = np.random.default_rng(0).integers(0, 256, (options["batch"], SIDE, SIDE, 3), np.uint8)
    if options["jpegs"]:
        batches = from_files(spec, options)
    else:
        made = keras.tree.map_structure(ops.convert_to_tensor, (unchanged(pictures), keyed(truth)))
        batches = itertools.repeat(made)

    def run(steps: int) -> dict:
        for _ in range(WAITING if options["jpegs"] else 0):  # made while others were measured
            next(batches)
        return timed(lambda: training.train_on_batch(*next(batches)), steps, wait=training.totals)

    run(3)
    facts = {
        "arch": spec.network.arch,
        "nlayers": spec.network.nlayers,
        "boxes_per_cell": list(spec.network.boxes_per_cell),
        "classes": len(spec.classes),
        "parameters": training.detector.count_params(),
        "macs": sum(map(layer_macs, training.detector.layers)),
        "tensorflow_imported": sys.modules.get("tensorflow") is not None,
    }
    return facts, lambda: run(options["steps"])


def from_files(spec, options: dict) -> Iterator[tuple]:
    """Batches without end of made photographs, as `ssd train` feeds its step."""
    import keras
    import numpy as np
    from sample import photographs

    from ssd.data.pipeline import training_loader
    from ssd.training.shapes import keyed, keyed_pixels

    # Whole batches: a smaller last one would be another step to compile.
    count = -(-options["jpegs"] // options["batch"]) * options["batch"]
    with tempfile.TemporaryDirectory() as folder:
        data = dataclasses.replace(spec.dataset, training=(photographs(Path(folder), count),))
        loader = training_loader(dataclasses.replace(spec, dataset=data), batch_size=options["batch"])
        for epoch in itertools.count():
            for pixels, truth in loader.epoch(epoch):
                if keras.backend.backend() != "tensorflow":
                    pixels, truth = keras.tree.map_structure(np.asarray, (pixels, truth))
                yield keyed_pixels(pixels, options["batch"], loader.share), keyed(truth)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    serve(prepare) if "--worker" in sys.argv else main()
