#!/usr/bin/env python3
"""Puts a trained float model on INT8 codes without training: every range is the largest value that some pictures make.

    python scripts/quantize_minmax.py -m model.keras -e spec.txt -o minmax.keras --images 64

The pictures are the first training images of the spec, prepared as for evaluation. What comes out is evaluated like any
model; it shows what quantization-aware training has to make good.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from ssd import native_log


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("-e", "--experiment_spec", required=True, help="for its training images and keep_float")
    parser.add_argument("-o", "--output_file", required=True, type=Path)
    parser.add_argument("--images", type=int, default=64)
    args = parser.parse_args()
    native_log.keep_from_terminal()

    from ssd.models.checkpoint import load_model, save_model
    from ssd.quantization.rewrite import quantize
    from ssd.spec import load_experiment

    spec = load_experiment(args.experiment_spec, "train")
    artifact = load_model(args.model, verb=None)
    model = quantize(artifact.model, spec.training.qat.keep_float if spec.training.qat else ())
    observe(model, pictures(spec, args.images))
    save_model(args.output_file, model, artifact.spec_text)
    print(f"{args.output_file}: ranges of {args.images} images")
    return 0


def pictures(spec, count: int):
    """Batches of training images as evaluation sees them."""
    from ssd.data.pipeline import evaluation_loader

    seen = replace(spec, dataset=replace(spec.dataset, validation=spec.dataset.training))
    done = 0
    for images, _ in evaluation_loader(seen, batch_size=8).epoch(0):
        yield np.asarray(images)[: count - done]
        done += len(images)
        if done >= count:
            return


def observe(model, batches) -> None:
    """Sets every range to the largest absolute value that its tensor has over `batches` in the float network."""
    import keras

    from ssd.quantization.fake_quant import FakeQuant
    from ssd.quantization.rewrite import strip

    plain, _ = strip(model)
    ranges = [layer for layer in model.layers if isinstance(layer, FakeQuant)]
    makers = [layer.name.removesuffix("_qdq") for layer in ranges]
    watched = keras.Model(plain.inputs, [plain.get_layer(name).output for name in makers])
    largest = np.zeros(len(ranges))
    for images in batches:
        largest = np.maximum(largest, [np.abs(np.asarray(x)).max() for x in watched([images], training=False)])
    for layer, amax in zip(ranges, largest, strict=True):
        layer.amax.assign(amax)


if __name__ == "__main__":
    sys.exit(main())
