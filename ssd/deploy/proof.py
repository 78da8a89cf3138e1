"""The proof of an export: mAP of the Keras model, the float graph and the exported one on the validation data."""

import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
import onnx

from ssd.console import warn
from ssd.data.pipeline import evaluation_loader
from ssd.deploy.graph_predictor import graph_input
from ssd.deploy.predictors import KerasPredictor, open_graph
from ssd.errors import InputError, RunError
from ssd.evaluation.average_precision import voc_report
from ssd.evaluation.run import evaluate_loader
from ssd.quantization.rewrite import Quantization
from ssd.quantization.sensitivity import sensitivities
from ssd.spec.config import Experiment
from ssd.tables import table

NAMED_LAYERS = 5  # that a loss names
SENSITIVITY_IMAGES = 8


@dataclass(frozen=True)
class Row:
    """One artifact."""

    artifact: str
    mAP: float
    images: int


def prove(model: keras.Model, graphs: dict[str, onnx.ModelProto], spec: Experiment, *, required: bool) -> list[Row]:
    """Evaluates the Keras model and each graph in ONNX Runtime.

    Args:
        graphs: with metadata, NMS of a kind that ONNX Runtime runs.
        required: whether missing validation data are an error; else a warning, and no rows.
    """
    try:
        if not spec.dataset.validation:
            raise InputError("the spec names no validation data")
        loader = evaluation_loader(spec, batch_size=spec.evaluation.batch_size)
    except InputError as error:
        if required:
            raise InputError(f"--max_map_drop needs validation data: {error.message}", where=error.where) from error
        warn(f"mAP is not measured: {str(error).splitlines()[0]} (-e names another spec)")
        return []
    rules, rows = spec.evaluation, []
    with tempfile.TemporaryDirectory(prefix="ssd-") as folder:
        predictors = [("Keras", KerasPredictor(model, spec))]
        predictors += [(name, open_graph(graph, folder, spec)) for name, graph in graphs.items()]
        for name, predictor in predictors:
            results = evaluate_loader(predictor.predict, loader, label=name)
            report = voc_report(results, spec.classes, rules.matching_iou_threshold, rules.average_precision_mode)
            rows.append(Row(name, report.mean, len(results)))
    return rows


def text(rows: list[Row]) -> str:
    """The table for the terminal."""
    cells = [(row.artifact, f"{row.mAP:.4f}", f"{row.mAP - rows[0].mAP:+.4f}") for row in rows]
    return table((f"{rows[0].images} images", "mAP", "change"), cells)


def judge(
    rows: list[Row],
    most: float,
    quantization: Quantization | None,
    graph: onnx.ModelProto,
    spec: Experiment,
    *,
    pixels: bool,
    kept: Sequence[str] = (),
) -> None:
    """Ends the export where the last row lost more than `most` against the first.

    Args:
        quantization: of an INT8 export; the layers that its rounding hurts most are then named.
        graph: float, without NMS.
        kept: names and patterns of layers that stay in float already.

    Raises:
        RunError: too much was lost.
    """
    drop = rows[0].mAP - rows[-1].mAP
    if drop <= most:
        return
    message = f"the exported graph loses {drop:.4f} of mAP, --max_map_drop allows {most:g}"
    if quantization is None:
        raise RunError(message)
    images, _ = next(iter(evaluation_loader(spec, batch_size=SENSITIVITY_IMAGES).epoch(0)))
    inputs = graph_input(np.asarray(images), pixels, spec.augmentation.mean)
    worst = [each.layer for each in sensitivities(graph, quantization, inputs, kept)[:NAMED_LAYERS]]
    if not worst:
        raise RunError(message)
    flags = " ".join(map(shlex.quote, (*kept, *worst)))
    raise RunError(
        f"{message}; rounding hurts most in {', '.join(worst)}",
        hint=f"keep them in float: --keep_fp {flags}; or train with enable_qat: true",
    )
