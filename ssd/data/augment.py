"""SSD's data augmentation (Liu et al. 2016, sections 2.2 and 3.6) as one cut-out and one colour transform.

Zoom-out, crop, flip and resize compose into a *view*: a box of the image, possibly reaching outside it. The view is
snapped to whole source pixels and whole output pixels, so that what is done to pixels is: decode that window, mirror,
bilinear resize, set into a field; and boxes move by the very same map. No canvas is ever allocated, and without
augmentation the pixels are those of evaluation, rounded.

Brightness, contrast, saturation and hue are one affine map of RGB. Contrast is about mid-gray, which saturation and
hue leave alone, so SSD's random position of contrast changes nothing but intermediate clipping, and falls away.

The map is drawn here and carried out in the training step, with the mean (`ssd.training.pixels`): bytes are a quarter
of what floats are to batch and to send to a device, and the device has the arithmetic.

All random numbers of a sample come from one draw by (seed, epoch, index): see `uniforms`. The choices are made for a
batch of B samples at once, since they are many small operations; the pixels for one sample at a time, since those are
few large ones.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from ssd.data.images import decode_window, resize
from ssd.spec.config import LUMA, Augmentation

TRIALS = 50
# "any" (a crop with some object's centre in it), then the IoU that a crop must have with some object.
MIN_IOUS = (-1.0, 0.1, 0.3, 0.5, 0.7, 0.9)
# What is left of a box in the view must be larger than this, network pixels.
SMALLEST_PX = 1e-3
# RGB -> YIQ; its first row is luma, and a turn of (I, Q) is a turn of the hue.
_YIQ = np.array([LUMA, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135)])


class View(NamedTuple):
    """Which source pixels land on which output pixels; vectors are (x, y). Of one sample there is no B.

    Attributes:
        start, extent: int32 `(B, 2)` window of the upright source image, px.
        target, target_extent: int32 `(B, 2)` where it lands in the network input, before the flip, px.
        flip: bool `(B,)`: the network input is mirrored left to right.
    """

    start: tf.Tensor
    extent: tf.Tensor
    target: tf.Tensor
    target_extent: tf.Tensor
    flip: tf.Tensor

    @property
    def window(self) -> tf.Tensor:
        """int32 `(4,)` y, x, height, width of one sample's window of the source, px."""
        return tf.concat([self.start[::-1], self.extent[::-1]], axis=0)


class Draws(NamedTuple):
    """Uniform random numbers in [0, 1)."""

    zoom: tf.Tensor  # (B, 4): on or off, factor, x, y
    option: tf.Tensor  # (B, 1 + len(MIN_IOUS)): the order in which crop options are tried
    flip: tf.Tensor  # (B,)
    switches: tf.Tensor  # (B, 4) brightness, contrast, saturation, hue: on or off
    amounts: tf.Tensor  # (B, 4) of the same
    trials: tf.Tensor  # (B, TRIALS, 4): width, height, x, y of crops


def uniforms(seed: int, epoch: tf.Tensor, indices: tf.Tensor) -> Draws:
    """The random numbers of samples `indices` `(B,)` in `epoch`; nothing else enters.

    The pair (seed, epoch and index side by side) is a generator's key, so no two samples share a stream.
    """
    sizes = [4, 1 + len(MIN_IOUS), 1, 4, 4, TRIALS * 4]

    def draw(low_key):
        return tf.random.stateless_uniform([sum(sizes)], tf.stack([tf.constant(seed, tf.int64), low_key]), alg="philox")

    low_keys = tf.cast(epoch, tf.int64) * 2**40 + tf.cast(indices, tf.int64)
    block = tf.map_fn(draw, low_keys, fn_output_signature=tf.TensorSpec((sum(sizes),), tf.float32))
    zoom, option, flip, switches, amounts, trials = tf.split(block, sizes, axis=1)
    return Draws(zoom, option, flip[:, 0], switches, amounts, tf.reshape(trials, (-1, TRIALS, 4)))


def choose_view(draws: Draws, sizes, boxes, present, augmentation: Augmentation) -> View:
    """Zoom-out, then crop, then flip; a stage that the spec switches off costs nothing.

    Args:
        sizes: int32 `(B, 2)` height, width of the upright images, px.
        boxes: float32 `(B, M, 4)` corners relative to the upright image.
        present: bool `(B, M)`: which of them are objects, not padding.
    """
    source = tf.cast(sizes[:, ::-1], tf.float32)
    start, extent = tf.zeros_like(source), tf.ones_like(source)
    lowest, highest = augmentation.zoom_out
    if highest > 1.0:
        factor = tf.where(draws.zoom[:, :1] < 0.5, lowest + (highest - lowest) * draws.zoom[:, 1:2], 1.0)
        start, extent = -draws.zoom[:, 2:] * (factor - 1.0), extent * factor
    if augmentation.crop_scale != (1.0, 1.0):
        start, extent = choose_crop(draws, start, extent, source, boxes, present, augmentation)
    return snap(start, extent, source, draws.flip < augmentation.flip, augmentation)


def choose_crop(draws: Draws, start, extent, source, boxes, present, augmentation: Augmentation):
    """SSD's crop: one of {the whole, any, IoU over .1, .3, .5, .7, .9}, each with the same chance.

    All trials of all options are computed at once. An option for which no trial succeeds gives way to another:
    trying the options in a random order is the same as drawing again until one works. A trial succeeds when its
    aspect ratio is allowed, some object has its centre in it, and the best IoU with an object is above the option's.
    The picture itself stands in for the object where there is none, so that no crop shows fill only.

    Args:
        start, extent: float32 `(B, 2)` x, y of the canvas, relative to the image.
        source: float32 `(B, 2)` width, height of the image, px.
        boxes, present: see `choose_view`.

    Returns:
        start, extent of the crop, relative to the image.
    """
    (low, high), (flattest, steepest) = augmentation.crop_scale, augmentation.crop_aspect_ratio
    scales = low + (high - low) * draws.trials[..., :2]
    sides = scales * source[:, tf.newaxis]
    aspect = sides[..., 0] / sides[..., 1]
    starts = start[:, tf.newaxis] + extent[:, tf.newaxis] * draws.trials[..., 2:] * (1.0 - scales)
    extents = extent[:, tf.newaxis] * scales

    empty = ~tf.reduce_any(present, axis=1, keepdims=True)
    boxes = tf.where(empty[..., tf.newaxis], tf.constant([0.0, 0.0, 1.0, 1.0]), boxes)
    present = (present | empty)[:, tf.newaxis]
    near, far = boxes[:, tf.newaxis, :, :2], boxes[:, tf.newaxis, :, 2:]
    crop_near, crop_far = starts[:, :, tf.newaxis], (starts + extents)[:, :, tf.newaxis]
    shared = tf.reduce_prod(tf.maximum(tf.minimum(crop_far, far) - tf.maximum(crop_near, near), 0.0), axis=-1)
    areas = tf.reduce_prod(extents, axis=-1)[..., tf.newaxis] + tf.reduce_prod(far - near, axis=-1)
    best = tf.reduce_max(tf.where(present, shared / (areas - shared), -1.0), axis=-1)
    centre = (near + far) / 2
    inside = tf.reduce_all((centre > crop_near) & (centre < crop_far), axis=-1)
    allowed = tf.reduce_any(inside & present, axis=-1) & (aspect >= flattest) & (aspect <= steepest)

    success = allowed[..., tf.newaxis] & (best[..., tf.newaxis] > tf.constant(MIN_IOUS))
    first = tf.argmax(tf.cast(success, tf.int32), axis=1)
    # The whole is option 0 and always possible.
    possible = tf.pad(tf.reduce_any(success, axis=1), [[0, 0], [1, 0]], constant_values=True)
    option = tf.argmax(tf.where(possible, draws.option, -1.0), axis=1)

    def pick(whole, trials):
        options = tf.concat([whole[:, tf.newaxis], tf.gather(trials, first, batch_dims=1)], axis=1)
        return tf.gather(options, option, batch_dims=1)

    return pick(start, starts), pick(extent, extents)


def snap(start, extent, source, flip, augmentation: Augmentation) -> View:
    """The view on whole pixels: the source window moves by at most half a source pixel, its place by half an output
    pixel. An edge of the view that lies inside the image stays the edge of the output.

    Args:
        start, extent: float32 `(..., 2)` x, y, relative to the image.
        source: float32 `(..., 2)` width, height of the image, px.
    """
    field = tf.constant([augmentation.width, augmentation.height], tf.float32)
    near, far = start * source, (start + extent) * source
    window_near = tf.clip_by_value(tf.round(near), 0.0, source - 1.0)
    window_far = tf.clip_by_value(tf.round(far), window_near + 1.0, source)
    per_pixel = field / (far - near)
    target_near = tf.where(near >= 0.0, 0.0, tf.round((window_near - near) * per_pixel))
    target_far = tf.where(far <= source, field, tf.round((window_far - near) * per_pixel))
    target_near = tf.clip_by_value(target_near, 0.0, field - 1.0)
    target_far = tf.clip_by_value(target_far, target_near + 1.0, field)
    whole = [tf.cast(x, tf.int32) for x in (window_near, window_far, target_near, target_far)]
    return View(whole[0], whole[1] - whole[0], whole[2], whole[3] - whole[2], flip)


def move_boxes(boxes, sizes, view: View, augmentation: Augmentation):
    """Boxes `(B, M, 4)` relative to the image -> relative to the network input and clipped to it; and bool `(B, M)`:
    those whose centre is in the view and of which something remains."""
    source = tf.cast(sizes[:, tf.newaxis, ::-1], tf.float32)
    field = tf.constant([augmentation.width, augmentation.height], tf.float32)
    start, extent, target, target_extent = (tf.cast(part, tf.float32)[:, tf.newaxis] for part in view[:4])
    scale = target_extent / extent

    def moved(corner):
        return ((corner * source - start) * scale + target) / field

    near, far = moved(boxes[..., :2]), moved(boxes[..., 2:])
    centres = (near + far) / 2
    # A zoomed-out picture is a part of the field; boxes lie in the picture, so the field is the only border.
    inside = tf.reduce_all((centres > 0.0) & (centres < 1.0), axis=-1)
    near, far = tf.clip_by_value(near, 0.0, 1.0), tf.clip_by_value(far, 0.0, 1.0)
    keep = inside & tf.reduce_all((far - near) * field > SMALLEST_PX, axis=-1)
    (x1, y1), (x2, y2) = tf.unstack(near, axis=-1), tf.unstack(far, axis=-1)
    flip = view.flip[:, tf.newaxis]
    return tf.stack([tf.where(flip, 1.0 - x2, x1), y1, tf.where(flip, 1.0 - x1, x2), y2], axis=-1), keep


def covered_by(view: View, augmentation: Augmentation) -> tf.Tensor:
    """The part of the network input that the image covers: int32 `(B, 4)` left, top, right, bottom, px."""
    (left, top), (width, height) = tf.unstack(view.target, axis=-1), tf.unstack(view.target_extent, axis=-1)
    left = tf.where(view.flip, augmentation.width - left - width, left)
    return tf.stack([left, top, left + width, top + height], axis=-1)


def cut_out(contents, orientation, view: View, covered, augmentation: Augmentation) -> tf.Tensor:
    """`render` of image file bytes, string scalar, with an EXIF orientation, int32 scalar."""
    return render(decode_window(contents, orientation, view.window), view, covered, augmentation)


def render(rgb, view: View, covered, augmentation: Augmentation) -> tf.Tensor:
    """The pixels of one view, RGB uint8 `(H, W, 3)`; 0 outside the image.

    Args:
        rgb: the view's window of the image, uint8.
        covered: the sample's of `covered_by`.
    """
    height, width = augmentation.height, augmentation.width
    rgb = tf.cond(view.flip, lambda: tf.reverse(rgb, [1]), lambda: rgb)
    image = tf.cast(tf.round(resize(rgb, view.target_extent[::-1])), tf.uint8)

    def padded():
        # As rows of numbers: with an innermost axis of 3, padding takes three times as long.
        rows = tf.reshape(image, (view.target_extent[1], -1))
        left, top, right, bottom = tf.unstack(covered)
        margins = [[top, height - bottom], [3 * left, 3 * (width - right)]]
        return tf.reshape(tf.pad(rows, margins), (height, width, 3))

    image = tf.cond(tf.reduce_all(view.target_extent == [width, height]), lambda: image, padded)
    return tf.ensure_shape(image, (height, width, 3))


def colour_transform(draws: Draws, augmentation: Augmentation) -> tf.Tensor:
    """float32 `(B, 4, 3)`: `rgb @ transform[:3] + transform[3]`, clipped to 0..255, is jittered.

    Each of the four happens with probability 0.5. Saturation mixes with luma and hue turns the (I, Q) plane of YIQ:
    the linear forms of what SSD does in HSV. Hue counts OpenCV's half degrees. What is all off changes nothing.
    """
    strengths = (augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue)
    if not any(strengths):
        return tf.tile(tf.eye(4, 3)[tf.newaxis], [tf.shape(draws.flip)[0], 1, 1])
    neutral = tf.constant([0.0, 1.0, 1.0, 0.0])
    jittered = neutral + tf.constant(strengths, tf.float32) * (2.0 * draws.amounts - 1.0)
    brightness, contrast, saturation, hue = tf.unstack(tf.where(draws.switches < 0.5, jittered, neutral), axis=1)
    gray, cosine, sine = (tf.constant(part, tf.float32) for part in _hue_parts())
    turn = hue * (2.0 * np.pi / 180.0)

    def times(numbers, matrix):
        return numbers[:, tf.newaxis, tf.newaxis] * matrix

    # Saturation scales the same plane that hue turns, and both keep luma.
    matrix = gray + times(saturation * tf.cos(turn), cosine) + times(saturation * tf.sin(turn), sine)
    offset = contrast * brightness + 127.5 * (1.0 - contrast)
    return tf.concat([times(contrast, matrix), times(offset, tf.ones((1, 3)))], axis=1)


def _hue_parts() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parts `(3, 3)`, for row vectors, of the turn of the hue: constant, times cosine, times sine."""
    back = np.linalg.inv(_YIQ)
    parts = (np.diag([1.0, 0, 0]), np.diag([0, 1.0, 1.0]), np.array([[0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]]))
    return tuple((back @ part @ _YIQ).T for part in parts)
