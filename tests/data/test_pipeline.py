"""Batches: order, padding, reproducibility, and what happens when an image does not decode."""

import io

import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from PIL import Image

from ssd.data import records
from ssd.data.images import image_size
from ssd.data.pipeline import Loader, evaluation_loader, image_loader, training_loader
from ssd.data.share import Share
from ssd.data.sources import index_sources
from ssd.errors import DataError
from ssd.spec.config import Augmentation, Dataset, DataSource, Experiment
from ssd.training.pixels import network_input

PLAIN = {"crop_scale": (1.0, 1.0), "zoom_out": (1.0, 1.0), "flip": 0.0}
JITTER = {"brightness": 32.0, "contrast": 0.5, "saturation": 0.5, "hue": 18.0}
NO_JITTER = dict.fromkeys(JITTER, 0.0)


def augmentation(**changes) -> Augmentation:
    base = {"width": 64, "height": 48, "channels": 3, "mean": (103.939, 116.779, 123.68)}
    moves = {"crop_scale": (0.3, 1.0), "crop_aspect_ratio": (0.5, 2.0), "zoom_out": (1.0, 4.0), "flip": 0.5}
    return Augmentation(**{**base, **moves, **JITTER, **changes})


def picture(size, kind="PNG", seed=0, **options) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(stream, kind, **options)
    return stream.getvalue()


KINDS = (
    ("a.png", picture((70, 50))),
    ("b.jpg", picture((33, 90), "JPEG")),
    ("c.bmp", picture((50, 50), "BMP")),
    ("d.gif", picture((64, 48), "GIF")),
    ("e.JPEG", picture((120, 40), "JPEG", progressive=True)),
    ("f.png", picture((40, 44))),
    ("g.jpg", picture((41, 45), "JPEG")),
)
# Objects per image; one has none and one more than a multiple of the padding.
COUNTS = (1, 0, 3, 2, 17, 1, 5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("kitti")
    (root / "images").mkdir()
    (root / "labels").mkdir()
    for (name, contents), count in zip(KINDS, COUNTS, strict=True):
        (root / "images" / name).write_bytes(contents)
        lines = [f"{'thing' if n % 2 else 'dot'} 0 {n % 3} 0 {n} 2 {n + 10} 30 0 0 0 0 0 0 0\n" for n in range(count)]
        (root / "labels" / f"{name.split('.')[0]}.txt").write_text("".join(lines))
    return DataSource(image_dir=str(root / "images"), label_dir=str(root / "labels"))


def experiment(source, seed=42, include_difficult=True, spec=None) -> Experiment:
    mapping = (("dot", "dot"), ("thing", "thing"))
    data = Dataset((source,), (source,), ("dot", "thing"), mapping, include_difficult)
    return Experiment(seed, None, spec or augmentation(), None, None, data, None, "")


def everything(batches):
    """All samples of an epoch by image index: pixels, of training all that is given of them, and objects."""
    samples = {}
    for images, truth in (tf.nest.map_structure(lambda part: part.numpy(), batch) for batch in batches):
        for row, index in enumerate(truth["index"].tolist()):
            samples[index] = tf.nest.map_structure(lambda part, row=row: part[row], (images, truth))
    return samples


def seen(pixels: dict, spec) -> np.ndarray:
    """What the network gets of one training sample."""
    return ops.convert_to_numpy(network_input({name: part[np.newaxis] for name, part in pixels.items()}, spec))[0]


def assert_equal(found: dict, expected: dict) -> None:
    assert set(found) == set(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_evaluation_batches_come_in_order_padded_and_whole(folders):
    loader = evaluation_loader(experiment(folders), batch_size=3)
    batches = list(loader.epoch(0))
    assert (loader.samples, loader.steps, len(loader.epoch(0))) == (7, 3, 3)
    assert [images.shape for images, _ in batches] == [(3, 48, 64, 3), (3, 48, 64, 3), (1, 48, 64, 3)]
    assert [truth["boxes"].shape[1] for _, truth in batches] == [16, 32, 16]
    assert np.concatenate([truth["index"] for _, truth in batches]).tolist() == list(range(7))
    truth = batches[1][1]
    assert {key: value.dtype.name for key, value in truth.items()} == {
        "boxes": "float32",
        "classes": "int32",
        "difficult": "bool",
        "index": "int32",
        "size": "int32",
    }
    assert truth["size"].numpy().tolist() == [list(image_size(contents)) for _, contents in KINDS[3:6]]
    assert (truth["classes"].numpy() > 0).sum(axis=1).tolist() == [2, 17, 1]
    padding = truth["classes"].numpy() == 0
    assert not truth["boxes"].numpy()[padding].any() and not truth["difficult"].numpy()[padding].any()
    np.testing.assert_allclose(truth["boxes"][1, 1], [1 / 120, 2 / 40, 11 / 120, 30 / 40], atol=1e-6)
    assert truth["classes"][1, :4].numpy().tolist() == [1, 2, 1, 2]
    assert truth["difficult"][1, :4].numpy().tolist() == [False, True, True, False]
    assert loader.names(truth["index"])[0].endswith("d.gif")
    assert loader.image_bytes(3) == KINDS[3][1]


def test_every_kind_of_image_gets_through_training(folders):
    loader = training_loader(experiment(folders), batch_size=3)
    for epoch in range(2):
        samples = everything(loader.epoch(epoch))
        assert sorted(samples) == list(range(7))
        for pixels, truth in samples.values():
            assert {name: (part.dtype.name, part.shape) for name, part in pixels.items()} == {
                "rgb": ("uint8", (48, 64, 3)),
                "colour": ("float32", (4, 3)),
                "covered": ("int32", (4,)),
            }
            image = seen(pixels, augmentation())
            assert image.shape == (48, 64, 3) and np.isfinite(image).all()
            objects = truth["classes"] > 0
            boxes = truth["boxes"][objects]
            assert boxes.min(initial=0) >= 0 and boxes.max(initial=1) <= 1
            assert np.all(boxes[:, 2:] > boxes[:, :2])
            assert not truth["boxes"][~objects].any()
            assert np.all(np.diff(objects.astype(int)) <= 0)  # padding is behind


def test_the_same_whatever_the_threads_and_the_batch_size(folders):
    index = index_sources([folders], experiment(folders).dataset, "training")
    one = Loader(index, augmentation(), batch_size=2, seed=1, workers=1)
    many = Loader(index, augmentation(), batch_size=5, seed=1, workers=8, prefetch=2)
    for epoch in (3,):
        a, b = everything(one.epoch(epoch)), everything(many.epoch(epoch))
        assert list(a) == list(b)
        for number in a:
            assert_equal(a[number][0], b[number][0])
            count = (a[number][1]["classes"] > 0).sum()
            assert count == (b[number][1]["classes"] > 0).sum()
            np.testing.assert_array_equal(a[number][1]["boxes"][:count], b[number][1]["boxes"][:count])


def test_epochs_and_seeds_differ_and_come_again(folders):
    loader = training_loader(experiment(folders), batch_size=3)
    first, second, again = everything(loader.epoch(0)), everything(loader.epoch(1)), everything(loader.epoch(0))
    other = everything(training_loader(experiment(folders, seed=43), batch_size=3).epoch(0))
    assert list(first) == list(again)
    assert len({tuple(samples) for samples in (first, second, other)}) == 3
    for number in first:
        assert_equal(first[number][0], again[number][0])
        for different in (second, other):
            assert all(np.any(first[number][0][part] != different[number][0][part]) for part in ("rgb", "colour"))


def test_an_epoch_can_go_on_from_any_batch(folders):
    loader = training_loader(experiment(folders), batch_size=2)
    whole = list(loader.epoch(5))
    rest = list(loader.epoch(5, skip=3))
    assert len(whole) == 4 and len(rest) == 1 == len(loader.epoch(5, skip=3))
    assert_equal(whole[3][0], rest[0][0])
    np.testing.assert_array_equal(whole[3][1]["boxes"], rest[0][1]["boxes"])
    assert list(loader.epoch(5, skip=4)) == []


def test_an_epoch_that_follows_another_is_as_one_started_afresh(folders):
    running, fresh = (training_loader(experiment(folders), batch_size=4) for _ in range(2))
    list(running.epoch(0))
    assert [len(images["rgb"]) for images, _ in running.epoch(1)] == [4, 3]
    for (a, truth), (b, expected) in zip(running.epoch(2), fresh.epoch(2), strict=True):
        assert_equal(a, b)
        assert_equal(truth, expected)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_batches_out(folders, processes):
    """4 images and then 3: each process has its rows of both, zeros behind the last image."""
    whole = list(training_loader(experiment(folders), batch_size=4).epoch(1))
    found = []
    for process in range(processes):
        share = Share(process, processes, processes)
        found.append(list(training_loader(experiment(folders), batch_size=4, share=share).epoch(1)))
    for step, (images, truth) in enumerate(whole):
        parts = [batches[step] for batches in found]
        count = len(images["rgb"])
        for name, values in images.items():
            pixels = np.concatenate([part[name] for part, _ in parts])
            assert len(pixels) == 4
            np.testing.assert_array_equal(pixels[:count], values)
            assert name != "rgb" or not pixels[count:].any()
        for name in ("boxes", "classes", "size"):
            rows = np.concatenate([part[name] for _, part in parts])
            np.testing.assert_array_equal(rows[:count], truth[name])
        for _, part in parts:
            np.testing.assert_array_equal(part["index"], truth["index"])


def test_every_process_has_the_whole_truth_of_evaluation(folders):
    whole = list(evaluation_loader(experiment(folders), batch_size=4).epoch(0))
    shared = list(evaluation_loader(experiment(folders), batch_size=4, share=Share(1, 2, 2)).epoch(0))
    for (images, truth), (part, found) in zip(whole, shared, strict=True):
        assert len(part) == 2
        np.testing.assert_array_equal(part[: max(len(images) - 2, 0)], images[2:])
        for name, values in truth.items():
            np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize("channels", [3, 1])
def test_training_without_augmentation_sees_what_evaluation_sees(folders, channels):
    spec = augmentation(**PLAIN, **NO_JITTER, channels=channels, mean=(117.0,) if channels == 1 else (1.0, 2.0, 3.0))
    training = everything(training_loader(experiment(folders, spec=spec), batch_size=3).epoch(0))
    evaluation = everything(evaluation_loader(experiment(folders, spec=spec), batch_size=3).epoch(0))
    for number, (image, truth) in evaluation.items():
        assert image.shape == (48, 64, channels)
        np.testing.assert_allclose(seen(training[number][0], spec), image, atol=0.501)  # training rounds
        count = COUNTS[number]
        np.testing.assert_allclose(training[number][1]["boxes"][:count], truth["boxes"][:count], atol=1e-6)
        np.testing.assert_array_equal(training[number][1]["classes"][:count], truth["classes"][:count])


def test_difficult_objects_leave_training_where_the_spec_says_so(folders):
    spec = augmentation(**PLAIN, **NO_JITTER)
    loader = training_loader(experiment(folders, include_difficult=False, spec=spec), batch_size=7)
    ((_, truth),) = loader.epoch(0)
    assert not truth["difficult"].numpy().any()
    assert (truth["classes"].numpy() > 0).sum() == sum(-(-count // 3) for count in COUNTS)


def test_folders_and_records_in_one_epoch(folders, tmp_path):
    """The same pictures from records and from files: by turns and with the same pixels."""
    spec = experiment(folders, spec=augmentation(**PLAIN, **NO_JITTER))
    plain = index_sources([folders], spec.dataset, "training")
    payloads = []
    for number in range(len(plain)):
        height, width = plain.sizes[number].tolist()
        payloads.append(
            records.encode_example(
                frame_id=f"images/{number}",
                image=plain.read(number),
                size=(height, width),
                rows=[],
                objects=plain.objects(number),
            )
        )
    (tmp_path / "train").write_bytes(b"".join(records.frame(payload) for payload in payloads))
    mixed = index_sources([folders, DataSource(tfrecords=str(tmp_path / "train"))], spec.dataset, "training")
    loader = Loader(mixed, spec.augmentation, batch_size=4, seed=3)
    samples = everything(loader.epoch(0))
    assert sorted(samples) == list(range(14)) and list(samples) != list(range(14))
    for number in range(7):
        (a, truth), (b, expected) = samples[number], samples[number + 7]
        assert_equal(a, b)
        np.testing.assert_allclose(truth["boxes"][:16], expected["boxes"][:16], atol=1e-6)
    assert loader.image_bytes(9) == KINDS[2][1]


def damaged(folder, name: str, source: DataSource) -> DataSource:
    """A copy of `source` in which the pixels of one image do not decode, though its header and its end are fine."""
    import shutil

    shutil.copytree(source.image_dir, folder / "images")
    path = folder / "images" / name
    contents = bytearray(picture((70, 50)) if name.endswith("png") else path.read_bytes())
    contents[len(contents) // 2 : len(contents) // 2 + 300] = bytes(300)
    path.write_bytes(contents)
    return DataSource(image_dir=str(folder / "images"), label_dir=source.label_dir)


def test_an_image_that_does_not_decode_is_named(folders, tmp_path):
    loader = training_loader(experiment(damaged(tmp_path, "a.png", folders)), batch_size=2)
    with pytest.raises(DataError) as caught:
        list(loader.epoch(0))
    assert str(caught.value).startswith(str(tmp_path / "images" / "a.png: the image is damaged"))
    assert "--resume" in str(caught.value) and "node" not in str(caught.value)


@pytest.mark.parametrize("change", ["removed", "resized", "emptied"])
def test_an_image_that_changes_during_training_is_named(folders, tmp_path, change):
    import shutil

    shutil.copytree(folders.image_dir, tmp_path / "images")
    loader = training_loader(experiment(DataSource(str(tmp_path / "images"), folders.label_dir)), batch_size=2)
    path = tmp_path / "images" / "b.jpg"
    {"removed": path.unlink, "resized": lambda: path.write_bytes(picture((10, 10), "JPEG")),
     "emptied": lambda: path.write_bytes(b"")}[change]()  # fmt: skip
    said = {"removed": "cannot read the image: No such file", "resized": "changed since", "emptied": "file is empty"}
    with pytest.raises(DataError, match=f"b.jpg: .*{said[change]}"):
        for epoch in range(20):  # a small crop may still lie inside the smaller picture
            list(loader.epoch(epoch))


def test_inference_reads_what_it_can_and_names_the_rest(folders, tmp_path):
    damaged(tmp_path, "a.png", folders)
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "cut.jpg").write_bytes(KINDS[1][1][:-50])
    names = ["cut.jpg", "images/b.jpg", "images/a.png", "missing.png", "images/c.bmp", "images/d.gif", "empty.jpg"]
    loader = image_loader([str(tmp_path / name) for name in names], augmentation(), batch_size=2)
    for _ in range(2):  # a second look says the same
        batches = list(loader)
        assert [indices.tolist() for _, indices, _ in batches] == [[1, 4], [5]]
        assert [sizes.tolist() for _, _, sizes in batches] == [[[90, 33], [50, 50]], [[48, 64]]]
        assert [problem.split("/")[-1].split(":")[0] for problem in loader.problems] == [
            *("cut.jpg", "a.png", "missing.png", "empty.jpg"),
        ]
        assert "No such file" in loader.problems[2] and "cut off" in loader.problems[0]
    evaluated = everything(evaluation_loader(experiment(folders), batch_size=7).epoch(0))
    np.testing.assert_array_equal(batches[0][0][0], evaluated[1][0])


def test_nothing_readable_gives_no_batches(tmp_path):
    loader = image_loader([str(tmp_path / "none.jpg")], augmentation(), batch_size=4)
    assert list(loader) == [] and len(loader.problems) == 1
