"""The manifest of a conversion, and whether records fit a spec."""

import json

import pytest

from ssd.data import manifest
from ssd.data.manifest import Fold, Manifest, Shard
from ssd.errors import DataError

NAMES = [f"a-fold-00{fold}-of-002-shard-00000-of-00001" for fold in (0, 1)]


@pytest.fixture
def shards(tmp_path):
    for name in NAMES:
        (tmp_path / name).write_bytes(b"12345")
    written = Manifest(
        classes=("bus", "car"),
        class_mapping=(("bus", "bus"), ("van", "car")),
        validation_fold=0,
        max_objects=3,
        folds=(Fold(0, "validation", 1, {"bus": 1, "car": 2}), Fold(1, "training", 1, {"bus": 0, "car": 1})),
        shards=tuple(Shard(name, fold, 1, 5, "00000000") for fold, name in enumerate(NAMES)),
        spec="kitti_config {}",
    )
    manifest.write(tmp_path / "a", written)
    return [str(tmp_path / name) for name in NAMES], written


def edit(shards, /, **changes):
    path = manifest.path_of(shards[0][0].rsplit("-fold", 1)[0])
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_it_comes_back_as_written_from_any_shard(shards):
    paths, written = shards
    assert manifest.load(paths[0]) == manifest.load(paths[1]) == written
    assert manifest.check(paths, ["bus", "Car"]) == [written]


def test_records_without_a_manifest_are_taken_as_they_are(tmp_path):
    assert manifest.load(tmp_path / NAMES[0]) is None
    assert manifest.check([str(tmp_path / NAMES[0])], ["x"]) == []


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["bus", "car", "tram"], r"only in the spec: tram"),
        (["bus"], r"only in the records: car"),
        (["car", "bus"], r"other classes: bus, car; the spec has car, bus"),
    ],
)
def test_another_class_list_is_refused(shards, classes, said):
    with pytest.raises(DataError, match=said):
        manifest.check(shards[0], classes)


def test_an_unfinished_conversion_is_refused(shards):
    edit(shards, complete=False)
    with pytest.raises(DataError, match=r"interrupted(.|\n)*run dataset_convert again"):
        manifest.check(shards[0], ["bus", "car"])


def test_a_file_that_is_not_the_listed_one_is_refused(shards, tmp_path):
    stray = tmp_path / "a-fold-001-of-002-shard-00007-of-00009"
    stray.write_bytes(b"12345")
    with pytest.raises(DataError, match="not of the conversion"):
        manifest.check([*shards[0], str(stray)], ["bus", "car"])
    (tmp_path / NAMES[1]).write_bytes(b"1234")
    with pytest.raises(DataError, match="has 4 bytes, its manifest says 5"):
        manifest.check(shards[0], ["bus", "car"])


def test_a_lost_shard_of_a_fold_that_is_read_is_refused(shards, tmp_path):
    (tmp_path / NAMES[1]).unlink()
    manifest.check(shards[0][:1], ["bus", "car"])  # the other fold is whole
    edit(shards, shards=[{**shard.__dict__, "fold": 0} for shard in shards[1].shards])
    with pytest.raises(DataError, match=f"1 of its record files are not here: {NAMES[1]}"):
        manifest.check(shards[0][:1], ["bus", "car"])


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "ssd records", "version": 1}', '{"format": "x", "version": 1}', "\xff"]
)
def test_what_is_no_manifest_is_said(shards, tmp_path, text):
    (tmp_path / "a-manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match="manifest"):
        manifest.load(shards[0][0])


def test_a_later_version_is_refused(shards):
    edit(shards, version=2)
    with pytest.raises(DataError, match="later ssd"):
        manifest.load(shards[0][0])


def test_the_validation_fold_among_the_training_data_is_warned_about(shards, caplog):
    manifest.check(shards[0], ["bus", "car"], training=True)
    assert "include validation fold 0" in caplog.text and "a-fold-001*" in caplog.text
    caplog.clear()
    manifest.check(shards[0][1:], ["bus", "car"], training=True)
    manifest.check(shards[0], ["bus", "car"])
    assert not caplog.text
