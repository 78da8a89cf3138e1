"""Public ImageNet weights of the backbones: `-m imagenet`."""

import contextlib
import socket
from dataclasses import dataclass
from pathlib import Path

import keras

from ssd.console import say
from ssd.errors import ModelError, RunError
from ssd.spec.config import Network

KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"
TIMM = "https://huggingface.co/timm"
SILENCE = 30.0  # seconds without a byte that end a download


@dataclass(frozen=True)
class PublicFile:
    """A file to download.

    Args:
        name: in the cache.
        checksum: md5 where its publisher gives that, else sha256.
    """

    url: str
    name: str
    checksum: str


def _keras(url: str, md5: str) -> PublicFile:
    return PublicFile(url, url.rpartition("/")[2], md5)


def _timm(model: str, revision: str, sha256: str) -> PublicFile:
    return PublicFile(f"{TIMM}/{model}/resolve/{revision}/model.safetensors", f"{model}.safetensors", sha256)


# Keras' checksums are those of keras.applications. timm gives none: these are what public projects pin for its files.
FILES = {
    ("resnet", 18): _timm(
        "resnet18.a1_in1k",
        "491b427b45c94c7fb0e78b5474cc919aff584bbf",
        "80c49dee3da4822c009c5a7fe591e9223c5a2cfcf95a4067ca4dfb5a7b89c612",
    ),
    ("resnet", 34): _timm(
        "resnet34.a1_in1k",
        "0e8757122c4c09b15fb9300c0fd09b3fe89e28bf",
        "829a220f9529d2b1ffdc8719d3273463001e0daf411eaf1916865d9db62c0ed2",
    ),
    ("resnet", 50): _keras(
        f"{KERAS}/resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", "4d473c1dd8becc155b73f8504c6f6626"
    ),
    ("resnet", 101): _keras(
        f"{KERAS}/resnet/resnet101_weights_tf_dim_ordering_tf_kernels_notop.h5", "88cf7a10940856eca736dc7b7e228a21"
    ),
    ("vgg", 16): _keras(
        f"{KERAS}/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5", "6d6bbae143d832006294945121d1f1fc"
    ),
    ("vgg", 19): _keras(
        f"{KERAS}/vgg19/vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5", "253f8cb515780f3b799900260a226db6"
    ),
    ("mobilenet_v2", None): _timm(
        "mobilenetv2_100.ra_in1k",
        "f3ff81ba89de0bc46b546568ebeab2edef6b9d49",
        "55ea4fb3a96010b933710ebf44fc965b070d5cd054d3f35e44f2d1320b4a714e",
    ),
    ("efficientnet_b0", None): _keras(
        "https://storage.googleapis.com/keras-applications/efficientnetb0_notop.h5",
        "50bc09e76180e00e4465e1a485ddc09d",
    ),
    ("darknet", 53): _timm(
        "darknet53.c2ns_in1k",
        "fc070e4aee003de3717fc74f9979789ad94e6c89",
        "2c4e3810fa8d8f67764cdbf72a18b34d516bff223649870ae8a5653e6aadb890",
    ),
}

TO_SAFETENSORS = "save torchvision's {} with safetensors.torch.save_file and pass it with -m"
# What to do where no file with a known checksum exists.
BY_HAND = {
    ("resnet", 10): "none of the public collections has this depth; resnet18 has weights",
    ("googlenet", None): TO_SAFETENSORS.format("googlenet"),
    ("squeezenet", None): TO_SAFETENSORS.format("squeezenet1_0"),
    ("mobilenet_v1", None): f"download {KERAS}/mobilenet/mobilenet_1_0_224_tf_no_top.h5 and pass it with -m",
    ("darknet", 19): "download https://pjreddie.com/media/files/darknet19_448.conv.23 and pass it with -m",
}


def fetch(network: Network, cache_dir: str | None = None) -> Path:
    """The public weights of a backbone, from Keras' cache (`~/.keras/models`) or downloaded into it.

    Args:
        cache_dir: another cache than `~/.keras`.

    Raises:
        ModelError: no public file with a known checksum.
        RunError: it cannot be had, or not as it was published.
    """
    key = network.arch, network.nlayers
    if key not in FILES:
        raise ModelError(
            f"no public ImageNet weights with a checksum are known for {network.arch}{network.nlayers or ''}",
            hint=BY_HAND.get(key),
        )
    file = FILES[key]
    by_hand = f"fetch {file.url} on another machine and pass it with -m"
    say(f"ImageNet weights: {file.url}")
    try:
        with _quiet(), _impatient():
            path = keras.utils.get_file(
                file.name, file.url, file_hash=file.checksum, cache_subdir="models", cache_dir=cache_dir
            )
    except ValueError as error:
        raise RunError(
            f"{file.url} is not the file that was published: its checksum is another",
            hint=f"try once more; else {by_hand}",
        ) from error
    except Exception as error:  # Keras raises nothing more particular
        reason = " ".join(str(error).split()).removeprefix(f"URL fetch failure on {file.url}: ")
        reason = reason.removeprefix("None -- ")  # where there was no answer, Keras gives its code so
        raise RunError(f"{file.url} cannot be downloaded: {reason or type(error).__name__}", hint=by_hand) from error
    return Path(path)


@contextlib.contextmanager
def _quiet():
    """Keeps Keras' progress bar from the terminal, which belongs to ssd.console."""
    before = keras.config.is_interactive_logging_enabled()
    keras.config.disable_interactive_logging()
    try:
        yield
    finally:
        if before:
            keras.config.enable_interactive_logging()


@contextlib.contextmanager
def _impatient():
    """Ends a download whose server has fallen silent; urllib would wait for good."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
