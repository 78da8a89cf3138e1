"""The scripts that take models, on the commands' small one."""

import importlib.util
import sys
from pathlib import Path

import numpy as np

from ssd.models.checkpoint import load_model
from ssd.quantization.rewrite import strip

SCRIPTS = Path(__file__).parents[2] / "scripts"


def script(name: str):
    location = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    return module


def test_minmax_takes_the_largest_values_of_some_pictures(model_file, spec_file, tmp_path, monkeypatch, capsys):
    path = tmp_path / "minmax.keras"
    flags = ["-m", str(model_file), "-e", str(spec_file), "-o", str(path), "--images", "3"]
    monkeypatch.setattr(sys, "argv", ["quantize_minmax.py", *flags])
    assert script("quantize_minmax").main() == 0
    assert capsys.readouterr().out == f"{path}: ranges of 3 images\n"
    _, found = strip(load_model(path, verb=None).model)
    assert min(found.amax.values()) > 0
    assert 50 < found.amax["Input"] < 256  # pixels minus mean
    assert "conv1" in found.convolutions


def test_models_without_a_map_are_compared_too(tmp_path, capsys):
    compare = script("compare_models")
    row = {"model": "m", "parameters": 10, "macs": 10, "file_bytes": 10, "latency_ms": None, "threshold": None}
    rows = [{**row, "name": "none", "mAP": None, "AP": None}, {**row, "name": "some", "mAP": 0.5, "AP": 0.25}]
    compare.show(rows)
    assert "0.2500" in capsys.readouterr().out
    compare.draw(rows, tmp_path / "picture.png")
    assert np.fromfile(tmp_path / "picture.png", np.uint8).size > 1000
