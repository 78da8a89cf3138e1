"""The scripts that take models, on the commands' small one."""

import sys

import compare_models
import quantize_minmax

from ssd.models.checkpoint import load_model
from ssd.quantization.rewrite import strip


def test_minmax_takes_the_largest_values_of_some_pictures(model_file, spec_file, tmp_path, monkeypatch, capsys):
    path = tmp_path / "minmax.keras"
    flags = ["-m", str(model_file), "-e", str(spec_file), "-o", str(path), "--images", "3"]
    monkeypatch.setattr(sys, "argv", ["quantize_minmax.py", *flags])
    assert quantize_minmax.main() == 0
    assert capsys.readouterr().out == f"{path}: ranges of 3 images\n"
    _, found = strip(load_model(path, verb=None).model)
    assert min(found.amax.values()) > 0
    assert 50 < found.amax["Input"] < 256  # pixels minus mean
    assert "conv1" in found.convolutions


def test_models_without_a_map_are_compared_too(tmp_path, capsys, monkeypatch):
    row = {"model": "m", "parameters": 10, "macs": 10, "file_bytes": 10, "latency_ms": None, "threshold": None}
    rows = [{**row, "name": "none", "mAP": None, "AP": None}, {**row, "name": "some", "mAP": 0.5, "AP": 0.25}]
    compare_models.show(rows)
    assert "0.2500" in capsys.readouterr().out
    rows += [
        {**row, "name": name, "mAP": mean, "AP": mean, "latency_ms": 3.0} for name, mean in (("a", 0.5), ("b", 0.01))
    ]
    drawn = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path: drawn.append(figure))
    compare_models.draw(rows, tmp_path / "picture.png")
    names = [{text.get_text() for text in axes.texts} for axes in drawn[0].axes]
    assert names == [{"some", "a", "b (0.010)"}, {"a", "b (0.010)"}]  # what has a mAP, and a latency
    heights = {tuple(points.get_offsets()[0]) for points in drawn[0].axes[1].collections}
    assert len(heights) == 2 and (3.0, 0.5) in heights
