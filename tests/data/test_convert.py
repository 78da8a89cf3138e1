"""Conversion to records: folds, files, problems, what is left of a killed run."""

import csv
import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssd.data import convert, manifest, partition, records, shards, summary
from ssd.data.image_header import ORIENTATION
from ssd.errors import DataError, InputError, RunError
from ssd.spec.config import CocoInput, Conversion, KittiInput

ROW = "car 0 0 0 5 6 25 26 0 0 0 0 0 0 0\n"
STEMS = [f"{number:06d}" for number in range(10)]


def picture(kind="PNG", size=(40, 30), seed=0, **options) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def kitti(tmp_path):
    """Ten images with a car each, in `data/image_2` and `data/label_2`."""
    root = tmp_path / "data"
    (root / "image_2").mkdir(parents=True)
    (root / "label_2").mkdir()
    for number, stem in enumerate(STEMS):
        (root / "image_2" / f"{stem}.png").write_bytes(picture(seed=number))
        (root / "label_2" / f"{stem}.txt").write_text(ROW)
    return root


def kitti_spec(root, *, mode="random", partitions=2, shards=2, val_split=20.0, most=None, extension=".png"):
    source = KittiInput(
        str(root), "image_2", "label_2", extension, mode, partitions, shards, val_split, "sequences.json"
    )
    return Conversion(source, ("car",), (("car", "car"), ("van", "car")), most, "the spec")


def run(spec, prefix, *, names=(), fold=None, strict=False, processes=1):
    return convert.convert(convert.make_plan(spec, names, fold), spec, prefix, processes=processes, strict=strict)


def frames(prefix, fold):
    """Stems in the order of the records of a fold."""
    found = []
    for path in sorted(prefix.parent.glob(f"{prefix.name}-fold-{fold:03d}*")):
        for span in records.record_index(path):
            found.append(records.parse_example(records.read_payload(path, *span)).frame_id.rsplit("/", 1)[1])
    return found


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_random_folds_are_taos(kitti, tmp_path):
    run(kitti_spec(kitti), tmp_path / "out" / "a")
    assert sorted(frames(tmp_path / "out" / "a", 0)) == ["000000", "000001"]
    order = "000006 000009 000003 000008 000004 000002 000005 000007"
    assert frames(tmp_path / "out" / "a", 1) == order.split()


def test_without_validation_all_are_in_the_training_fold(kitti, tmp_path):
    outcome = run(kitti_spec(kitti, val_split=0), tmp_path / "a")
    order = "000008 000006 000002 000005 000003 000000 000004 000007 000009 000001"
    assert frames(tmp_path / "a", 1) == order.split()
    assert not list(tmp_path.glob("*fold-000*"))
    assert [(fold.role, fold.images) for fold in outcome.manifest.folds] == [("validation", 0), ("training", 10)]


def test_sequences_are_dealt_longest_first_from_the_last_fold():
    sequences = {"b": ["1", "2"], "a": ["3", "4"], "c": ["5", "6", "7"], "d": ["8"], "e": []}
    folds = partition.sequence_folds(sequences, 2)
    assert [sorted(fold) for fold in folds] == [["3", "4", "8"], ["1", "2", "5", "6", "7"]]
    assert [sorted(fold) for fold in partition.sequence_folds(sequences, 1)] == [list("12345678")]


@pytest.mark.parametrize(("count", "shards", "sizes"), [(10, 3, [3, 3, 4]), (2, 4, [0, 0, 0, 2]), (5, 1, [5])])
def test_the_last_shard_takes_the_remainder(count, shards, sizes):
    assert partition.shard_sizes(count, shards) == sizes


def test_a_shard_has_taos_name():
    assert partition.shard_name("p", 1, 2, 3, 10) == "p-fold-001-of-002-shard-00003-of-00010"


def test_what_a_conversion_writes(kitti, tmp_path):
    out = tmp_path / "new" / "folder"
    outcome = run(kitti_spec(kitti), out / "a")
    shards = [f"a-fold-00{fold}-of-002-shard-0000{shard}-of-00002" for fold in (0, 1) for shard in (0, 1)]
    assert names(out) == sorted([*shards, *(f"idx-{shard}" for shard in shards), "a-manifest.json"])
    for shard in shards:
        index = (out / f"idx-{shard}").read_text().split()
        assert int(index[-1]) + int(index[-2]) == (out / shard).stat().st_size
        assert oct((out / shard).stat().st_mode & 0o777) == oct((out / "a-manifest.json").stat().st_mode & 0o777)
    first = out / shards[2]
    record = records.parse_example(records.read_payload(first, *records.record_index(first)[0]))
    assert record.frame_id == "image_2/000006"
    assert record.image == (kitti / "image_2" / "000006.png").read_bytes()
    assert record.size == (30, 40)
    np.testing.assert_allclose(record.objects.boxes, [[5 / 40, 6 / 30, 25 / 40, 26 / 30]])
    loaded = manifest.load(first)
    assert loaded == outcome.manifest
    assert (loaded.classes, loaded.max_objects, loaded.validation_fold, loaded.spec) == (("car",), 1, 0, "the spec")
    assert [(s.file, s.records, s.fold) for s in loaded.shards] == list(
        zip(shards, [1, 1, 4, 4], [0, 0, 1, 1], strict=True)
    )
    import google_crc32c

    assert [s.crc32c for s in loaded.shards] == [f"{google_crc32c.value((out / s).read_bytes()):08x}" for s in shards]


def test_sequence_folds_on_disk(kitti, tmp_path):
    content = {"s1": ["000000", "000001", "000002"], "s2": ["000003", "000004"], "s3": ["000005", "000003", "000099"]}
    (kitti / "sequences.json").write_text(json.dumps(content))
    outcome = run(kitti_spec(kitti, mode="sequence", partitions=2, shards=1), tmp_path / "a", fold=1)
    assert sorted(frames(tmp_path / "a", 0)) == ["000003", "000004"]
    assert sorted(frames(tmp_path / "a", 1)) == ["000000", "000001", "000002", "000005"]
    assert sorted(problem.kind for problem in outcome.problems) == ["duplicate frame", "missing label"]
    assert [fold.role for fold in outcome.manifest.folds] == ["training", "validation"]


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "not valid JSON"), ("[]", "must be a JSON object"), ('{"a": [1]}', "sequence 'a'"), (None, "cannot read")],
)
def test_bad_sequence_files(kitti, tmp_path, content, said):
    if content is not None:
        (kitti / "sequences.json").write_text(content)
    with pytest.raises(DataError, match=said):
        run(kitti_spec(kitti, mode="sequence"), tmp_path / "a")


@pytest.mark.parametrize(("fold", "said"), [(1, "random partition"), (2, "the folds are 0 to 1"), (-1, "0 to 1")])
def test_a_validation_fold_that_cannot_be(kitti, tmp_path, fold, said):
    with pytest.raises(InputError, match=said):
        run(kitti_spec(kitti), tmp_path / "a", fold=fold)


def test_max_training_samples_spares_the_validation_fold(kitti, tmp_path):
    outcome = run(kitti_spec(kitti, most=3), tmp_path / "a")
    assert [fold.images for fold in outcome.manifest.folds] == [2, 3]
    (kitti / "sequences.json").write_text(json.dumps({stem: [stem] for stem in STEMS}))
    outcome = run(kitti_spec(kitti, mode="sequence", partitions=3, most=4), tmp_path / "b", fold=0)
    assert [fold.images for fold in outcome.manifest.folds] == [3, 2, 2]


def break_everything(root):
    """One of each problem. Returns the kinds."""
    images, labels = root / "image_2", root / "label_2"
    (labels / "000000.txt").unlink()
    (images / "000001.png").write_bytes(picture()[:-30])
    (images / "000002.png").write_bytes(b"")
    (images / "000003.PNG").write_bytes(picture())
    bad = ["car 0 0 0 5 6", ROW.replace("25", "x").strip(), ROW.replace("25", "4").strip(), ROW.replace("car", "tram")]
    (labels / "000004.txt").write_text("\n".join(bad))
    (labels / "000005.txt").write_text(ROW.replace("25", "250") + ROW.replace(" 5 ", " 500 ").replace("25", "525"))
    (labels / "000006.txt").write_bytes(b"\xff\xfe")
    (labels / "000007.txt").write_text(ROW.strip() + " 0.9\nDontCare -1 -1 -10 1 1 5 5 -1 -1 -1 -1000 -1000 -1000 -10")
    return {
        *("missing label", "unreadable label", "unreadable image", "duplicate stem", "wrong columns", "bad number"),
        *("inverted box", "unmapped class", "box outside the image"),
    }


def test_problems_are_listed_and_the_rest_is_converted(kitti, tmp_path):
    kinds = break_everything(kitti)
    outcome = run(kitti_spec(kitti, val_split=0), tmp_path / "a")
    assert {problem.kind for problem in outcome.problems} == kinds
    assert sorted(frames(tmp_path / "a", 1)) == ["000003", "000004", "000005", "000007", "000008", "000009"]
    with open(tmp_path / "a-problems.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(outcome.problems)
    where = {(Path(row["file"]).name, row["line"], row["problem"]) for row in rows}
    assert {("000004.txt", "2", "bad number"), ("000001.png", "", "unreadable image")} < where
    text = "\n".join(summary.skipped(outcome))
    assert "1  DontCare regions left out" in text and "1  labels with a score column" in text and "(tram 1)" in text
    table = "\n".join(summary.table(outcome)).split()
    assert table[table.index("images") : table.index("images") + 3] == ["images", "0", "6"]
    assert table[-3:] == ["car", "0", "5"]


def test_strict_writes_nothing(kitti, tmp_path):
    break_everything(kitti)
    with pytest.raises(DataError, match=r"--strict: 11 problems(.|\n)*000004.txt:2: column 7"):
        run(kitti_spec(kitti), tmp_path / "new" / "out" / "a", strict=True)
    assert not (tmp_path / "new").exists()


def test_strict_keeps_what_an_earlier_run_wrote(kitti, tmp_path):
    run(kitti_spec(kitti), tmp_path / "a", strict=True)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*a*") if path.is_file()}
    break_everything(kitti)
    with pytest.raises(DataError):
        run(kitti_spec(kitti), tmp_path / "a", strict=True)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*a*") if path.is_file()} == before


def test_nothing_left_is_refused_with_what_the_labels_have(kitti, tmp_path):
    for stem in STEMS:
        (kitti / "label_2" / f"{stem}.txt").write_text(ROW.replace("car", "Tram"))
    with pytest.raises(DataError, match=r"no object is left.*the classes are car; the labels have Tram \(10\)"):
        run(kitti_spec(kitti), tmp_path / "out" / "a")
    for stem in STEMS:
        (kitti / "image_2" / f"{stem}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"no image can be used(.|\n)*the file is empty"):
        run(kitti_spec(kitti), tmp_path / "out" / "a")
    assert not (tmp_path / "out").exists()


def test_an_image_without_objects_is_a_record(kitti, tmp_path):
    (kitti / "label_2" / "000000.txt").write_text("")
    outcome = run(kitti_spec(kitti), tmp_path / "a")
    assert not outcome.problems and sum(result.without_objects for result in outcome.results) == 1


def test_boxes_are_relative_to_the_upright_image(kitti, tmp_path):
    tags = Image.Exif()
    tags[ORIENTATION] = 6
    for stem in STEMS:
        (kitti / "image_2" / f"{stem}.jpg").write_bytes(picture("JPEG", exif=tags.tobytes()))
    outcome = run(kitti_spec(kitti, extension=".jpg", val_split=0, shards=1), tmp_path / "a")
    path = tmp_path / outcome.results[0].name
    record = records.parse_example(records.read_payload(path, *records.record_index(path)[0]))
    assert record.size == (40, 30)
    np.testing.assert_allclose(record.objects.boxes, [[5 / 30, 6 / 40, 25 / 30, 26 / 40]])
    assert outcome.notes == {"images turned upright by their EXIF orientation": 10}


def test_stale_shards_of_the_prefix_go_and_others_stay(kitti, tmp_path):
    out = tmp_path / "out"
    run(kitti_spec(kitti, shards=5), out / "a")
    break_everything(kitti)
    run(kitti_spec(kitti, shards=4), out / "a")
    bystanders = [
        "a2-fold-000-of-002-shard-00000-of-00001",
        "a",
        "a-fold-note.txt",
        "idx-a2-fold-000-of-002",
        "ab-problems.csv",
    ]
    for name in bystanders:
        (out / name).write_text("mine")
    (out / ".tmp-a").mkdir()
    (out / ".tmp-a" / "a-fold-000-of-002-shard-00000-of-00004").write_text("of a killed run")
    (kitti / "label_2" / "000000.txt").write_text(ROW)
    for stem in STEMS:
        (kitti / "label_2" / f"{stem}.txt").write_text(ROW)
        (kitti / "image_2" / f"{stem}.png").write_bytes(picture())
    (kitti / "image_2" / "000003.PNG").unlink()
    run(kitti_spec(kitti, shards=1), out / "a")
    shards = [f"a-fold-00{fold}-of-002-shard-00000-of-00001" for fold in (0, 1)]
    assert names(out) == sorted([*bystanders, *shards, *(f"idx-{shard}" for shard in shards), "a-manifest.json"])


def test_two_runs_do_not_write_one_prefix(kitti, tmp_path):
    from ssd.data.publish import staging_folder

    with staging_folder(tmp_path / "a"), pytest.raises(InputError, match="another dataset_convert is writing there"):
        run(kitti_spec(kitti), tmp_path / "a")
    run(kitti_spec(kitti), tmp_path / "a")


@pytest.mark.parametrize("prefix", ["out/", ".", "out/.hidden", "out/idx-a", "out/a*", "out/a[1]"])
def test_prefixes_that_make_no_file_names(tmp_path, monkeypatch, prefix):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="-o/--output_filename"):
        convert.check_prefix(prefix)


def test_a_full_disk_is_a_failed_run(kitti, tmp_path, monkeypatch):
    def full(file):
        raise OSError(28, "No space left on device", str(tmp_path / "a"))

    monkeypatch.setattr(shards, "_to_disk", full)
    with pytest.raises(RunError, match="No space left on device"):
        run(kitti_spec(kitti), tmp_path / "out" / "a")
    assert not (tmp_path / "out").exists()


def test_workers_write_what_one_process_writes(kitti, tmp_path, monkeypatch):
    break_everything(kitti)
    alone = run(kitti_spec(kitti), tmp_path / "one" / "a")
    monkeypatch.setattr(shards, "WORTH_WORKERS", 0)
    outcome = run(kitti_spec(kitti), tmp_path / "two" / "a", processes=2)
    assert outcome.manifest == alone.manifest and outcome.problems == alone.problems
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def coco_spec(root, classes=(), mapping=(), shards=(1, 2)):
    source = CocoInput(str(root), ("val", "train"), ("val.json", "train.json"), shards)
    return Conversion(source, classes, mapping, None, "the spec")


@pytest.fixture
def coco(tmp_path):
    """80 categories with ids up to 90, as in COCO; two folds of three images; class k lies in image k mod 3."""
    root = tmp_path / "coco"
    missing = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    categories = [{"id": k, "name": f"Class {k}"} for k in range(1, 91) if k not in missing]
    for part in ("val", "train"):
        (root / part).mkdir(parents=True)
        images = [{"id": n, "file_name": f"{part}{n}.jpg", "height": 30, "width": 40} for n in range(3)]
        for image in images:
            (root / part / image["file_name"]).write_bytes(picture("JPEG", seed=image["id"]))
        annotations = [
            {"id": n, "image_id": n % 3, "category_id": c["id"], "bbox": [1, 2, 20, 20], "iscrowd": n % 2}
            for n, c in enumerate(categories)
        ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"{part}.json").write_text(json.dumps(content))
    return root


def test_all_eighty_classes_of_coco(coco, tmp_path):
    outcome = run(coco_spec(coco), tmp_path / "a", fold=0)
    assert not outcome.problems and len(outcome.manifest.classes) == 80
    assert all(fold.objects == dict.fromkeys(outcome.manifest.classes, 1) for fold in outcome.manifest.folds)
    assert [(fold.role, fold.images) for fold in outcome.manifest.folds] == [("validation", 3), ("training", 3)]
    assert frames(tmp_path / "a", 0) == ["val0", "val1", "val2"]
    path = tmp_path / "a-fold-000-of-002-shard-00000-of-00001"
    record = records.parse_example(records.read_payload(path, *records.record_index(path)[0]))
    names_here = [outcome.manifest.classes[index - 1] for index in record.objects.classes]
    assert names_here[:3] == ["Class 1", "Class 4", "Class 7"]
    assert record.objects.difficult.tolist()[:4] == [False, True, False, True]


def test_coco_with_a_mapping_and_missing_images(coco, tmp_path):
    (coco / "train" / "train1.jpg").unlink()
    (coco / "val" / "val0.jpg").write_bytes(picture("JPEG", size=(30, 40)))
    spec = coco_spec(coco, ("bus", "car"), (("class90", "bus"), ("class1", "car")))
    outcome = run(spec, tmp_path / "a")
    assert [fold.objects for fold in outcome.manifest.folds] == [{"bus": 1, "car": 1}, {"bus": 0, "car": 1}]
    kinds = {(problem.kind, Path(problem.file).name) for problem in outcome.problems}
    unmapped = {("unmapped class", "val.json"), ("unmapped class", "train.json")}
    assert kinds == {("missing image", "train1.jpg"), ("other image size", "val.json"), *unmapped}


def test_classes_from_a_names_file(kitti, tmp_path):
    (kitti / "label_2" / "000000.txt").write_text(ROW.replace("car", "Bus"))
    spec = kitti_spec(kitti)
    spec = Conversion(spec.source, (), (), None, "")
    outcome = run(spec, tmp_path / "a", names=("car", "bus", "CAR"))
    assert outcome.manifest.classes == ("bus", "car")
    with pytest.raises(InputError, match="no classes"):
        run(spec, tmp_path / "b")


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {path!r}
from ssd.data import convert, publish, records
from ssd.spec.config import Conversion, KittiInput
calls = 0
def deadly(function):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == {moment}:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call
os.replace, os.fsync, Path.unlink = deadly(os.replace), deadly(os.fsync), deadly(Path.unlink)
source = KittiInput({root!r}, "image_2", "label_2", ".png", "random", 2, 2, 20.0, None)
spec = Conversion(source, ("car",), (("car", "car"),), None, "second")
convert.convert(convert.make_plan(spec), spec, Path({prefix!r}), processes=1)
"""


def test_a_run_killed_at_any_step_leaves_the_old_or_says_that_it_is_unfinished(kitti, tmp_path):
    prefix = tmp_path / "out" / "a"
    run(kitti_spec(kitti, shards=3), prefix)
    before = {path.name: path.read_bytes() for path in prefix.parent.iterdir()}
    states = []
    for moment in (3, 9, 12, 15, 22, 26, 28, 32, 36, 99):
        script = KILLED.format(path=sys.path, moment=moment, root=str(kitti), prefix=str(prefix))
        code = subprocess.run([sys.executable, "-c", script], check=False).returncode
        found = manifest.load(f"{prefix}-fold-000-of-002-shard-00000-of-00002")
        files_now = {path.name: path.read_bytes() for path in prefix.parent.iterdir() if path.is_file()}
        if found.spec == "the spec":
            states.append("old")
            assert {name: data for name, data in files_now.items() if not name.startswith(".tmp-")} == before
        elif not found.complete:
            states.append("unfinished")
            with pytest.raises(DataError, match="interrupted"):
                manifest.check([f"{prefix}-fold-000-of-002-shard-00000-of-00002"], ["car"])
        else:
            states.append("new")
            assert all(files_now[shard.file] is not None for shard in found.shards)
            assert len([name for name in files_now if name.startswith("a-fold")]) == 4
        for name in files_now:
            if name.startswith("a-fold"):
                assert len(records.record_index(prefix.parent / name)) >= 0  # whole
        assert code == (0 if moment == 99 else -signal.SIGKILL)
        if states[-1] != "old":
            # the next run starts from the first state again
            run(kitti_spec(kitti, shards=3), prefix)
            left = {p.name: p.read_bytes() for p in prefix.parent.iterdir() if not p.name.startswith(".tmp-")}
            assert left == before
    assert {"old", "unfinished", "new"} == set(states)


def test_the_index_line_of_the_first_record_of_100_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_payload", lambda frame, indices, result: bytes(100))
    task = shards.ShardTask(fold=0, path=tmp_path / "a", frames=[None, None], indices={})
    assert shards.write_shard(task).size == 232
    assert (tmp_path / "idx-a").read_text() == "0 116\n116 116\n"
