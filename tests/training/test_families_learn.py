"""Two families find objects they have not seen: the demo's digits, as one class, after an epoch or five.

`make zoo` trains every family on the whole task; this is as much of it as a test may take.
"""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ssd.cli import main

ROOT = Path(__file__).parents[2]
AIM = 0.6  # mAP at IoU 0.5


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    flags = ["--output", str(folder), "--train", "800", "--val", "100", "--test", "1"]
    subprocess.run([sys.executable, ROOT / "scripts" / "make_demo_data.py", *flags], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(
    ("family", "epochs"), [("resnet10", 1), pytest.param("mobilenet_v1", 5, marks=pytest.mark.networks)]
)
def test_a_family_learns_from_random_weights(family, epochs, data, tmp_path):
    text = (ROOT / "specs" / "zoo" / f"{family}.txt").read_text()
    training = f'image_directory_path: "{data}/training/image_2" label_directory_path: "{data}/training/label_2"'
    for pattern, value in (
        (r'value: "\w+"', 'value: "digit"'),
        (r'tfrecords_path: ".*"', training),
        (r'"demo/data/validation', f'"{data}/validation'),
        (r"num_epochs: \d+", f"num_epochs: {epochs}"),
        (r"soft_start: [\d.]+", "soft_start: 0.2"),  # of few steps
        (r"batch_size_per_gpu: \d+", "batch_size_per_gpu: 4"),
        (r"validation_period_during_training: \d+", f"validation_period_during_training: {epochs}"),
    ):
        text, changed = re.subn(pattern, value, text)
        assert changed, pattern
    spec, results = tmp_path / "spec.txt", tmp_path / "results"
    spec.write_text(text)
    assert main(["train", "-q", "-e", str(spec), "-r", str(results)]) == 0
    with open(results / f"ssd_training_log_{family}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["mAP"]) >= AIM
