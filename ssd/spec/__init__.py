"""The spec language: prototxt in, validated and resolved configuration out.

`ssd.spec.config` has the resolved types. Protobuf is imported when a spec is read, not before.
"""

import os

from ssd.spec.config import Conversion, Experiment


def load_experiment(path: str | os.PathLike, verb: str) -> Experiment:
    """Reads an experiment spec from a file.

    Args:
        path: the spec; `~` is expanded.
        verb: "train", "evaluate", "inference", "prune" or "export": decides which blocks are required and whose
            paths are looked up (train: all data sources; evaluate: those of validation; the others: none).

    Raises:
        SpecError, Problems: everything that is wrong, each with file, line and field path.
    """
    from ssd.spec.source import read_spec

    return experiment_from_text(read_spec(path), os.fspath(path), verb)


def experiment_from_text(text: str, name: str, verb: str) -> Experiment:
    """As load_experiment, from text: the resolved spec that a model carries. `name` stands for the file in errors."""
    from ssd.console import warn
    from ssd.spec.resolve import resolve_experiment

    experiment, warnings = resolve_experiment(text, name, verb)
    for warning in warnings:
        warn(warning)
    return experiment


def with_batch_size(spec: Experiment, batch_size: int) -> Experiment:
    """A resolved training spec with another `batch_size_per_gpu`."""
    from ssd.spec.resolve import with_training_batch

    return with_training_batch(spec, batch_size)


def load_conversion(path: str | os.PathLike) -> Conversion:
    """Reads a dataset_convert spec and looks up its folders and files. Raises SpecError or Problems."""
    from ssd.console import warn
    from ssd.spec.resolve import resolve_conversion
    from ssd.spec.source import read_spec

    conversion, warnings = resolve_conversion(read_spec(path), os.fspath(path))
    for warning in warnings:
        warn(warning)
    return conversion
