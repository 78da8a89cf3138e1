"""TFRecords: the framing, TAO's example, index files, finding shards."""

import os
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd.data import records
from ssd.data.example import Example
from ssd.data.sample import LabelRow, class_indices, place
from ssd.errors import DataError

FLOAT_KEYS = [
    "target/object_class_id",
    *(f"target/coordinates_{name}" for name in ("x1", "y1", "x2", "y2")),
    "target/truncation",
    "target/observation_angle",
    *(f"target/world_bbox_{name}" for name in ("h", "w", "l", "x", "y", "z", "rot_y")),
]
SIZE = (100, 200)


@st.composite
def label_rows(draw):
    x1, y1 = draw(st.floats(-20, 190)), draw(st.floats(-20, 90))
    box = (x1, y1, x1 + draw(st.floats(2, 300)), y1 + draw(st.floats(2, 300)))
    number = st.floats(-1e3, 1e3, width=32)
    three = st.tuples(number, number, number)
    name = draw(st.sampled_from(["car", "bus", "DontCare"]))
    return LabelRow(
        name, draw(number), draw(st.integers(-1, 3)), draw(number), box, draw(three), draw(three), draw(number)
    )


def encode(rows, image=b"image bytes"):
    kept, objects, _ = place(rows, SIZE, class_indices(("bus", "car")), "f")
    payload = records.encode_example(frame_id="images/1", image=image, size=SIZE, rows=kept, objects=objects)
    return payload, kept, objects


@given(st.lists(label_rows(), max_size=8), st.binary(max_size=50))
def test_what_is_written_is_read(rows, image):
    payload, _, objects = encode(rows, image)
    record = records.parse_example(payload)
    assert (record.frame_id, record.image, record.size, record.dropped) == ("images/1", image, SIZE, 0)
    for name in ("boxes", "classes", "difficult"):
        np.testing.assert_array_equal(getattr(record.objects, name), getattr(objects, name))
        assert getattr(record.objects, name).dtype == getattr(objects, name).dtype
    assert len(record.objects) == 0 or 0 <= record.objects.boxes.min() <= record.objects.boxes.max() <= 1


@given(st.binary(max_size=60))
def test_bytes_that_are_no_example_are_one_clear_error(payload):
    with pytest.raises(DataError, match=r"record 3: "):
        records.parse_example(payload, "record 3")


@pytest.mark.parametrize("count", [0, 3])
def test_tensorflow_reads_it_under_taos_keys(tmp_path, count):
    import tensorflow as tf

    row = LabelRow("car", 0.25, 2, -1.5, (10, 20, 50, 60), (1.5, 1.6, 3.9), (1, 2, 30), 0.5)
    payload, _, _ = encode([row] * count, b"\xff\xd8 picture \xff\xd9")
    path = tmp_path / "a"
    path.write_bytes(records.frame(payload) * 2)
    features = {key: tf.io.VarLenFeature(tf.float32) for key in FLOAT_KEYS}
    features["target/occlusion"] = tf.io.VarLenFeature(tf.int64)
    features |= {key: tf.io.FixedLenFeature((), tf.string) for key in ("frame/id", "frame/encoded")}
    features |= {key: tf.io.FixedLenFeature((), tf.int64) for key in ("frame/height", "frame/width")}
    read = [tf.io.parse_single_example(data, features) for data in tf.data.TFRecordDataset(str(path))]
    assert len(read) == 2
    values = {key: tf.sparse.to_dense(value).numpy().tolist() for key, value in read[0].items() if key in FLOAT_KEYS}
    assert values["target/object_class_id"] == [2.0] * count
    assert values["target/coordinates_x1"] == pytest.approx([0.05] * count)
    assert values["target/coordinates_y2"] == pytest.approx([0.6] * count)
    assert values["target/world_bbox_z"] == [30.0] * count
    assert values["target/truncation"] == [0.25] * count
    assert tf.sparse.to_dense(read[0]["target/occlusion"]).numpy().tolist() == [2] * count
    assert read[0]["frame/encoded"].numpy() == b"\xff\xd8 picture \xff\xd9"
    assert (read[0]["frame/id"].numpy(), int(read[0]["frame/height"]), int(read[0]["frame/width"])) == (
        b"images/1",
        100,
        200,
    )
    # every key stands in every record, also in one without objects: TAO's reader wants that
    assert {*FLOAT_KEYS, "target/occlusion"} < set(tf.train.Example.FromString(payload).features.feature)


def tao_example(tf, **changes):
    """As TAO's converter writes it: boxes not clipped, occlusion int64, object_class without a kind."""

    def floats(*values):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))

    feature = {key: floats(0.0, 0.0, 0.0) for key in FLOAT_KEYS}
    feature |= {
        "frame/id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"image_2/000007"])),
        "frame/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"png"])),
        "frame/height": tf.train.Feature(int64_list=tf.train.Int64List(value=[375])),
        "frame/width": tf.train.Feature(int64_list=tf.train.Int64List(value=[1242])),
        "target/object_class_id": floats(1.0, 3.0, 2.0),
        "target/coordinates_x1": floats(-0.1, 0.2, 1.2),
        "target/coordinates_y1": floats(0.1, 0.2, 0.2),
        "target/coordinates_x2": floats(0.5, 0.4, 1.4),
        "target/coordinates_y2": floats(1.25, 0.4, 0.4),
        "target/occlusion": tf.train.Feature(int64_list=tf.train.Int64List(value=[0, 2, 0])),
        "target/object_class": tf.train.Feature(),
    }
    feature |= changes
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def test_a_record_of_tao_reads_here(tmp_path):
    import tensorflow as tf

    path = str(tmp_path / "kitti-fold-000-of-002-shard-00000-of-00001")
    with tf.io.TFRecordWriter(path) as writer:
        for _ in range(3):
            writer.write(tao_example(tf))
    spans = records.record_index(path)
    assert spans.shape == (3, 2) and spans.dtype == np.int64
    record = records.parse_example(records.read_payload(path, *spans[2]))
    assert (record.frame_id, record.image, record.size, record.dropped) == ("image_2/000007", b"png", (375, 1242), 1)
    np.testing.assert_allclose(record.objects.boxes, [[0, 0.1, 0.5, 1], [0.2, 0.2, 0.4, 0.4]], rtol=1e-6)
    assert record.objects.classes.tolist() == [1, 3]
    assert record.objects.difficult.tolist() == [False, True]


@pytest.mark.parametrize(
    ("key", "values", "said"),
    [
        ("target/coordinates_y1", [0.1], "target/coordinates_y1 has 1 values for 3 objects"),
        ("target/coordinates_y1", [0.1, float("nan"), 0.2], "not finite"),
        ("target/object_class_id", [0.0, 1.0, 2.0], "class id"),
        ("target/object_class_id", [1.5, 1.0, 2.0], "class id"),
        ("target/object_class_id", [1e20, 1.0, 2.0], "class id"),
        ("target/object_class_id", [float("inf"), 1.0, 2.0], "class id"),
        ("frame/height", [float("inf")], "wrong type"),
        ("frame/encoded", [1.0], "no image under frame/encoded"),
    ],
)
def test_a_wrong_example_is_one_clear_error(key, values, said):
    import tensorflow as tf

    payload = tao_example(tf, **{key: tf.train.Feature(float_list=tf.train.FloatList(value=values))})
    with pytest.raises(DataError, match=f"a:1: .*{said}"):
        records.parse_example(payload, "a:1")


def shard(tmp_path, payloads=(b"x" * 100, b"", b"y" * 300), name="shard"):
    path = tmp_path / name
    path.write_bytes(b"".join(map(records.frame, payloads)))
    return path


def test_offsets_are_those_of_tensorflow(tmp_path):
    import tensorflow as tf

    payloads = [b"x" * 100, b"", b"y" * 300]
    path = shard(tmp_path, payloads)
    assert [data.numpy() for data in tf.data.TFRecordDataset(str(path))] == payloads
    spans = records.record_index(path)
    assert spans.tolist() == [[12, 100], [128, 0], [144, 300]]
    assert [records.read_payload(path, *span) for span in spans] == payloads


def test_an_index_file_is_used_while_it_is_true(tmp_path):
    path = shard(tmp_path)
    index = records.index_path(path)
    index.write_text("0 116\n116 16\n132 316\n")
    expected = [[12, 100], [128, 0], [144, 300]]
    assert records.record_index(path).tolist() == expected
    for text in (
        "0 116\n116 16\n",
        "0 132\n132 316\n",
        "0 100\n100 32\n132 316\n",
        "",
        "a b",
        "0 116\n116",
        "9" * 40 + " 1",
    ):
        index.write_text(text)  # TAO never refreshed its index files
        assert records.record_index(path).tolist() == expected
    index.write_text("0 116\n116 332\n")
    assert records.record_index(path).tolist() == expected
    shard(tmp_path, [b"new"])
    os.utime(index, (0, 0))
    assert records.record_index(path).tolist() == [[12, 3]]


def test_an_empty_file_has_no_records(tmp_path):
    path = shard(tmp_path, [])
    assert records.record_index(path).shape == (0, 2)
    records.index_path(path).write_text("")
    assert records.record_index(path).shape == (0, 2)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:-1], "record 2: the file is cut off"),
        (lambda data: data[:140], "record 2: the file is cut off"),
        (lambda data: data[:120], "record 1: the file is cut off"),
        (lambda data: data[:117] + b"\xff" + data[118:], "record 1 is damaged"),
        (lambda data: b"not records at all", "this is no TFRecord file"),
        (lambda data: b"\x1f\x8b" + data, "compressed"),
        (lambda data: struct.pack("<Q", 2**63) + struct.pack("<I", 0) + data, "this is no TFRecord file"),
    ],
)
def test_a_damaged_file_is_named_with_its_record(tmp_path, damage, said):
    path = shard(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"{path}: {said}"):
        records.record_index(path)


def test_a_damaged_payload_is_found_when_it_is_read(tmp_path):
    path = shard(tmp_path)
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="the record at byte 12 is damaged"):
        records.read_payload(path, 12, 100)
    with pytest.raises(DataError, match="is cut off"):
        records.read_payload(path, 400, 100)
    with pytest.raises(DataError, match="cannot read the record file"):
        records.record_index(tmp_path / "none")


def test_shards_by_glob_prefix_folder_and_file(tmp_path):
    names = [f"train-fold-00{fold}-of-002-shard-0000{shard}-of-00002" for fold in (0, 1) for shard in (0, 1)]
    others = ["train2-fold-000-of-002-shard-00000-of-00001"]
    litter = [
        "train_warning.json",
        "train-manifest.json",
        "train-problems.csv",
        ".tmp-train",
        *(f"idx-{n}" for n in names),
    ]
    for name in (*names, *others, *litter):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()

    def found(pattern):
        return [os.path.basename(path) for path in records.find_shards(str(tmp_path / pattern))]

    assert found("train*") == names + others
    assert found("train") == names
    assert found("train-fold-001") == names[2:]
    assert found("") == names + others
    assert found(names[1]) == [names[1]]
    assert found("train-fold-00[1]*") == names[2:]
    with pytest.raises(DataError, match="no TFRecord files match"):
        found("valid")
    with pytest.raises(DataError, match="no TFRecord files match"):
        found("folder")


def test_the_same_input_gives_the_same_bytes():
    row = LabelRow("car", 0, 0, 0, (10, 20, 50, 60))
    assert encode([row])[0] == encode([row])[0]
    assert Example.FromString(encode([row])[0]).features.feature["frame/height"].int64_list.value[:] == [100]
