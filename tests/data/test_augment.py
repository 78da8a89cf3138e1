"""Augmentation against numpy in float64, by painted rectangles, and by statistics of what is chosen."""

import functools
import io

import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from PIL import Image

from ssd.data import images
from ssd.data.augment import (
    Draws,
    View,
    choose_view,
    colour_transform,
    covered_by,
    cut_out,
    move_boxes,
    snap,
    uniforms,
)
from ssd.spec.config import Augmentation
from ssd.training.pixels import network_input

OFF = {
    "crop_scale": (1.0, 1.0),
    "crop_aspect_ratio": (0.5, 2.0),
    "zoom_out": (1.0, 1.0),
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue": 0.0,
    "flip": 0.0,
}
GEOMETRY = {"crop_scale": (0.3, 1.0), "zoom_out": (1.0, 4.0), "flip": 0.5}
COLOUR = {"brightness": 32.0, "contrast": 0.5, "saturation": 0.5, "hue": 18.0}


def augmentation(*, width=96, height=64, channels=3, mean=(103.939, 116.779, 123.68), **changes) -> Augmentation:
    return Augmentation(width=width, height=height, channels=channels, mean=mean, **{**OFF, **changes})


def png(rgb: np.ndarray) -> tf.Tensor:
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "PNG")
    return tf.constant(stream.getvalue())


def random_boxes(rng, batch, most):
    corners = np.sort(rng.uniform(0, 1, (batch, most, 2, 2)), axis=2)
    boxes = np.concatenate([corners[:, :, 0], corners[:, :, 1]], axis=-1).astype(np.float32)
    return boxes, rng.random((batch, most)) < 0.7


def views_of(spec, samples, sizes=(120, 200), boxes=None, present=None, seed=5, epoch=0):
    """Views of many samples with the same picture size."""
    draws = drawn(seed, tf.constant(epoch), tf.range(samples))
    sizes = tf.constant([sizes] * samples)
    if boxes is None:
        boxes, present = np.zeros((samples, 1, 4), np.float32), np.zeros((samples, 1), bool)
    return draws, sizes, choose_view(draws, sizes, tf.constant(boxes), tf.constant(present), spec)


@functools.cache
def graph(seed):
    return tf.function(lambda epoch, indices: uniforms(seed, epoch, indices), reduce_retracing=True)


def drawn(seed, epoch, indices) -> Draws:
    """`uniforms` as a graph: its loop over samples is slow outside of one."""
    return graph(seed)(tf.convert_to_tensor(epoch), tf.convert_to_tensor(indices))


def one(view: View, sample: int) -> View:
    return View(*(part[sample] for part in view))


def seen(rgb: np.ndarray, view: View, spec, colour=None) -> np.ndarray:
    """What the network gets of one view of a picture."""
    covered = covered_by(view, spec)
    pixels = {
        "rgb": cut_out(png(rgb), tf.constant(1), view, covered, spec),
        "colour": tf.eye(4, 3) if colour is None else colour,
        "covered": covered,
    }
    return ops.convert_to_numpy(network_input({name: part.numpy()[None] for name, part in pixels.items()}, spec))[0]


@pytest.mark.parametrize("size", [(375, 500), (31, 45), (64, 96), (40, 500)])
@pytest.mark.parametrize("channels", [3, 1])
def test_augmentation_that_does_nothing_gives_the_pixels_of_evaluation(size, channels):
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    spec = augmentation(channels=channels, mean=(117.0,) if channels == 1 else (103.939, 116.779, 123.68))
    draws, sizes, view = views_of(spec, 1, size)
    image = seen(rgb, one(view, 0), spec, colour_transform(draws, spec)[0])
    np.testing.assert_allclose(image, images.network_input(tf.constant(rgb), spec), atol=0.501)  # training rounds
    boxes, keep = move_boxes(tf.constant([[[0.1, 0.2, 0.5, 0.9]]]), sizes, view, spec)
    np.testing.assert_allclose(boxes[0, 0], [0.1, 0.2, 0.5, 0.9], atol=1e-6)
    assert keep.numpy().all()


def test_boxes_move_with_the_pixels():
    """A white rectangle on black is found where its box says, to a pixel of the blur at its edge."""
    spec = augmentation(width=160, height=128, **GEOMETRY)
    rng = np.random.default_rng(1)
    checked = 0
    for sample in range(60):
        height, width = rng.integers(80, 300, 2)
        x1, y1 = rng.integers(5, width // 2), rng.integers(5, height // 2)
        x2, y2 = x1 + rng.integers(20, width // 2 - 4), y1 + rng.integers(20, height // 2 - 4)
        rgb = np.zeros((height, width, 3), np.uint8)
        rgb[y1:y2, x1:x2] = 255
        box = np.array([[[x1 / width, y1 / height, x2 / width, y2 / height]]], np.float32)
        draws = drawn(9, tf.constant(0), tf.constant([sample]))
        sizes = tf.constant([[height, width]], tf.int32)
        view = choose_view(draws, sizes, tf.constant(box), tf.constant([[True]]), spec)
        moved, keep = move_boxes(tf.constant(box), sizes, view, spec)
        if not keep[0, 0]:
            continue
        image = seen(rgb, one(view, 0), spec)[..., 0] + 103.939
        white = np.abs(image - 255) < 60  # mean colour, 104, is neither black nor white
        rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
        blur = np.asarray(view.target_extent[0]) / np.asarray(view.extent[0]) + 1
        found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        expected = moved[0, 0].numpy() * [160, 128, 160, 128]
        assert np.all(np.abs(found - expected) <= np.tile(blur, 2)), (sample, found, expected)
        checked += 1
    assert checked > 40


def test_views_and_boxes_equal_a_reference_in_float64():
    spec = augmentation(width=300, height=300, **GEOMETRY)
    rng = np.random.default_rng(2)
    boxes, present = random_boxes(rng, 300, 6)
    present[:20] = False
    draws, sizes, view = views_of(spec, 300, (375, 500), boxes, present)
    moved, keep = move_boxes(tf.constant(boxes), sizes, view, spec)
    for sample in range(300):
        near, far = reference_view(
            Draws(*(part[sample].numpy().astype(np.float64) for part in draws)),
            boxes[sample][present[sample]].astype(np.float64),
            spec,
            width=500,
            height=375,
        )
        start, extent, target, target_extent = (np.asarray(value, np.float64) for value in one(view, sample)[:4])
        # The window is what the view shows of the image, and its corners land where the view has them: each to half
        # a pixel, of the source where the view cuts the image and of the output where it reaches outside.
        size = np.array([500, 375])
        per_pixel = 300 / ((far - near) * size)
        for found, lands, edge in ((start, target, near), (start + extent, target + target_extent, far)):
            np.testing.assert_array_less(np.abs(found - np.clip(edge * size, 0, size)), 0.502)
            exact = (found - near * size) * per_pixel
            inside = (edge >= 0) & (edge <= 1)
            np.testing.assert_array_less(np.abs(lands - exact), np.where(inside, 0.502 * per_pixel, 0.502))
        scale = extent / target_extent
        found_near = (start - target * scale) / size
        found_far = (start + (300 - target) * scale) / size
        expected, kept = reference_boxes(boxes[sample], found_near, found_far, bool(view.flip[sample]))
        np.testing.assert_allclose(moved[sample], expected, atol=2e-5)
        np.testing.assert_array_equal(keep[sample], kept)


def reference_view(draws: Draws, boxes: np.ndarray, spec: Augmentation, *, width: int, height: int):
    """Zoom-out and crop by the book: options tried in their drawn order, trials one by one."""
    near, far = np.zeros(2), np.ones(2)
    if draws.zoom[0] < 0.5:
        factor = spec.zoom_out[0] + (spec.zoom_out[1] - spec.zoom_out[0]) * draws.zoom[1]
        near = -draws.zoom[2:] * (factor - 1)
        far = near + factor
    if not len(boxes):
        boxes = np.array([[0.0, 0.0, 1.0, 1.0]])
    low, high = spec.crop_scale
    for option in np.argsort(-draws.option):
        if option == 0:
            return near, far
        least = (-1, 0.1, 0.3, 0.5, 0.7, 0.9)[option - 1]
        for trial in draws.trials:
            scale = low + (high - low) * trial[:2]
            ratio = scale[0] * width / (scale[1] * height)
            if not spec.crop_aspect_ratio[0] <= ratio <= spec.crop_aspect_ratio[1]:
                continue
            a = near + (far - near) * trial[2:] * (1 - scale)
            b = a + (far - near) * scale
            centres = (boxes[:, :2] + boxes[:, 2:]) / 2
            if not np.any(np.all((centres > a) & (centres < b), axis=1)):
                continue
            sides = np.maximum(np.minimum(boxes[:, 2:], b) - np.maximum(boxes[:, :2], a), 0)
            shared = sides.prod(1)
            iou = shared / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + (b - a).prod() - shared)
            if iou.max() > least:
                return a, b
    raise AssertionError("the whole is always possible")


def reference_boxes(boxes, near, far, flip):
    moved = (boxes.reshape(-1, 2, 2).astype(np.float64) - near) / (far - near)
    centres = moved.mean(axis=1)
    clipped = np.clip(moved, 0, 1)
    kept = np.all((centres > 0) & (centres < 1), axis=1) & np.all(clipped[:, 1] - clipped[:, 0] > 1e-3 / 300, axis=1)
    x1, y1, x2, y2 = clipped.reshape(-1, 4).T
    return np.stack([1 - x2, y1, 1 - x1, y2] if flip else [x1, y1, x2, y2], axis=1), kept


def test_outside_the_image_is_exactly_the_mean_even_under_jitter():
    spec = augmentation(zoom_out=(2.0, 3.0), flip=0.5, **COLOUR)
    draws, _, view = views_of(spec, 40, (50, 80))
    colour = colour_transform(draws, spec)
    zoomed = 0
    for sample in range(12):
        single = one(view, sample)
        image = seen(np.full((50, 80, 3), 200, np.uint8), single, spec, colour[sample])
        x, y = single.target.numpy()
        w, h = single.target_extent.numpy()
        if single.flip:
            x = 96 - x - w
        outside = np.ones((64, 96), bool)
        outside[y : y + h, x : x + w] = False
        assert np.all(image[outside] == 0)
        assert np.all(image[~outside] == image[y, x]) and np.any(image[y, x] != 0)
        zoomed += outside.any()
    assert 2 <= zoomed <= 10


def test_a_flipped_picture_is_the_mirrored_one():
    rgb = np.random.default_rng(3).integers(0, 256, (50, 80, 3), np.uint8)
    for extent in ([1.0, 1.0], [2.5, 2.5]):
        spec = augmentation()
        plain, flipped = (
            snap(
                tf.constant([-0.4, -0.9]) * (extent[0] > 1), tf.constant(extent), tf.constant([80.0, 50.0]), flip, spec
            )
            for flip in (tf.constant(False), tf.constant(True))
        )
        left, right = (seen(rgb, view, spec) for view in (plain, flipped))
        np.testing.assert_allclose(right, left[:, ::-1], atol=1.001)  # what lies halfway may round either way
        assert np.mean(np.abs(right - left[:, ::-1]) > 0.5) < 0.01


def test_random_numbers_depend_on_seed_epoch_and_index_only():
    def draw(seed, epoch, indices):
        return np.concatenate([part.numpy().reshape(len(indices), -1) for part in drawn(seed, epoch, indices)], 1)

    base = draw(7, tf.constant(3), tf.constant([5, 6, 7]))
    np.testing.assert_array_equal(base[1], draw(7, tf.constant(3), tf.constant([6]))[0])
    others = np.stack([base[0], base[1], draw(8, 3, [5])[0], draw(7, 4, [5])[0], draw(7, 3, [5 + 2**20])[0]])
    assert len(np.unique(others[:, 0])) == len(others)
    assert np.all((base >= 0) & (base < 1))


def test_how_often_and_how_far():
    spec = augmentation(width=300, height=300, **{**GEOMETRY, **COLOUR})
    samples = 2000
    _, _, view = views_of(augmentation(zoom_out=(1.0, 4.0), flip=0.3), samples, (1000, 1000))
    share = (view.target_extent[:, 0] / 96).numpy()
    assert 0.45 < np.mean(share > 0.99) < 0.56  # zoom-out leaves half alone, and few factors are this near 1
    assert share.min() < 0.3 and 0.26 < np.mean(view.flip) < 0.34
    boxes, present = random_boxes(np.random.default_rng(4), samples, 4)
    draws, _, view = views_of(augmentation(crop_scale=(0.3, 1.0)), samples, (1000, 1000), boxes, present)
    extent = view.extent.numpy()
    whole = np.all(extent == 1000, axis=1)
    assert 1 / 7 < whole.mean() < 0.35  # one option of seven, and what impossible ones leave to it
    assert extent.min() >= 300
    ratios = extent[:, 0] / extent[:, 1]
    assert ratios.min() > 0.49 and ratios.max() < 2.01
    matrix, offset = np.split(colour_transform(draws, spec).numpy(), [3], axis=1)
    offset = offset[:, 0, 0]
    untouched = np.all(np.abs(matrix - np.eye(3)) < 1e-5, axis=(1, 2)) & (np.abs(offset) < 1e-5)
    assert 0.035 < untouched.mean() < 0.095  # each of four with probability one half: 1/16
    grays = matrix.sum(axis=1)  # what gray 1 becomes: contrast
    np.testing.assert_allclose(grays[:, 0], grays[:, 2], atol=1e-4)
    assert 0.5 <= grays.min() < 0.52 and 1.48 < grays.max() <= 1.5001


@pytest.mark.parametrize("what", ["crop_scale", "zoom_out", "flip", "colour"])
def test_each_stage_is_off_when_the_spec_says_so(what):
    changes = {**GEOMETRY, **COLOUR}
    for name in COLOUR if what == "colour" else [what]:
        changes[name] = OFF[name]
    spec = augmentation(**changes)
    draws, _, view = views_of(spec, 200)
    if what == "colour":
        assert np.all(colour_transform(draws, spec).numpy() == np.eye(4, 3))
    elif what == "flip":
        assert not np.any(view.flip)
    elif what == "zoom_out":
        assert np.all(view.target_extent.numpy() == [96, 64])
    else:
        assert np.all(view.extent.numpy() == [200, 120])


@pytest.mark.parametrize("name", COLOUR)
def test_jitter_of_one_kind(name):
    spec = augmentation(**{name: COLOUR[name]})
    draws, _, _ = views_of(spec, 400)
    matrix, offset = np.split(colour_transform(draws, spec).numpy().astype(np.float64), [3], axis=1)
    offset = offset[:, 0]
    red = np.array([200.0, 40.0, 90.0])
    changed = red @ matrix + offset
    luma = np.array([0.299, 0.587, 0.114])
    if name == "brightness":
        shift = changed - red
        assert np.allclose(shift, shift[:, :1], atol=1e-3) and 28 < np.abs(shift).max() <= 32.001
    elif name == "contrast":
        factor = (changed - 127.5) / (red - 127.5)
        assert np.allclose(factor, factor[:, :1], atol=1e-3) and 0.5 <= factor.min() < 0.55
    else:
        np.testing.assert_allclose(changed @ luma, red @ luma, atol=1e-2)
        assert np.allclose(np.full(3, 80.0) @ matrix + offset, 80, atol=1e-2)  # gray stays gray
        assert np.abs(changed - red).max() > 20


def test_hue_turns_red_towards_green_as_in_hsv():
    """A turn of 60 (OpenCV's 30 half degrees) makes yellow of red, roughly: YIQ's plane is not HSV's hexagon."""
    spec = augmentation(hue=30.0)
    draws = Draws(*(tf.zeros((2, *shape)) for shape in ((4,), (7,), (), (4,), (4,), (50, 4))))
    draws = draws._replace(amounts=tf.constant([[0.0] * 4, [1.0] * 4]))
    towards = np.array([200.0, 50.0, 50.0, 1.0]) @ colour_transform(draws, spec).numpy()
    assert (towards[:, 1] > 90).sum() == 1 and (towards[:, 2] > 90).sum() == 1


@pytest.mark.parametrize("size", [(1, 1), (2, 700), (4000, 3)])
def test_pictures_of_extreme_shape_survive(size):
    spec = augmentation(**{**GEOMETRY, "crop_aspect_ratio": (0.001, 1000.0)})
    _, _, view = views_of(spec, 30, size)
    rgb = np.full((*size, 3), 50, np.uint8)
    for sample in range(6):
        image = seen(rgb, one(view, sample), spec)
        assert image.shape == (64, 96, 3) and np.isfinite(image).all()
    start, extent, target, target_extent = (part.numpy() for part in view[:4])
    assert start.min() >= 0 and extent.min() >= 1 and np.all(start + extent <= size[::-1])
    assert target.min() >= 0 and target_extent.min() >= 1 and np.all(target + target_extent <= [96, 64])
