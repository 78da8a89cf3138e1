"""`ssd dataset_convert` as a user runs it: good runs, bad inputs, a killed run."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from ssd import cli

ROW = "car 0 0 0 5 6 25 26 0 0 0 0 0 0 0\n"
KITTI = """kitti_config {
  root_directory_path: "data"
  image_dir_name: "image_2"
  label_dir_name: "label_2"
  partition_mode: "random"
  num_shards: 2
}
"""
COCO = """coco_config {
  root_directory_path: "data"
  img_dir_names: ["image_2"]
  annotation_files: ["instances.json"]
  num_partitions: 1
  num_shards: [1]
}
"""
MAPPING = 'target_class_mapping { key: "car" value: "car" }\n'


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """The current folder, with ten images in `data/` and the spec in `spec.txt`."""
    monkeypatch.chdir(tmp_path)
    for folder in ("image_2", "label_2"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(buffer, "PNG")
    for number in range(10):
        (tmp_path / "data" / "image_2" / f"{number:06d}.png").write_bytes(buffer.getvalue())
        (tmp_path / "data" / "label_2" / f"{number:06d}.txt").write_text(ROW)
    coco = {
        "images": [{"id": 1, "file_name": "000000.png"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 9, "bbox": [1, 2, 20, 20]}],
        "categories": [{"id": 9, "name": "car"}],
    }
    (tmp_path / "data" / "instances.json").write_text(json.dumps(coco))
    (tmp_path / "spec.txt").write_text(KITTI + MAPPING)
    return tmp_path


def convert(*flags):
    return cli.main(["dataset_convert", "-d", "spec.txt", "-o", "out/train", *flags])


def status_lines(folder):
    return [json.loads(line) for line in (folder / "status.json").read_text().splitlines()]


def test_kitti(workplace, capsys):
    (workplace / "data" / "label_2" / "000003.txt").write_text(ROW + "car 0\n")
    assert convert("-r", "results") == 0
    out = capsys.readouterr().out
    assert "fold 0 (validation)  fold 1 (training)" in out
    assert "1  wrong columns: object left out" in out
    assert out.splitlines()[-1] == "records: out/train*  (4 shards; manifest out/train-manifest.json)"
    events = status_lines(workplace / "results")
    assert [event["message"] for event in events[:2]] == [
        "Starting Object Detection Dataset Convert.",
        "Instantiating a kitti converter",
    ]
    assert [event["status"] for event in events] == ["STARTED"] * 2 + ["RUNNING"] * 4 + ["SUCCESS"]
    assert events[-1]["message"] == "TFRecords generation complete."
    assert (events[-1]["kpi"], events[-1]["categorical"]) == ({"num_images": 10}, {"num_objects": {"car": 10}})
    assert convert("-r", "results", "-q") == 0
    assert len(status_lines(workplace / "results")) == 7 and not capsys.readouterr().out


def test_coco_without_a_mapping_takes_all_categories(workplace, capsys):
    (workplace / "spec.txt").write_text(COCO)
    assert convert("-f", "0") == 0
    assert "classes: car" in capsys.readouterr().out
    written = json.loads((workplace / "out" / "train-manifest.json").read_text())
    assert (written["classes"], written["validation_fold"], written["complete"]) == (["car"], 0, True)
    assert "coco_config" in written["spec"]


def test_a_names_file_is_used_without_a_mapping_and_named_when_it_is_not(workplace, capsys):
    Path("names.txt").write_text("Van\n\ncar\n")
    assert convert("-c", "names.txt") == 0
    assert "names.txt is not used" in capsys.readouterr().err
    Path("spec.txt").write_text(KITTI)
    assert convert("-c", "names.txt") == 0
    printed = capsys.readouterr()
    assert "classes: car, Van" in printed.out and "no object of class Van" in printed.err


def write_coco(**changes):
    content = json.loads(Path("data/instances.json").read_text())
    Path("data/instances.json").write_text(json.dumps({**content, **changes}))
    Path("spec.txt").write_text(COCO)


def each_label(text):
    for path in Path("data/label_2").iterdir():
        path.write_text(text)


def spec(*replacements, text=KITTI + MAPPING):
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    Path("spec.txt").write_text(text)


def captions():
    write_coco(annotations=[{"id": 1, "image_id": 1, "caption": "a car"}])


# what is done to the workplace, flags, what must be said
BAD = {
    "no spec": (lambda: Path("spec.txt").unlink(), [], "spec.txt"),
    "a folder as spec": (lambda: (Path("spec.txt").unlink(), Path("spec.txt").mkdir()), [], "spec.txt"),
    "a spec of something else": (lambda: Path("spec.txt").write_text("hello"), [], "spec.txt:1"),
    "an empty spec": (lambda: Path("spec.txt").write_text(""), [], "kitti_config"),
    "no root folder": (lambda: spec(('"data"', '"nowhere"')), [], "nowhere"),
    "no image folder": (lambda: spec(('"image_2"', '"images"')), [], "images"),
    "no such partition mode": (lambda: spec(('"random"', '"sorted"')), [], "partition_mode"),
    "three random partitions": (lambda: spec(("num_shards: 2", "num_partitions: 3")), [], "num_partitions"),
    "all of it for validation and more": (lambda: spec(("num_shards: 2", "val_split: 120")), [], "val_split"),
    "no sequence file": (lambda: spec(('"random"', '"sequence"')), [], "kitti_sequence_to_frames_file"),
    "images of another kind": (lambda: spec(("num_shards: 2", 'image_extension: ".jpg"')), [], "no .jpg images"),
    "no classes": (lambda: spec((MAPPING, "")), [], "no classes"),
    "no names file": (lambda: None, ["-c", "none.txt"], "-c/--class_names_file none.txt"),
    "an empty names file": (lambda: Path("n.txt").write_text("\n"), ["-c", "n.txt"], "no names"),
    "a picture as names file": (lambda: None, ["-c", "data/image_2/000000.png"], "not text"),
    "a folder as output": (lambda: None, ["-o", "data"], "-o/--output_filename data: a folder"),
    "a slash at the output's end": (lambda: None, ["-o", "out/"], "a folder"),
    "a file as the output's folder": (lambda: None, ["-o", "spec.txt/train"], "this is a file, a folder is needed"),
    "a pattern as output": (lambda: None, ["-o", "out/train*"], "must not"),
    "a file as results folder": (lambda: None, ["-r", "spec.txt"], "-r/--results_dir spec.txt"),
    "no processes": (lambda: None, ["--processes", "0"], "--processes 0"),
    "a fold that does not exist": (lambda: None, ["-f", "7"], "-f/--validation_fold 7"),
    "the training fold for validation": (lambda: None, ["-f", "1"], "-f/--validation_fold 1"),
    "labels of other classes": (lambda: each_label(ROW.replace("car", "tram")), [], "the labels have tram (10)"),
    "labels of nine columns": (lambda: each_label("car 0 0 0 5 6 25 26 0"), [], "9 columns"),
    "labels with commas": (lambda: each_label(ROW.replace("25", "25,5")), [], "write decimals with a point"),
    "upside-down boxes": (lambda: each_label(ROW.replace("26", "1")), [], "left < right and top < bottom"),
    "boxes outside": (lambda: each_label(ROW.replace("5 6 25 26", "50 60 250 260")), [], "lies outside the 40x30"),
    "no labels": (lambda: [path.unlink() for path in Path("data/label_2").iterdir()], [], "no such label file"),
    "cut images": (
        lambda: [path.write_bytes(path.read_bytes()[:-9]) for path in Path("data/image_2").iterdir()],
        [],
        "cut off",
    ),
    "one bad line and --strict": (
        lambda: Path("data/label_2/000003.txt").write_text("car"),
        ["--strict"],
        "data/label_2/000003.txt:1: 1 columns",
    ),
    "captions": (captions, [], "captions file"),
    "categories without names": (lambda: write_coco(categories=[{"id": 9}]), [], "categories[0]"),
    "half a JSON file": (
        lambda: (write_coco(), Path("data/instances.json").write_text('{"images": [')),
        [],
        "data/instances.json:1:13",
    ),
    "no COCO image there": (lambda: write_coco(images=[{"id": 1, "file_name": "x.png"}]), [], "no such image"),
}


def tree(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line_and_nothing_is_written(workplace, capsys, case):
    prepare, flags, said = BAD[case]
    prepare()
    before = tree(workplace)
    assert convert(*flags) == 2
    errors = capsys.readouterr().err
    first = next(line for line in errors.splitlines() if line.startswith("error: "))
    assert said in errors and "Traceback" not in errors
    assert "Error" not in first and len(first) < 300
    assert tree(workplace) == before


def test_a_failure_stands_in_the_status_file(workplace, capsys):
    each_label(ROW.replace("car", "tram"))
    assert convert("-r", "results") == 2
    event = status_lines(workplace / "results")[-1]
    assert event["status"] == "FAILURE" and event["message"].startswith("no object is left")


def test_an_interrupted_run_leaves_nothing(workplace, monkeypatch):
    from ssd.data import shards

    def interrupted(data):
        raise KeyboardInterrupt

    monkeypatch.setattr(shards, "read_header", interrupted)
    assert convert("-r", "results") == 130
    assert status_lines(workplace / "results")[-1]["message"] == "Dataset convert was interrupted"
    assert not (workplace / "out").exists()


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_kill_9_leaves_no_file_under_a_final_name_and_no_worker(workplace):
    for number in range(10, 1500):
        for folder, suffix in (("image_2", "png"), ("label_2", "txt")):
            os.link(f"data/{folder}/000000.{suffix}", f"data/{folder}/{number:06d}.{suffix}")
    command = [sys.executable, "-m", "ssd", "dataset_convert", "-d", "spec.txt", "-o", "out/train", "--processes", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    staging, give_up = workplace / "out" / ".tmp-train", time.monotonic() + 60
    while not any(path.stat().st_size for path in (staging.iterdir() if staging.exists() else ())):
        assert process.poll() is None and time.monotonic() < give_up
        time.sleep(0.002)
    workers = children(process.pid)
    process.kill()
    process.wait()
    assert [path.name for path in (workplace / "out").iterdir()] == [".tmp-train"]
    assert workers
    while any(os.path.exists(f"/proc/{worker}") for worker in workers):
        assert time.monotonic() < give_up
        time.sleep(0.01)
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    assert len(list((workplace / "out").iterdir())) == 2 * 2 * 2 + 1
    assert json.loads((workplace / "out" / "train-manifest.json").read_text())["folds"][1]["images"] == 1200
