"""The demo's specs fit the demo's data: they convert, and training finds what it needs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ssd.cli import main
from ssd.spec import load_experiment

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder as `make demo` has it after its first step."""
    folder = tmp_path_factory.mktemp("work")
    shutil.copytree(ROOT / "specs", folder / "specs")
    flags = ["--output", "demo/data", "--train", "20", "--val", "8", "--test", "2"]
    script = str(ROOT / "scripts" / "make_demo_data.py")
    subprocess.run([sys.executable, script, *flags], cwd=folder, check=True, capture_output=True)
    return folder


def convert(spec: str, prefix: str) -> dict:
    flags = ["-q", "-d", f"specs/{spec}", "-o", prefix, "--processes", "1"]
    assert main(["dataset_convert", *flags]) == 0
    return json.loads(Path(f"{prefix}-manifest.json").read_text())


def test_kitti_data_convert_and_the_training_spec_finds_them(folder, monkeypatch):
    monkeypatch.chdir(folder)
    convert("demo_convert.txt", "demo/tfrecords/digits")
    for name in ("demo_train.txt", "demo_retrain.txt", "demo_qat.txt"):
        spec = load_experiment(f"specs/{name}", "train")
        assert spec.classes == ("curve", "loop", "stroke")
        assert len(spec.dataset.class_mapping) == 10


def test_coco_data_have_the_classes_of_the_kitti_data(folder, monkeypatch):
    monkeypatch.chdir(folder)
    kitti = convert("demo_convert.txt", "demo/kitti/digits")
    coco = convert("demo_convert_coco.txt", "demo/coco/digits")
    assert kitti["classes"] == coco["classes"] == ["curve", "loop", "stroke"]


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.sh")), ids=lambda path: path.name)
def test_the_shell_scripts_are_well_formed(script):
    assert script.name == "steps.sh" or os.access(script, os.X_OK)  # that one is read by the others
    assert subprocess.run(["sh", "-n", script]).returncode == 0
