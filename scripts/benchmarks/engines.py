"""Builds TensorRT-RTX engines on a machine without a GPU: which networks, precisions and GPUs, how large, how long.

    python scripts/benchmarks/engines.py [--networks resnet18 mobilenet_v1 ...] [--json engines.json]

Each network is that of its spec in `specs/` at 300x300, untrained, with ranges from made pictures: neither changes what
an engine is made of. An engine is for batches of 1 to 8. Ends with 1 where one could not be built.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
NETWORKS = ("resnet18", "mobilenet_v1", "mobilenet_v2", "squeezenet", "efficientnet_b0")
CAPABILITIES = ("7.5", "8.6", "8.9", "12.0")
SPECS = Path(__file__).resolve().parents[2] / "specs"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="names in specs/ssd_NAME_kitti.txt")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there too")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for network in args.networks:
            for data_type, graph in graphs(network).items():
                rows += [measure(network, data_type, graph, capability, Path(folder)) for capability in CAPABILITIES]
    show(rows)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 1 if any(row["error"] for row in rows) else 0


def graphs(network: str) -> dict:
    """The network's graphs without NMS, as `ssd export` writes them, by data type."""
    import keras

    from ssd.deploy import export_graph
    from ssd.deploy.onnx_half import to_half
    from ssd.models.checkpoint import Artifact
    from ssd.models.detector import build_detector
    from ssd.quantization.calibration import calibrate
    from ssd.quantization.qdq import insert_qdq
    from ssd.spec import experiment_from_text

    path = SPECS / f"ssd_{network}_kitti.txt"
    spec = experiment_from_text(path.read_text(), str(path), "inference")
    keras.utils.set_random_seed(0)
    shape = (300, 300, 3)
    model = build_detector(spec.network, shape, len(spec.classes))
    source = export_graph.prepare(Artifact(model, spec, spec.text, {}, {}), spec)
    plain = export_graph.float_graph(source, opset=17, batch=None, pixels=False)
    pictures = np.random.default_rng(0).uniform(-120, 120, (2, 3, 300, 300)).astype("float32")
    forms = {"fp32": plain, "fp16": to_half(plain), "int8": insert_qdq(plain, calibrate(plain, [pictures], "max"))}
    return {
        kind: export_graph.finished(proto, source, nms="none", data_type=kind, pixels=False)
        for kind, proto in forms.items()
    }


def measure(network: str, data_type: str, graph, capability: str, folder: Path) -> dict:
    """Builds one engine, reads its sidecar back, and throws it away."""
    import onnx

    from ssd.deploy.tensorrt_engine import Batches, build_engine, read_sidecar
    from ssd.errors import SsdError

    source, target = folder / "model.onnx", folder / "model.engine"
    onnx.save(graph, source)
    row = {"network": network, "data_type": data_type, "capability": capability, "onnx_bytes": source.stat().st_size}
    start = time.perf_counter()
    try:
        build_engine(source, target, batches=Batches(1, 8, 8), compute_capability=capability)
        built_for = read_sidecar(target)[0].built_for
    except SsdError as error:
        return {**row, "error": str(error), "built_for": None, "bytes": None, "seconds": None}
    seconds = time.perf_counter() - start
    return {**row, "error": None, "built_for": built_for, "bytes": target.stat().st_size, "seconds": seconds}


def show(rows: list[dict]) -> None:
    """One line a network and precision: size and seconds by compute capability."""
    from ssd.tables import table

    cells: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        line = cells.setdefault((row["network"], row["data_type"]), [f"{row['onnx_bytes'] / 1e6:.1f}"])
        line.append("failed" if row["error"] else f"{row['bytes'] / 1e6:.1f} MB {row['seconds']:.1f} s")
    head = ("network", "graph", "ONNX, MB", *(f"SM{capability.replace('.', '')}" for capability in CAPABILITIES))
    print(table(head, [(*key, *line) for key, line in cells.items()], left=2))
    for row in rows:
        if row["error"]:
            print(f"{row['network']} {row['data_type']} {row['capability']}: {row['error']}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
