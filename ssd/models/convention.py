"""A first convolution that was trained on other pixels, made to give the same features from ours.

A network sees `v = (p * scale - mean) / std` of a pixel `p`; ours is given `x = p - own mean`, so `v = a * x + d` with
constants by channel. The factor `a` goes into the kernel; `d`, summed over the kernel, into what follows it.
"""

from dataclasses import dataclass

import numpy as np

from ssd.errors import ModelError
from ssd.models.formats.weight_file import CUSTOMARY, Convention
from ssd.spec.config import LUMA

CHANNELS = {"rgb": ("r", "g", "b"), "bgr": ("b", "g", "r"), "gray": ("l",)}
NEGLIGIBLE = 2.0  # of 255


@dataclass(frozen=True)
class Folded:
    """A first convolution for our pixels.

    Args:
        kernel: `(kh, kw, c, filters)`.
        constant: `(filters,)`: what its output lacks: goes into its bias, or off the mean of the BN behind it.
        notes: what a user should know of it.
    """

    kernel: np.ndarray
    constant: np.ndarray
    notes: tuple[str, ...]


def fold(kernel: np.ndarray, source: Convention | None, own: Convention, assumed: str = "") -> Folded:
    """The kernel `(kh, kw, c, filters)` of a network that expects `source`, for pixels that come as `own`.

    Where the two say the same, the kernel comes back as it is, to the bit. An unknown `source` is taken for `own`, or,
    with another number of channels, for BGR or gray minus the mean of ImageNet.

    Args:
        assumed: whose convention `source` is, where nobody said that it is this network's: "as torchvision's are".

    Raises:
        ModelError: the kernel has not as many channels as `source`.
    """
    channels = kernel.shape[2]
    notes = []
    if source is None:
        source = own
        if channels != len(own.mean) and channels in CUSTOMARY:
            source = CUSTOMARY[channels]
        notes.append(f"the file does not say what its pixels were: {describe(source)} is assumed (--weights_input)")
        assumed = ""
    if channels != len(source.mean):
        raise ModelError(
            f"the first convolution takes {channels} channels, {source.order} pixels have {len(source.mean)}",
            hint="--weights_input says what the pixels of the file's network were",
        )
    made = f"made for {describe(source)}"
    if assumed:
        made = f"taken to be {made}, {assumed} (--weights_input says otherwise)"
    if source == own:
        if assumed:
            notes.append(f"first convolution: {made}")
        return Folded(kernel, np.zeros(kernel.shape[3], "float32"), tuple(notes))
    scale, std, mean = (np.asarray(v, "float64") for v in (source.scale, source.std, source.mean))
    # Rows: channels of the source; columns: ours. Its pixel is the mixture of our x + own mean.
    mixture = _mixture(source.order, own.order)
    factor = scale / std
    neutral = (mixture @ np.asarray(own.mean, "float64") * scale - mean) / std
    wide = kernel.astype("float64")
    folded = np.einsum("hwcf,co->hwof", wide, mixture * factor[:, None])
    constant = np.einsum("hwcf,c->f", wide, neutral)
    if source.order != own.order and "gray" in (source.order, own.order):
        few, many = ("3 channels", "1") if own.order == "gray" else ("1 channel", "3")
        how = "summed" if own.order == "gray" else "spread as a gray picture is made of colours"
        notes.append(f"first convolution: weights for {few} into {many}, {how}")
    notes.append(f"first convolution: {made}, folded for {describe(own)}")
    if np.abs(neutral * std / scale).max() > NEGLIGIBLE:
        notes.append("features differ at the picture's border: the zeros around it stand for another colour here")
    return Folded(folded.astype("float32"), constant.astype("float32"), tuple(notes))


def describe(convention: Convention) -> str:
    """`RGB x 0.003922 minus 0.485, 0.456, 0.406 over 0.229, 0.224, 0.225`."""
    text = convention.order if convention.order == "gray" else convention.order.upper()
    if convention.scale != 1:
        text += f" x {convention.scale:.4g}"
    if any(convention.mean):
        text += f" minus {', '.join(f'{value:g}' for value in convention.mean)}"
    if any(value != 1 for value in convention.std):
        text += f" over {', '.join(f'{value:g}' for value in convention.std)}"
    return text


def _mixture(theirs: str, ours: str) -> np.ndarray:
    """`(their channels, our channels)`: their pixel from ours; a gray picture in colour has three equal channels."""
    luma = dict(zip(CHANNELS["rgb"], LUMA, strict=True))

    def part(wanted: str, given: str) -> float:
        if wanted == "l" and given != "l":
            return luma[given]
        return float(wanted == given or given == "l")

    return np.array([[part(wanted, given) for given in CHANNELS[ours]] for wanted in CHANNELS[theirs]])
