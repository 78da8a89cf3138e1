"""How fast is inference on this machine: Keras, ONNX Runtime in float and INT8, and the same network in PyTorch?

    python scripts/benchmarks/inference.py --torch-python /path/to/python

SSD300, images already in memory; the network alone, and with decoding and NMS. Scores are moved so that one anchor in a
hundred is a candidate. Engines run in processes of their own and take turns in every round. Not `ssd inference`, whose
decoding and writing `evaluate.py` measures.
"""

import itertools
import json
import os
import re
import sys
import tempfile
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
CANDIDATES = 0.01
ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = arguments(__doc__, rounds=7)
    parser.add_argument("--networks", default="resnet18,vgg16", help="resnet10 to 101, vgg16 and 19; others: no peer")
    parser.add_argument("--backends", default="tensorflow", help="of tensorflow (with ONNX Runtime), jax")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--images", type=int, default=8, help="per measurement")
    add_torch_python(parser)
    args = parser.parse_args()
    about = machine()
    print(machine_line(about))
    print("ratio: images/s over those of the peer's fastest form, within each round")
    cases = [measure(network, args) for network in args.networks.split(",")]
    write_json(args.json, {"machine": about, "cases": cases})


def measure(network: str, args) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "what": "inference",
            "network": network,
            "batches": [int(size) for size in args.batches.split(",")],
            "images": args.images,
            "candidates": CANDIDATES,
            "side": SIDE,
            "anchors": f"{folder}/anchors.json",
        }
        workers = [
            Worker("inference.py", options, environment={"KERAS_BACKEND": backend})
            for backend in args.backends.split(",")
        ]
        facts = next((worker.facts for worker in workers if worker.usable), None)
        if facts and re.fullmatch(r"resnet(10|18|34|50|101)|vgg(16|19)", network):
            workers.append(Worker("torch_ssd.py", {**options, **facts}, python=args.torch_python))
            if workers[-1].usable and workers[-1].facts["parameters"] != facts["parameters"]:
                raise SystemExit(
                    f"the peer has {workers[-1].facts['parameters']} parameters, not {facts['parameters']}"
                )
        rounds = []
        for _ in range(args.rounds):
            rounds.append({})
            for worker in workers:
                rounds[-1].update(worker.measure() if worker.usable else {})
        for worker in workers:
            worker.close()
    return report(network, workers, rounds)


def report(network: str, workers: list[Worker], rounds: list[dict]) -> dict:
    rows = []
    for part, size in dict.fromkeys(tuple(key.split("|")[1:]) for key in rounds[0]):
        rates = {
            key.split("|")[0]: [int(size) / turn[key]["seconds"] for turn in rounds]
            for key in rounds[0]
            if key.endswith(f"|{part}|{size}")
        }
        found = {engine: spread(values) for engine, values in rates.items()}
        peers = [engine for engine in rates if engine.startswith("PyTorch")]
        fastest = max(peers, key=lambda engine: found[engine]["median"], default=None)
        print(f"\n{network}, batch {size}, {part}; the fastest peer is {fastest or 'absent'}")
        print(f"{'engine':22}{'images/s, median (range)':>28}{'ms/image':>10}{'ours / peer':>22}")
        for engine, values in rates.items():
            quotient = ratio(values, rates[fastest]) if fastest and engine not in peers else None
            median = found[engine]["median"]
            print(f"{engine:22}{spread_text(found[engine]):>28}{1000 / median:>10.1f}{spread_text(quotient):>22}")
            row = {"engine": engine, "part": part, "batch": int(size), "images_per_second": found[engine]}
            rows.append({**row, "milliseconds_per_image": 1000 / median, "peer": fastest, "ratio": quotient})
    for worker in workers:
        for engine, fault in {**worker.facts.get("faults", {}), "an engine": worker.facts.get("error")}.items():
            if fault:
                print(f"{engine} cannot run: {fault}")
    sys.stdout.flush()
    return {"network": network, "rows": rows, "facts": [worker.facts for worker in workers]}


# The worker.


def prepare(options: dict):
    """Our network in Keras, and on the TensorFlow backend as `ssd export` makes it."""
    import keras
    import numpy as np
    from sample import make_sparse, specification

    from ssd.deploy.predictors import KerasPredictor
    from ssd.models.detector import anchors_for, build_detector

    keras.utils.set_random_seed(0)
    backend = keras.backend.backend()
    spec = specification(options["network"])
    model = build_detector(spec.network, (SIDE, SIDE, 3), len(spec.classes))
    model.compile(jit_compile=backend != "tensorflow")
    batches = {
        size: np.random.default_rng(0).normal(0, 60, (size, SIDE, SIDE, 3)).astype("float32")
        for size in options["batches"]
    }
    make_sparse(model, batches[max(batches)], options["candidates"])
    anchors = anchors_for(model, spec)
    Path(options["anchors"]).write_text(json.dumps(np.asarray(anchors).tolist()))
    ways = {}
    for size, images in batches.items():
        predictor = KerasPredictor(model, spec)
        ways[f"Keras, {backend}|network|{size}"] = lambda images=images: model.predict_on_batch(images)
        ways[f"Keras, {backend}|with NMS|{size}"] = lambda images=images, run=predictor: run.predict(images)
    if backend == "tensorflow":
        ways.update(exported(model, spec, batches))
    for run in ways.values():
        run()

    def measure():
        return {key: timed(run, max(options["images"] // int(key.split("|")[2]), 1)) for key, run in ways.items()}

    measure()
    facts = {
        "arch": spec.network.arch,
        "nlayers": spec.network.nlayers,
        "boxes_per_cell": list(spec.network.boxes_per_cell),
        "classes": len(spec.classes),
        "parameters": model.count_params(),
    }
    return facts, measure


def exported(model, spec, batches: dict) -> dict:
    """The ONNX graphs, float and INT8, through ONNX Runtime: without NMS for the network alone, else with."""
    from ssd.deploy import export_graph
    from ssd.deploy.graph_predictor import graph_input
    from ssd.deploy.predictors import open_graph
    from ssd.models.checkpoint import Artifact
    from ssd.quantization.calibration import calibrate
    from ssd.quantization.qdq import insert_qdq

    source = export_graph.prepare(Artifact(model, spec, spec.text, {}, {}), spec)
    plain = export_graph.float_graph(source, opset=17, batch=None, pixels=False)
    largest = graph_input(batches[max(batches)], False, ())
    forms = {"fp32": plain, "int8": insert_qdq(plain, calibrate(plain, [largest], "max"))}
    ways = {}
    for (kind, proto), (nms, part) in itertools.product(forms.items(), (("none", "network"), ("standard", "with NMS"))):
        graph = export_graph.finished(proto, source, nms=nms, data_type=kind, pixels=False)
        with tempfile.TemporaryDirectory() as folder:
            predictor = open_graph(graph, folder, spec)
        for size, images in batches.items():
            channels_first = graph_input(images, False, ())
            run = {
                "network": lambda x=channels_first, runner=predictor.runner: runner.run(x),
                "with NMS": lambda x=images, predictor=predictor: predictor.predict(x),
            }[part]
            ways[f"ONNX Runtime, {kind}|{part}|{size}"] = run
    return ways


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    serve(prepare) if "--worker" in sys.argv else main()
