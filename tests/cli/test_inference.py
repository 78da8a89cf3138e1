import json
import shutil

import numpy as np
import pytest
from PIL import Image

from ssd.cli import main


def infer(*flags):
    return main(["inference", *map(str, flags)])


def test_a_folder(model_file, kitti_folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert (
        infer("-m", model_file, "-i", kitti_folder / "images", "-r", out, "-t", "0.05", "--json", out / "all.json") == 0
    )
    shown = capsys.readouterr().out
    assert "10 images in" in shown
    assert shown.splitlines()[-1] == f"results: {out}"
    sources = sorted((kitti_folder / "images").iterdir())
    assert sorted(path.name for path in (out / "images_annotated").iterdir()) == [path.name for path in sources]
    rows = json.loads((out / "all.json").read_text())
    for at, source in enumerate(sources):
        width, height = Image.open(source).size
        lines = (out / "labels" / f"{source.stem}.txt").read_text().splitlines()
        own = [row for row in rows if row["image_id"] == at]
        assert len(own) == len(lines) > 0
        scores = [float(line.split()[15]) for line in lines]
        assert scores == sorted(scores, reverse=True)
        for line, row in zip(lines, own, strict=True):
            columns = line.split()
            assert len(columns) == 16
            left, top, right, bottom = map(float, columns[4:8])
            assert 0 <= left <= right <= width
            assert 0 <= top <= bottom <= height
            assert row["file_name"] == str(source)
            assert row["category"] == columns[0]
            assert row["bbox"] == pytest.approx([left, top, right - left, bottom - top], abs=2e-3)
    events = [json.loads(line) for line in (out / "status.json").read_text().splitlines()]
    assert [event["message"] for event in events] == ["Starting SSD Inference.", "Inference finished successfully."]


def test_one_image_and_the_default_folder(model_file, kitti_folder, tmp_path, capsys):
    shutil.copy(model_file, tmp_path / "model.keras")
    assert infer("-m", tmp_path / "model.keras", "-i", kitti_folder / "images/001.png") == 0
    assert (tmp_path / "inference/images_annotated/001.png").exists()
    assert str(tmp_path / "inference") in capsys.readouterr().out


def test_a_pattern(model_file, kitti_folder, tmp_path):
    assert infer("-m", model_file, "-i", kitti_folder / "images/*.png", "-r", tmp_path) == 0
    assert len(list((tmp_path / "labels").iterdir())) == 5


def test_the_threshold_keeps_scores_from_it_on(model_file, kitti_folder, tmp_path, capsys):
    assert infer("-m", model_file, "-i", kitti_folder / "images", "-r", tmp_path, "-t", "0.999") == 0
    assert {path.read_text() for path in (tmp_path / "labels").iterdir()} == {""}
    captured = capsys.readouterr()
    assert "detections: 0" in captured.out
    assert "no detection scores 0.999 or more; the best one scores 0." in captured.err


def test_unreadable_images_are_named_and_skipped(model_file, kitti_folder, tmp_path, capsys):
    shutil.copytree(kitti_folder / "images", tmp_path / "in")
    (tmp_path / "in/001.png").write_bytes(b"")
    (tmp_path / "in/004.jpg").write_bytes((tmp_path / "in/004.jpg").read_bytes()[:400])
    (tmp_path / "in/009.png").write_text("no picture")
    assert infer("-m", model_file, "-i", tmp_path / "in", "-r", tmp_path / "out") == 0
    captured = capsys.readouterr()
    for name in ("001.png", "004.jpg", "009.png"):
        assert f"skipped {tmp_path / 'in' / name}" in captured.err
        assert not (tmp_path / "out/images_annotated" / name).exists()
    assert "7 images in" in captured.out
    assert "3 of 10 skipped" in captured.out
    assert len(list((tmp_path / "out/labels").iterdir())) == 7


def test_every_kind_of_image(model_file, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90), np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in/gray.png")
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "in/deep.png")
    Image.fromarray(pixels).convert("P").save(tmp_path / "in/palette.gif")
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "in/alpha.png")
    Image.fromarray(pixels).convert("CMYK").save(tmp_path / "in/cmyk.jpg")
    Image.fromarray(pixels).convert("RGB").save(tmp_path / "in/LOUD.BMP")
    Image.new("RGB", (1, 1)).save(tmp_path / "in/dot.png")
    Image.new("RGB", (1, 700)).save(tmp_path / "in/line.png")
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(pixels).convert("RGB").save(tmp_path / "in/turned.jpg", exif=exif)
    assert infer("-m", model_file, "-i", tmp_path / "in", "-r", tmp_path / "out", "-t", "0.05") == 0
    assert len(list((tmp_path / "out/images_annotated").iterdir())) == 9
    picture = Image.open(tmp_path / "out/images_annotated/turned.jpg")
    assert picture.width < picture.height


@pytest.fixture
def bad(tmp_path, kitti_folder, model_file, spec_file):
    (tmp_path / "empty").mkdir()
    (tmp_path / "outer/inner").mkdir(parents=True)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/one.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "broken/two.png").write_text("text")
    (tmp_path / "notes.txt").write_text("notes")
    for name in ("a", "b"):
        (tmp_path / "twice" / name).mkdir(parents=True)
        shutil.copy(kitti_folder / "images/001.png", tmp_path / "twice" / name)
    (tmp_path / "cut.keras").write_bytes(model_file.read_bytes()[:-4000])
    (tmp_path / "size.txt").write_text(spec_file.read_text().replace("output_height: 128", "output_height: 160"))
    names = {"model": model_file, "images": kitti_folder / "images", "here": tmp_path}
    return lambda word: word.format(**names)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("-m {here}/none.keras -i {images}", "no such model file"),
        ("-m {here}/cut.keras -i {images}", "damaged"),
        ("-m {model} -i {here}/none", "no such file or folder"),
        ("-m {model} -i {here}/empty", "no image in this folder"),
        ("-m {model} -i {here}/outer", "subfolders are not searched"),
        ("-m {model} -i {here}/notes.txt", "suffix"),
        ("-m {model} -i {here}/*.png", "matches the pattern"),
        ("-m {model} -i {here}/broken", "one.jpg"),
        ("-m {model} -i {here}/broken/two.png", "two.png"),
        ("-m {model} -i {here}/twice/*/*.png", "both be written to images_annotated/001.png"),
        ("-m {model} -i {images} -r {images}", "this is the folder of the images"),
        ("-m {model} -i {images} -r {here}/notes.txt", "this is a file, a folder is needed"),
        ("-m {model} -i {images} -t 0", "a score between 0 and 1"),
        ("-m {model} -i {images} -t 1", "a score between 0 and 1"),
        ("-m {model} -i {images} -t 1.5", "a score between 0 and 1"),
        ("-m {model} -i {images} -t nan", "a score between 0 and 1"),
        ("-m {model} -i {images} -t abc", "-t/--threshold abc: no number"),
        ("-m {model} -i {images} -b 0", "-b/--batch_size is 0"),
        ("-m {model} -i {images} --json {here}/empty", "is a folder"),
        ("-m {model} -i {images} --json {here}/notes.txt/all.json", "--json"),
        ("-m {model} -i {images} --json {model}", "which is read"),
        ("-m {model} -i {images} --json {images}/000.jpg", "000.jpg, which is read"),
        ("-m {model} -i {images} --log_file {model}", "which another flag names"),
        ("-m {model} -i {images} -e {here}/none.txt", "none.txt"),
        ("-m {model} -i {images} -e {here}/size.txt", "128x128"),
    ],
)
def test_bad_input(flags, message, bad, unchanged, tmp_path, capsys):
    arguments = [bad(word) for word in flags.split()]
    if "-r" not in arguments:
        arguments += ["-r", str(tmp_path / "out")]
    with unchanged:
        assert infer(*arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err


def test_an_interrupt_is_reported(model_file, kitti_folder, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("ssd.inference.run.infer", interrupted)
    assert infer("-m", model_file, "-i", kitti_folder / "images", "-r", tmp_path) == 130
    last = json.loads((tmp_path / "status.json").read_text().splitlines()[-1])
    assert (last["status"], last["message"]) == ("FAILURE", "Inference was interrupted")
